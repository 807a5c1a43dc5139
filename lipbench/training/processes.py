"""Several processes that train one network together, each on its share of every batch (torch.distributed).

`torchrun --nproc-per-node 4 -m lipbench run ...` starts them, one per GPU; in Python, a program that has called
`torch.distributed.init_process_group` may call `lipbench.fit` in every process. Without either there is one process,
and every function here is the neutral one.
"""

import os
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

# The first process attacks and certifies while the others are done; torch's own limit is minutes.
PATIENCE = timedelta(days=7)


def launched() -> bool:
    """Whether `torchrun` started this process together with others."""
    return dist.is_available() and dist.is_torchelastic_launched() and int(os.environ["WORLD_SIZE"]) > 1


def start(device: torch.device) -> torch.device:
    """Joins the processes that `torchrun` started, and returns the device of this one.

    Raises:
        ValueError: more processes on this machine than GPUs.
    """
    if device.type == "cuda":
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            raise ValueError(
                f"There are {torch.cuda.device_count()} GPUs here: start that many processes at most "
                "(torchrun --nproc-per-node), or use device=cpu."
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    return device


def stop() -> None:
    """Leaves the others, where there are any."""
    if _joined():
        dist.destroy_process_group()


def rank() -> int:
    """Number of this process; 0 is the one that writes."""
    return dist.get_rank() if _joined() else 0


def count() -> int:
    """Number of processes."""
    return dist.get_world_size() if _joined() else 1


def share(batch: Tensor) -> Tensor:
    """The consecutive part of a batch that is for this process, [B] -> [B / count]."""
    size = len(batch) // count()
    return batch[rank() * size : (rank() + 1) * size]


def of_first(value: float) -> float:
    """The number that the first process has."""
    if count() == 1:
        return value
    number = torch.tensor(value, dtype=torch.float64, device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.broadcast(number, 0)
    return float(number)


def union(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The logits and labels of all processes in the order of the batch, [N, K], [N] -> [count N, K], [count N].

    A loss of them is that of the whole batch: its class means, its balance, its statistics. It gives this process the
    gradient of its own logits; the sum of the processes' gradients is that of the whole batch.
    """
    if count() == 1:
        return logits, labels
    all_logits = [torch.empty_like(logits) for _ in range(count())]
    all_labels = [torch.empty_like(labels) for _ in range(count())]
    dist.all_gather(all_logits, logits.detach().contiguous())
    dist.all_gather(all_labels, labels.contiguous())
    all_logits[rank()] = logits
    return torch.cat(all_logits), torch.cat(all_labels)


def together(model: nn.Module) -> nn.Module:
    """The same network, starting from the first process's weights, whose gradients are means over the processes as soon
    as they are there.
    """
    return model if count() == 1 else DistributedDataParallel(model)


def _joined() -> bool:
    return dist.is_available() and dist.is_initialized()
