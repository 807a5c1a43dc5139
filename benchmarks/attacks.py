"""Compares every native attack with those of foolbox, adv-lib and torchattacks, on networks that lipbench trained.

    python -m lipbench run suite=mnist08/hkr_mlp,mnist08/hkr_cnn,mnist08/ce_cnn,mnist08/plain_cnn seed=0
    python -m lipbench run suite=mnist/hkr_cnn,mnist/plain_cnn seed=0
    python benchmarks/attacks.py                              # these six
    python benchmarks/attacks.py results/runs/digits08 --images 200 --skip adv_lib_cw
    python benchmarks/attacks.py --save peers.npz             # and, once an attack of ours has changed,
    python benchmarks/attacks.py --load peers.npz             # against the same distances of the others

All attacks of conf/attack/ run as they are configured there; those of the others are {foolbox,adv_lib,torchattacks}_*.
Every image of every attack is brought to the boundary and judged in the same way, in one process, without certificates.
The tables go to `benchmarks/attacks.md`, whole or not at all. Extras: foolbox; adv-lib as in
docs/other_libraries.md.
"""

import argparse
import importlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from adv_lib_import import import_adv_lib
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn

import lipbench
from lipbench.commands.suites import CONF
from lipbench.evaluation.bounds import attack_images
from lipbench.evaluation.evaluate import ATTACKS
from lipbench.files import ResultsError, atomic, file_hash, write_text
from lipbench.results import FLOAT32_FALSIFIER, run_folders
from lipbench.runs.trained import environment

LIBRARIES = {"foolbox": "foolbox", "adv_lib": "adv-lib", "torchattacks": "torchattacks"}
NETWORKS = (
    "mnist08/hkr_mlp",
    "mnist08/hkr_cnn",
    "mnist08/ce_cnn",
    "mnist08/plain_cnn",
    "mnist/hkr_cnn",
    "mnist/plain_cnn",
)
DEFAULT = [Path("results/runs") / name / "default" / "0" for name in NETWORKS]
YARDSTICK = "foolbox_cw"
# The attacks of other libraries that bear the name of a native one.
NAMESAKES = {
    "fgsm": ("torchattacks_fgsm", "foolbox_fgsm"),
    "fgm": ("foolbox_fgm",),
    "l2_pgd": ("torchattacks_pgd", "foolbox_pgd"),
    "apgd": ("torchattacks_apgd",),
    "deepfool": ("foolbox_deepfool", "torchattacks_deepfool"),
    "carlini_wagner": ("foolbox_cw", "adv_lib_cw", "torchattacks_cw"),
    "ddn": ("foolbox_ddn", "adv_lib_ddn"),
    "fmn": ("foolbox_fmn", "adv_lib_fmn"),
    "alma": ("adv_lib_alma",),
}

Attack = Callable[..., Tensor]


@dataclass(frozen=True)
class Measured:
    """One attack on the images of one network: distances [N], inf where it found nothing; seconds of the processor (all
    its cores together), which other work on the machine hardly changes; passes per image."""

    name: str
    distances: np.ndarray
    seconds: float
    passes: float


@dataclass(frozen=True)
class Network:
    """A trained network and its test images."""

    name: str
    weights: str
    model: nn.Module
    images: Tensor
    labels: Tensor

    @classmethod
    def of(cls, folder: Path, count: int) -> "Network":
        """The network of a run and the first `count` images of its test set."""
        config: Any = OmegaConf.load(folder / "config.yaml")
        test = instantiate({**config.dataset, "_partial_": True})().test
        name = "/".join(folder.resolve().parts[-4:])
        weights = file_hash(folder / "model.safetensors")
        return cls(name, weights, lipbench.load(folder), test.images[:count], test.labels[:count])

    def measure(self, name: str, attack: Attack) -> Measured:
        """Runs one attack on all images."""
        started = time.process_time()
        judged = attack_images(self.model, self.images, self.labels, attack, name)
        seconds = time.process_time() - started
        distances = judged.table.loc[judged.table["norm"] == "l2", "distance"].to_numpy()
        measured = Measured(name, distances, seconds, judged.passes)
        found = measured.distances[np.isfinite(measured.distances)]
        print(f"{self.name} {name}: {len(found)}, mean {found.mean():.4f}, {seconds:.1f} s", flush=True)
        return measured

    @property
    def key(self) -> str:
        """What distances on it depend on, besides the attack."""
        return f"{self.name} {self.weights} {len(self.images)}"


class Store:
    """Distances of the others in a file, written again after each attack, so that a kill loses one attack at most."""

    def __init__(self, load: Path | None, save: Path | None):
        self.save = save
        self.arrays: dict[str, np.ndarray] = dict(np.load(load)) if load else {}

    def get(self, network: Network, name: str) -> Measured | None:
        """What is stored of an attack on exactly this network and as many images."""
        stored = [self.arrays.get(f"{network.key} {name} {what}") for what in ("distances", "seconds", "passes")]
        if any(array is None for array in stored):
            return None
        distances, seconds, passes = stored
        return Measured(name, distances, float(seconds), float(passes))  # type: ignore[arg-type]

    def put(self, network: Network, measured: Measured) -> None:
        """Adds an attack."""
        for what in ("distances", "seconds", "passes"):
            self.arrays[f"{network.key} {measured.name} {what}"] = np.asarray(getattr(measured, what))
        if self.save:
            with atomic(self.save) as temporary, temporary.open("wb") as file:
                np.savez_compressed(file, **self.arrays)


def configured(skip: list[str]) -> tuple[dict[str, Attack], dict[str, Attack]]:
    """The native attacks and those of other libraries, by the names of their files in conf/attack/.

    Raises:
        SystemExit: an unknown name in `skip`; a library is not installed.
    """
    names = {path.stem for path in (CONF / "attack").glob("*.yaml")}
    of = {library: sorted(name for name in names if name.startswith(f"{library}_")) for library in LIBRARIES}
    unknown = set(skip) - names - set(of)
    if unknown:
        raise SystemExit(f"Unknown in --skip: {', '.join(unknown)}. There are: {', '.join(sorted(names | set(of)))}.")
    others = []
    for library, attacks in of.items():
        wanted = [name for name in attacks if not {name, library} & set(skip)]
        try:
            if wanted:
                import_adv_lib() if library == "adv_lib" else importlib.import_module(library)
        except ImportError as error:
            raise SystemExit(f"{error}. Install it (see --help), or go without it: --skip {library}") from None
        others += wanted
    native = [name for name in ATTACKS if name not in skip]
    native += sorted(
        names - {*native, *skip, FLOAT32_FALSIFIER, "exact", *(name for attacks in of.values() for name in attacks)}
    )
    return {name: _attack(name) for name in native}, {name: _attack(name) for name in others}


def _attack(name: str) -> Attack:
    config: Any = OmegaConf.to_container(OmegaConf.load(CONF / "attack" / f"{name}.yaml"), resolve=True)
    attack: Attack = instantiate(config[name], _convert_="all")
    return attack


def best_of(name: str, measured: list[Measured]) -> Measured:
    """Per image the nearest, at the cost of all."""
    distances = np.min([m.distances for m in measured], axis=0)
    return Measured(name, distances, sum(m.seconds for m in measured), sum(m.passes for m in measured))


def ours_of(ours: list[Measured]) -> Measured:
    """The combined attack: the one that is called lipbench; without it, the nearest of all native ones."""
    return next((m for m in ours if m.name == "lipbench"), best_of("best of native", ours))


def overview(ours: list[Measured], others: list[Measured]) -> pd.DataFrame:
    """Every attack, and the per-image best of either side."""
    best = best_of("best of peers", others)
    yardstick = next((m.seconds for m in others if m.name == YARDSTICK), np.nan)
    rows = [*ours, best_of("best of native", ours), *others, best]
    return pd.DataFrame([_row(m, best, yardstick) for m in rows])


def _row(m: Measured, best: Measured, yardstick: float) -> dict[str, object]:
    found = np.isfinite(m.distances)
    both = found & np.isfinite(best.distances)
    return {
        "attack": m.name,
        "found": f"{found.sum()}/{len(found)}",
        "mean": m.distances[found].mean() if found.any() else np.nan,
        "median": np.median(m.distances),
        "mean / best of peers": m.distances[both].mean() / best.distances[both].mean() if both.any() else np.nan,
        "seconds": m.seconds,
        f"seconds / {YARDSTICK}": m.seconds / yardstick,
        "passes": m.passes,
    }


def against_namesakes(ours: list[Measured], others: list[Measured]) -> pd.DataFrame:
    """Each native attack next to the namesake with the smallest median distance, and the fewest seconds of any."""
    rows = []
    for m in ours:
        rivals = [other for other in others if other.name in NAMESAKES.get(m.name, ())]
        if not rivals:
            continue
        rival = min(rivals, key=lambda r: (np.median(r.distances), -np.isfinite(r.distances).sum()))
        rows.append(
            {
                "native": m.name,
                "namesake": rival.name,
                "found": f"{np.isfinite(m.distances).sum()} : {np.isfinite(rival.distances).sum()}",
                "most found by any": max(int(np.isfinite(r.distances).sum()) for r in rivals),
                "median": np.median(m.distances),
                "median of namesake": np.median(rival.distances),
                "seconds": m.seconds,
                "seconds of namesake": rival.seconds,
            }
        )
    return pd.DataFrame(rows)


def excess(ours: np.ndarray, others: np.ndarray) -> tuple[int, float]:
    """By how many images our curve accuracy-against-epsilon is above theirs at most, and at which epsilon.

    sup over epsilon of #{ours > epsilon} - #{others > epsilon}: the curves change only at their distances.
    """
    epsilons = np.unique(np.concatenate(([0.0], ours[np.isfinite(ours)], others[np.isfinite(others)])))
    above = [len(d) - np.searchsorted(np.sort(d), epsilons, side="right") for d in (ours, others)]
    difference = above[0] - above[1]
    return int(difference.max()), float(epsilons[difference.argmax()])


def verdict(network: Network, ours: list[Measured], others: list[Measured]) -> list[dict[str, object]]:
    """One network in two lines: `lipbench`, and everything that lipbench has, image by image the nearest."""
    best = best_of("best of peers", others)
    yardstick = next((m.seconds for m in others if m.name == YARDSTICK), np.nan)
    certificates = lipbench.certify(network.model, network.images, network.labels).numpy()
    lines = []
    for combined in (ours_of(ours), best_of("best of native", ours)):
        row = _row(combined, best, yardstick)
        images, epsilon = excess(combined.distances, best.distances)
        lines.append(
            {
                "network": network.name,
                **{key: row[key] for key in ("attack", "found", "mean", "mean / best of peers")},
                **{key: row[key] for key in ("seconds", f"seconds / {YARDSTICK}")},
                "curve above peers' (images)": images,
                "at epsilon": epsilon,
                "certified images": int((certificates > 0).sum()),
                "violations": int((certificates > np.minimum(combined.distances, best.distances)).sum()),
            }
        )
    return lines


def compare(
    network: Network, native: Mapping[str, Attack], others: Mapping[str, Attack], store: Store
) -> tuple[list[dict], str]:
    """The lines of one network and its section of the report."""
    ours = [network.measure(name, attack) for name, attack in native.items()]
    theirs = []
    for name, attack in others.items():
        measured = store.get(network, name)
        if measured is None:
            measured = network.measure(name, attack)
        store.put(network, measured)
        theirs.append(measured)
    tables = [overview(ours, theirs), against_namesakes(ours, theirs)]
    body = "\n\n".join(table.to_markdown(index=False, floatfmt=".5g") for table in tables if len(table))
    return verdict(network, ours, theirs), f"## {network.name}\n\n{body}\n"


def report(lines: list[dict], sections: list[str], options: argparse.Namespace) -> str:
    """The whole file."""
    command = " ".join(["python benchmarks/attacks.py", *map(str, options.folders), f"--images {options.images}"])
    command += f" --skip {','.join(options.skip)}" if options.skip else ""
    here = environment(torch.device("cpu"))
    versions = ", ".join(
        f"{name} {here['packages'][name]}" for name in ("torch", *LIBRARIES.values()) if name in here["packages"]
    )
    loaded = " The others' distances and seconds come from an earlier run (--load)." if options.load else ""
    head = (
        f"# Attacks against those of other libraries\n\n`{command}`, first {options.images} test images, "
        f"{torch.get_num_threads()} threads, {here['processor']}, {versions}, commit {here['commit']}, "
        f"{time.strftime('%Y-%m-%d')}.{loaded}\n\n"
        "Distances are L2 with pixels in [0, 1], 0 where the image is misclassified as it is, inf where an attack "
        "found nothing. Means are over what an attack found; `mean / best of peers` is over what both found, the best "
        "taken image by image. `passes` counts images that went through the network, per image. The curve is accuracy "
        "against epsilon: a positive number of images is how far ours lies above the peers' best at its worst "
        "epsilon. Seconds are those of the processor, all cores together.\n\n"
    )
    return head + pd.DataFrame(lines).to_markdown(index=False, floatfmt=".5g") + "\n\n" + "\n".join(sections)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, default=DEFAULT, help="runs, or folders of runs")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument(
        "--skip", type=lambda text: text.split(","), default=[], help="attacks or libraries, with commas"
    )
    parser.add_argument("--save", type=Path, help="an .npz for the distances of the others")
    parser.add_argument("--load", type=Path, help="an .npz of --save: what it holds is not run again")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args()
    native, others = configured(options.skip)
    folders = [run for folder in options.folders for run in run_folders(folder)]
    if not folders:
        raise SystemExit(f"No runs in {', '.join(map(str, options.folders))}. The commands that make some: --help")
    store = Store(options.load, options.save)
    try:
        networks = [Network.of(folder, options.images) for folder in folders]
    except (ResultsError, FileNotFoundError) as error:
        raise SystemExit(f"{error}") from None
    results = [compare(network, native, others, store) for network in networks]
    lines = [line for of_network, _ in results for line in of_network]
    write_text(options.output, report(lines, [section for _, section in results], options))
    print(pd.DataFrame(lines).to_string(index=False))


if __name__ == "__main__":
    main()
