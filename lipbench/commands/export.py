"""`lipbench export`: a run as ONNX and torch.export files, properties for verifiers, distances for AttackBench."""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.utils import instantiate

from lipbench.commands.options import configured
from lipbench.data import Dataset, Split
from lipbench.escapes import say
from lipbench.files import ResultsError, read_config, read_json, write_text
from lipbench.images import as_pixels
from lipbench.interop.attackbench import write_distances
from lipbench.interop.export import export
from lipbench.interop.formats import FILES, ExportError
from lipbench.interop.vnnlib import INSTANCES, Property, check_text, need_checker, property_text
from lipbench.results import named_run, read_bounds, run_key, verify
from lipbench.results.radii import main_radii, radius_of, radius_text
from lipbench.runs.dataset import dataset_of
from lipbench.runs.network import load
from lipbench.runs.trust import check_targets
from lipbench.runs.verdicts import network_mark


def export_run(run: Path, out: Path | None = None, trust: Sequence[str] = (), **options: Any) -> list[Path]:
    """Exports the network of a run's folder, to `<run>/export` by default. Options as in `export`.

    The validation images and the names of the classes are used where the run's data set is at hand.

    Args:
        trust: see `lipbench.load`.

    Raises:
        ResultsError: the folder holds no trained network, is damaged, or names functions that it may not.
        ExportError: as in `export`.
    """
    verify(run)
    model, recipe = load(run, trust), read_json(run / "model.json")
    data = _data_at_hand(run, trust)
    environment = run / "environment.json"
    metadata = {
        **run_key(run),
        "class_names": list(data.classes) if data else None,
        "commit": read_json(environment)["commit"] if environment.exists() else None,
    }
    images = data.validation.images[:100] if data else None
    return export(model, recipe["shape"], out or run / "export", metadata=metadata, images=images, **options)


def _data_at_hand(run: Path, trust: Sequence[str]) -> Dataset | None:
    path = run / "config.yaml"
    if not path.exists():
        return None
    options = read_config(path).get("dataset")
    if not isinstance(options, dict):
        raise ResultsError(f"{path} names no dataset.")
    check_targets(options, f"{path}: dataset", trust)
    try:
        data: Dataset = instantiate({**options, "_partial_": True}, _convert_="all")()
    except (OSError, ValueError):  # not downloaded, or not for this root: an export needs no data
        return None
    return data


def write_properties(run: Path, out: Path, number: int, radius: float, timeout: int, test: Split) -> list[Path]:
    """Writes `vnnlib/<property>.vnnlib` for the first attacked images that are classified rightly, and `instances.csv`
    with a line (onnx, vnnlib, timeout) for each, as VNN-COMP has it.

    Args:
        out: folder of the ONNX file.
        number: of properties, at most.
        radius: L2.
        timeout: seconds.
        test: the test images of the run.

    Returns:
        the files, `instances.csv` first.

    Raises:
        ExportError: no attacked image is classified rightly, or a file is no VNN-LIB 2.0 query.
    """
    table, classes = read_bounds(run), read_json(run / "model.json")["classes"]
    attacked = table[table["side"] == "upper"] if (table["side"] == "upper").any() else table
    right = attacked[attacked["label"] == attacked["prediction"]].drop_duplicates("index").sort_values("index")
    chosen = right.head(number)
    if not len(chosen):
        raise ExportError(f"The network of {run} classifies no attacked image rightly: there is nothing to verify.")
    mark, pixels = network_mark(run), as_pixels(test.images[chosen["index"].tolist()]).numpy()
    texts = {}
    for x, row in zip(pixels, chosen.to_dict("records"), strict=True):
        name = f"vnnlib/{Property(int(row['index']), radius, mark)}.vnnlib"
        texts[name] = property_text(x, int(row["label"]), classes, radius)
        check_text(texts[name], name)
    texts[INSTANCES] = "".join(f"{FILES['onnx']},{name},{timeout}\n" for name in texts)
    for name, text in texts.items():
        write_text(out / name, text)
    return [out / name for name in (INSTANCES, *(name for name in texts if name != INSTANCES))]


def property_radius(run: Path, given: str | float | None) -> float:
    """The radius of the properties: the given one; None: the middle radius of the run.

    Raises:
        ExportError: it is not larger than 0.
    """
    if given is None:
        summary = read_json(run / "summary.json")
        curve = summary.get("robust_accuracy") or summary.get("certified_accuracy") or {}
        return main_radii(curve)[-1] if curve else 1.0
    radius = radius_of(given)
    if not 0 < radius < math.inf:
        raise ExportError(f"radius={given}: the radius of a property is larger than 0.")
    return radius


def spelled(arguments: Sequence[str]) -> list[str]:
    """The words of the command as `name=value`: `RUN --onnx --vnnlib 20 --attackbench` is taken as well."""
    words, left = [], list(arguments)
    while left:
        word = left.pop(0)
        if word == "--onnx":
            words.append("formats=[onnx]")
        elif word == "--attackbench":
            words.append("attackbench=true")
        elif word == "--vnnlib" and left and left[0].isdigit():
            words.append(f"vnnlib={left.pop(0)}")
        elif word.startswith("--vnnlib="):
            words.append(word.removeprefix("--"))
        elif not word.startswith("-") and ("=" not in word or "/" in word.partition("=")[0]):  # a folder
            words.append(f"run={word}")
        else:
            words.append(word)
    return words


def _distances(run: Path, out: Path, dataset: Dataset) -> list[Path]:
    """The distances of the attacks of a run."""
    key = run_key(run)
    names = {"dataset": dataset.name, "network": f"{key['experiment']}_{key['variant']}_{key['seed']}"}
    return write_distances(read_bounds(run), dataset.test.images, out / "attackbench", **names)


def main(arguments: Sequence[str]) -> int:
    """The command `lipbench export`."""
    cfg = configured(spelled(arguments), "export", ("run", "out", "data_root", "source", "radius"))
    if cfg.run is None:
        raise ExportError("Which run? run=results/runs/digits08/hkr_cnn/default/0, for example.")
    formats = [cfg.formats] if isinstance(cfg.formats, str) else list(cfg.formats)
    if cfg.vnnlib:
        if cfg.attackbench:
            raise ExportError("attackbench=true writes no network: leave out vnnlib=, or make it a second command.")
        need_checker()
        if "onnx" not in formats:
            raise ExportError(f"vnnlib={cfg.vnnlib} needs the network as ONNX: formats=[onnx].")
    run, trust = named_run(cfg.run), list(cfg.trust)
    if cfg.out is None and not Path(cfg.run).is_dir():
        raise ExportError(f"run={cfg.run} is a committed run, which stays as it is. Give a folder: out=export, say.")
    out = Path(cfg.out) if cfg.out is not None else run / "export"
    places = {"data_root": cfg.data_root, "source": cfg.source}
    if cfg.attackbench:
        if verify(run) is None:
            raise ExportError(f"{run} is no finished run. Run the experiment again.")
        paths = _distances(run, out, dataset_of(run, trust, **places))
        say("\n".join(["Written:", *(f"  {path}" for path in paths)]))
        return 0
    if cfg.vnnlib:
        radius, test = property_radius(run, cfg.radius), dataset_of(run, trust, **places).test
    written = export_run(run, out, trust, formats=formats, opset=cfg.opset, batch=cfg.batch)
    certificate = read_json(written[0])
    if not certificate["certified"]:
        say(f"Without a certificate, every radius is 0: {certificate['unbounded']}", sys.stderr)
    say("\n".join(["Written and verified:", *(f"  {path}" for path in written)]))
    if cfg.vnnlib:
        properties = write_properties(run, out, cfg.vnnlib, radius, cfg.timeout, test)
        say(f"  {properties[0]}: {len(properties) - 1} properties of the L2 radius {radius_text(radius)}")
    return 0
