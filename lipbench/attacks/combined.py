"""The headline: the attack named `lipbench`."""

from functools import partial

from torch import Tensor, nn

from lipbench.attacks.ddn import ddn
from lipbench.attacks.engine import chain
from lipbench.attacks.tangent import tangent


def strongest(
    model: nn.Module, x: Tensor, y: Tensor, *, start: Tensor | None = None, lower: Tensor | None = None
) -> Tensor:
    """`tangent`, then `ddn` from there, then `tangent` on what it found."""
    attack = chain(tangent, ddn, partial(tangent, reach=0.1))
    return attack(model, x, y, start=start, lower=lower)
