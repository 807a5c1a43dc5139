"""Constraints on the norm of the convolution itself instead of its reshaped kernel."""

import torch
from torch import Tensor, nn

from lipbench.layers.algebra.convolution import geometry, symbols
from lipbench.layers.algebra.orthonormal import norm_bound
from lipbench.layers.constraints.base import Factor
from lipbench.layers.constraints.classic import Spectral, top_singular_vectors

# Frequencies whose matrices are decomposed in a training step, those of the largest bounds.
CANDIDATES = 8


class SpectralOperator(Spectral):
    """W / ||W||_2 with W the operator: for a convolution its true norm on images of this size, where `Spectral` with a
    strict factor leaves a 3x3 kernel with only about a third to two thirds of it.

    (Zero padding: the norm of the circular convolution that contains it, larger by up to a few per cent on small
    images.) In training a bound by Gram iteration at every frequency (Delattre et al., 2023, arXiv 2305.16173) picks
    the few frequencies where the norm is computed exactly; `bake` computes all. A power iteration would do less, and
    lag behind when another mode becomes the largest: by up to 10 % here.

    Raises:
        ValueError: a convolution without the size of its input, or with a padding that has no Fourier bound.
    """

    def __init__(self, layer: nn.Module, size: tuple[int, int] | None = None, factor: Factor = "strict"):
        super().__init__(layer, size, factor)
        self.geometry: nn.Conv2d | None = None
        if isinstance(layer, nn.Conv2d):
            if size is None:
                raise ValueError(f"The norm of {layer} depends on its input: give the size (height, width).")
            self.factor = 1.0
            self.size = size
            # Lends its stride, padding, ... without being a submodule: it has no part in training.
            object.__setattr__(self, "geometry", geometry(layer))
            symbols(layer, layer.weight.detach(), size)  # refuses what has no bound

    def forward(self, weight: Tensor) -> Tensor:
        kernel = self.kernel(weight)
        if self.geometry is None:
            return super().forward(kernel)
        matrices = symbols(self.geometry, kernel, self.size)
        with torch.no_grad():
            count = min(CANDIDATES, matrices.shape[1])
            likely = norm_bound(matrices).topk(count, dim=1).indices
            groups = torch.arange(self.groups, device=weight.device)
            u, v = top_singular_vectors(matrices[groups[:, None], likely])
            chosen = matrices[groups[:, None], likely]
            best = (u.mH @ chosen @ v)[..., 0, 0].real.argmax(1)
            u, v, frequency = u[groups, best], v[groups, best], likely[groups, best]
        return self._divided(kernel, (u.mH @ matrices[groups, frequency] @ v)[..., 0, 0].real)

    def finished(self, weight: Tensor) -> Tensor:
        kernel = self.kernel(weight)
        if self.geometry is None:
            return super().forward(kernel)
        matrices = symbols(self.geometry, kernel.double(), self.size)
        if matrices.shape[-2] < matrices.shape[-1]:
            matrices = matrices.mH
        squares = torch.linalg.eigvalsh(matrices.mH @ matrices)[..., -1].amax(1)
        return self._divided(kernel, squares.clamp_min(0).sqrt().to(weight.dtype))

    def kernel(self, weight: Tensor) -> Tensor:
        """The unconstrained kernel or matrix, from the stored tensor."""
        return weight

    def _divided(self, kernel: Tensor, norms: Tensor) -> Tensor:
        """The kernel of each group by the norm of that group."""
        return (self.matrix(kernel) / norms.clamp_min(1e-12)[:, None, None]).view_as(kernel)


class LinearResidual(SpectralOperator):
    """(I + W) / ||I + W||: the residual branch without an activation of LiResNet (Hu et al., 2023, arXiv 2301.12549,
    section 4), which is one plain layer once baked.

    With more outputs than inputs, or fewer, I is the partial identity.
    """

    def kernel(self, weight: Tensor) -> Tensor:
        shortcut = torch.zeros_like(weight)
        rows, columns = weight.shape[0] // self.groups, weight.shape[1]
        index = torch.arange(weight.shape[0], device=weight.device)
        keep = index % rows < columns
        flat = shortcut.view(*weight.shape[:2], -1)  # the last dimension: taps, or the single entry of a dense layer
        flat[index[keep], index[keep] % rows, flat.shape[-1] // 2] = 1.0
        return weight + shortcut
