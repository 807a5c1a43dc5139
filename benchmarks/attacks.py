"""Compares the combined attack with foolbox's C&W (9 x 500 steps) and a 200-step DDN.

    make bench                                  # networks of digits08 that `make benchmark` trained
    python benchmarks/attacks.py results/reference/mnist08/hkr_mlp/default/0 --images 500

Every image of every attack is judged by lipbench and brought to the boundary in the same way. The table goes to
`benchmarks/attacks.md`. Needs the extra: pip install -c constraints.txt -e ".[foolbox]".
"""

import argparse
import platform
import time
from collections.abc import Callable
from pathlib import Path

import foolbox
import pandas as pd
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn

import lipbench
from lipbench.evaluation import ATTACKS, attack_images
from lipbench.results import best, run_folders, write_text

PEERS = {
    "foolbox C&W 9 x 500": lambda: foolbox.attacks.L2CarliniWagnerAttack(binary_search_steps=9, steps=500),
    "foolbox DDN 200": lambda: foolbox.attacks.DDNAttack(steps=200),
}


def peer(make: Callable[[], foolbox.Attack]) -> Callable[[nn.Module, Tensor, Tensor], Tensor]:
    """A foolbox attack as a function of lipbench's type, with the same search along the ray."""

    def attack(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        wrapped = foolbox.PyTorchModel(model.eval(), bounds=(0, 1), device=x.device)
        _, images, _ = make()(wrapped, x, y, epsilons=None)
        return lipbench.attacks.to_boundary(model, x, images, y)

    return attack


def compare(folder: Path, images: int) -> pd.DataFrame:
    """Mean and median distance, successes and seconds of every attack on one network; "combined" is ours per image."""
    model = lipbench.load(folder)
    config = OmegaConf.load(folder / "config.yaml")
    test = instantiate({**config.dataset, "_partial_": True})().test  # type: ignore[union-attr]
    x, y = test.images[:images], test.labels[:images]
    ours, rows = [], []
    everything = {**ATTACKS, **{name: peer(make) for name, make in PEERS.items()}}
    for name, attack in everything.items():
        judged = attack_images(model, x, y, attack, name)
        distances = judged.table.loc[judged.table["norm"] == "l2", "distance"]
        rows.append(_row(name, distances, judged.seconds))
        if name in ATTACKS:
            ours.append(judged)
    combined = best(pd.concat([j.table for j in ours]), "upper")
    rows.append(_row("combined (ours)", combined, sum(j.seconds for j in ours)))
    table = pd.DataFrame(rows)
    strongest = table.loc[table["attack"].isin(PEERS), "mean distance"].min()
    table["mean / best peer"] = table["mean distance"] / strongest
    table.insert(0, "network", "/".join(folder.parts[-4:]))
    return table


def _row(name: str, distances: pd.Series, seconds: float) -> dict[str, object]:
    found = distances[distances < float("inf")]
    return {
        "attack": name,
        "found": f"{len(found)}/{len(distances)}",
        "mean distance": found.mean(),
        "median distance": distances.median(),
        "seconds": round(seconds, 1),
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, default=[Path("results/runs/digits08")])
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args()
    folders = [run for folder in options.folders for run in run_folders(folder)]
    if not folders:
        raise SystemExit(f"No runs in {', '.join(map(str, options.folders))}. Make some: make benchmark")
    tables = []
    for folder in folders:
        tables.append(compare(folder, options.images))
        print(tables[-1].to_string(index=False), "\n", flush=True)
    note = (
        f"# Attacks against foolbox\n\n`python benchmarks/attacks.py {' '.join(map(str, options.folders))} "
        f"--images {options.images}`, first "
        f"{options.images} test images, {torch.get_num_threads()} threads, {platform.machine()}, "
        f"torch {torch.__version__}, foolbox {foolbox.__version__}, {time.strftime('%Y-%m-%d')}. "
        "Distances are L2 with pixels in [0, 1].\n\n"
    )
    body = pd.concat(tables).to_markdown(index=False, floatfmt=".4f")
    write_text(options.output, f"{note}{body}\n")


if __name__ == "__main__":
    main()
