"""`python -m lipbench.report results=results/runs`: leaderboard, figures and page of a results folder. No model is
loaded.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
import pandas as pd
from matplotlib.figure import Figure
from omegaconf import DictConfig

from lipbench.commandline import CONF, CommandError, check_overrides
from lipbench.figures import (
    accuracy_curves,
    best_variants,
    construction_comparison,
    save_figure,
    training_comparison,
    training_curves,
)
from lipbench.pages import (
    Runs,
    compare_runs,
    find_runs,
    leaderboard,
    write_comparison,
    write_latex,
    write_leaderboard,
    write_page,
)
from lipbench.results import Comparison, ResultsError, read_histories


@dataclass(frozen=True)
class Drawing:
    """A figure of the report, with its words.

    Attributes:
        name: of its files, `figures/<name>.{png,pdf,csv}`.
        figure: as a function of `lipbench.figures` returns it.
        title: a caption of one line.
        alt: what it shows, for readers who do not see it.
        data: the numbers behind it; None: those that it draws.
    """

    name: str
    figure: Figure
    title: str
    alt: str
    data: pd.DataFrame | None = None


def drawings(runs: Runs, datasets: Sequence[str], training: bool | str | Sequence[str]) -> Iterator[Drawing]:
    """Every figure that the report draws: a new one is one more line here.

    Args:
        datasets: those to draw.
        training: whether each run's training is drawn as well; or the names of the experiments whose is.

    Raises:
        ResultsError: an experiment that has no history.
    """
    rows, histories = runs.tables(), runs.histories()
    chosen = _chosen(training, sorted(set(histories["experiment"])))
    for dataset in datasets:
        yield _accuracy(dataset, rows[rows["dataset"] == dataset])
        mine = histories[histories["dataset"] == dataset]
        if len(mine):
            yield _training(dataset, mine)
        for experiment, eps, table in constructions(runs, dataset):
            yield _constructions(f"{dataset}/{experiment}", eps, table)
    for run in runs.of(datasets).finished:
        if run.summary["experiment"] in chosen:
            # Read alone, the layers of a run keep their order.
            history = read_histories(run.folder)
            if len(history):
                yield _training_of_run(" ".join(map(str, run.key)), history)


def _accuracy(dataset: str, rows: pd.DataFrame) -> Drawing:
    title = f"{dataset}: accuracy against epsilon"
    experiments = ", ".join(sorted(set(rows["experiment"])))
    return Drawing(
        f"accuracy_{dataset}",
        accuracy_curves(rows, title=title),
        title,
        f"Curves of accuracy, falling as the L2 norm of the perturbation grows, one panel per network ({experiments}): "
        "one curve per attack, the combined attack in black, the certificate dashed below it.",
    )


def _training(dataset: str, histories: pd.DataFrame) -> Drawing:
    title = f"{dataset}: training"
    return Drawing(
        f"training_{dataset}",
        training_comparison(histories, title=title),
        f"{title}: Lipschitz bound, gradient norm, singular values",
        "The networks compared over their training: Lipschitz bound of the network, norm of the gradient with respect "
        "to the image, and the range of the singular values of all layers at the end.",
        histories.dropna(axis=1, how="all"),
    )


def _training_of_run(run: str, history: pd.DataFrame) -> Drawing:
    title = f"{run}: training, layer by layer"
    return Drawing(
        "_".join(["training", *run.split()]),
        training_curves(history, title=run),
        title,
        "One run over its epochs: the range of the singular values of each layer, Lipschitz bound and gradient norm of "
        "the network and its layers, and the accuracies.",
        history,
    )


def _constructions(experiment: str, eps: float, table: pd.DataFrame) -> Drawing:
    title = f"{experiment}: one body, every construction"
    best = f"; {table['construction'].iloc[0]} certifies most, {table['certified'].iloc[0]:.1f} %"
    return Drawing(
        f"constructions_{experiment.replace('/', '_')}",
        construction_comparison(table, eps, title=title),
        title,
        f"A row of dots per construction: accuracy, certified accuracy at {eps:g}, tightness and milliseconds per "
        f"training step{best}.",
        table,
    )


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


def draw(runs: Runs, datasets: Sequence[str], training: bool | str | Sequence[str]) -> list[Path]:
    """Writes the figures of `drawings`; returns the files."""
    return [
        path
        for drawing in drawings(runs, datasets, training)
        for path in save_figure(
            drawing.figure,
            runs.root / "figures" / drawing.name,
            title=drawing.title,
            alt=drawing.alt,
            data=drawing.data,
        )
    ]


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="report")
def task(cfg: DictConfig) -> None:
    """The report of one results folder, and how it differs from another."""
    try:
        table = _report(cfg)
    except (ResultsError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        raise SystemExit(1) from error
    if (table["violations"] > 0).any() or (table["transport law"] == "VIOLATED").any():
        print("\nA LAW IS VIOLATED: see the column of violations and the transport law above.", file=sys.stderr)
        raise SystemExit(1)


def _report(cfg: DictConfig) -> pd.DataFrame:
    """
    Raises:
        ResultsError: there is nothing to report; or, once everything else is written, nothing to compare.
    """
    runs = find_runs(Path(cfg.results))
    for problem in runs.problems:
        print(f"Left out: {problem}", file=sys.stderr)
    if cfg.datasets is not None:
        runs = _only(runs, list(cfg.datasets))
    table = leaderboard(runs)
    print(write_leaderboard(table, runs))
    written = [runs.root / "leaderboard.csv", runs.root / "leaderboard.md", *write_latex(table, runs.root)]
    comparison, failure = None, None
    if cfg.compare is not None:
        try:
            comparison = _compare(runs, Path(cfg.compare))
            written.append(runs.root / "comparison.csv")
        except ResultsError as error:
            failure = error
    if cfg.figures:
        written += draw(runs, list(table["dataset"].unique()), cfg.training_curves)
    written.append(write_page(table, runs, comparison))
    print("\nWritten: " + ", ".join(map(str, written)))
    if failure is not None:
        raise failure
    return table


def _compare(runs: Runs, other: Path) -> Comparison:
    second = find_runs(other).of({run.summary["dataset"] for run in runs.finished})
    comparison = compare_runs(runs, second)
    print("\n" + write_comparison(comparison, runs.root))
    return comparison


def _only(runs: Runs, datasets: list[str]) -> Runs:
    """
    Raises:
        ResultsError: a data set of which there is no run.
    """
    known = {run.summary["dataset"] for run in runs.finished}
    missing = [name for name in datasets if name not in known]
    if missing:
        raise ResultsError(
            f"datasets={datasets}: no run of {', '.join(missing)}. There are: {', '.join(sorted(known))}."
        )
    return runs.of(datasets)


def main() -> None:
    """The command `python -m lipbench.report`."""
    try:
        check_overrides(sys.argv[1:], "report")
        task()
    except CommandError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
