"""A network in its folder, judged: what exists with the same identity is kept, what is missing is made, what differs is
refused.
"""

import inspect
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from lipbench.certificate import lipschitz
from lipbench.data import Dataset, Split
from lipbench.evaluation.bounds import COSTLY, Attack, Certificate
from lipbench.evaluation.loop import health, judge
from lipbench.evaluation.transport_law import transport_law
from lipbench.files import ResultsError, fingerprint, read_arrays
from lipbench.gate import checked_table, named
from lipbench.images import as_pixels
from lipbench.judge import Classifier
from lipbench.progress import Progress, reporting
from lipbench.results import LawViolation, read_bounds, table_hashes
from lipbench.results.facts import with_images
from lipbench.runs.artifacts import write_npz
from lipbench.runs.errors import clear_error
from lipbench.runs.folder import Folder
from lipbench.runs.identity import described, read_back
from lipbench.runs.illustrations import VERSION, illustrate, nearest_images
from lipbench.runs.lock import locked

# (model, images uint8 [N, C, H, W], labels [N]) -> a table. The images are those of the test set. A measure with a
# parameter `validation` is given that split as well; one with the parameters `attacked` and `number`, how many images
# are attacked where these are fewer.
Measure = Callable[[nn.Module, Tensor, Tensor], pd.DataFrame]


class Source(Protocol):
    """Where the network of a run comes from: see `Trained` and `External`. Of `network` and `skipped` one is called."""

    @property
    def trained(self) -> Collection[str]:
        """Names of the files of the network that only a new training can make."""

    def check(self, dataset: Dataset) -> None:
        """Refuses what cannot be judged, before the folder is changed."""

    def network(self, run: "Experiment", dataset: Dataset) -> nn.Module:
        """The network: baked, in evaluation mode, on the device. It is made now where the folder does not hold it."""

    def skipped(self) -> None:
        """The run is finished: no network is needed."""

    def assist(self, run: "Experiment") -> None:
        """What every process but the first does (see `lipbench.training.processes`)."""

    def facts(self, run: "Experiment") -> dict[str, Any]:
        """What the summary says of the network besides its bounds."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A network in its folder, and the methods that judge it. See `run`.

    Attributes:
        folder: `<root>/<dataset>/<experiment>/<variant>/<seed>`.
        network: everything that the network depends on: its identity.
        source: gives the network.
        options: method or measure -> its configuration, part of the identity of its table.
        images: how many test images are attacked, and certified by a costly certificate. Tables of more images are
            kept, those of fewer are made again.
        measures: name of a table -> what makes it, of the network and the test set: `<folder>/<name>.csv`.
        about: the facts of the run for its manifest (`lipbench.results.facts`); part of no identity.
    """

    folder: Path
    network: Mapping[str, Any]
    source: Source
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

    def run(self) -> dict[str, Any]:
        """Makes the network, certifies and attacks it where tables are missing, and writes the summary and the
        manifest. A finished run is left as it is; where files of it are damaged, they are made again.

        Returns:
            the summary, as in `summary.json`.

        Raises:
            Running: another process is at work in the folder.
            OtherNetwork: the folder holds another network, and `force` is not set.
            Damaged: a file is damaged that only a new training can make.
            ResultsError: a table of the folder was made with other options.
            LawViolation: a law does not hold; the rows and the offending pairs are saved first.
            ImportError: the training is to be logged for TensorBoard, which is not installed.
        """
        dataset = self.load_dataset()
        self.source.check(dataset)
        return replace(self, images=min(self.images, len(dataset.test)))._run(dataset)

    def _run(self, dataset: Dataset) -> dict[str, Any]:
        data = read_back(described(dataset))
        identity = self._identity(data)
        files = Folder(self.folder, self.network, {name: self._made_of(name) for name in self.options}, self.about)
        summary = None if self.force else files.finished(identity)
        if summary is not None:
            self._images(files, dataset)
            self.source.skipped()
            with suppress(OSError):  # a folder that is finished need not be ours to write
                clear_error(self.folder)
            return summary
        with locked(self.folder, methods=[*self.certificates, *self.attacks], measures=[*self.measures]):
            files.claim(data, self.source.trained, self.force)
            clear_error(self.folder)
            summary = self._judge(files, self.source.network(self, dataset), dataset, identity)
            clear_error(self.folder)  # of another process that failed before it could ask for the lock
            return summary

    def _judge(self, files: Folder, model: nn.Module, dataset: Dataset, identity: str) -> dict[str, Any]:
        test = dataset.test
        count = self._images(files, dataset)
        if self.about and count > self.images:
            files = replace(files, about=with_images(self.about, count))
        attacked = Split(test.images[:count], test.labels[:count])
        classifier = Classifier(model)
        flags = health(classifier, test.images, test.labels, self.batch_size)
        for judged in judge(
            classifier,
            test.images,
            test.labels,
            self.certificates,
            self.attacks,
            attacked=self.images,
            kept=files.kept(),
            before=flags,
            batch_size=self.batch_size,
            progress=self.progress,
        ):
            files.keep(judged, attacked)
        for name, measure in self.measures.items():
            given = partial(measure, model, test.images, test.labels, **self._attacked(name))
            self._measure(files, name, _with_validation(given, dataset.validation))
        facts = {
            **self.source.facts(self),
            "lipschitz": lipschitz(model, dataset.shape),
            **transport_law(classifier, test.images, test.labels),
            "flags": [flag.as_dict() for flag in (*flags, *files.flags())],
        }
        self._illustrate(model, dataset, count)
        return files.finish(identity, facts, self.epsilons, partial(self._pictures, classifier, attacked))

    def _images(self, files: Folder, dataset: Dataset) -> int:
        """How many images the run attacks in all: as many as are asked for, or those of a table that is kept."""
        kept = min(files.attacked(), len(dataset.test))
        if kept > self.images:
            print(f"{self.folder}: {kept} images kept; {self.images} asked.", file=sys.stderr)
        return max(kept, self.images)

    def _identity(self, data: Mapping[str, Any]) -> str:
        """Of the whole run: all that its files depend on, but for the number of attacked images."""
        made = {
            "network": self.network,
            "options": self.options,
            "methods": [*self.certificates, *self.attacks, *self.measures],
            "epsilons": list(self.epsilons),
            "data": data,
            "versions": [VERSION, version("lipbench")],
        }
        return fingerprint(made)

    def _made_of(self, name: str) -> dict[str, Any]:
        """What the table of a method or measure depends on."""
        kind = "measure" if name in self.measures else "method"
        identity = {"network": fingerprint(self.network), kind: name, "options": self.options[name]}
        if kind == "method":
            identity["images"] = self.images if name in self.attacks or name in COSTLY else None
        elif fewer := self._attacked(name):
            identity["images"] = fewer["attacked"]
        return read_back(identity)

    def _attacked(self, measure: str) -> dict[str, int]:
        """The option `attacked` of a measure that has it, where its `number` of images is larger."""
        known = inspect.signature(self.measures[measure]).parameters
        return {"attacked": self.images} if "attacked" in known and self.images < known["number"].default else {}

    def _measure(self, files: Folder, name: str, compute: Callable[..., pd.DataFrame]) -> None:
        if files.serves(name):
            return
        violation = None
        reports = reporting(compute, name, self.progress)
        try:
            with Progress(name, 1, "table", show=self.progress and not reports), named("measure", name):
                table = checked_table(name, compute(**reports))
        except LawViolation as error:
            table, violation = error.table, str(error)
        files.keep_measure(name, table, violation)

    def _pictures(self, classifier: Classifier, attacked: Split, pairs: pd.DataFrame) -> dict[str, np.ndarray]:
        """Attacks the offending images again (attacks are deterministic): x and x_adv."""
        rows = torch.tensor(pairs["index"].to_numpy())
        adversarial = torch.zeros(len(rows), *attacked.images.shape[1:])
        attacks = {name: self.attacks[name] for name in pairs["upper_method"].unique() if name in self.attacks}
        for judged in judge(classifier, attacked.images, attacked.labels, {}, attacks, batch_size=self.batch_size):
            mine = torch.tensor((pairs["upper_method"] == judged.name).to_numpy())
            assert judged.images is not None  # of an attack
            adversarial[mine] = judged.images[rows[mine]]
        return {"index": rows.numpy(), "x": as_pixels(attacked.images[rows]).numpy(), "x_adv": adversarial.numpy()}

    def _illustrate(self, model: nn.Module, dataset: Dataset, attacked: int) -> None:
        """Writes `illustrations.npz` for the figures, unless that of this network and these tables is there."""
        path = self.folder / "illustrations.npz"
        identity = fingerprint([VERSION, self.network, attacked, table_hashes(self.folder)])
        # A file that is damaged, or of another version, is made again.
        with suppress(OSError, ResultsError, KeyError):
            if str(read_arrays(path)["identity"]) == identity:
                return
        gallery, arrays = self.folder / "gallery.npz", illustrate(model, dataset, attacked)
        if gallery.exists():
            arrays |= nearest_images(read_arrays(gallery), read_bounds(self.folder), model)
        arrays["classes"] = np.array(dataset.classes)
        write_npz(path, {**arrays, "identity": np.array(identity)})


def _with_validation(measure: Callable[..., pd.DataFrame], validation: Split) -> Callable[..., pd.DataFrame]:
    """The measure; where it has a parameter `validation`, with that split."""
    known = inspect.signature(measure).parameters
    return partial(measure, validation=validation) if "validation" in known else measure
