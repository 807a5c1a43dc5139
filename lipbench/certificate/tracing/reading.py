"""`read`: a network as layers one after another that have rules, traced where its forward is Python code."""

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lipbench.certificate.exactness import Unbounded, rule_of, unknown, watch
from lipbench.certificate.lipschitz import Shape, flat, lipschitz
from lipbench.certificate.remedies import INSTEAD, WRAPPERS, without_rule
from lipbench.certificate.tracing.operations import OPERATIONS
from lipbench.certificate.tracing.steps import Copies, Graph, Refused, in_evaluation, options_of
from lipbench.certificate.tracing.tape import Image, Node, Tape, seen
from lipbench.gate import is_memory, told
from lipbench.modules import duplicate, exactly, tensors, weights_hash
from lipbench.randomness import same_random_numbers

SEQUENCE = "write it as an nn.Sequential of its layers, or by operations of torch alone"
# The largest change of a logit that rounding can make, relative to the largest one of an image.
TOLERANCE = 1e-3
CHANGING = "make its forward pass the same at every call: no counters, no random numbers, no running statistics"


@torch.no_grad()
def read(model: nn.Module, shape: Shape) -> nn.Module:
    """A network that computes what this one does and consists of layers that have rules: the very same module where it
    is such a one already, else an `nn.Sequential` of what its forward pass does, traced (`lipbench.certificate.tracing.
    tape`). Modules that have a rule stay what they are, with their names.

    Tensors between which all of the network passes cut it into parts. A part of one step is that step, and a part of
    several a `Graph`. What cannot be read is a `Refused` with the reason and the line of code.

    Args:
        model: in evaluation mode.
        shape: of one image, (C, H, W) or (D,).
    """
    if not _is_code(model):
        return model
    try:
        nodes, output = trace(model, shape)
        network = _in_parts(nodes, output)
        _compare(model, network, tuple(shape))
        return network
    except Unbounded as error:
        why = error if error.why.startswith("there is no rule") else error.of("its forward cannot be read")
        if type(model).__module__.startswith("torch.nn.modules.") and type(model) is not nn.Sequential:
            why = Unbounded(*without_rule(model, lipschitz.rules))
        refused = nn.Sequential()
        refused._modules[""] = Refused(type(model).__name__, why, model)
        return in_evaluation(refused)


def _is_code(model: nn.Module) -> bool:
    """Whether a layer of the chain has no rule, and is what it seems to be: other refusals stay what they are."""

    def is_code(layer: nn.Module) -> bool:
        return (
            not _has_rule(layer)
            and type(layer) is not Refused
            and type(layer).__name__ not in INSTEAD
            and unknown(layer) is None
        )

    return any(map(is_code, flat(model))) and unknown(model) is None


def trace(model: nn.Module, shape: Shape) -> tuple[list[Node], int]:
    """The steps of a forward pass, and which one gives the logits.

    Raises:
        Unbounded: what the network does is not known: a part of it is in training mode, has a hook, is replaced; its
            code branches on the numbers of an image; two calls differ.
    """
    for name, part in model.named_modules():
        refusal = unknown(part) if _has_mode(part) else None
        if refusal is not None:
            raise refusal.of(f"its {name} ({type(part).__name__})" if name else type(part).__name__)
        if type(part).__name__ in WRAPPERS:
            raise Unbounded(f"there is no rule for {type(part).__name__}", INSTEAD[type(part).__name__])
    before = weights_hash(tensors(model))
    try:
        copy = duplicate(model)
    except Exception as error:
        raise Unbounded(
            f"it cannot be copied ({told(error)})", "make it an nn.Module that copy.deepcopy takes"
        ) from error
    parts = dict(zip(copy.modules(), model.modules(), strict=True))
    with same_random_numbers():  # noise that the code draws differs between the two calls, and is found
        first, second = (run_on_tape(copy, parts, tuple(shape)) for _ in range(2))
    if _print(first) != _print(second) or weights_hash(tensors(copy)) != before:
        raise Unbounded("two calls of it differ", CHANGING)
    tape, output = first
    return tape.nodes, output


def _compare(model: nn.Module, network: nn.Module, shape: Shape) -> None:
    """
    Raises:
        Unbounded: the network as it was read gives other logits for a batch of images, of which the trace of one image
            sees nothing.
    """
    if any(isinstance(step, Refused) for step in network.modules()):
        return  # without a bound as it is
    like = next(iter(tensors(network).values()), torch.zeros(()))
    for count in (3, 1):  # some take one image at a time
        x = torch.rand(count, *shape, generator=torch.Generator().manual_seed(0)).to(like.device)
        for dtype in (torch.float32, torch.float64):
            try:
                said = duplicate(model)(x.to(dtype))
                break
            except Exception:
                continue
        else:
            continue
        if said.dtype not in (torch.float32, torch.float64):
            raise Unbounded(f"its logits are {said.dtype}", "return logits of float32 or float64")
        try:
            found = network(x.to(said.dtype))
        except RuntimeError as error:
            raise Unbounded(f"it mixes precisions ({told(error)})", "keep all of it in one precision") from error
        change, scale = (found - said).abs().amax(1), said.abs().amax(1)
        if not bool((change <= TOLERANCE * scale.clamp_min(1e-30)).all()) and bool(said.isfinite().all()):
            raise Unbounded("it does something else for several images than for one", "treat each image by itself")
        return


def _has_mode(part: nn.Module) -> bool:
    """Not so what torch.export makes: it has no modes, and parts without a forward, which are never called."""
    if isinstance(part, torch.jit.ScriptModule):
        return True
    of_export = type(part).__module__.startswith(("torch.export.", "torch.fx."))
    return not of_export and type(part).forward is not nn.Module.forward


def run_on_tape(copy: nn.Module, parts: dict[nn.Module, nn.Module], shape: Shape) -> tuple[Tape, int]:
    """
    Args:
        copy: of the network, whose modules are wrapped meanwhile.
        parts: its modules -> those of the network.
    """
    mine = tensors(copy).values()
    floats = [t for t in mine if t.is_floating_point()] or [torch.zeros(())]
    kinds = {t.dtype for t in floats}
    dtype = kinds.pop() if len(kinds) == 1 else torch.promote_types(torch.float32, max(floats, key=Tensor.numel).dtype)
    own = frozenset(t.untyped_storage().data_ptr() for t in mine if t.layout == torch.strided)
    tape = Tape(shape, dtype, floats[0].device, OPERATIONS, own)
    try:
        with _wrapped(tape, copy, parts), _without_fast_paths():
            logits = copy(tape.image)
    except Unbounded:
        raise
    except Exception as error:
        if is_memory(error):
            raise
        reason = Unbounded(f"its code fails on an image without numbers: {told(error)}", SEQUENCE)
        raise tape.at_error(reason, error) from error
    if type(logits) is not Image or logits.tape is not tape or logits.shape[:1] != (1,):
        raise Unbounded("it returns no tensor [N, ...] that is computed from the images", "return the logits alone")
    return tape, logits.node


@contextmanager
def _without_fast_paths() -> Iterator[None]:
    """Inside, recurrent layers, transformers and attention are computed by operations that are read, not by one of
    oneDNN's, nor by one for a whole layer.
    """
    switches: list[tuple[Callable[[], bool], Callable[[bool], object]]] = [
        (torch._C._get_mkldnn_enabled, torch._C._set_mkldnn_enabled),
        (torch.backends.mha.get_fastpath_enabled, torch.backends.mha.set_fastpath_enabled),
        (torch.backends.cuda.flash_sdp_enabled, torch.backends.cuda.enable_flash_sdp),
        (torch.backends.cuda.mem_efficient_sdp_enabled, torch.backends.cuda.enable_mem_efficient_sdp),
    ]
    before = [now() for now, _ in switches]
    try:
        for _, switch in switches:
            switch(False)
        yield
    finally:
        for (_, switch), value in zip(switches, before, strict=True):
            switch(value)


@contextmanager
def _wrapped(tape: Tape, copy: nn.Module, parts: dict[nn.Module, nn.Module]) -> Iterator[None]:
    """Inside, the copy's modules that have a rule are written down when they are called, and the others tell their
    names.
    """
    names = {module: name for name, module in copy.named_modules()}
    changed = []
    for module, name in names.items():
        if isinstance(module, torch.jit.ScriptModule):
            continue
        changed.append(module)
        own = parts[module]
        leaf = (_has_rule(own) or rule_of(lipschitz.equals, own)) and not getattr(own, "inplace", False)
        # A DataParallel would distribute an image without numbers among its GPUs.
        forward = module.module if exactly(module, nn.DataParallel) else module.forward
        vars(module)["forward"] = (_written_down if leaf else _named)(tape, name, own, forward)
    try:
        yield
    finally:
        for module in changed:
            del vars(module)["forward"]


def _written_down(tape: Tape, name: str, layer: nn.Module, forward: Any) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        if len(args) != 1 or kwargs or type(args[0]) is not Image:
            return _named(tape, name, layer, forward)(*args, **kwargs)
        inside, tape.inside = tape.inside, [name]
        try:
            return _layers(tape, layer, args[0])
        finally:
            tape.inside = inside

    return call


def _has_rule(layer: nn.Module) -> bool:
    return rule_of(lipschitz.rules, layer) is not None


def _layers(tape: Tape, layer: nn.Module, image: Image) -> Image:
    """The layer, or those that compute the same."""
    if _has_rule(layer):
        return tape.layer("", layer, image)
    try:
        equal = rule_of(lipschitz.equals, layer)(layer, tuple(image.shape[1:]))
    except Unbounded as error:
        equal = Refused(type(layer).__name__, error, layer)
    for part in flat(equal):
        image = tape.layer("", part, image)
    return image


def _named(tape: Tape, name: str, module: nn.Module, forward: Any) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        tape.inside.append(name)
        try:
            recurrent = isinstance(module, nn.RNNBase) and exactly(module, nn.RNN, nn.GRU, nn.LSTM)
            if recurrent and len(args) == 1 and not kwargs and args[0].ndim == 3:
                return _recurrent(tape, forward.__self__, args[0], forward)
            return forward(*args, **kwargs)
        finally:
            tape.inside.pop()

    return call


def _recurrent(tape: Tape, layer: nn.RNNBase, x: Image, forward: Any) -> Any:
    """Of the copy of a recurrent layer. Its batch comes second meanwhile, since torch's code would turn its output in
    place.
    """
    first = layer.batch_first
    layer.batch_first = False
    try:
        turned: Any = x.transpose(0, 1) if first else x
        out, states = forward(turned, _at_rest(tape, layer, turned))
    finally:
        layer.batch_first = first
    return (out.transpose(0, 1) if first else out), states


def _at_rest(tape: Tape, layer: nn.RNNBase, x: Image) -> Any:
    """The zeros that a recurrent layer starts from, as activations: it adds to them in place."""
    shape = (layer.num_layers * (1 + layer.bidirectional), x.shape[1], layer.hidden_size)
    nowhere = torch.full((math.prod(shape),), -1, device=tape.device)
    states = [tape.add("zeros", Copies(nowhere, seen(shape)), [x], shape) for _ in range(2)]
    return tuple(states) if isinstance(layer, nn.LSTM) else states[0]


def _print(traced: tuple[Tape, int]) -> list[Any]:
    """Everything about a graph that two calls can be compared by."""
    tape, output = traced
    return [
        output,
        *(
            (n.name, type(n.step), n.inputs, n.shape, n.line, weights_hash(tensors(n.step)), options_of(n.step))
            for n in tape.nodes
        ),
    ]


# --- from nodes to layers ---------------------------------------------------------------------------------------------


def _in_parts(nodes: list[Node], output: int) -> nn.Sequential:
    """The steps that lead to the output, cut where all of them pass through one tensor."""
    needed = {0, output}
    for i in range(output, 0, -1):
        if i in needed:
            needed.update(nodes[i].inputs)
    order = sorted(needed)
    last = dict.fromkeys(order, -1)
    for i in order:
        for source in nodes[i].inputs:
            last[source] = i
    taken: set[str] = set()
    given: set[str] = set()
    names = {i: _numbered(nodes[i].name, taken) for i in order[1:]}
    parts, start, reach = nn.Sequential(), 0, last[0]
    for i in order[1:]:
        if reach > i:  # something before this step is used after it
            reach = max(reach, last[i])
            continue
        name, step = _part(nodes, names, [k for k in order if start < k <= i])
        name = _numbered(name, given)
        parts._modules[name] = step  # the name of a layer may have dots, which add_module refuses
        start, reach = i, last[i]
    in_evaluation(parts)
    return parts


def _numbered(name: str, taken: set[str]) -> str:
    """The name, or `relu_2`, `relu_3`, ... where it is taken, as it then is."""
    numbered = itertools.chain([name], (f"{name}_{number}" for number in itertools.count(2)))
    free = next(each for each in numbered if each not in taken)
    taken.add(free)
    return free


def _part(nodes: list[Node], names: dict[int, str], places: list[int]) -> tuple[str, nn.Module]:
    if len(places) == len(nodes[places[0]].inputs) == 1:
        return names[places[0]], nodes[places[0]].step
    number = {place: k + 1 for k, place in enumerate(places)}
    inputs = [tuple(number.get(source, 0) for source in nodes[i].inputs) for i in places]
    step = Graph([names[i] for i in places], [nodes[i].step for i in places], inputs, [nodes[i].shape for i in places])
    titles = [nodes[i].name for i in places]
    columns = zip(*(title.split(".") for title in titles), strict=False)
    common = [column[0] for column in itertools.takewhile(lambda column: len(set(column)) == 1, columns)]
    return ".".join(common) or f"{titles[0]} to {titles[-1]}", in_evaluation(step)


watch(nn.DataParallel)
lipschitz.reader = read
