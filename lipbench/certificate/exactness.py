"""Whether a module computes what its type says, and nothing else: `unknown`, with the reason where it does not.

A rule is written for the code of one type, on plain tensors, with plain numbers. A change of one of these (a plugin
that replaces a method of torch, a library whose weights compute in their own way) makes the rule one of another layer.
"""

import contextlib
import importlib
import math
import numbers
import sys
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules import module as torch_module
from torch.nn.utils import parametrize
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from lipbench.modules import exactly

# What Python and torch look up on the type of a module, besides the names in its code.
ROOTS = ("__call__", "__getattr__", "__getattribute__", "__iter__", "__bool__", "__len__", "forward")
# Where a name in the code of a layer may come from, besides its type and its file.
LIBRARY = (F, torch, torch.fft, Tensor)
# What a module keeps its parts in, and its hooks.
STATE = ("_parameters", "_buffers", "_modules")
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
# Package of layers -> the module of ours that has rules for them.
OF_LIBRARIES = {"deel": "lipbench.certificate.rules.deel", "orthogonium": "lipbench.certificate.rules.orthogonium"}
PLAIN = "evaluate the model as it was before (not patched, not compiled)"
MISSING = object()
NUMPY = (kind for kind in np.sctypeDict.values() if issubclass(kind, np.floating | np.integer | np.bool_))
NUMBERS = (bool, int, float, *dict.fromkeys(NUMPY))


class Unbounded(Exception):
    """A rule's answer for a layer that it cannot bound.

    Attributes:
        why: the reason, such as "it divides by a statistic of the image".
        remedy: what would make the layer certifiable.
    """

    def __init__(self, why: str, remedy: str = ""):
        super().__init__(why, remedy)
        self.why = why
        self.remedy = remedy

    @property
    def reason(self) -> str:
        """Why, with the remedy."""
        return f"{self.why}: {self.remedy}" if self.remedy else self.why

    def of(self, part: str) -> "Unbounded":
        """The same of a part of the layer."""
        return Unbounded(f"{part}: {self.why}", self.remedy)


def rule_of(rules: Mapping[type, Any], module: nn.Module) -> Any:
    """The rule for exactly the type of this module, or None. Rules for the layers of another library are imported with
    the first layer of it that is met.
    """
    package = type(module).__module__.partition(".")[0]
    if package in OF_LIBRARIES:
        with contextlib.suppress(ImportError):  # another package of that name
            importlib.import_module(OF_LIBRARIES[package])
    return next((rule for kind, rule in rules.items() if exactly(module, kind)), None)


def number(layer: nn.Module, name: str) -> float:
    """An option of a layer that is a number, exactly as torch computes with it: bounds are computed from this, never in
    the short precision that the number is stored in.

    Raises:
        Unbounded: it is neither a number of Python or numpy nor a plain tensor of one element.
    """
    value = getattr(layer, name)
    if isinstance(value, Tensor):
        why = strange(value)
        if why:
            raise Unbounded(f"its {name} {why}", PLAIN)
        if value.numel() != 1 or value.ndim > 1:
            shape = list(value.shape)
            raise Unbounded(f"its {name} has the shape {shape}: it may repeat the image", "give one number")
    elif not exactly(value, *NUMBERS):
        raise Unbounded(f"its {name} is a {type(value).__name__}, not a number", "give a number, such as a float")
    return float(value.detach() if isinstance(value, Tensor) else value)


def strange(tensor: Tensor) -> str:
    """Why the arithmetic of a tensor is not that of torch's plain tensors; "" where it is."""
    if not exactly(tensor, Tensor, nn.Parameter):
        return f"is a {type(tensor).__name__}, a subclass of torch.Tensor that may compute something else"
    if tensor.layout != torch.strided or tensor.is_quantized:
        return f"is stored as {tensor.dtype if tensor.is_quantized else tensor.layout}"
    replaced = [name for name, value in vars(tensor).items() if callable(value) and hasattr(Tensor, name)]
    return f"had its {replaced[0]} replaced" if replaced else ""


def unknown(module: nn.Module) -> Unbounded | None:
    """Why this module is not what its type says, or None: hooks, an active mode of torch, a method of its own or
    replaced on its class, a live parametrization, tensors that are not plain, an option that is NaN, training mode.
    """
    if isinstance(module, torch.jit.ScriptModule | fx.GraphModule):
        return None  # no rule is for them
    return _unready(module) or _disguised(module) or _of_the_instance(module)


def _unready(module: nn.Module) -> Unbounded | None:
    if module.training:
        return Unbounded("it is in training mode", "call model.eval(), or lipbench.bake(model)")
    if isinstance(module, nn.modules.lazy.LazyModuleMixin):
        return Unbounded("it is not initialised", "run one batch of images through the model")
    if parametrize.is_parametrized(module):
        return Unbounded("its weight is parametrized", "call lipbench.bake(model)")
    return None


def _disguised(module: nn.Module) -> Unbounded | None:
    own = vars(module)
    lying = [name for name in (*STATE, *HOOKS) if not exactly(own.get(name), dict, OrderedDict)]
    if lying or not exactly(own, dict):
        return Unbounded(f"its {[*lying, '__dict__'][0]} is not a plain dictionary", "construct the layer anew")
    if any(own[name] for name in HOOKS) or any(getattr(torch_module, f"_global{name}") for name in HOOKS[:2]):
        return Unbounded("it has a hook, which may change what it computes", "remove the hook")
    modes = [*_get_current_function_mode_stack(), *_get_current_dispatch_mode_stack()]
    # `torch.set_default_device` is a mode as well; it only says where new tensors lie.
    strangers = [type(mode).__name__ for mode in modes if not exactly(mode, DeviceContext)]
    if strangers:
        return Unbounded(f"a mode of torch functions is active: {strangers[0]}", "certify the model outside of it")
    replaced = replaced_code(type(module))
    return Unbounded(f"{replaced} was replaced, for all layers", PLAIN) if replaced else None


def _of_the_instance(module: nn.Module) -> Unbounded | None:
    own = vars(module)
    for name, value in own.items():
        # All that a call passes through: forward, _conv_forward, _call_impl, ...
        if callable(value) and hasattr(type(module), name):
            return Unbounded(f"its {name.lstrip('_')} was replaced on the instance", PLAIN)
        if any(name in own[kept] for kept in STATE):
            return Unbounded(f"its {name} is hidden by an attribute of that name", f"delete the attribute: del {name}")
    tensors = {**own, **own["_buffers"], **own["_parameters"]}
    for name, value in tensors.items():
        if isinstance(value, Tensor) and strange(value):
            return Unbounded(
                f"its {name} {strange(value)}", "replace it by a plain tensor, of the values it stands for"
            )
        if name in own and _is_nan(value):
            return Unbounded(f"its {name} is NaN", "set it to a number")
    return None


def _is_nan(value: object) -> bool:
    if isinstance(value, Tensor):
        return bool(value.isnan().any())
    return isinstance(value, numbers.Real) and math.isnan(value)


# --- the code of a type -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Seen:
    """What a call of a type runs.

    Attributes:
        functions: where each was found, its name, itself, and its code where it is Python's.
        absent: names in the code that the type itself does not have. One that it had would hide a weight.
    """

    functions: list[tuple[Any, str, object, object]]
    absent: frozenset[str]


# By the id of a type: its metaclass decides what its hash is.
_watched: dict[int, _Seen] = {}


def watch(kind: type) -> None:
    """Notes the code that a call of this type runs, so that `replaced_code` sees what is replaced from now on.

    Noted are the methods of the type, and the functions of torch and of its own file by the names in their code, as far
    as they are written in Python. What lies below, in C++, is beyond it.
    """
    functions: dict[tuple[int, str], tuple[Any, str, object, object]] = {}
    absent: set[str] = set()
    todo: list[tuple[Any, str]] = [(kind, name) for name in ROOTS]
    while todo:
        place, name = todo.pop()
        value = _lookup(place, name)
        if value is MISSING and place is kind:
            absent.add(name)
        if (id(place), name) in functions or not (callable(value) or isinstance(value, ModuleType)):
            continue
        functions[id(place), name] = (place, name, value, _code(value))
        for function in _functions(value):
            if _is_read(function, kind):
                places = [kind, *LIBRARY, *filter(None, [sys.modules.get(_home(function))])]
                todo += [(there, used) for used in _names(function.__code__) for there in places]
    _watched[id(kind)] = _Seen(list(functions.values()), frozenset(absent))


def replaced_code(kind: type) -> str:
    """The first function that is no longer what it was when the type was watched, such as "Linear.forward"; "" where
    there is none. What another package had replaced before counts too.
    """
    seen = _watched.get(id(kind))
    if seen is None:
        return ""
    for place, name, value, code in seen.functions:
        now = _lookup(place, name)
        if now is not value or _code(now) is not code or _is_foreign(place, kind, now):
            return f"{place.__name__}.{name}"
    added = (name for parent in kind.__mro__ for name in vars(parent) if name in seen.absent)
    return next((f"{kind.__name__}.{name}" for name in added), "")


def _lookup(place: Any, name: str) -> object:
    """What a class, a module or a file has under a name, without descriptors."""
    if isinstance(place, type):
        return next((vars(parent)[name] for parent in place.__mro__ if name in vars(parent)), MISSING)
    return vars(place).get(name, MISSING)


def _code(value: object) -> object:
    return value.__code__ if isinstance(value, FunctionType) else None


def _functions(value: object) -> list[FunctionType]:
    """A function of Python, and those that it chooses between."""
    if not isinstance(value, FunctionType):
        return []
    enclosed = [cell.cell_contents for cell in value.__closure__ or ()]
    return [value, *(other for other in enclosed if isinstance(other, FunctionType))]


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _home(function: FunctionType) -> str:
    return str(function.__globals__.get("__name__"))


def _is_read(function: FunctionType, kind: type) -> bool:
    return _home(function) == kind.__module__ or _home(function).startswith(("torch.nn.", "lipbench."))


def _is_foreign(place: Any, kind: type, value: object) -> bool:
    """Whether a method of torch's classes or a function of torch.nn.functional was written somewhere else."""
    of_torch = place is F or (place is kind and kind.__module__.startswith("torch."))
    home = _home(value) if isinstance(value, FunctionType) else type(value).__module__
    return of_torch and home != "builtins" and home.partition(".")[0] != "torch"
