"""The headline: the attack named `lipbench`."""

from torch import Tensor, nn

from lipbench.attacks.alma import alma
from lipbench.attacks.engine import chain
from lipbench.attacks.tangent import tangent

_chain = chain(alma, tangent)


def strongest(
    model: nn.Module, x: Tensor, y: Tensor, *, start: Tensor | None = None, lower: Tensor | None = None
) -> Tensor:
    """`alma`, then `tangent` on what it found (measured against the peers: benchmarks/attacks.md).

    Args:
        start, lower: as in `minimum_distance`.
    """
    return _chain(model, x, y, start=start, lower=lower)
