"""`python -m lipbench.report results=results/runs`: leaderboard, figures and page of a results folder. No model is
loaded.
"""

import sys
from dataclasses import replace
from pathlib import Path

import hydra
import pandas as pd
from omegaconf import DictConfig

from lipbench.commandline import CONF, CommandError, check_overrides, quoted
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
from lipbench.report_figures import RECIPES, draw
from lipbench.results import Comparison, LawViolation, ResultsError


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="report")
def task(cfg: DictConfig) -> None:
    """The report of one results folder, and how it differs from another."""
    try:
        _report(cfg)
    except (ResultsError, OSError) as error:
        print(error, file=sys.stderr)
        raise SystemExit(1) from error
    except LawViolation as error:
        print(f"\nA LAW IS VIOLATED.\n{error}", file=sys.stderr)
        raise SystemExit(1) from error


def _report(cfg: DictConfig) -> pd.DataFrame:
    """
    Raises:
        ResultsError: there is nothing to report; or, once everything else is written, nothing to compare.
        LawViolation: a law does not hold for one of the runs; everything is written first.
    """
    if not (cfg.processes is None or (type(cfg.processes) is int and cfg.processes >= 1)):
        raise ResultsError(f"processes={cfg.processes}: a number of processes, 1 or more, or null.")
    runs = find_runs(Path(cfg.results))
    for problem in runs.problems:
        print(f"Left out: {problem}", file=sys.stderr)
    if cfg.datasets is not None:
        runs = _only(runs, [cfg.datasets] if isinstance(cfg.datasets, str) else list(cfg.datasets))
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
        files, problems = draw(runs, cfg.training_curves, cfg.processes)
        written += files
        for problem in problems:
            print(f"Not drawn: {problem}", file=sys.stderr)
        runs = replace(runs, problems=[*runs.problems, *problems])
    written.append(write_page(table, runs, comparison, order=[recipe.name for recipe in RECIPES]))
    print("\nWritten: " + ", ".join(map(str, written)))
    if failure is not None:
        raise failure
    if broken := [f"{run.folder}: {run.violation}" for run in runs.finished if run.violation]:
        raise LawViolation("\n".join(broken), table, table)
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
    sys.argv[1:] = [quoted(argument, ("results", "compare")) for argument in sys.argv[1:]]
    try:
        check_overrides(sys.argv[1:], "report")
        task()
    except CommandError as error:
        raise SystemExit(str(error)) from None
    except KeyboardInterrupt:
        print("\nInterrupted. The same command draws the figures again.", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
