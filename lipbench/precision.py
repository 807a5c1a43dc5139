"""How products of floats are computed: in float32 without TF32, and weights in their own precision while the rest of a
training step runs in a shorter one.
"""

import os
import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

# Relative slack of every computed bound: a few float64 operations are off by 1e-15, and long sums add what they are.
OUTWARD = 1 + 1e-9
# Processors for which torch's own convolutions on the CPU, where oneDNN's are not used, are sums of products.
X86 = ("x86_64", "amd64", "i386", "i686", "x86")


def own_precision(weight: Tensor) -> AbstractContextManager[object]:
    """Autocast and TF32 are off inside, on the device of `weight`.

    What makes a weight orthonormal or divides it by its norm loses its point with eight bits of mantissa (and has no
    kernels for them in part: Fourier transforms, decompositions); it is a small part of a step.
    """
    device = weight.device.type
    if device == "cuda":
        return float32_products()
    if device == "meta" or not torch.is_autocast_enabled(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)


@contextmanager
def float32_products(tf32: bool = False) -> Iterator[None]:
    """Inside, products of float32 numbers are computed in float32 on every device, with any switches outside:
    TF32 (torch's own choice for convolutions on a GPU), bfloat16 on the CPU, autocast. NNPACK, whose convolutions on
    the CPU are Winograd's and Fourier's, is off. Everything is as before, afterwards.

    A network that is attacked and certified is its float32 weights; ten bits of mantissa would make it another one.

    Args:
        tf32: allows TF32 on GPUs that have it.
    """
    switches, old = _switches(), _old_switches()
    before = [(switch, switch.fp32_precision) for switch, _ in switches]
    try:
        # Both of torch's interfaces are set, so that code that reads the older one inside finds the same.
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


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies numbers of bfloat16 itself. Elsewhere torch imitates it, four times slower than
    float32 on a processor with AVX2 alone.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    asked = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return asked is None or bool(asked())


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
    """`other_products` of convolutions on the CPU."""
    if platform.machine().lower() not in X86 or not torch.backends.mkldnn.is_available():
        return f"without oneDNN, or on {platform.machine()}, torch may compute convolutions by Winograd's transform"
    if not torch.backends.mkldnn.enabled and torch._C._get_nnpack_enabled():
        return "NNPACK computes convolutions by Winograd's or a Fourier transform"
    return ""


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
