"""The runs of a results folder: those that are finished, and of every other one what is wrong with it."""

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lipbench.escapes import printable
from lipbench.files import ResultsError
from lipbench.results import RUN_COLUMNS
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
