"""The files of one run: whose they are, which are kept, and how they are written."""

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lipbench.data import Split
from lipbench.evaluation.bounds import Judged
from lipbench.evaluation.health import table_flags
from lipbench.files import fingerprint, read_json, unfinished, write_json, write_text
from lipbench.results import (
    Damaged,
    check_laws,
    read_bounds,
    table_path,
    table_paths,
    verify,
    violations,
    write_bounds,
    write_manifest,
    write_summary,
)
from lipbench.results.flags import Flag
from lipbench.runs.artifacts import add_cost, add_flags, add_to_gallery, read_costs, read_flags, write_npz
from lipbench.runs.claim import Claim, empty, enough, images_of
from lipbench.runs.lock import leftovers


@dataclass(frozen=True)
class Folder:
    """The folder of one run.

    Attributes:
        path: `<root>/<dataset>/<experiment>/<variant>/<seed>`.
        network: everything that the network depends on: its identity.
        made_of: method or measure that is asked for -> what its table depends on.
        about: the facts of the run for its manifest.
    """

    path: Path
    network: Mapping[str, Any]
    made_of: Mapping[str, Mapping[str, Any]]
    about: Mapping[str, Any] = field(default_factory=dict)

    def finished(self, identity: str) -> dict[str, Any] | None:
        """The summary, where this very run is finished and none of its files was changed since; else None.

        Args:
            identity: of the whole run.

        Raises:
            LawViolation: the run is finished, but a law does not hold for it.
        """
        try:
            manifest = verify(self.path)
        except (OSError, Damaged):
            return None
        if manifest is None or manifest["identity"] != identity or not all(map(self.serves, self.made_of)):
            return None
        summary: dict[str, Any] = read_json(self.path / "summary.json")
        check_laws(self.path, summary)
        return summary

    def claim(self, data: Mapping[str, Any], trained: Collection[str], force: bool) -> None:
        """Makes the folder this run's, or refuses, before anything in it is changed.

        Args:
            data: what says which images are judged.
            trained: names of the files that only a new training can make.
            force: whether what the folder holds is removed first.

        Raises:
            OtherNetwork: the folder holds another network.
            Damaged: a file is damaged that only a new training can make.
            ResultsError: a table of the folder was made with other options.
        """
        for path in (*unfinished(self.path), *leftovers(self.path)):
            path.unlink(missing_ok=True)
        if force:
            empty(self.path)
        claim = Claim.of(self.path, trained)
        missing = claim.check(self.network, data)
        for name, made_of in self.made_of.items():
            claim.check_table(self.table(name), made_of)
        claim.check_others(self.made_of, fingerprint(self.network))
        for name in sorted(claim.remade):
            why = claim.broken.get(name, "belongs to a damaged file")
            print(f"{self.path / name} {why}: it is made again.", file=sys.stderr)
        claim.begin(missing)
        for name, made_of in self.made_of.items():
            if (table := self.table(name)).exists() and not self.serves(name):
                asked = f"{made_of['images']} are asked for" if made_of.get("images") else "all are asked for"
                print(f"{table} is of {images_of(table)} images, {asked}: it is made again.", file=sys.stderr)

    def table(self, name: str) -> Path:
        """The table of a method or measure."""
        return self.path / f"{name}.csv" if "measure" in self.made_of[name] else table_path(self.path, name)

    def attacked(self) -> int:
        """The largest number of images that a table was made of, of the methods that do not judge all; 0 if none."""
        return max((images_of(table) or 0 for table in table_paths(self.path)), default=0)

    def serves(self, name: str) -> bool:
        """Whether the table of a method or measure is there, of enough images."""
        return enough(self.table(name), self.made_of[name])

    def kept(self) -> list[str]:
        """The methods of which the folder holds a table with enough images. They are not made again."""
        return [name for name, made_of in self.made_of.items() if "measure" not in made_of and self.serves(name)]

    def keep(self, judged: Judged, attacked: Split) -> None:
        """Writes what belongs to a method, then its table: where the table lies, nothing is missing.

        Args:
            attacked: the images of attacks.
        """
        if judged.images is not None:
            add_to_gallery(self.path, attacked, judged.name, judged.images)
            add_flags(self.path, judged.name, judged.flags)
        add_cost(self.path, judged.name, judged.seconds, judged.passes)
        path = write_bounds(self.path, judged.table, self.made_of[judged.name])
        path.with_suffix(".csv").unlink(missing_ok=True)  # of an older version, of fewer images

    def keep_measure(self, name: str, table: pd.DataFrame, violation: str | None) -> None:
        """Writes `<name>.json`, what a measure depends on and how a law of it is violated; then `<name>.csv`."""
        path = self.table(name)
        write_json(path.with_suffix(".json"), {**self.made_of[name], "violation": violation})
        write_text(path, table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))

    def flags(self) -> list[Flag]:
        """Of the images of the attacks that have a table, and of the tables."""
        table = read_bounds(self.path)
        return [*read_flags(self.path, set(table["method"])), *table_flags(table)]

    def finish(
        self,
        identity: str,
        facts: Mapping[str, Any],
        epsilons: Sequence[float],
        pictures: Callable[[pd.DataFrame], Mapping[str, np.ndarray]],
    ) -> dict[str, Any]:
        """Writes the summary, what breaks the sandwich law, and last the manifest: where it is, the run is finished.

        Args:
            identity: of the whole run.
            facts: what no table holds.
            pictures: pairs of rows that break the law -> their images as arrays.

        Returns:
            the summary.

        Raises:
            LawViolation: a law does not hold; everything is written first.
        """
        seconds = {row["method"]: row["seconds"] for row in read_costs(self.path).to_dict("records")}
        summary = write_summary(self.path, facts, seconds, epsilons)
        pairs = violations(read_bounds(self.path))
        report, images = self.path / "violations.csv", self.path / "violations.npz"
        if len(pairs):
            write_text(report, pairs.to_csv(index=False, float_format="%.17g", lineterminator="\n"))
            write_npz(images, pictures(pairs))
        else:
            report.unlink(missing_ok=True)
            images.unlink(missing_ok=True)
        write_manifest(self.path, identity, self.about)
        check_laws(self.path, summary)
        return summary
