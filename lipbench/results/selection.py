"""The networks that figures set side by side."""

from collections.abc import Iterable

from lipbench.results.runs import Run, Runs

# First word of an experiment's name: those of the source and ours, in the order of the legend.
KINDS = ("plain", "adversarial", "ce", "hkr", "margin")
BODIES = ("cnn", "resnet", "mlp")


def main_names(experiments: Iterable[str], every_body: bool = False) -> list[str]:
    """Those of one data set that are set side by side: of every kind one network, a convolutional one
    where there is one, or with `every_body` one of each body. Without any of these kinds, every experiment.
    """
    names = sorted(set(experiments))
    chosen = []
    for kind in KINDS:
        found = [f"{kind}_{body}" for body in BODIES if f"{kind}_{body}" in names]
        chosen += found if every_body else found[:1]
    return chosen or names


def main_networks(results: Runs, every_body: bool = False) -> dict[str, list[Run]]:
    """Experiment -> its runs (all seeds of the variant "default"), for one data set: those of `main_names`."""
    runs = [run for run in results.finished if run.key[2] == "default"]
    names = main_names((str(run.key[1]) for run in runs), every_body)
    return {name: [run for run in runs if run.key[1] == name] for name in names}


def first_seeds(results: Runs, every_body: bool = False) -> dict[str, Run]:
    """`main_networks`, of each network the run with the lowest seed."""
    networks = main_networks(results, every_body)
    return {name: min(runs, key=lambda run: str(run.key[3]).zfill(9)) for name, runs in networks.items()}
