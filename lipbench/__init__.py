"""lipbench: how far is the nearest adversarial example?

Certificates bound that distance from below, attacks from above; one table holds both.

    import lipbench
    table = lipbench.evaluate(model, images, labels)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lipbench import mkl as _mkl  # noqa: F401  (before the first product)
from lipbench.configuration import VERSION as __version__  # noqa: F401

if TYPE_CHECKING:
    from lipbench.interface import *  # noqa: F403


def __dir__() -> list[str]:
    return list(import_module("lipbench.interface").__all__)


def __getattr__(name: str) -> Any:
    if name == "plot":
        return import_module("lipbench.plot")
    if name == "__all__" or not name.startswith("_"):
        interface = vars(import_module("lipbench.interface"))
        if name == "__all__" or name in interface.get("__all__", ()):
            return interface[name]
        if name in globals():  # a package that the interface has loaded
            return globals()[name]
    raise AttributeError(f"module 'lipbench' has no attribute {name!r}")
