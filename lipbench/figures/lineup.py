"""The networks that figures set side by side, and how each looks in all of them."""

from dataclasses import dataclass

from lipbench.figures.inputs import Results, Run
from lipbench.figures.style import PALETTE

BLUE, ORANGE, GREEN, PINK, SKY, YELLOW = PALETTE
GREY = "#666666"


@dataclass(frozen=True)
class Look:
    """Colour and name of a kind of network: the same in every figure."""

    label: str
    color: str
    marker: str


# By the first word of an experiment's name: what the network was trained with.
LOOKS = {
    "plain": Look("classical", GREY, "s"),
    "adversarial": Look("adversarially trained", YELLOW, "v"),
    "ce": Look("1-Lipschitz, cross-entropy", SKY, "^"),
    "hkr": Look("1-Lipschitz, HKR", ORANGE, "o"),
    "margin": Look("1-Lipschitz, margin", BLUE, "D"),
    "kr": Look("1-Lipschitz, KR", PINK, "P"),
    "record": Look("1-Lipschitz, record", GREEN, "X"),
}
OTHER = Look("", GREEN, "*")
# The source's line-up and ours, in the order of the legend.
LINEUP = ("plain", "adversarial", "ce", "hkr", "margin")
BODIES = ("cnn", "resnet", "mlp")


def look(experiment: str) -> Look:
    """How a network is drawn, from the name of its experiment, such as "hkr_cnn"."""
    kind = experiment.split("_", maxsplit=1)[0]
    return LOOKS.get(kind, Look(experiment, OTHER.color, OTHER.marker))


def lineup(results: Results) -> dict[str, list[Run]]:
    """Experiment -> its runs (all seeds of the variant "default"), for one data set: of every kind of the line-up one
    network, a convolutional one where there is one. Without any of these kinds, every experiment.
    """
    runs = [run for run in results.runs if run.key[2] == "default"]
    names = sorted({str(run.key[1]) for run in runs})
    chosen = []
    for kind in LINEUP:
        found = [f"{kind}_{body}" for body in BODIES if f"{kind}_{body}" in names]
        chosen += found[:1]
    return {name: [run for run in runs if run.key[1] == name] for name in chosen or names}
