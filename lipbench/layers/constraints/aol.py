"""Almost-orthogonal layers: columns or rows rescaled so that no norm has to be computed."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipbench.layers.algebra.initialisers import delta_orthogonal_, orthogonal_
from lipbench.layers.constraints.base import Constraint, Factor


class AOL(Constraint):
    """W diag(t) with t_j = (sum_i |W^T W|_ij q_i / q_j)^(-1/2): norm at most 1 for any W and any q > 0 (Prach and
    Lampert, 2022, arXiv 2208.03160, theorem 1 and, for convolutions, theorem 2; q: Araujo et al., 2023, arXiv
    2303.03169).

    For a convolution W^T W is the autocorrelation of the kernel. Under a stride the phases of a pixel are separate
    inputs, each with a t of its own, which is an exact rescaling of the strided kernel; dividing by one t for all
    phases would lose up to the stride.

    Args:
        side: "columns" rescales the inputs, "rows" the outputs (W W^T instead of W^T W; stride 1).
        weights: whether q is learned (one for each rescaled input), else it is 1.

    Raises:
        ValueError: a stride together with a dilation; rows with a stride.
    """

    def __init__(
        self,
        layer: nn.Module,
        size: tuple[int, int] | None = None,
        factor: Factor = "strict",
        side: str = "columns",
        weights: bool = False,
    ):
        super().__init__(layer, size, factor)
        self.factor = 1.0  # the rescaling bounds the convolution itself
        self.stride: tuple[int, ...] = layer.stride if isinstance(layer, nn.Conv2d) else (1, 1)
        dilated = isinstance(layer, nn.Conv2d) and set(layer.dilation) != {1}
        if set(self.stride) != {1} and (side == "rows" or dilated):
            raise ValueError(f"AOL rescales the columns of a strided convolution without dilation, not {layer}.")
        self.side = side
        weight = layer.weight
        assert isinstance(weight, Tensor)
        count = self._folded(weight.detach())[0].shape[1 if side == "columns" else 0]
        self.log_q = nn.Parameter(torch.zeros(self.groups, count)) if weights else None

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The start: an orthonormal (middle) tap, which rescaling leaves as it is where its columns are orthonormal (at
        least as many outputs as inputs). From a random weight each layer would shrink its input so much that a deep
        network gets no gradient.
        """
        start = weight.detach().clone()
        return delta_orthogonal_(start, self.groups) if weight.ndim == 4 else orthogonal_(start)

    def forward(self, weight: Tensor) -> Tensor:
        folded = self._folded(weight)
        rescaled = [_rescale(w, self.side, None if self.log_q is None else self.log_q[g]) for g, w in enumerate(folded)]
        return self._unfolded(torch.cat(rescaled), weight)

    def _folded(self, weight: Tensor) -> tuple[Tensor, ...]:
        """Per group the kernel [out, in * s * s, k / s, k / s] on the phases of the input; dense: [out, in, 1, 1]."""
        kernel = weight if weight.ndim == 4 else weight[:, :, None, None]
        (sh, sw), (kh, kw) = self.stride, kernel.shape[2:]
        kernel = F.pad(kernel, (0, -kw % sw, 0, -kh % sh))
        split = kernel.unflatten(3, (-1, sw)).unflatten(2, (-1, sh))  # [o, i, kh, sh, kw, sw]
        return split.permute(0, 1, 3, 5, 2, 4).flatten(1, 3).chunk(self.groups)

    def _unfolded(self, kernel: Tensor, like: Tensor) -> Tensor:
        (sh, sw) = self.stride
        if like.ndim == 2:
            return kernel[:, :, 0, 0]
        split = kernel.unflatten(1, (-1, sh, sw))  # [o, i, sh, sw, kh, kw]
        kernel = split.permute(0, 1, 4, 2, 5, 3).flatten(4, 5).flatten(2, 3)
        return kernel[:, :, : like.shape[2], : like.shape[3]]


def _rescale(kernel: Tensor, side: str, log_q: Tensor | None) -> Tensor:
    """One group's kernel [out, in, k, k] with its columns (rows) rescaled."""
    vectors = kernel.transpose(0, 1) if side == "columns" else kernel
    kh, kw = kernel.shape[2:]
    gram = F.conv2d(vectors, vectors, padding=(kh - 1, kw - 1)).abs().sum((2, 3))
    if log_q is not None:
        q = log_q.exp()
        gram = gram * q[None, :] / q[:, None]
    scale = gram.sum(1).clamp_min(1e-12).rsqrt()
    return kernel * (scale[None, :, None, None] if side == "columns" else scale[:, None, None, None])
