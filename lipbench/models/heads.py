"""The dense end of a network. Its last layer is always an `nn.Linear`, so that the certificate sees the differences of
its rows.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Literal

from torch import nn

from lipbench.layers import Antipodal, ConstraintFactory, Normalize, UnitRows, constrain, is_free

Head = Literal["auto", "antipodal", "unit_rows", "constrained"]
ActivationFactory = Callable[..., nn.Module]


def head(features: int, classes: int, constraint: ConstraintFactory, kind: Head = "auto") -> list[nn.Module]:
    """The layers that turn features [N, D] into logits [N, K].

    antipodal: one constrained row f, logits (-f/2, f/2); two classes only.
    unit_rows: each row has norm 1, for any constraint of the body (unless that is `nn.Identity`).
    constrained: the constraint of the body; under an orthogonal one the rows are orthonormal.
    auto: antipodal for two classes, else constrained.

    Raises:
        ValueError: an unknown kind, or antipodal with more than two classes.
    """
    if kind == "auto":
        kind = "antipodal" if classes == 2 else "constrained"
    if kind == "antipodal":
        if classes != 2:
            raise ValueError(f"An antipodal head is for two classes, not {classes}: use unit_rows or constrained.")
        return [constrain(nn.Linear(features, 1), constraint), Antipodal()]
    if kind == "unit_rows":
        rows = constraint if is_free(constraint) else UnitRows
        return [constrain(nn.Linear(features, classes), rows)]
    if kind == "constrained":
        return [constrain(nn.Linear(features, classes), constraint)]
    raise ValueError(f"head is 'auto', 'antipodal', 'unit_rows' or 'constrained', not {kind!r}.")


def dense(
    features: int,
    widths: Sequence[int],
    classes: int,
    constraint: ConstraintFactory,
    activation: ActivationFactory,
    head_kind: Head,
) -> list[nn.Module]:
    """Hidden dense layers of these widths, each with its activation, and the head: features [N, D] -> logits [N, K]."""
    layers: list[nn.Module] = []
    for width in widths:
        layers += [constrain(nn.Linear(features, width), constraint), make_activation(activation, width)]
        features = width
    return [*layers, *head(features, classes, constraint, head_kind)]


def normalization(mean: Sequence[float], std: Sequence[float]) -> list[nn.Module]:
    """The normalisation layer, or nothing where it would be the identity."""
    if set(mean) <= {0.0} and set(std) <= {1.0}:
        return []
    return [Normalize(tuple(mean), tuple(std))]


def make_activation(factory: ActivationFactory, channels: int) -> nn.Module:
    """One activation for so many neurons or channels.

    A factory with a parameter `channels` that has no value yet is called with the number (`Householder`,
    `clamped_prelu`: they have parameters per channel); any other without arguments (`nn.ReLU`, `MaxMin`, `partial(
    clamped_prelu, channels=1)`).
    """
    parameter = inspect.signature(factory).parameters.get("channels")
    if parameter is not None and parameter.default is inspect.Parameter.empty:
        return factory(channels=channels)
    return factory()
