"""A model: its copy, its tensors and their hash, its modes as they were found."""

import copy
import hashlib
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lipbench.randomness import same_random_numbers


@torch.no_grad()  # the parameters of a scripted module's copy would remember where they come from
def duplicate(model: nn.Module) -> nn.Module:
    """A deep copy, without the warnings of torch's own deprecated calls on the way to it. Tensors that a training pass
    left in its modules with a gradient, which torch refuses to copy, are copied without it.
    """
    left = [t for part in model.modules() for t in (*vars(part).values(), *part.buffers(recurse=False))]
    memo = {id(t): t.detach().clone() for t in left if isinstance(t, Tensor) and not t.is_leaf}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return copy.deepcopy(model, memo)


def weights_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and values, bit by bit, 16 hexadecimal digits: of a state_dict, or of
    `tensors`.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        if isinstance(tensor, Tensor):
            value = tensor.detach().cpu()
            value = value.dequantize() if value.is_quantized else value
            value = (value if value.layout == torch.strided else value.to_dense()).resolve_conj().contiguous()
            digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
            digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers by name, those that a state_dict leaves out as well."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def evaluation_mode(model: nn.Module) -> nn.Module:
    """`model.eval()`, also where there is none to call: a module of torch.export has no modes and raises."""
    try:
        return model.eval()
    except NotImplementedError:
        for module in model.modules():
            module.training = False
        return model


@contextmanager
def bounded_memory(weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, a network is built for which there are these weights. A recipe that would make far more of it, and take
    the machine's last memory or an evening, meets an error.

    Raises:
        MemoryError: new tensors would take more than 8 times the weights and 128 MiB, or there would be more of them
            than 20 per weight and 500.
    """
    with _Meter(8 * sum(tensor.nbytes for tensor in weights.values()) + 2**27, 20 * len(weights) + 500):
        yield


class _Meter(TorchFunctionMode):
    """Counts what torch's functions that make tensors from sizes, or copy tensors, allocate, before they do."""

    # Not by a dispatch mode, which would see every operation: that imports torch's compiler, for seconds.
    FACTORIES = frozenset({torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.eye})
    COPIES = frozenset({torch.clone, Tensor.clone, Tensor.__deepcopy__, Tensor.repeat})

    def __init__(self, bytes_left: int, tensors_left: int):
        super().__init__()
        self.bytes_left, self.tensors_left = bytes_left, tensors_left

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        if func in self.FACTORIES:
            given = args or (options.get("size", options.get("n", ())),)
            sizes = given[0] if isinstance(given[0], list | tuple) else given
            sizes = sizes * 2 if func is torch.eye and len(sizes) == 1 else sizes
            self._count(4 * math.prod(abs(n) for n in sizes if isinstance(n, int)))
        elif func in self.COPIES and args:
            times = [n for n in args[1:] if isinstance(n, int)] if func is Tensor.repeat else []
            self._count(args[0].nbytes * math.prod(times))
        return func(*args, **options)

    def _count(self, size: int) -> None:
        self.bytes_left -= size
        self.tensors_left -= 1
        if min(self.bytes_left, self.tensors_left) < 0:
            raise MemoryError("the recipe makes a far larger network than these weights")


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, frozen parameters and gradients on, inside the block; every mode, flag and gradient of the model
    as before, after it, and the generators of random numbers as well.
    """
    # A frozen TorchScript module has no mode: `eval` would give it one.
    modes = [(module, module.training) for module in model.modules() if hasattr(module, "training")]
    modeless = [module for module in model.modules() if not hasattr(module, "training")]
    parameters = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    try:
        evaluation_mode(model)
        for p, _, _ in parameters:
            p.requires_grad_(False)
            p.grad = None  # so that no code clears it in place
        # Inference mode, where the caller is in it, would make every gradient zero.
        with same_random_numbers(), torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
        for module in modeless:
            vars(module).pop("training", None)
        for p, flag, gradient in parameters:
            p.requires_grad_(flag)
            p.grad = gradient


def exactly(value: object, *kinds: type) -> bool:
    """Whether the type of a value is one of these, by identity: a metaclass can make another type equal to it, and
    `__class__` another value an instance of it.
    """
    return any(type(value) is kind for kind in kinds)
