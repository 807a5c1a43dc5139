"""Finds the runs of a results folder: those that are finished, and of every other one what is wrong with it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lipbench.escapes import printable
from lipbench.files import ResultsError
from lipbench.report.checks import POSITIVE, SHARE, Check, are_flags, is_count, is_text, or_none
from lipbench.report.columns import COLUMNS
from lipbench.results import MANIFEST, LawViolation, check_laws, read_summary, run_folders, run_key
from lipbench.results.flags import Flag
from lipbench.results.layout import check_seed
from lipbench.results.runs import Problem, Run, Runs
from lipbench.results.words import is_one_class

# Entries of a summary that are no columns. Summaries of other kinds of runs, and older ones, lack some of these.
OTHERS: dict[str, Check] = {
    "test_images": is_count,
    "attacked_images": is_count,
    "flags": are_flags,
    "source": is_text,
    "construction": is_text,
    "validation_epsilon": or_none(POSITIVE),
    "validation_certified_accuracy": or_none(SHARE),
    "step_seconds": or_none(POSITIVE),
}
CHECKS = {column.key: column.check for column in COLUMNS} | OTHERS


def find_runs(root: Path) -> Runs:
    """Looks at every run under `root`: none that is damaged or unfinished stops it. The laws of each are checked.

    Raises:
        ResultsError: there is no such folder, or no finished run in it; says what was found instead and what to do.
    """
    if not root.is_dir():
        raise ResultsError(f"There is no results folder {root}. Make one: make benchmark, or {_example(root)}")
    finished: dict[tuple[Any, ...], Run] = {}
    problems = []
    folders = run_folders(root)
    for folder in folders:
        try:
            run = _run(folder)
            if run.key in finished:
                raise ResultsError(
                    f"the same run as {_name(finished[run.key].folder, root)}; report one results folder at a time."
                )
            finished[run.key] = run
        except ResultsError as error:
            problems.append(Problem.of(error, _name(folder, root), root))
    begun = [path.parent for name in ("config.yaml", MANIFEST) for path in root.glob(f"*/*/*/*/{name}")]
    without = sorted(set(begun) - set(folders))
    problems += [Problem(_name(folder, root), "unfinished: it has no tables. Run it again.") for folder in without]
    if not finished:
        listed = "".join(f"\n  {problem}" for problem in problems)
        raise ResultsError(f"{root} holds no finished run. Make some: make benchmark, or {_example(root)}{listed}")
    return Runs(root, list(finished.values()), problems)


def _example(root: Path) -> str:
    return f"lipbench run experiment=digits08/hkr_mlp results={root}"


def _name(folder: Path, root: Path) -> str:
    return printable(folder.relative_to(root).as_posix() if folder != root else folder.name)


def _run(folder: Path) -> Run:
    """
    Raises:
        ResultsError: it is unfinished or broken.
    """
    key = run_key(folder)
    violation = ""
    try:
        summary = read_summary(folder)
        if summary is None:
            raise ResultsError(f"unfinished: it has no {MANIFEST}. Run it again.")
        made = summary
        summary, flags = checked(made, key)
        check_seed(folder, made)
        try:
            check_laws(folder, summary, quick=True)
            summary["violations"] = 0
        except LawViolation as error:
            violation = str(error)
            summary["violations"] = error.pairs["index"].nunique()
        run = Run(folder, summary, flags, violation)
        _ = run.attacked  # a table that cannot be read leaves the run out, not the leaderboard
    except ResultsError:
        raise
    except Exception as error:  # of files that are folders, cannot be opened, or hold something else
        raise ResultsError(f"one of its files cannot be read ({error}). Run it again with force=true.") from error
    return run


def checked(summary: Mapping[str, Any], key: Mapping[str, Any]) -> tuple[dict[str, Any], list[Flag]]:
    """A summary that the report can read, and its health flags.

    Args:
        summary: as in `summary.json`.
        key: dataset, experiment, variant and seed of the run, from its folder.

    Returns:
        the entries with those of the key; text in them is printable. The flags.

    Raises:
        ResultsError: an entry is missing or is not what it has to be; the folder is not named by a seed.
    """
    if not is_count(key["seed"]):
        raise ResultsError(
            f"the folder of a run is named by its seed, a whole number; this one is called {key['seed']}. If it is a "
            "copy, move it out of the results folder."
        )
    missing = [column.key for column in COLUMNS if column.needed and column.key not in summary]
    if missing:
        raise ResultsError(f"summary.json lacks {', '.join(missing)}. Delete it and run the experiment again.")
    for name, check in CHECKS.items():
        if name in summary and not check(summary[name]):
            raise ResultsError(
                f"summary.json says {name}: {str(summary[name])[:60]}, which is no such value. Delete it and run the "
                "experiment again."
            )
    texts = {name: printable(value) for name, value in {**summary, **key}.items() if isinstance(value, str)}
    flags: list[dict[str, Any]] = [{k: printable(v) for k, v in flag.items()} for flag in summary.get("flags", [])]
    # Summaries of earlier versions hold it, though a share of right answers does not judge such a network.
    dropped = "low_accuracy" if is_one_class(str(key["dataset"])) else ""
    return {**summary, **key, **texts}, [Flag(**flag) for flag in flags if flag["name"] != dropped]
