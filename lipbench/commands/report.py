"""`lipbench report results=results/runs`: leaderboard, figures and page of a results folder. No model is
loaded.
"""

import os

# The report draws files and needs no window. Matplotlib reads this variable when it is imported. A command started from
# Jupyter inherits the kernel's backend, and the import fails where the kernel's packages are missing.
os.environ["MPLBACKEND"] = "agg"

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
from omegaconf import DictConfig

from lipbench.commands.options import configured
from lipbench.escapes import say
from lipbench.files import ResultsError
from lipbench.report import (
    Runs,
    compare_runs,
    find_runs,
    leaderboard,
    terminal,
    write_comparison,
    write_latex,
    write_leaderboard,
    write_page,
)
from lipbench.report.draw import RECIPES, draw
from lipbench.results import Comparison, LawViolation


def _report(cfg: DictConfig) -> pd.DataFrame:
    """
    Raises:
        ResultsError: there is nothing to report, or no run to compare with; or, once everything else is written, none
            that pairs.
        LawViolation: a law does not hold for one of the runs; everything is written first.
    """
    if not (cfg.processes is None or (type(cfg.processes) is int and cfg.processes >= 1)):
        raise ResultsError(f"processes={cfg.processes}: a number of processes, 1 or more, or null.")
    runs = find_runs(Path(cfg.results))
    other = None if cfg.compare is None else find_runs(Path(cfg.compare))
    for problem in runs.problems:
        say(f"Left out: {problem}", sys.stderr)
    if cfg.datasets is not None:
        runs = _only(runs, [cfg.datasets] if isinstance(cfg.datasets, str) else list(cfg.datasets))
    table = leaderboard(runs)
    write_leaderboard(table, runs)
    files, problems = write_latex(table, runs.root)
    written = [*(runs.root / f"leaderboard.{kind}" for kind in ("csv", "json", "md")), *files]
    comparison: Comparison | None = None
    failure: Exception | None = None
    if other is not None:
        try:
            comparison = _compare(runs, other)
            written += [runs.root / f"comparison.{kind}" for kind in ("csv", "md")]
        except (ResultsError, OSError) as error:
            failure = error
    if cfg.figures:
        files, undrawn = draw(runs, cfg.training_curves, cfg.processes)
        written += files
        problems += undrawn
    for problem in problems:
        say(f"Not drawn: {problem}", sys.stderr)
    runs = replace(runs, problems=[*runs.problems, *problems])
    written.append(write_page(table, runs, comparison, order=[recipe.name for recipe in RECIPES]))
    say(terminal(table, runs))
    say(f"\nOpen the report: {written[-1]}\n{len(written) - 1} more files are in {runs.root}.")
    if failure is not None:
        raise failure
    if broken := [f"{run.folder}: {run.violation}" for run in runs.finished if run.violation]:
        raise LawViolation("\n".join(broken), table, table)
    return table


def _compare(runs: Runs, other: Runs) -> Comparison:
    second = other.of({run.summary["dataset"] for run in runs.finished})
    comparison = compare_runs(runs, second)
    say("\n" + write_comparison(comparison, runs.root))
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


def main(arguments: Sequence[str]) -> int:
    """The command `lipbench report`."""
    _report(configured(arguments, "report", ("results", "compare")))
    return 0
