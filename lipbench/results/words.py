"""Names of data sets and networks in words, and what has to be said of some networks."""

from lipbench.results.looks import BODIES, kind_of, network_look

DATASETS = {
    "digits": "Digits",
    "digits08": "Digits 0 vs 8",
    "mnist": "MNIST",
    "mnist08": "MNIST 0 vs 8",
    "mnist_oneclass": "MNIST, one class against the others",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "cifar10_jpeg": "CIFAR-10 (JPEG)",
    "two_moons": "Two moons",
    "two_circles": "Two circles",
    "two_spirals": "Two spirals",
    "shapes": "Shapes",
}
FACES = {"celeba_drawn_": "Drawn faces", "celeba_": "CelebA"}
KINDS = {
    "plain": "classical",
    "adversarial": "adversarially trained",
    "ce": "1-Lipschitz cross-entropy",
    "margin": "1-Lipschitz margin",
    "hkr": "HKR",
    "kr": "KR",
}
# By the kind of a built-in network: what its numbers do not say by themselves.
NOTES = {
    "kr": (
        "is trained with the Kantorovich-Rubinstein loss alone. It estimates the Wasserstein distance of the two "
        "classes and is no classifier: nothing places its decision boundary between them."
    ),
}


def dataset_name(dataset: str) -> str:
    """In words, such as "MNIST 0 vs 8"; a data set that is not known keeps its name."""
    for beginning, words in FACES.items():
        if dataset.startswith(beginning):
            return f"{words}, {dataset.removeprefix(beginning).replace('_', ' ')}"
    return DATASETS.get(dataset, dataset)


def is_one_class(dataset: str) -> bool:
    """Whether it is one class against the others: each inlier class is a task of its own, judged by AUROC."""
    return dataset.endswith("_oneclass")


def network_name(experiment: str, variant: str = "default") -> str:
    """In words, such as "HKR MLP"; a network that is not known keeps its name."""
    kind, body = kind_of(experiment), experiment.partition("_")[2]
    name = f"{KINDS.get(kind, network_look(experiment).label)} {BODIES[body]}" if kind and body else experiment
    return name if variant == "default" else f"{name}, {variant}"


def note(experiment: str) -> str:
    """A sentence about a network whose numbers need one; "" for all others."""
    text = NOTES.get(kind_of(experiment), "")
    return f"{experiment} {text}" if text else ""


def shortened(text: str, length: int) -> str:
    """A text of at most `length` letters: an ellipsis in its middle where it is longer."""
    end = (length - 1) // 2
    return text if len(text) <= length else f"{text[: length - 1 - end]}\u2026{text[len(text) - end :]}"


def counted(number: int, noun: str) -> str:
    """ "1 run" or "3 runs"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
