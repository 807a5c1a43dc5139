"""The attack `lipbench`."""

from functools import partial

from torch import Tensor, nn

from lipbench.attacks.alma import alma
from lipbench.attacks.deepfool import deepfool
from lipbench.attacks.engine import best_of, chain
from lipbench.attacks.tangent import tangent

# From x itself ALMA follows the class of the largest logit, from DeepFool's image the nearest one: with ten classes
# either alone misses the nearer boundary of some images by far. `tangent` then settles on what is there.
_search = chain(
    best_of(partial(alma, steps=100), chain(deepfool, partial(alma, steps=60))),
    partial(tangent, steps=40),
)


def lipbench(
    model: nn.Module, x: Tensor, y: Tensor, *, start: Tensor | None = None, lower: Tensor | None = None
) -> Tensor:
    """The nearer of `alma` and of `deepfool` followed by `alma`, then `tangent` on it (measured against the peers:
    benchmarks/attacks.md).

    Args:
        start, lower: as in `minimum_distance`.
    """
    return _search(model, x, y, start=start, lower=lower)
