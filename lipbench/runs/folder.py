"""A network in its folder, judged: what exists with the same identity is kept, what is missing is made, what differs is
refused.
"""

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from lipbench.certificate import lipschitz
from lipbench.data import Dataset, Split
from lipbench.evaluation.bounds import COSTLY, Attack, Certificate, Judged, attack_images, certified, certify_images
from lipbench.evaluation.evaluate import health, masked_gradients
from lipbench.evaluation.health import float64_flags, returned_flags, table_flags
from lipbench.evaluation.transport_law import transport_law
from lipbench.files import ResultsError, fingerprint, read_arrays, read_json, unfinished, write_json, write_text
from lipbench.gate import checked_table, named
from lipbench.images import as_pixels
from lipbench.judge import shared_float64
from lipbench.progress import Progress, reporting
from lipbench.results import (
    Damaged,
    LawViolation,
    check_laws,
    read_bounds,
    table_hashes,
    verify,
    violations,
    write_bounds,
    write_manifest,
    write_summary,
)
from lipbench.results.flags import Flag
from lipbench.runs.artifacts import add_cost, add_flags, add_to_gallery, read_costs, read_flags, write_npz
from lipbench.runs.claim import Claim, empty
from lipbench.runs.errors import clear_error
from lipbench.runs.identity import described, read_back
from lipbench.runs.illustrations import VERSION, illustrate, nearest_images
from lipbench.runs.lock import leftovers, locked

# (model, images uint8 [N, C, H, W], labels [N]) -> a table. The images are those of the test set.
Measure = Callable[[nn.Module, Tensor, Tensor], pd.DataFrame]


@dataclass(frozen=True, kw_only=True)
class RunFolder(ABC):
    """A network in its folder, and the methods that judge it. See `run`.

    Attributes:
        folder: `<root>/<dataset>/<experiment>/<variant>/<seed>`.
        network: everything that the network depends on: its identity.
        options: method or measure -> its configuration, part of the identity of its table.
        images: how many test images are attacked, and certified by a costly certificate.
        measures: name of a table -> what makes it, of the network and the test set: `<folder>/<name>.csv`.
        about: the facts of the run for its manifest (`lipbench.results.facts`); part of no identity.
    """

    folder: Path
    network: Mapping[str, Any]
    load_dataset: Callable[[], Dataset]
    attacks: Mapping[str, Attack]
    certificates: Mapping[str, Certificate]
    options: Mapping[str, Any]
    images: int
    batch_size: int
    epsilons: Sequence[float]
    device: torch.device
    measures: Mapping[str, Measure] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    force: bool = False
    progress: bool = True

    # Files of `_network` that cannot be made again without a new training.
    TRAINED: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def _network(self, dataset: Dataset) -> nn.Module:
        """The network: baked, in evaluation mode, on the device. It is made now where the folder does not hold it."""

    def _check(self, dataset: Dataset) -> None:  # noqa: B027 (most have nothing to check)
        """Refuses what cannot be judged, before the folder is anybody's."""

    @abstractmethod
    def _facts(self) -> dict[str, Any]:
        """What the summary says of the network besides its bounds."""

    def run(self) -> dict[str, Any]:
        """Makes the network, certifies and attacks it as far as that is not there yet, and writes the summary and the
        manifest. A finished run is left as it is; where files of it are damaged, they are made again.

        Returns:
            the summary, as in `summary.json`.

        Raises:
            Running: another process is at work in the folder.
            OtherNetwork: the folder holds another network, and `force` is not set.
            Damaged: a file is damaged that only a new training can make.
            ResultsError: a table of the folder was made with other options.
            LawViolation: a law does not hold; the rows and the offending pairs are saved first.
        """
        dataset = self.load_dataset()
        self._check(dataset)
        data = read_back(described(dataset))
        identity = self._identity(data)
        summary = None if self.force else self._finished(identity)
        if summary is not None:
            with suppress(OSError):  # a folder that is finished need not be ours to write
                clear_error(self.folder)
            return summary
        with locked(self.folder, methods=[*self.certificates, *self.attacks], measures=[*self.measures]):
            for path in (*unfinished(self.folder), *leftovers(self.folder)):
                path.unlink(missing_ok=True)
            self._claim(data)
            clear_error(self.folder)
            summary = self._judge(self._network(dataset), dataset, identity)
            clear_error(self.folder)  # of another process that failed before it could ask for the lock
            return summary

    def _claim(self, data: Mapping[str, Any]) -> None:
        """Makes the folder this run's, or refuses, before anything in it is changed."""
        if self.force:
            empty(self.folder)
        claim = Claim.of(self.folder, self.TRAINED)
        missing = claim.check(self.network, data)
        for name in self.options:
            claim.check_table(self._table(name), self._made_of(name))
        claim.check_others(self.options, fingerprint(self.network))
        for name in sorted(claim.remade):
            why = claim.broken.get(name, "belongs to a damaged file")
            print(f"{self.folder / name} {why}: it is made again.", file=sys.stderr)
        claim.begin(missing)

    def _judge(self, model: nn.Module, dataset: Dataset, identity: str) -> dict[str, Any]:
        test = dataset.test
        attacked = Split(test.images[: self.images], test.labels[: self.images])
        with shared_float64(model):  # one copy for all attacks
            flags = health(model, attacked.images, attacked.labels, self.batch_size)
            for name, certificate in self.certificates.items():
                some = attacked if name in COSTLY else test
                certify = partial(certify_images, model, some.images, some.labels, certificate, name, self.progress)
                self._bounds(name, certify)
            for name, attack in self.attacks.items():
                beside = partial(self._write_beside, model, attacked, name, flags)
                self._bounds(name, partial(self._attack, model, attacked, name, attack), beside)
            for name, measure in self.measures.items():
                self._measure(name, partial(measure, model, test.images, test.labels))
            facts = {
                **self._facts(),
                "lipschitz": lipschitz(model, dataset.shape),
                **transport_law(model, test.images, test.labels),
                "flags": [flag.as_dict() for flag in self._all_flags(flags)],
            }
        self._illustrate(model, dataset)
        seconds = {row["method"]: row["seconds"] for row in read_costs(self.folder).to_dict("records")}
        summary = write_summary(self.folder, facts, seconds, self.epsilons)
        self._save_violations(attacked, model)
        write_manifest(self.folder, identity, self.about)  # last: where it is, the run is finished
        check_laws(self.folder, summary)
        return summary

    def _identity(self, data: Mapping[str, Any]) -> str:
        """Of the whole run: all that its files depend on."""
        made = {
            "network": self.network,
            "options": self.options,
            "methods": [*self.certificates, *self.attacks, *self.measures],
            "images": self.images,
            "epsilons": list(self.epsilons),
            "data": data,
            "versions": [VERSION, version("lipbench")],
        }
        return fingerprint(made)

    def _finished(self, identity: str) -> dict[str, Any] | None:
        """The summary, where this very run is finished and none of its files was changed since.

        Raises:
            LawViolation: it is, but a law does not hold for it.
        """
        try:
            manifest = verify(self.folder)
        except (OSError, Damaged):
            return None
        if manifest is None or manifest["identity"] != identity:
            return None
        summary: dict[str, Any] = read_json(self.folder / "summary.json")
        check_laws(self.folder, summary)
        return summary

    def _table(self, name: str) -> Path:
        """The table of a method or measure."""
        return self.folder / f"{name}.csv" if name in self.measures else self.folder / "bounds" / f"{name}.csv"

    def _made_of(self, name: str) -> dict[str, Any]:
        """What the table of a method or measure depends on."""
        kind = "measure" if name in self.measures else "method"
        identity = {"network": fingerprint(self.network), kind: name, "options": self.options[name]}
        if kind == "method":
            identity["images"] = self.images if name in self.attacks or name in COSTLY else None
        return read_back(identity)

    def _bounds(self, name: str, compute: Callable[[], Judged], beside: Callable[[Judged], None] | None = None) -> None:
        """Writes the table of one method unless it is there, and its artifacts before it."""
        if self._table(name).exists():
            return
        judged = compute()
        if beside is not None:
            beside(judged)
        add_cost(self.folder, name, judged.seconds, judged.passes)
        write_bounds(self.folder, judged.table, self._made_of(name))

    def _write_beside(self, model: nn.Module, attacked: Split, name: str, before: list[Flag], judged: Judged) -> None:
        """What was seen on the images of an attack, which are not stored; `before` are the flags of the model."""
        assert judged.images is not None  # of an attack
        add_to_gallery(self.folder, attacked, name, judged.images)
        flags = masked_gradients(model, attacked.images, attacked.labels, name, judged)
        flags += returned_flags(model, name, judged.images, self.batch_size)
        add_flags(self.folder, name, flags + float64_flags(name, judged.why_not_float64, before))

    def _measure(self, name: str, compute: Callable[..., pd.DataFrame]) -> None:
        """Writes `<name>.csv` unless it is there, and before it `<name>.json`: what it depends on, and whether a law of
        the measure is violated.
        """
        path = self._table(name)
        if path.exists():
            return
        violation = None
        reports = reporting(compute, name, self.progress)
        try:
            with Progress(name, 1, "table", show=self.progress and not reports), named("measure", name):
                table = checked_table(name, compute(**reports))
        except LawViolation as error:
            table, violation = error.table, str(error)
        write_json(path.with_suffix(".json"), {**self._made_of(name), "violation": violation})
        write_text(path, table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))

    def _attack(self, model: nn.Module, attacked: Split, name: str, attack: Attack) -> Judged:
        lower = certified(read_bounds(self.folder))[: len(attacked.labels)] if self.certificates else None
        return attack_images(
            model,
            attacked.images,
            attacked.labels,
            attack,
            name,
            lower=lower,
            batch_size=self.batch_size,
            progress=self.progress,
        )

    def _save_violations(self, attacked: Split, model: nn.Module) -> None:
        """The offending rows in `violations.csv`, their images in `violations.npz`."""
        pairs = violations(read_bounds(self.folder))
        report, images = self.folder / "violations.csv", self.folder / "violations.npz"
        if len(pairs):
            write_text(report, pairs.to_csv(index=False, float_format="%.17g", lineterminator="\n"))
            self._save_pairs(pairs, attacked, model, images)
        else:
            report.unlink(missing_ok=True)
            images.unlink(missing_ok=True)

    def _save_pairs(self, pairs: pd.DataFrame, attacked: Split, model: nn.Module, path: Path) -> None:
        """Attacks the offending images again (attacks are deterministic) and saves x and x_adv."""
        rows = torch.tensor(pairs["index"].to_numpy())
        adversarial = torch.zeros(len(rows), *attacked.images.shape[1:])
        for name in pairs["upper_method"].unique():
            if name in self.attacks:
                judged = self._attack(model, attacked, name, self.attacks[name])
                mine = torch.tensor((pairs["upper_method"] == name).to_numpy())
                assert judged.images is not None
                adversarial[mine] = judged.images[rows[mine]]
        arrays = {
            "index": rows.numpy(),
            "x": as_pixels(attacked.images[rows]).numpy(),
            "x_adv": adversarial.numpy(),
        }
        write_npz(path, arrays)

    def _illustrate(self, model: nn.Module, dataset: Dataset) -> None:
        """Writes `illustrations.npz` for the figures, unless that of this network and these tables is there."""
        path = self.folder / "illustrations.npz"
        identity = fingerprint([VERSION, self.network, self.images, table_hashes(self.folder)])
        # A file that is damaged, or of another version, is made again.
        with suppress(OSError, ResultsError, KeyError):
            if str(read_arrays(path)["identity"]) == identity:
                return
        gallery, arrays = self.folder / "gallery.npz", illustrate(model, dataset, self.images)
        if gallery.exists():
            arrays |= nearest_images(read_arrays(gallery), read_bounds(self.folder), model)
        arrays["classes"] = np.array(dataset.classes)
        write_npz(path, {**arrays, "identity": np.array(identity)})

    def _all_flags(self, before: list[Flag]) -> list[Flag]:
        """Those of the model, of the images of the attacks that have a table, and of the tables."""
        table = read_bounds(self.folder)
        return [*before, *read_flags(self.folder, set(table["method"])), *table_flags(table)]
