"""The bounds of a network as a table for people: layer by layer, why there is none, and what would give it one."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace

import pandas as pd
import torch
from torch import Tensor, fx, nn

from lipbench.certificate.lipschitz import LayerBound, Shape, lipschitz, output_shape
from lipbench.certificate.remedies import REPLACE
from lipbench.certificate.rules.graph import steps_of
from lipbench.certificate.tracing.steps import Graph
from lipbench.layers import bake
from lipbench.modules import duplicate, evaluation_mode
from lipbench.randomness import same_random_numbers

COLUMNS = ["layer", "type", "bound", "why", "remedy"]


def layer_table(model: nn.Module, shape: Shape) -> pd.DataFrame:
    """Layer by layer: the L2 Lipschitz bound, why it is infinite, and what would make the layer certifiable.

    Below a module whose forward is not read, the layers inside it follow, each with the bound that it would have in an
    nn.Sequential: what is left to do for a certificate.

    Args:
        model: in any mode; a copy is baked, as `lipbench.certify` does.
        shape: of one image, (C, H, W).

    Returns:
        columns layer (dotted path, "" for the model itself), type, bound, why, remedy ("" where it is bounded).
    """
    with suppress(Exception):  # a module that cannot be copied is read as it is
        model = bake(duplicate(model), finish=False)
    bounds = list(_rows(model, "", tuple(shape), input_shapes(model, tuple(shape))))
    # A rule of a user may give no remedy.
    rows = [(b.name, b.kind, b.bound, b.why, b.remedy or (REPLACE if b.why else "")) for b in bounds]
    return pd.DataFrame(rows, columns=COLUMNS)


def _rows(module: nn.Module, prefix: str, shape: Shape, shapes: dict[str, Shape]) -> Iterator[LayerBound]:
    network = lipschitz.read(module, shape)
    chain = dict(network._modules) if network is not module else {}
    for layer in lipschitz.layerwise(network, shape):
        name = _join(prefix, layer.name)
        yield replace(layer, name=name)
        step = chain.get(layer.name)
        if isinstance(step, Graph):
            for part in steps_of(step, shape):
                yield replace(part, name=_join(prefix, part.name))
        if step is not None and layer.name:
            shape = output_shape(step, shape)
        inner = module if not layer.name or step is not None else module.get_submodule(layer.name)
        unread = layer.why and (step is None or not layer.name)
        if unread and not isinstance(inner, torch.jit.ScriptModule | fx.GraphModule):
            yield from _inside(inner, name, shapes)


def _inside(module: nn.Module, prefix: str, shapes: dict[str, Shape]) -> Iterator[LayerBound]:
    for child, layer in module.named_children():
        name = _join(prefix, child)
        if name in shapes:
            yield from _rows(layer, name, shapes[name], shapes)
        else:  # an nn.ModuleList is not called itself
            yield from _inside(layer, name, shapes)


def input_shapes(model: nn.Module, shape: Shape) -> dict[str, Shape]:
    """Dotted path -> shape of the first input, without the batch, of every module that a forward pass calls."""
    shapes: dict[str, Shape] = {}

    def note(name: str) -> Callable[[nn.Module, tuple], None]:
        def hook(module: nn.Module, inputs: tuple) -> None:
            if inputs and isinstance(inputs[0], Tensor):
                shapes.setdefault(name, tuple(inputs[0].shape[1:]))

        return hook

    try:
        watched = evaluation_mode(duplicate(model))
        for name, module in watched.named_modules():
            module.register_forward_pre_hook(note(name))
        kinds = [t for t in (*watched.parameters(), *watched.buffers()) if t.is_floating_point()]
        zero = torch.zeros(1, *shape) if not kinds else kinds[0].new_zeros(1, *shape)
        with torch.no_grad(), same_random_numbers():
            watched(zero)
    except Exception:  # a module that cannot be copied or watched, or refuses the image: what is known stays
        return shapes
    return shapes


def _join(prefix: str, name: str) -> str:
    return ".".join(part for part in (prefix, name) if part)
