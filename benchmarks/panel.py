"""How near each attack comes on networks that lipbench did not train.

    LIPBENCH_NETWORKS=/path/to/networks python benchmarks/panel.py
    python benchmarks/panel.py --networks own --images 40            # the three stand-ins, trained in seconds
    python benchmarks/panel.py --attacks lipbench,ddn,foolbox_ddn --budget 500

For each network: the first images that it classifies rightly, every native attack and those of foolbox, adv-lib and
torchattacks that are installed. `ratio` is the distance over the best known distance of the same image. The best known
distances lie in panel_best.json, which each run updates with smaller ones and never with larger ones. A ratio can
therefore grow from one run to the next although the attack is the same.
"""

import argparse
import importlib
import json
import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from adv_lib_import import import_adv_lib
from hydra.utils import instantiate
from omegaconf import OmegaConf
from panel_networks import OWN, PUBLIC, Skipped, own, public, right_images
from torch import Tensor, nn

from lipbench.attacks import within
from lipbench.commands.suites import CONF
from lipbench.evaluation.bounds import attack_images
from lipbench.files import write_text
from lipbench.gate import told
from lipbench.judge import Classifier

LIBRARIES = ("foolbox", "adv_lib", "torchattacks")
# Searches for breaches of a certificate, which measure something else.
NOT_COMPARED = ("falsifier", "falsifier_float32")
BEST = Path(__file__).with_name("panel_best.json")

Attack = Callable[..., Tensor]


def attacks(wanted: list[str], skip: list[str]) -> tuple[dict[str, Attack], list[str]]:
    """The attacks by name, native ones first, and why others are missing.

    Args:
        wanted: names; empty: all of conf/attack and some of adv-lib that have no file there.
        skip: names, or libraries.
    """
    found: dict[str, Attack] = {}
    missing = []
    names = sorted(path.stem for path in (CONF / "attack").glob("*.yaml"))
    names.sort(key=lambda name: name.startswith(LIBRARIES))
    for name in [name for name in names if name not in NOT_COMPARED]:
        library = next((library for library in LIBRARIES if name.startswith(library)), None)
        if (wanted and name not in wanted) or {name, library} & set(skip):
            continue
        try:
            if library:
                import_adv_lib() if library == "adv_lib" else importlib.import_module(library)
            found[name] = _configured(name)
        except ImportError as error:
            missing.append(f"{name}: {error}")
    try:
        if "adv_lib" not in skip:
            found |= {name: attack for name, attack in _more().items() if not wanted or name in wanted}
    except ImportError as error:
        missing.append(f"adv_lib: {error}")
    return found, missing


def _configured(name: str) -> Attack:
    config: Any = OmegaConf.to_container(OmegaConf.load(CONF / "attack" / f"{name}.yaml"), resolve=True)
    attack: Attack = instantiate(config[name], _convert_="all")
    return attack


def _more() -> dict[str, Attack]:
    """Attacks of adv-lib for the panel alone."""
    import_adv_lib()
    from adv_lib.attacks import pdgd, sdf

    from lipbench.attacks.peers.with_adv_lib import adv_lib_attack

    return {
        "adv_lib_superdeepfool": partial(adv_lib_attack, attack=partial(sdf, steps=20, df_steps=20)),
        "adv_lib_pdgd": partial(adv_lib_attack, attack=partial(pdgd, num_steps=200)),
    }


class Best:
    """The best known distances: network -> a list, one number per image."""

    def __init__(self, path: Path = BEST):
        self.path = path
        self.known: dict[str, list[float]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def update(self, network: str, distances: np.ndarray) -> None:
        """Keeps the smaller number of each image. A distance of 6 digits is rounded up, so it stays an upper bound."""
        known = self.known.setdefault(network, [])
        known += [math.inf] * (len(distances) - len(known))
        rounded = np.ceil(distances * 1e6) / 1e6
        known[: len(distances)] = [float(d) for d in np.minimum(known[: len(distances)], rounded)]

    def of(self, network: str, count: int) -> np.ndarray:
        """The distances of the first `count` images, [count]."""
        return np.asarray(self.known[network][:count])

    def save(self) -> None:
        """Writes the file, one line per public network: those of our own are trained anew on each machine."""
        kept = {name: values for name, values in sorted(self.known.items()) if name not in OWN}
        lines = [f'"{name}": {json.dumps(values)}' for name, values in kept.items()]
        write_text(self.path, "{\n" + ",\n".join(lines) + "\n}\n")


def measured(model: nn.Module, x: Tensor, y: Tensor, name: str, attack: Attack, batch_size: int) -> dict[str, Any]:
    """One attack: its distances [N], propagations per image and processor seconds."""
    classifier, started = Classifier(model), time.process_time()
    judged = attack_images(classifier, x, y, attack, name, batch_size=batch_size)
    seconds = time.process_time() - started
    distances = judged.table.loc[judged.table["norm"] == "l2", "distance"].to_numpy()
    return {
        "attack": name,
        "distances": distances,
        "passes": judged.passes,
        "propagations": judged.passes + judged.backward_passes,
        "seconds": seconds,
    }


def row(measured: Mapping[str, Any], best: np.ndarray) -> dict[str, object]:
    """A line of the report: ratios over the images on which the attack found something."""
    found = np.isfinite(measured["distances"])
    ratio = measured["distances"][found] / best[found]
    return {
        "attack": measured["attack"],
        "found": f"{found.sum()}/{len(found)}",
        "mean ratio": ratio.mean() if len(ratio) else math.nan,
        "worst ratio": ratio.max(initial=0.0),
        "above 1.01": f"{100 * (1 - (ratio <= 1.01).sum() / len(found)):.0f} %",
        "above 1.05": f"{100 * (1 - (ratio <= 1.05).sum() / len(found)):.0f} %",
        **{name: measured[name] for name in ("passes", "propagations", "seconds")},
    }


def section(
    name: str, methods: Mapping[str, Attack], best: Best, options: argparse.Namespace
) -> tuple[str, dict | None]:
    """The report on one network, and its line for the attack `lipbench`."""
    try:
        model, images, labels = (public if name in PUBLIC else own)(name)
    except Skipped as reason:
        print(f"{name}: skipped, {reason}", flush=True)
        return f"## {name}\n\nSkipped: {reason}.\n", None
    x, y = right_images(model, images, labels, options.images)
    results: list[dict[str, Any]] = []
    failed: list[dict[str, object]] = []
    for method, attack in methods.items():
        try:
            result = measured(model, x, y, method, attack, options.batch_size)
        except Exception as error:  # an attack of another library raises anything
            print(f"{name} {method}: failed, {told(error)}", flush=True)
            failed.append({"attack": method, "found": f"failed: {told(error)}"})
            continue
        best.update(name, result["distances"])
        best.save()
        results.append(result)
        line = row(result, best.of(name, len(x)))
        print(name, " ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in line.values()), flush=True)
    lines = [row(result, best.of(name, len(x))) for result in results]
    rows = pd.DataFrame(lines + failed).astype(object)
    table = rows.where(rows.notna(), None).to_markdown(index=False, floatfmt=".4g", missingval="")
    ours = next(({"network": name, **line} for line in lines if line["attack"] == "lipbench"), None)
    return f"## {name}\n\n{len(x)} images.\n\n{table}\n", ours


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = partial(str.split, sep=",")
    parser.add_argument("--networks", type=names, default=[*PUBLIC, *OWN], help="names with commas; public, own")
    parser.add_argument("--attacks", type=names, default=[], help="names with commas; default: all")
    parser.add_argument("--skip", type=names, default=[], help="attacks or libraries, with commas")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--budget", type=int, help="propagations per image, enforced; default: each attack's own")
    parser.add_argument("--output", type=Path, help="a Markdown file for the report")
    options = parser.parse_args()
    methods, missing = attacks(options.attacks, options.skip)
    if options.budget:
        methods = {name: within(attack, options.budget) for name, attack in methods.items()}
    groups = {"public": [*PUBLIC], "own": [*OWN]}
    networks = [network for name in options.networks for network in groups.get(name, [name])]
    unknown = set(networks) - {*PUBLIC, *OWN}
    if unknown:
        raise SystemExit(f"Unknown networks: {', '.join(sorted(unknown))}. There are: {', '.join([*PUBLIC, *OWN])}.")
    best = Best()
    sections, summary = [], []
    for name in networks:
        text, ours = section(name, methods, best, options)
        sections.append(text)
        summary += [ours] if ours else []
    if options.output:
        head = f"# The panel\n\n{options.images} images per network, {torch.get_num_threads()} threads"
        head += f", torch {torch.__version__}, {time.strftime('%Y-%m-%d')}. See the docstring of panel.py.\n"
        head += "".join(f"\nNot measured: {line}" for line in missing)
        overview = pd.DataFrame(summary).to_markdown(index=False, floatfmt=".4g") if summary else ""
        write_text(options.output, "\n".join([head, overview, "", *sections]))


if __name__ == "__main__":
    main()
