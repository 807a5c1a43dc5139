"""The figures of a report, each in its files: the recipes of `lipbench.figures`, comparisons of constructions, and the
training of single runs.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd
from joblib import Parallel, cpu_count, delayed
from matplotlib.figure import Figure

from lipbench.escapes import file_name
from lipbench.figures import (
    BROKEN,
    FIGURES,
    Drawing,
    Recipe,
    Results,
    accuracy_curves,
    best_variants,
    construction_comparison,
    drawings,
    drawn,
    save_figure,
    training_comparison,
    training_curves,
)
from lipbench.files import ResultsError
from lipbench.report import Problem, Run, Runs, discard_stale
from lipbench.results import read_histories

# From so many runs on more processes are worth their start of some seconds.
MANY = 30


def _accuracy(results: Results) -> tuple[Figure, pd.DataFrame]:
    figure = accuracy_curves(results.of_defaults().tables, title=f"{results.datasets[0]}: accuracy against epsilon")
    return figure, drawn(figure)


def _training(results: Results) -> tuple[Figure, pd.DataFrame] | None:
    histories = results.of_defaults().histories.dropna(axis=1, how="all")
    if not len(histories):
        return None
    return training_comparison(histories, title=f"{results.datasets[0]}: training"), histories


# Travels inside of every picture that the report draws: others in the folder are not its own.
SOURCE = "lipbench.commands.report"
# What the page shows, in this order; two kinds of figures more are drawn below, of experiments and of runs.
RECIPES = (
    *FIGURES,
    Recipe(
        "accuracy",
        "Accuracy against epsilon, attack by attack",
        "Curves of accuracy that fall as the L2 norm of the perturbation grows, one panel per network: one curve per "
        "attack, the combined attack in black, the certificate dashed below it.",
        _accuracy,
    ),
    Recipe(
        "training",
        "Training: Lipschitz bound, gradient norm, singular values",
        "The networks compared over their training: Lipschitz bound of the network, norm of the gradient with respect "
        "to the image, and the range of the singular values of all layers at the end.",
        _training,
    ),
)


def _constructions(runs: Runs, dataset: str) -> Iterator[Drawing]:
    for experiment, eps, table in constructions(runs, dataset):
        title = f"{dataset}/{experiment}: one body, every construction"
        best = f"{table['construction'].iloc[0]} certifies most, {table['certified'].iloc[0]:.1f} %"
        alt = (
            f"A row of dots per construction: accuracy, certified accuracy at {eps:g}, tightness and milliseconds "
            f"per training step; {best}."
        )
        figure = construction_comparison(table, eps, title=title)
        yield Drawing(f"constructions_{dataset}_{experiment}", title, alt, figure, table)


def _training_of(run: Run) -> Iterator[Drawing]:
    alt = (
        "One run over its epochs: the range of the singular values of each layer, Lipschitz bound and gradient norm of "
        "the network and its layers, and the accuracies."
    )
    history = read_histories(run.folder)  # read alone, the layers of a run keep their order
    if len(history):
        words = [str(part) for part in run.key]
        figure = training_curves(history, title=" ".join(words))
        title = f"{' '.join(words)}: training, layer by layer"
        yield Drawing("_".join(["training", *words]), title, alt, figure, history)


def constructions(runs: Runs, dataset: str) -> list[tuple[str, float, pd.DataFrame]]:
    """The comparisons on one data set: experiments of which several constructions were trained.

    Returns:
        per experiment its name, the epsilon of the certified accuracy that chose the variants, and the table of
        `lipbench.figures.best_variants`.
    """
    rows = []
    for run in runs.of([dataset]).finished:
        summary = run.summary
        if "construction" in summary:
            eps = summary["validation_epsilon"]
            certified = (summary["certified_accuracy"] or {}).get(f"{eps:g}")
            if certified is not None:
                rows.append(_construction_row(summary, eps, certified))
    table = pd.DataFrame(rows)
    found = []
    for experiment in sorted({row["experiment"] for row in rows}):
        group = table[table["experiment"] == experiment]
        if group["construction"].nunique() > 1:
            epsilon = float(group["epsilon"].iloc[0])
            found.append((experiment, epsilon, best_variants(group.drop(columns=["experiment", "epsilon"]))))
    return found


def _construction_row(summary: dict[str, Any], eps: float, certified: float) -> dict[str, Any]:
    return {
        "experiment": summary["experiment"],
        "epsilon": eps,
        "construction": summary["construction"],
        "variant": summary["variant"],
        "seed": summary["seed"],
        "validation": 100 * summary["validation_certified_accuracy"],
        "accuracy": 100 * summary["accuracy"],
        "certified": 100 * certified,
        "tightness": summary["tightness"],
        "ms": 1000 * summary["step_seconds"],
    }


def _chosen(training: bool | str | Sequence[str], known: list[str]) -> list[str]:
    """The experiments of which each run gets a figure of its own.

    Raises:
        ResultsError: a name that has no history.
    """
    if isinstance(training, bool):
        return known if training else []
    names = [training] if isinstance(training, str) else list(training)
    missing = [name for name in names if name not in known]
    if missing:
        raise ResultsError(
            f"training_curves={names}: no history of {', '.join(missing)}. Give true, false or a list of: "
            f"{', '.join(known)}."
        )
    return names


def draw(
    runs: Runs, training: bool | str | Sequence[str], processes: int | None = 1
) -> tuple[list[Path], list[Problem]]:
    """Draws everything that has its inputs; a file that is broken costs the figures that need it. What an earlier
    report drew and this one does not is removed.

    Args:
        training: whether each run's training is drawn as well; or the names of the experiments whose is.
        processes: at work at once, each on one data set or on what is drawn of all together; None: one per core where
            there are many runs.

    Returns:
        the files, and what could not be drawn.

    Raises:
        ResultsError: an experiment that has no history.
    """
    trained = {run.summary["experiment"] for run in runs.finished if (run.folder / "history.csv").exists()}
    chosen = _chosen(training, sorted(trained))
    # The figures of all data sets first, which read most.
    parts = [None, *dict.fromkeys(run.summary["dataset"] for run in runs.finished)]
    if processes is None:
        processes = min(cpu_count(), len(parts)) if len(runs.finished) >= MANY else 1
    if processes == 1:
        found = [_draw_part(runs, chosen, part) for part in parts]
    else:
        found = Parallel(n_jobs=processes, batch_size=1)(delayed(_draw_part)(runs, chosen, part) for part in parts)
    written = [path for files, _ in found for path in files]
    discard_stale(runs.root / "figures", written, SOURCE)
    return written, [problem for _, problems in found for problem in problems]


def _draw_part(runs: Runs, chosen: Sequence[str], dataset: str | None) -> tuple[list[Path], list[Problem]]:
    """The figures of one data set; None: those of all together."""
    written: list[Path] = []
    problems: list[Problem] = []

    def failed(name: str, error: Exception) -> None:
        problems.append(Problem.of(error, f"figure {name}", runs.root))

    own: list[tuple[str, Callable[[], Iterator[Drawing]]]] = []
    if dataset is not None:
        runs = runs.of([dataset])
        own = [(f"constructions_{dataset}", partial(_constructions, runs, dataset))]
        own += [
            ("_".join(map(str, ("training", *run.key))), partial(_training_of, run))
            for run in runs.finished
            if run.summary["experiment"] in chosen
        ]
    results = Results(run.folder for run in runs.finished)
    recipes = [recipe for recipe in RECIPES if recipe.each == (dataset is not None)]
    for one in chain(drawings(results, recipes, failed), _sound(own, failed)):
        words = {"title": one.title, "alt": one.alt, "source": SOURCE}
        try:
            written += save_figure(one.figure, runs.root / "figures" / file_name(one.name), **words, data=one.table)
        except BROKEN as error:
            failed(one.name, error)
    return written, problems


def _sound(
    sources: Iterable[tuple[str, Callable[[], Iterator[Drawing]]]], failed: Callable[[str, Exception], None]
) -> Iterator[Drawing]:
    """What every source draws, by name; one that fails costs the others nothing."""
    for name, source in sources:
        try:
            yield from source()
        except BROKEN as error:
            failed(name, error)
