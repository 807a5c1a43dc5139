"""Imports adv-lib where torchvision or visdom cannot be imported.

`adv_lib.attacks` imports both, for a perceptual distance and for a dashboard; no attack that is compared here calls
them. Where torchvision's build does not match torch's, it cannot be imported at all.
"""

import importlib
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType


def import_adv_lib() -> None:
    """After it, `import adv_lib.attacks` succeeds. Empty modules stand in for the two, and are taken away again.

    Raises:
        ImportError: adv-lib itself is not installed.
    """
    stand_ins: list[str] = []
    for name in ("torchvision", "visdom"):
        try:
            importlib.import_module(name)
        except (ImportError, RuntimeError):
            stand_ins.append(name)
    for name in stand_ins:
        sys.modules[name] = _empty(name)
    if "torchvision" in stand_ins:
        sys.modules["torchvision"].models = _empty("torchvision.models")  # type: ignore[attr-defined]
    try:
        importlib.import_module("adv_lib.attacks")
    finally:
        for name in stand_ins:
            del sys.modules[name]


def _empty(name: str) -> ModuleType:
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    return module
