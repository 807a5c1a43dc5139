"""What the figures of a results folder are drawn from: its tables, histories, summaries and small arrays."""

import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pandas as pd
from yaml import YAMLError

from lipbench.files import ResultsError, read_arrays, read_config, read_json
from lipbench.results import RUN_COLUMNS, read, read_histories, run_key

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
    """One finished run in its folder `<root>/<dataset>/<experiment>/<variant>/<seed>`."""

    folder: Path

    @cached_property
    def key(self) -> tuple[Any, ...]:
        """dataset, experiment, variant, seed."""
        return tuple(run_key(self.folder).values())

    @cached_property
    def summary(self) -> dict[str, Any]:
        """As in `summary.json`; empty where there is none."""
        path = self.folder / "summary.json"
        return read_json(path) if path.exists() else {}

    @cached_property
    def table(self) -> pd.DataFrame:
        """Its rows, as `lipbench.read` returns them."""
        return read(self.folder)

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


class Results:
    """The finished runs that figures are drawn from; files are read when they are first asked for.

    Attributes:
        runs: in the order of their keys.
    """

    def __init__(self, folders: Iterable[Path]):
        self.runs = sorted((Run(folder) for folder in folders), key=lambda run: tuple(map(str, run.key)))

    def of(self, *datasets: str) -> "Results":
        """Those of some data sets."""
        return self._of_runs(run for run in self.runs if run.key[0] in datasets)

    def of_defaults(self) -> "Results":
        """Those of the variant "default": not the many of a sweep. All where there is none."""
        return self._of_runs([run for run in self.runs if run.key[2] == "default"] or self.runs)

    @property
    def datasets(self) -> list[str]:
        """Names of the data sets, sorted."""
        return sorted({str(run.key[0]) for run in self.runs})

    @cached_property
    def tables(self) -> pd.DataFrame:
        """The rows of all runs, as `lipbench.read` returns them."""
        return pd.concat([run.table for run in self.runs], ignore_index=True)

    @cached_property
    def histories(self) -> pd.DataFrame:
        """The histories of all runs, as `lipbench.results.read_histories` returns them."""
        known = [run.history for run in self.runs if len(run.history)]
        return pd.concat(known, ignore_index=True) if known else pd.DataFrame(columns=RUN_COLUMNS)

    def _of_runs(self, runs: Iterable[Run]) -> "Results":
        chosen = Results([])
        chosen.runs = list(runs)  # the same objects: what they have read stays read
        return chosen
