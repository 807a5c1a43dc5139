"""What would make a layer certifiable that has no rule."""

from collections.abc import Container

from torch import nn

REPLACE = "replace it by a layer that has a bound (docs/layers.md)"
REGISTER = "or give it a rule of its own: @lipbench.certificate.lipschitz.register"
# Layers without a rule -> what to use instead. By name, so that a type that this torch does not have is no error.
INSTEAD = {
    "DistributedDataParallel": "evaluate the model inside it: model.module",
    "OptimizedModule": "evaluate the model before torch.compile: model._orig_mod",
    "MultiheadAttention": "none is known: attention with dot products has no finite Lipschitz constant",
}
# Modules around a network.
WRAPPERS = ("DistributedDataParallel", "OptimizedModule")
ACTIVATIONS = "use nn.ReLU, nn.GELU, nn.Tanh, nn.Softplus(threshold=40) or lipbench.layers.MaxMin"


def without_rule(module: nn.Module, known: Container[type]) -> tuple[str, str]:
    """Why a module without a rule is refused, and what would make it certifiable.

    Args:
        known: the types that have a rule.
    """
    kind = type(module)
    name = kind.__name__
    parents = [parent for parent in kind.__mro__[1:] if parent in known or parent is nn.Sequential]
    if parents:
        return (
            f"there is no rule for {name}, a subclass of {parents[0].__name__} that may compute something else",
            f"use {parents[0].__name__} itself, {REGISTER}",
        )
    if name in INSTEAD:
        return f"there is no rule for {name}", INSTEAD[name]
    if kind.__module__ == "torch.nn.modules.activation":
        return f"there is no rule for {name}", f"{ACTIVATIONS}, {REGISTER}"
    return f"there is no rule for {name}", f"use layers that have one (docs/layers.md), {REGISTER}"
