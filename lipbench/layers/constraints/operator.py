"""Constraints on the norm of the convolution itself instead of its reshaped kernel."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipbench.layers.constraints.base import Factor
from lipbench.layers.constraints.classic import Spectral
from lipbench.layers.operator import symbols, torus


class SpectralOperator(Spectral):
    """W / ||W||_2 with W the operator: for a convolution its true norm on images of this size, where `Spectral` with a
    strict factor gives a 3x3 kernel only about a third to two thirds of it.

    (Zero padding: the norm of the circular convolution that contains it, larger by up to a few per cent on small
    images.) While a convolution is trained the norm is followed by power iteration from the last step's vector, which
    is below the norm by a little; `bake` divides by the exact upper bound from the Fourier transform. Dense layers are
    exact at every step.

    Args:
        iterations: of the power method per training step.

    Raises:
        ValueError: a convolution without the size of its input, or with a padding that has no Fourier bound.
    """

    image: Tensor

    def __init__(
        self, layer: nn.Module, size: tuple[int, int] | None = None, factor: Factor = "strict", iterations: int = 4
    ):
        super().__init__(layer, size, factor)
        self.geometry: nn.Conv2d | None = None
        self.iterations = iterations
        if isinstance(layer, nn.Conv2d):
            if size is None:
                raise ValueError(f"The norm of {layer} depends on its input: give the size (height, width).")
            self.factor = 1.0
            self.size = size
            # Not a submodule: it lends its stride, padding, ... and has no part in training.
            object.__setattr__(self, "geometry", nn.Conv2d(**_options(layer), device="meta"))
            self.register_buffer("image", torch.randn(1, layer.in_channels, *torus(layer, size)[1]))
            self._iterate(layer.weight.detach(), 30)

    def forward(self, weight: Tensor) -> Tensor:
        kernel = self.kernel(weight)
        if self.geometry is None:
            return super().forward(kernel)
        if self.training:
            self._iterate(kernel.detach(), self.iterations)
        return kernel / self._on_torus(kernel, self.image).norm().clamp_min(1e-12)

    def finished(self, weight: Tensor) -> Tensor:
        kernel = self.kernel(weight)
        if self.geometry is None:
            return super().forward(kernel)
        matrices = symbols(self.geometry, kernel.double(), self.size)
        if matrices.shape[-2] < matrices.shape[-1]:
            matrices = matrices.mH
        norm = torch.linalg.eigvalsh(matrices.mH @ matrices).max().clamp_min(1e-24).sqrt()
        return (kernel / norm).to(weight.dtype)

    def kernel(self, weight: Tensor) -> Tensor:
        """The unconstrained kernel or matrix, from the stored tensor."""
        return weight

    def _iterate(self, kernel: Tensor, count: int) -> None:
        """Power iteration on A^T A from the stored image, which keeps norm 1."""
        for _ in range(count):
            with torch.enable_grad():
                image = self.image.detach().requires_grad_()
                energy = self._on_torus(kernel, image).square().sum() / 2
            (image,) = torch.autograd.grad(energy, image)  # A^T A x
            self.image = image / image.norm().clamp_min(1e-12)

    def _on_torus(self, kernel: Tensor, image: Tensor) -> Tensor:
        """The circular convolution whose norm bounds the layer's, so that training and `finished` divide by one
        number.
        """
        assert self.geometry is not None
        layer = self.geometry
        stride = torus(layer, self.size)[0]
        (kh, kw), (dh, dw) = layer.kernel_size, layer.dilation
        image = F.pad(image, (0, dw * (kw - 1), 0, dh * (kh - 1)), mode="circular")
        return F.conv2d(image, kernel, None, tuple(stride), 0, layer.dilation, layer.groups)


class LinearResidual(SpectralOperator):
    """(I + W) / ||I + W||: the residual branch without an activation of LiResNet (Hu et al., 2023, arXiv 2301.12549,
    section 4), which is one plain layer once baked.

    With more outputs than inputs, or fewer, I is the partial identity.
    """

    def kernel(self, weight: Tensor) -> Tensor:
        shortcut = torch.zeros_like(weight)
        groups = self.groups
        rows, columns = weight.shape[0] // groups, weight.shape[1]
        index = torch.arange(weight.shape[0], device=weight.device)
        keep = index % rows < columns
        flat = shortcut.view(*weight.shape[:2], -1)  # the last dimension: taps, or the single entry of a dense layer
        flat[index[keep], index[keep] % rows, flat.shape[-1] // 2] = 1.0
        return weight + shortcut


def _options(layer: nn.Conv2d) -> dict:
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    return {name: getattr(layer, name) for name in names}
