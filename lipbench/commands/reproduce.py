"""`lipbench reproduce run=results/runs/digits08/hkr_cnn/default/0`: a finished run made again from its own
files, and compared with it, table by table. Exit code 0: every table is the same byte for byte; 1: one differs; 2: it
could not be made again.
"""

import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate

from lipbench.commands.options import configured, judging
from lipbench.commands.suites import CONF
from lipbench.data import Dataset
from lipbench.escapes import say
from lipbench.evaluation.bounds import COSTLY
from lipbench.files import ResultsError, differences, fingerprint, read_config, read_json
from lipbench.results import EPSILONS, MANIFEST, Equality, LawViolation, equalities, named_run, run_key, verify
from lipbench.runs.dataset import dataset_of
from lipbench.runs.experiment import Experiment
from lipbench.runs.identity import read_back
from lipbench.runs.trained import Trained
from lipbench.runs.trust import check_targets

# Settings of the machine on which a difference of results may depend, in this order.
WATCHED = (
    *("commit", "python", "packages", "processor", "cpu_capability", "threads", "device", "torch_build_hash"),
    *("deterministic", "variables"),
)


def reproduce(
    run: Path,
    out: Path,
    *,
    trust: Sequence[str] = (),
    data_root: str | None = None,
    source: str | None = None,
    device: str = "auto",
    progress: bool = True,
) -> tuple[list[Equality], list[str]]:
    """Makes a finished run again in `<out>/<dataset>/<experiment>/<variant>/<seed>/`.

    Args:
        run: its folder. It is only read.
        out: root of the new results.
        trust: see `lipbench.load`. Methods that are as in this installation's `conf/` need none.
        source: where the images of `dataset=folder`, or the file of `dataset=arrays`, lie.

    Returns:
        a row per table, and what differs between the two environments, as lines.

    Raises:
        ResultsError: the folder holds no finished run that can be made again, a damaged one, or the images are others.
        UntrustedError: its files name functions that they may not.
    """
    if verify(run) is None:
        raise ResultsError(f"{run} has no {MANIFEST}: the run is unfinished. Run the experiment again.")
    network = read_config(run / "config.yaml") if (run / "config.yaml").exists() else {}
    if missing := [key for key in ("dataset", "model", "loss", "optimizer", "training", "seed") if key not in network]:
        external = "source" in (network.get("model") or {})
        raise ResultsError(
            f"{run} holds an external model, which its files cannot rebuild: run lipbench evaluate again."
            if external
            else f"{run} cannot be made again: its config.yaml lacks {', '.join(missing)}."
        )
    check_targets(network, str(run / "config.yaml"), trust)
    methods = _methods(run, network, trust)
    folder = out / Path(*run.resolve().parts[-4:])
    if folder.exists():
        raise ResultsError(f"{folder} is there already: give another out=, or none for a temporary folder.")
    dataset = dataset_of(run, trust, data_root, source)
    _run_again(folder, network, dataset, methods, {"device": device, "progress": progress})
    return equalities(run, folder), _environments(run, folder)


def _run_again(
    folder: Path, network: Mapping[str, Any], dataset: Dataset, methods: dict[str, Any], machine: Mapping[str, Any]
) -> None:
    """
    Args:
        methods: as of `_methods`.
        machine: the options device and progress.
    """
    source = Trained(
        **{part: instantiate(network[part], _convert_="all") for part in ("loss", "optimizer", "training")}
    )
    # Methods may have judged different numbers of images: those of each number are one command.
    counts = methods.pop("images")
    for images in sorted({*counts.values()}) or [1]:
        same = {
            group: {name: options for name, options in found.items() if counts.get(name, images) == images}
            for group, found in methods.items()
        }
        options = {**machine, "epsilons": list(EPSILONS), "force": False, "images": images, "batch_size": 500}
        experiment = Experiment(
            folder=folder,
            network=network,
            load_dataset=lambda: dataset,
            source=source,
            **judging({**options, **same}),
        )
        try:
            experiment.run()
        except LawViolation as error:
            say(error, sys.stderr)  # a run that broke a law is made again as well


def _methods(run: Path, network: Mapping[str, Any], trust: Sequence[str]) -> dict[str, Any]:
    """The methods and measures of a run with their options, as `judging` takes them, and "images": the number that a
    method judged, where it is not all of the test set.
    """
    found: dict[str, Any] = {"attack": {}, "certificate": {}, "measure": {}, "images": {}}
    paths = [*sorted((run / "bounds").glob("*.json")), *sorted(run.glob("*.json"))]
    for path in paths:
        identity = read_json(path)
        if not isinstance(identity, dict) or not {"network", "options"} <= set(identity):
            continue
        if identity["network"] != fingerprint(read_back(network)):
            raise ResultsError(f"{path} belongs to another network than {run / 'config.yaml'}.")
        measured, images = "measure" in identity, identity.get("images")
        group = "measure" if measured else "certificate" if images is None or path.stem in COSTLY else "attack"
        if identity["options"] != _of_conf(group, path.stem):
            check_targets(identity["options"], str(path), trust)
        found[group][path.stem] = identity["options"]
        if images is not None:
            found["images"][path.stem] = int(images)
    if not (found["attack"] or found["certificate"]):
        raise ResultsError(f"{run} holds no table: nothing to compare. A run's folder ends in .../<variant>/<seed>.")
    return found


def _of_conf(group: str, name: str) -> Any:
    """The options of a method in this installation's own configuration, which is trusted; None where it has none."""
    path = CONF / group / f"{name}.yaml"
    return read_config(path).get(name) if path.exists() else None


def _environments(run: Path, again: Path) -> list[str]:
    path = run / "environment.json"
    if not path.exists():
        return ["environment.json is missing: whether versions and machine are the same cannot be told"]
    old, new = read_json(path), read_json(again / "environment.json")
    lines = []
    for key in WATCHED:
        if key not in old:
            lines.append(f"{key}: not recorded -> {new[key] if isinstance(new[key], str | int) else '...'}")
        elif isinstance(old[key], dict) and isinstance(new[key], dict):
            # Packages that the run does not mention are none of its business: older runs name a few.
            shared = {name: value for name, value in new[key].items() if name in old[key]}
            lines += differences(old[key], shared, key)
        else:
            lines += differences(old[key], new[key], key)
    if new["dirty"]:
        lines.append("commit: files of this checkout differ from its commit")
    return lines


def _report(run: Path, rows: Sequence[Equality], warnings: Sequence[str]) -> str:
    equal = [row.name for row in rows if row.equal]
    lines = [f"{'/'.join(map(str, run_key(run).values()))}: {len(equal)} of {len(rows)} tables equal byte for byte"]
    lines += [f"  equal    {', '.join(equal)}"] if equal else []
    lines += [f"  differs  {row.name}: {row.how}" for row in rows if not row.equal]
    lines += ["The environments differ (then -> now):", *(f"  {line}" for line in warnings)] if warnings else []
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """The command `lipbench reproduce`: 0 where every table is the same byte for byte, else 1."""
    cfg = configured(arguments, "reproduce", ("run", "out", "source", "data_root"))
    if cfg.run is None:
        raise ResultsError("Which run? run=results/runs/digits08/hkr_cnn/default/0, for example.")
    run = named_run(cfg.run)
    threads = cfg.threads or _threads(run)
    if threads:
        torch.set_num_threads(threads)
    with ExitStack() as stack:
        out = Path(cfg.out or stack.enter_context(tempfile.TemporaryDirectory()))
        options = {key: cfg[key] for key in ("data_root", "source", "device", "progress")}
        rows, warnings = reproduce(run, out, trust=list(cfg.trust), **options)
    say(_report(run, rows, warnings))
    return int(not all(row.equal for row in rows))


def _threads(run: Path) -> int | None:
    path = run / "environment.json"
    found = read_json(path).get("threads") if path.exists() else None
    return found if isinstance(found, int) and 0 < found <= 1024 else None
