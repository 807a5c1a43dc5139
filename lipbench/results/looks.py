"""The looks of networks: name, colour and marker, the same in every figure and stored with each run."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

# Okabe and Ito (2008), without yellow, which is too light for lines on white. Black is kept for combined attack.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
BLUE, ORANGE, GREEN, PINK, SKY, AMBER = PALETTE
GREY = "#666666"
# Tol's muted colours, for what is not among the main networks.
INDIGO, TEAL, OLIVE, WINE, PURPLE = "#332288", "#44AA99", "#999933", "#882255", "#AA4499"


@dataclass(frozen=True)
class Look:
    """Name, colour and marker of a kind of network or of a method: the same in every figure."""

    label: str
    color: str
    marker: str


# By the first word of the names of built-in experiments, such as hkr_cnn: what the network was trained with.
NETWORKS = {
    "plain": Look("classical", GREY, "s"),
    "adversarial": Look("adversarially trained", AMBER, "v"),
    "ce": Look("1-Lipschitz, cross-entropy", SKY, "^"),
    "hkr": Look("1-Lipschitz, HKR", ORANGE, "o"),
    "margin": Look("1-Lipschitz, margin", BLUE, "D"),
    "kr": Look("1-Lipschitz, KR", PINK, "P"),
    "record": Look("1-Lipschitz, record", GREEN, "X"),
    "spectral": Look("spectral norm", WINE, "<"),
    "frobenius": Look("Frobenius norm", INDIGO, ">"),
    "clip": Look("weight clipping", OLIVE, "p"),
    "deel": Look("deel-torchlip", TEAL, "h"),
    "orthogonium": Look("orthogonium", PURPLE, "d"),
}


BODIES = {"mlp": "MLP", "cnn": "CNN", "resnet": "ResNet"}
# Of all other networks, such as external models, in this order.
COLORS = (GREEN, BLUE, ORANGE, PINK, SKY, AMBER, WINE, INDIGO, OLIVE, TEAL, PURPLE)
MARKERS = "*oD^sv<>"
_OTHERS: ContextVar[dict[str, Look]] = ContextVar("others", default={})  # noqa: B039


def kind_of(experiment: str) -> str:
    """What a built-in network was trained with, such as "hkr" of "hkr_cnn"; "" for all other networks."""
    kind, _, body = experiment.partition("_")
    return kind if kind in NETWORKS and (body in BODIES or experiment == "record") else ""


def network_look(experiment: str) -> Look:
    """How a network is drawn, from the name of its experiment, such as "hkr_cnn". A network that is not built in has
    the look that `distinct` gave it; outside of such a block, the first one.
    """
    kind = kind_of(experiment)
    return NETWORKS[kind] if kind else _OTHERS.get().get(experiment, Look(experiment, COLORS[0], MARKERS[0]))


@contextmanager
def distinct(experiments: Iterable[str]) -> Iterator[None]:
    """Inside the block each network that is not built in has a colour of its own, in the order of their names. Colours
    of built-in networks among them come last. Blocks nest: a network keeps the colour of the outer block.

    Args:
        experiments: names of all networks that are drawn, in any order.
    """
    outer, names = _OTHERS.get(), sorted(set(experiments))
    taken = {look.color for look in (*map(network_look, filter(kind_of, names)), *outer.values())}
    colors = sorted(COLORS, key=lambda color: color in taken)
    others = [name for name in names if not kind_of(name) and name not in outer]
    looks = {name: Look(name, colors[i % len(colors)], MARKERS[i % len(MARKERS)]) for i, name in enumerate(others)}
    token = _OTHERS.set({**outer, **looks})
    try:
        yield
    finally:
        _OTHERS.reset(token)
