"""A model, the generators of random numbers and the precision of products, as they were found."""

import copy
import hashlib
import math
import os
import platform
import random
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

# Processors for which torch's own convolutions on the CPU, where oneDNN's are not used, are sums of products.
X86 = ("x86_64", "amd64", "i386", "i686", "x86")


@torch.no_grad()  # the parameters of a scripted module's copy would remember where they come from
def duplicate(model: nn.Module) -> nn.Module:
    """A deep copy, without the warnings of torch's own deprecated calls on the way to it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return copy.deepcopy(model)


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
def same_random_numbers() -> Iterator[None]:
    """Whatever the block draws, the generators of python, numpy and torch (CPU and CUDA) go on after it as if it had
    drawn nothing.
    """
    # The global generators are the ones that other people's code draws from.
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with torch.random.fork_rng(list(devices)):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002


@contextmanager
def float32_products(tf32: bool = False) -> Iterator[None]:
    """Inside, products of float32 numbers are computed in float32 on every device, whatever is switched on outside:
    TF32 (torch's own choice for convolutions on a GPU), bfloat16 on the CPU, autocast. NNPACK, whose convolutions on
    the CPU are Winograd's and Fourier's, is off. Everything is as before, afterwards.

    A network that is attacked and certified is its float32 weights; ten bits of mantissa would make it another one.

    Args:
        tf32: allows TF32 on GPUs that have it.
    """
    switches, old = _switches(), _old_switches()
    before = [(switch, switch.fp32_precision) for switch, _ in switches]
    try:
        # Both of torch's interfaces are set, so that whoever reads the older one inside finds the same.
        if old is not None:
            _set_old_switches("high" if tf32 else "highest", tf32)
        for switch, is_gpu in switches:
            switch.fp32_precision = "tf32" if tf32 and is_gpu else "ieee"
        with ExitStack() as stack, torch.backends.nnpack.flags(enabled=False):
            for device in ("cpu", "cuda"):
                if torch.is_autocast_enabled(device):
                    stack.enter_context(torch.autocast(device, enabled=False))
            yield
    finally:
        if old is not None:
            _set_old_switches(*old)
        for switch, value in before:
            switch.fp32_precision = value


def other_products(device: str, convolutions: bool) -> str:
    """Why products of float32 numbers are not sums of IEEE products at this moment, in words; "" where they are.

    Args:
        device: type of the device, "cpu" or "cuda".
        convolutions: whether there are any.
    """
    switches = _switches()
    if not switches:
        return "this torch (before 2.9) does not tell how it computes products"
    shorter = sorted({s.fp32_precision for s, is_gpu in switches if is_gpu == (device == "cuda")} & {"tf32", "bf16"})
    if shorter or torch.is_autocast_enabled(device):
        return f"products are computed in {', '.join(shorter) or 'the precision of autocast'}"
    if os.environ.get("ONEDNN_DEFAULT_FPMATH_MODE", "STRICT").upper() != "STRICT":
        return "ONEDNN_DEFAULT_FPMATH_MODE allows a shorter precision"
    if device == "cuda" and convolutions and torch.backends.cudnn.enabled:
        return "cuDNN may compute convolutions by Winograd's or a Fourier transform"
    if device == "cpu" and convolutions:
        return _other_convolutions()
    return ""


def _other_convolutions() -> str:
    """The same of convolutions on the CPU."""
    if platform.machine().lower() not in X86 or not torch.backends.mkldnn.is_available():
        return f"without oneDNN, or on {platform.machine()}, torch may compute convolutions by Winograd's transform"
    if not torch.backends.mkldnn.enabled and torch._C._get_nnpack_enabled():
        return "NNPACK computes convolutions by Winograd's or a Fourier transform"
    return ""


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


def _switches() -> list[tuple[Any, bool]]:
    """What holds the precision of each kind of product, and whether it is a GPU's; none before torch 2.9."""
    found = []
    for backend, operations in (
        ("cuda", ["matmul"]),
        ("cudnn", ["conv", "rnn"]),
        ("mkldnn", ["matmul", "conv", "rnn"]),
    ):
        for operation in operations:
            switch = getattr(getattr(torch.backends, backend), operation, None)
            if hasattr(switch, "fp32_precision"):
                found.append((switch, backend != "mkldnn"))
    return found


def _old_switches() -> tuple[str, bool] | None:
    """The same by torch's older interface, which refuses to be read where only the newer one was used."""
    try:
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    except RuntimeError:
        return None


def _set_old_switches(matmul: str, convolutions: bool) -> None:
    torch.set_float32_matmul_precision(matmul)
    torch.backends.cudnn.allow_tf32 = convolutions
