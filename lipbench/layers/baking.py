"""`bake`: from a network in training to plain layers with fixed weights."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lipbench.layers.constraints import Constraint
from lipbench.layers.constructions import Construction
from lipbench.modules import evaluation_mode, undisturbed
from lipbench.randomness import same_random_numbers

# The largest change of a logit that finishing an orthogonalisation may make.
BAKE_TOLERANCE = 1e-3


# The largest change that rounding can make, relative to the largest logit of an image.
ROUNDING = 1e-4
# The same between two calls of one network, whose order of sums differs on a GPU at most.
REPEATED = 1e-6


class BakingError(ValueError):
    """Baking would give another network."""


@torch.no_grad()
def bake_closely(model: nn.Module, logits: Callable[[nn.Module], Tensor]) -> tuple[nn.Module, float]:
    """`bake` of a network that it hardly changes.

    Args:
        logits: what a network says of some images, [N, K].

    Returns:
        the baked network, and the largest change of a logit.

    Raises:
        BakingError: that exceeds `BAKE_TOLERANCE`, or is NaN.
    """
    before = logits(evaluation_mode(model))
    baked = bake(model)
    change = float((logits(baked) - before).abs().max())
    if not change <= BAKE_TOLERANCE:
        raise BakingError(
            f"Baking changes a logit by {change:.2g}, more than {BAKE_TOLERANCE:g}: an orthogonalisation has not "
            "converged."
        )
    return baked, change


@torch.no_grad()
def bake_as_it_is(model: nn.Module, copied: nn.Module, logits: Callable[[nn.Module], Tensor]) -> nn.Module:
    """Bakes a copy of a model, in place, so that it computes what the model computes: with the very weights of the
    forward pass, where `bake` finishes iterations first.

    Args:
        model: in evaluation mode.
        logits: what a network says of some images, [N, K].

    Raises:
        BakingError: the baked copy says something else, by more than rounding; or the model itself does at another call
            and has weights that are computed anew at each, so that no copy stands for all of them.
    """

    def said(network: nn.Module) -> Tensor:
        with same_random_numbers():  # so that a model that draws noise draws the same at each call
            return logits(network).detach()

    before, baked = said(model), bake(copied, finish=False)
    live = any(parametrize.is_parametrized(m) or isinstance(m, Construction) for m in model.modules())
    again = said(model) if live else before
    why = "a parametrization keeps a state. Freeze it, or pass"
    _check_same(before, again, "The second call of the model", why, REPEATED)
    if live:
        with undisturbed(model):  # with gradients, as attacks call it
            graded = said(model)
        _check_same(
            before, graded, "The model with gradients enabled", "a parametrization looks at them. Freeze it, or pass"
        )
    cause = "the results would be of another network. Give the network that you deploy,"
    try:
        _check_same(before, said(baked), "A baked copy of the model", cause)
    except BakingError:
        if live or torch.equal(said(model), before):  # else the model keeps a state, and no copy is to blame
            raise
    return baked


def _check_same(before: Tensor, found: Tensor, who: str, why: str, tolerance: float | None = None) -> None:
    """
    Args:
        tolerance: relative to the largest logit of an image; None: `ROUNDING`.

    Raises:
        BakingError: the logits [N, K] differ by more than that, on an image where those before are finite.
    """
    tolerance = ROUNDING if tolerance is None else tolerance
    change = (found - before).abs()
    other = ~(change <= tolerance * before.abs().amax(1, keepdim=True)).all(1) & before.isfinite().all(1)
    if bool(other.any()):
        raise BakingError(
            f"{who} gives other logits on {int(other.sum())} of {len(other)} images, by up to "
            f"{float(change[other].max()):.2g}: {why} lipbench.bake(model)."
        )


@torch.no_grad()
def bake(model: nn.Module, *, finish: bool = True) -> nn.Module:
    """Replaces, in place, every parametrization by a fixed weight and every construction by a plain layer, and returns
    the model in evaluation mode (another object where the model itself is a construction).

    Iterations that training stops early are finished first. Afterwards the network consists of plain layers with no
    hidden state: this very network is stored, attacked and certified.

    Args:
        finish: False: the weights are those of the forward pass, converged or not.

    Raises:
        ValueError: a construction with forward hooks whose plain layer would not call them; the model is then baked in
            part.
    """
    evaluation_mode(model)  # some parametrizations compute something else in training
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            _bake_layer(module, finish)
    return evaluation_mode(_replace(model, {}))


def _replace(module: nn.Module, done: dict[nn.Module, nn.Module]) -> nn.Module:
    """The module with its constructions baked; one that is used twice stays one."""
    if module not in done:
        for name, child in module._modules.items():
            if child is not None:
                module._modules[name] = _replace(child, done)
        done[module] = _plain(module) if isinstance(module, Construction) else module
    return done[module]


def _plain(module: Construction) -> nn.Module:
    plain = module.bake()
    # Those of torch's own weight normalisations and of the parts of a peer's layer act on its weight, which is read.
    if plain is not module and (module._forward_hooks or module._forward_pre_hooks):
        raise ValueError(
            f"{type(module).__name__} has forward hooks, which the {type(plain).__name__} that bake puts in its place "
            "would not call: the network would compute something else. Remove them before baking, or make what they "
            "do a module of its own."
        )
    return plain


def _bake_layer(module: nn.Module, finish: bool) -> None:
    lists = dict(module.parametrizations.items())  # type: ignore[union-attr, operator]
    # Not `remove_parametrizations`: it takes the property off the class, which a deep copy of the layer shares.
    original_class = parametrize.type_before_parametrizations(module)
    del module.parametrizations
    module.__class__ = original_class
    for name, steps in lists.items():
        originals = (
            [steps.original] if steps.is_tensor else [getattr(steps, f"original{i}") for i in range(steps.ntensors)]
        )
        values = originals
        for step in steps:
            values = [step.finished(*values) if finish and isinstance(step, Constraint) else step(*values)]
        (value,) = values
        # Products of matrices may come out transposed in memory, which files of weights would carry along.
        value = value.detach().clone(memory_format=torch.contiguous_format)
        if isinstance(originals[0], nn.Parameter):
            module.register_parameter(name, nn.Parameter(value))
        else:
            module.register_buffer(name, value)
