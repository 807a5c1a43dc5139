"""The runs of a results folder: those that are finished, and of every other one what is wrong with it."""

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lipbench.escapes import printable
from lipbench.files import ResultsError
from lipbench.results import MANIFEST, RUN_COLUMNS, LawViolation, check_laws, read_summary, run_folders, run_key
from lipbench.results.checked import checked
from lipbench.results.flags import Flag


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: where it lies; its last four parts are its key.
        summary: as in `summary.json`, with the key of the folder; checked, and its texts printable.
        flags: its health flags (see `lipbench.evaluation.health`); summaries that are older than the flags have none.
        violation: which laws do not hold for it, in words; "" where all hold.
    """

    folder: Path
    summary: dict[str, Any]
    flags: list[Flag]
    violation: str = ""

    @property
    def key(self) -> tuple[Any, ...]:
        """dataset, experiment, variant, seed."""
        return tuple(self.summary[column] for column in RUN_COLUMNS)


@dataclass(frozen=True)
class Problem:
    """Something that the report could not use, and what to do about it."""

    where: str
    why: str

    @classmethod
    def of(cls, error: Exception, where: str, root: Path) -> "Problem":
        """In one line, without the place of the results folder."""
        kind = "" if isinstance(error, ResultsError) else f"{type(error).__name__}: "
        return cls(printable(where), kind + printable(" ".join(str(error).replace(f"{root}/", "").split())))

    def __str__(self) -> str:
        return f"{self.where}: {self.why}"


@dataclass(frozen=True)
class Runs:
    """What a results folder holds.

    Attributes:
        root: the folder.
        finished: in the order of their folders.
        problems: of what is left out.
    """

    root: Path
    finished: list[Run]
    problems: list[Problem] = field(default_factory=list)

    def of(self, datasets: Collection[str]) -> "Runs":
        """Those of some data sets."""
        return replace(self, finished=[run for run in self.finished if run.summary["dataset"] in datasets])


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
    return f"python -m lipbench run experiment=digits08/hkr_mlp results={root}"


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
        summary, flags = checked(summary, key)
        try:
            check_laws(folder, summary, quick=True)
            summary["violations"] = 0
        except LawViolation as error:
            violation = str(error)
            summary["violations"] = error.pairs["index"].nunique()
    except ResultsError:
        raise
    except Exception as error:  # of files that are folders, cannot be opened, or hold something else
        raise ResultsError(f"one of its files cannot be read ({error}). Run it again with force=true.") from error
    return Run(folder, summary, flags, violation)
