"""Attacks of other libraries as attacks of ours: torchattacks; foolbox and adv-lib, each an extra.

`with_torchattacks`, `with_foolbox` and `with_adv_lib` hold one function each, (model, x, y, *, attack=...) -> images,
where `attack` makes an attack of that library. A library is imported by the module that is named after it, never by
this one.
"""

from lipbench.attacks.peers.adapter import MissingExtra
from lipbench.attacks.peers.search import Search

__all__ = ["MissingExtra", "Search"]
