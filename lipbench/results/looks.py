"""The looks of networks: name, colour and marker, the same in every figure and stored with each run."""

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


# By the first word of an experiment's name: what the network was trained with.
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


def network_look(experiment: str) -> Look:
    """How a network is drawn, from the name of its experiment, such as "hkr_cnn"."""
    return NETWORKS.get(experiment.split("_", maxsplit=1)[0], Look(experiment, GREEN, "*"))
