"""The finished runs of a results folder: what the report and its figures read."""

import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pandas as pd
from yaml import YAMLError

from lipbench.escapes import printable
from lipbench.files import ResultsError, read_arrays, read_config
from lipbench.results import IMBALANCED, RUN_COLUMNS, imbalance, read, read_bounds, read_histories
from lipbench.results.attacked import MAIN_ATTACK, Attacked, attacked_images
from lipbench.results.facts import run_facts
from lipbench.results.flags import Flag

# What reading a file raises that is cut, damaged or something else, and what drawing its content raises.
BROKEN = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    MemoryError,
    BadZipFile,
    zlib.error,
    YAMLError,
)


@dataclass(frozen=True)
class Run:
    """A finished run. Its tables, histories and arrays are read when they are first asked for.

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

    @cached_property
    def table(self) -> pd.DataFrame:
        """Its rows, as `lipbench.read` returns them."""
        return read(self.folder)

    @cached_property
    def attacked(self) -> Attacked:
        """Its attacked images, with both bounds of each."""
        # The table is read, not kept: of thousands of runs the attacked images alone fit into memory.
        return attacked_images(self.__dict__["table"] if "table" in self.__dict__ else read_bounds(self.folder))

    def fresh(self) -> "Run":
        """The same run; of what was read, its attacked images alone are kept."""
        run = replace(self)
        run.__dict__.update({name: self.__dict__[name] for name in ("attacked",) if name in self.__dict__})
        return run

    @property
    def balanced(self) -> bool:
        """Whether accuracies are means over the classes, as the classes are of unequal size."""
        known, labels = self.summary.get("imbalance"), self.attacked.images["label"].to_numpy()
        if known is None:  # of a summary that is older than the entry
            known = imbalance(labels) if len(labels) else 1.0
        return bool(known >= IMBALANCED)

    @cached_property
    def history(self) -> pd.DataFrame:
        """Its history, its layers in their order; empty where there is none."""
        with _named(self.folder / "history.csv"):
            return read_histories(self.folder)

    @cached_property
    def config(self) -> dict[str, Any]:
        """As in `config.yaml`; empty where there is none."""
        path = self.folder / "config.yaml"
        return read_config(path) if path.exists() else {}

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Its command, overrides, label and look (`lipbench.results.facts`)."""
        return run_facts(self.folder)

    @property
    def overrides(self) -> dict[str, str]:
        """Name -> value of the options that make its network another than the experiment's."""
        parts = (override.partition("=") for override in self.facts["overrides"])
        return {name: value for name, _, value in parts}

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """The arrays of a file such as "gallery.npz"; empty where there is none."""
        path = self.folder / name
        return read_arrays(path) if path.exists() else {}

    def measured(self, name: str) -> pd.DataFrame | None:
        """A table such as "plane.csv"; None where there is none."""
        path = self.folder / name
        if not path.exists():
            return None
        with _named(path):
            return pd.read_csv(path)


def compared(found: Sequence[Run]) -> tuple[list[Run], list[Run]]:
    """The seeds of a network that share the attacks, the images and the certificates, and the others. Of several such
    sets the one with the attack `lipbench`, the most images, the most attacks, the most seeds.
    """
    sets: dict[Any, list[Run]] = {}
    for run in found:
        own = run.attacked
        sets.setdefault((own.attacks, tuple(own.images.index), own.certificates), []).append(run)

    def rank(key: Any) -> tuple[Any, ...]:
        attacks, images, certificates = key
        return (MAIN_ATTACK in attacks, len(images), len(attacks), len(certificates), len(sets[key]))

    chosen = sets[max(sets, key=rank)]
    return chosen, [run for run in found if run not in chosen]


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """An error says which file of which run is broken, and what to do.

    Raises:
        ResultsError: the file cannot be read.
    """
    try:
        yield
    except BROKEN as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise ResultsError(f"{path} cannot be read ({why}). Delete it and run the experiment again.") from error


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

    def of_defaults(self) -> "Runs":
        """Those of the variant "default": not the many of a sweep. All where there is none."""
        return replace(self, finished=[run for run in self.finished if run.key[2] == "default"] or self.finished)

    @property
    def datasets(self) -> list[str]:
        """Names of the data sets, sorted."""
        return sorted({str(run.key[0]) for run in self.finished})

    @cached_property
    def tables(self) -> pd.DataFrame:
        """The rows of all runs, as `lipbench.read` returns them."""
        return pd.concat([run.table for run in self.finished], ignore_index=True)

    @cached_property
    def histories(self) -> pd.DataFrame:
        """The histories of all runs, as `lipbench.results.read_histories` returns them."""
        known = [run.history for run in self.finished if len(run.history)]
        return pd.concat(known, ignore_index=True) if known else pd.DataFrame(columns=RUN_COLUMNS)
