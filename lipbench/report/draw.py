"""The figures of a report, each in its files: the recipes of `lipbench.figures`."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from joblib import Parallel, cpu_count, delayed

from lipbench.escapes import file_name, say
from lipbench.figures import RECIPES, drawings, save_figure
from lipbench.files import ResultsError
from lipbench.report import Problem, Runs, discard_stale
from lipbench.results.looks import distinct
from lipbench.results.runs import BROKEN
from lipbench.results.words import counted, dataset_name

# From so many runs on more processes are worth their start of some seconds.
MANY = 30
# Travels inside of every picture that the report draws: others in the folder are not its own.
SOURCE = "lipbench.commands.report"


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
        found = (_draw_part(runs, chosen, part) for part in parts)
    else:
        parallel = Parallel(n_jobs=processes, batch_size=1, return_as="generator")
        found = parallel(delayed(_draw_part)(runs, chosen, part) for part in parts)
    written, problems = [], []
    for part, (files, undrawn) in zip(parts, found, strict=True):
        drawn = counted(sum(path.suffix == ".png" for path in files), "figure")
        say(f"{drawn} of {'all data sets together' if part is None else dataset_name(part)}", sys.stderr)
        written += files
        problems += undrawn
    discard_stale(runs.root / "figures", written, SOURCE)
    return written, problems


def _draw_part(runs: Runs, chosen: Sequence[str], dataset: str | None) -> tuple[list[Path], list[Problem]]:
    """The figures of one data set; None: those of all together."""
    written: list[Path] = []
    problems: list[Problem] = []

    def failed(name: str, error: Exception) -> None:
        problems.append(Problem.of(error, f"figure {name}", runs.root))

    # Copies: what a part has read is forgotten with it.
    part = replace(runs, finished=[run.fresh() for run in runs.finished if dataset in (None, run.summary["dataset"])])
    closely = replace(part, finished=[run for run in part.finished if run.summary["experiment"] in chosen])
    recipes = [recipe for recipe in RECIPES if (recipe.each == "all") == (dataset is None)]
    # A network has the same colour in the figures of every data set.
    with distinct(run.summary["experiment"] for run in runs.finished):
        for recipe in recipes:
            for one in drawings(closely if recipe.each == "run" else part, [recipe], failed):
                words = {"title": one.title, "alt": one.alt, "source": SOURCE}
                path = runs.root / "figures" / file_name(one.name)
                try:
                    written += save_figure(one.figure, path, **words, data=one.table)
                except BROKEN as error:
                    failed(one.name, error)
    return written, problems
