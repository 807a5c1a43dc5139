"""Two processes train one network: as one would on the whole batch, with equal weights, the first of them writing."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

import lipbench
from lipbench import layers, losses
from lipbench.commands.main import main
from lipbench.data import Dataset, Split
from lipbench.training import adam, processes, spectral

pytestmark = pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="torch without gloo")

LOSSES = {
    "hkr": partial(losses.hkr, alpha=0.5),
    "soft_hkr": partial(losses.soft_hkr, balanced=True),
    "balanced": partial(losses.margin_cross_entropy, balanced=True),
}
BATCH = 12


def data(classes: int) -> Dataset:
    """Class 0 is nine tenths: shares of a batch often lack a class."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.where(torch.arange(60) % 10 == 0, 1 + torch.arange(60) // 10 % (classes - 1), 0)
    split = Split(torch.randint(0, 256, (60, 1, 4, 4), generator=generator, dtype=torch.uint8), labels)
    return Dataset("drawn", tuple(map(str, range(classes))), split, split, split)


def network(classes: int, constraint=layers.Orthogonal, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return lipbench.models.convnet(
        (1, 4, 4), classes, channels=[4], widths=[8], constraint=constraint, activation=layers.MaxMin,
        pooling=nn.PixelUnshuffle,
    )  # fmt: skip


def train(classes: int, loss: str, **options) -> tuple[nn.Module, list[dict]]:
    options = {"constraint": layers.Orthogonal, "optimizer": spectral, "epochs": 2, **options}
    model = network(classes, options.pop("constraint"), options.pop("network_seed", 0))
    chosen = {"batch_size": BATCH, "progress": False, **options}
    history = lipbench.fit(model, data(classes), LOSSES[loss], **chosen)
    return model, history


def flat(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def gradient(loss: str, classes: int) -> torch.Tensor:
    """Of the loss of one batch, or of this process's share of it after the exchange."""
    model, split = network(classes), data(classes).train
    batch, shared = processes.share(torch.arange(BATCH)), processes.together(model)
    logits, labels = processes.union(shared(split.images[batch] / 255), split.labels[batch])
    (LOSSES[loss](logits, labels) * processes.count()).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


class Recorder:
    """What this process was called with by `fit`."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def __call__(self, row: dict) -> None:
        self.rows.append(row["epoch"])


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    found: dict = {"rank": (processes.rank(), processes.count())}
    for loss in LOSSES:
        found[f"gradient {loss}"] = gradient(loss, 3)
    found["gradient binary"] = gradient("hkr", 2)
    # Another start in the second process: the first one's weights count.
    seen = Recorder()
    path = Path(folder) / f"checkpoint{rank}.pt"
    model, history = train(3, "hkr", network_seed=rank, on_epoch=seen, checkpoint=path)
    found |= {"spectral": flat(model), "rows": seen.rows, "wrote": path.exists(), "history": history}
    found["balanced"] = flat(train(3, "balanced", balanced=True, optimizer=adam, constraint=layers.Bjorck)[0])
    # Each process has a clock of its own; the first one's decides when to stop and which rate is left.
    model, history = train(2, "hkr", epochs=10_000, minutes=0.3 / 60)
    found |= {"clock": flat(model), "epochs": len(history), "steps": [row["steps"] for row in history]}
    try:
        train(2, "hkr", batch_size=11)
    except ValueError as error:
        found["odd"] = str(error)
    torch.save(found, Path(folder) / f"{rank}.pt")
    processes.stop()


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("pair")
    mp.spawn(worker, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in (0, 1)]


def test_the_gradient_is_that_of_the_union_of_the_batches(pair):
    assert [found["rank"] for found in pair] == [(0, 2), (1, 2)]
    for name, classes in (*((loss, 3) for loss in LOSSES), ("binary", 2)):
        alone = gradient("hkr" if name == "binary" else name, classes)
        for found in pair:
            assert torch.allclose(found[f"gradient {name}"], alone, atol=1e-6), name


def test_means_of_shares_are_another_gradient():
    """What the test above would miss: KR of each share, averaged, is not KR of the batch."""
    model, split = network(3), data(3).train
    for part in torch.arange(BATCH).chunk(2):
        (LOSSES["hkr"](model(split.images[part] / 255), split.labels[part]) / 2).backward()
    shares = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    assert not torch.allclose(shares, gradient("hkr", 3), atol=1e-3)


@pytest.mark.parametrize("kind", ["spectral", "balanced", "clock"])
def test_weights_are_equal_in_both_processes_after_training(pair, kind):
    assert torch.equal(pair[0][kind], pair[1][kind])


def test_two_processes_train_as_one(pair):
    model, history = train(3, "hkr")
    assert torch.allclose(pair[0]["spectral"], flat(model), atol=1e-4)
    balanced, _ = train(3, "balanced", balanced=True, optimizer=adam, constraint=layers.Bjorck)
    assert torch.allclose(pair[0]["balanced"], flat(balanced), atol=1e-4)
    for mine, theirs in zip(history, pair[0]["history"], strict=True):
        assert theirs["train_loss"] == pytest.approx(mine["train_loss"], rel=1e-4)
        assert theirs["train_accuracy"] == pytest.approx(mine["train_accuracy"])


def test_the_first_process_alone_writes(pair):
    assert [found["wrote"] for found in pair] == [True, False]
    assert [found["rows"] for found in pair] == [[1, 2], []]


def test_a_training_by_the_clock_ends_for_both_at_the_same_step(pair):
    assert pair[0]["epochs"] == pair[1]["epochs"] >= 1
    assert pair[0]["steps"] == pair[1]["steps"]


def test_a_batch_that_cannot_be_shared_is_refused(pair):
    assert all("cannot share a batch of 11" in found["odd"] for found in pair)


def torchrun(*arguments: str) -> subprocess.CompletedProcess:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        "lipbench",
        "run",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, env=environment)


def test_the_command_under_torchrun_writes_one_run(tmp_path):
    options = ["device=cpu", "training.epochs=2", "images=4", "attack=[fgsm]", "progress=false", f"results={tmp_path}"]
    ended = torchrun("experiment=digits08/hkr_mlp", *options)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count(", took ") == 1
    folder = tmp_path / "digits08/hkr_mlp/training.epochs=2/0"
    assert len(pd.read_csv(folder / "history.csv")) == 2
    assert (folder / "summary.json").exists()
    # Where the first process refuses, the other one does not wait for it.
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("batch_size: 32", "batch_size: 64"))
    (folder / "manifest.json").unlink()  # of a finished run the changed file would be made again
    refused = torchrun("experiment=digits08/hkr_mlp", *options)
    assert refused.returncode != 0
    assert "batch_size: 64 -> 32" in refused.stderr


def test_a_sweep_under_torchrun_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(processes, "launched", lambda: True)
    assert main(["run", "suite=digits08"]) == 1
    assert "trains one network" in capsys.readouterr().err
