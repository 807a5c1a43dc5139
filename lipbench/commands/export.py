"""`lipbench export`: a run as ONNX and torch.export files."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.utils import instantiate

from lipbench.commands.options import configured
from lipbench.data import Dataset
from lipbench.escapes import say
from lipbench.files import ResultsError, read_config, read_json
from lipbench.interop.export import export
from lipbench.interop.formats import ExportError
from lipbench.results import run_key, verify
from lipbench.runs.network import load
from lipbench.runs.trust import check_targets


def export_run(run: Path, out: Path | None = None, trust: Sequence[str] = (), **options: Any) -> list[Path]:
    """Exports the network of a run's folder, to `<run>/export` by default. Options as in `export`.

    The validation images and the names of the classes are used where the run's data set is at hand.

    Args:
        trust: see `lipbench.load`.

    Raises:
        ResultsError: the folder holds no trained network, is damaged, or names functions that it may not.
        ExportError: as in `export`.
    """
    if not run.is_dir():
        raise ExportError(f"There is no folder {run}. A run's is <results>/<dataset>/<experiment>/<variant>/<seed>.")
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


def main(arguments: Sequence[str]) -> int:
    """The command `lipbench export`."""
    cfg = configured(arguments, "export", ("run", "out"))
    if cfg.run is None:
        raise ExportError("Which run? run=results/runs/digits08/hkr_cnn/default/0, for example.")
    formats = [cfg.formats] if isinstance(cfg.formats, str) else list(cfg.formats)
    out = Path(cfg.out) if cfg.out is not None else None
    written = export_run(Path(cfg.run), out, list(cfg.trust), formats=formats, opset=cfg.opset, batch=cfg.batch)
    certificate = read_json(written[0])
    if not certificate["certified"]:
        say(f"Without a certificate, every radius is 0: {certificate['unbounded']}", sys.stderr)
    say("\n".join(["Written and verified:", *(f"  {path}" for path in written)]))
    return 0
