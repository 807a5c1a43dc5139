"""What verifiers say of a finished run, as tables of the run: a proof is a lower bound, a witness an upper one.

A proof is a claim. It is held against every attack by the sandwich law. A witness is an image: it is judged as the
image of an attack is, and its distance is measured.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from lipbench.data import Split
from lipbench.evaluation.bounds import attack_images
from lipbench.files import ResultsError, digest, read_json
from lipbench.images import as_pixels
from lipbench.interop.vnnlib import Property, Verdict, read_verdicts, read_witness, witness_file
from lipbench.results import MANIFEST, bounds_table, read_bounds, table_path, verify, write_bounds
from lipbench.results.radii import radius_of
from lipbench.results.storage import is_imported
from lipbench.results.summary import summarize
from lipbench.results.table import radii
from lipbench.runs.artifacts import add_cost
from lipbench.runs.dataset import dataset_of
from lipbench.runs.folder import Folder
from lipbench.runs.lock import locked
from lipbench.runs.network import WEIGHTS, load

# The method of the witnesses is named after that of the proofs.
WITNESS = "_witness"
# Digits of the hash of a network in the name of a property.
DIGITS = 8


@dataclass
class Imported:
    """What became of the verdicts.

    Attributes:
        asked: images that they are about.
        proved: images with a lower bound above 0.
        broken: images with a witness that is adversarial.
        tables: the files written.
        notes: what was not used, and why.
    """

    asked: int
    proved: int = 0
    broken: int = 0
    tables: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def network_mark(run: Path) -> str:
    """The first digits of a hash of the weights of a run, by which a property says which network it is about."""
    weights = run / WEIGHTS
    if not weights.exists():
        raise ResultsError(f"{run} holds no {WEIGHTS}. Properties are of networks that lipbench trained.")
    return digest(weights)[:DIGITS]


def import_verdicts(
    run: Path,
    file: Path,
    method: str,
    *,
    trust: Sequence[str] = (),
    data_root: str | None = None,
    source: str | None = None,
) -> Imported:
    """Writes `bounds/<method>.parquet`, the radius of each image that is proved and 0 where nothing is, and
    `bounds/<method>_witness.parquet`, the distance of each witness that is adversarial; then the summary anew.

    Args:
        run: the folder of a finished run.
        file: the verdicts, see `read_verdicts`. Witnesses lie next to it, see `witness_file`.
        method: what the verifier is called in the tables. An earlier import of that name is replaced.
        trust, data_root, source: see `dataset_of`.

    Raises:
        ResultsError: an unfinished run, a method of the run, verdicts on another network or on images that the run
            does not have or labels wrongly. Nothing is written then.
        LawViolation: a proof contradicts an attack. The tables, the rows and the pairs are written first.
        Running: another process is at work in the folder.
    """
    manifest = verify(run)
    if manifest is None:
        raise ResultsError(f"{run} has no {MANIFEST}: the run is unfinished. Run the experiment again.")
    verdicts = read_verdicts(file)
    table = read_bounds(run)
    _check_method(run, method, set(table["method"]))
    images = _checked(run, verdicts, table)
    done = Imported(len(images))
    test = dataset_of(run, trust, data_root, source).test
    found = _witnesses(verdicts, file.parent, test, done)
    broken = _replayed(load(run, trust), found, test, method + WITNESS, done) if found else None
    lower = _lower(verdicts, images, method, test.images[0].numel())
    done.proved = int(((lower["norm"] == "l2") & (lower["distance"] > 0)).sum())
    with locked(run, methods=[method], measures=[]):
        (run / MANIFEST).unlink()
        done.tables = _write(run, digest(file), {method: lower, method + WITNESS: broken})
        add_cost(run, method, sum(verdict.seconds for verdict in verdicts), 0.0)
        _finish(run, manifest, partial(_pairs, test, found))
    return done


def _check_method(run: Path, method: str, known: set[str]) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,40}", method):
        raise ResultsError(f"method={method}: give a name of small letters, digits and _, such as sdp_crown.")
    for name in (method, method + WITNESS):
        if name in known and not is_imported(table_path(run, name)):
            raise ResultsError(f"method={method}: {name} is a method of the run itself. Give another name.")


def _checked(run: Path, verdicts: Sequence[Verdict], table: pd.DataFrame) -> pd.DataFrame:
    """Index -> label, prediction, of the images that the verdicts are about.

    Raises:
        ResultsError: an image that the run does not have or labels wrongly, or another network.
    """
    mark = network_mark(run)
    known = table.drop_duplicates("index").set_index("index")[["label", "prediction"]]
    wrong = set(known.index[known["label"] != known["prediction"]])
    for asked in (verdict.asked for verdict in verdicts):
        if asked.network != mark:
            raise ResultsError(
                f"{asked} is about another network: that of {run} is {mark}. Export its properties again, and run the "
                "verifier on them."
            )
        if asked.index not in known.index:
            raise ResultsError(f"{asked}: the tables of {run} have no image {asked.index}.")
        if asked.index in wrong:
            raise ResultsError(
                f"{asked}: the network labels image {asked.index} wrongly, so there is nothing to prove."
            )
    return known.loc[sorted({verdict.asked.index for verdict in verdicts})]


def _lower(verdicts: Sequence[Verdict], images: pd.DataFrame, method: str, pixels: int) -> pd.DataFrame:
    """The rows of the proofs, in every norm: the largest radius of each image that is proved, else 0."""
    proved = dict.fromkeys(images.index, 0.0)
    for verdict in verdicts:
        if verdict.proves:
            proved[verdict.asked.index] = max(proved[verdict.asked.index], verdict.asked.radius)
    distances = np.array([proved[index] for index in images.index])
    facts = (images.index.to_numpy(), images["label"].to_numpy(), images["prediction"].to_numpy(), method, "lower")
    return pd.concat(
        [bounds_table(*facts, values, norm) for norm, values in radii(distances, pixels).items()], ignore_index=True
    )


def _witnesses(verdicts: Sequence[Verdict], folder: Path, test: Split, done: Imported) -> dict[Property, Tensor]:
    """The image of every witness that can be read."""
    found = {}
    for asked in (verdict.asked for verdict in verdicts if verdict.breaks):
        path = witness_file(folder, asked)
        if path is None:
            done.notes.append(f"{asked}: sat without a witness says nothing.")
            continue
        try:
            found[asked] = torch.from_numpy(read_witness(path, test.images.shape[1:]))
        except ResultsError as error:
            done.notes.append(str(error))
    return found


def _replayed(
    model: nn.Module, found: Mapping[Property, Tensor], test: Split, method: str, done: Imported
) -> pd.DataFrame:
    """The rows of the witnesses that are adversarial; of several of one image those of the nearest."""
    indices = torch.tensor([asked.index for asked in found])
    images = torch.stack(list(found.values()))
    judged = attack_images(
        model, test.images[indices], test.labels[indices], lambda model, x, y: images, method, batch_size=len(images)
    ).table
    judged["row"] = judged["index"]
    judged["index"] = indices.numpy()[judged["row"]]
    refused = judged[(judged["norm"] == "l2") & np.isinf(judged["distance"])]["row"]
    names = list(found)
    done.notes += [f"{names[row]}: its witness is not adversarial, or not in [0, 1]." for row in refused]
    kept = judged[~judged["row"].isin(refused)].drop(columns="row")
    nearest = kept.loc[kept.groupby(["norm", "index"], sort=False)["distance"].idxmin()].reset_index(drop=True)
    done.broken = nearest["index"].nunique()
    return nearest


def _write(run: Path, verdicts: str, tables: Mapping[str, pd.DataFrame | None]) -> list[Path]:
    """Writes each table that has rows in the place of an earlier one of its name."""
    made_of, written = {"network": _network(run), "imported": verdicts}, []
    for name, rows in tables.items():
        for path in (table_path(run, name), table_path(run, name).with_suffix(".json")):
            path.unlink(missing_ok=True)
        if rows is not None and len(rows):
            written.append(write_bounds(run, rows, {**made_of, "method": name}))
    return written


def _network(run: Path) -> str:
    """The fingerprint of the network that all tables of a run hold, so that a later run keeps the imported ones."""
    held = (read_json(path) for path in sorted((run / "bounds").glob("*.json")))
    return next((str(one["network"]) for one in held if isinstance(one, dict) and "network" in one), "")


def _finish(run: Path, manifest: Mapping, pictures: partial) -> None:
    """The summary anew, with the facts that no table holds, and what breaks a law."""
    old = read_json(run / "summary.json")
    curve = old.get("robust_accuracy") or old.get("certified_accuracy") or {}
    derived = {*summarize(read_bounds(run), ()), "training_seconds", "attack_seconds"}
    facts = {name: value for name, value in old.items() if name not in derived}
    folder = Folder(run, {}, {}, manifest.get("run") or {})
    folder.finish(manifest["identity"], facts, [radius_of(text) for text in curve], pictures)


def _pairs(test: Split, found: Mapping[Property, Tensor], pairs: pd.DataFrame) -> dict[str, np.ndarray]:
    """The images of the pairs that break the law; x_adv is NaN where the image of the attack is not at hand."""
    rows = torch.tensor(pairs["index"].to_numpy())
    x = as_pixels(test.images[rows])
    adversarial = torch.full_like(x, torch.nan)
    for asked, image in found.items():
        for place in (rows == asked.index).nonzero()[:, 0]:
            if str(pairs["upper_method"].iloc[int(place)]).endswith(WITNESS):
                adversarial[place] = image
    return {"index": rows.numpy(), "x": x.numpy(), "x_adv": adversarial.numpy()}
