"""Do the certificates survive the falsifiers, and what does `certificate_float` cost? Of trained networks, in folders.

    python benchmarks/falsifier.py results/runs/mnist08/hkr_cnn/default/0 results/runs/mnist/hkr_cnn/default/0
    python benchmarks/falsifier.py RUN... --images 100 --certified 10000

Per network and pair (a certificate, the falsifier that it is held against): images falsified, the smallest relative
excess of a found distance over the certificate (negative: a violation), its median, and the violations. Then the
certified accuracies in percent, exact / float32. Prints Markdown.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

import lipbench
from lipbench.attacks import falsifier, falsifier_float32
from lipbench.certificate import certify, certify_float
from lipbench.data import Split
from lipbench.evaluation.bounds import attack_images, certify_images
from lipbench.results import EPSILONS, best, survival, violations

CERTIFICATES: dict[str, Callable] = {"certificate": certify, "certificate_float": certify_float}
ATTACKS: dict[str, Callable] = {"falsifier": falsifier, "falsifier_float32": falsifier_float32}
# The last: below it rounding may be wrong, and nothing is claimed.
PAIRS = [
    ("certificate", "falsifier"),
    ("certificate_float", "falsifier"),
    ("certificate_float", "falsifier_float32"),
    ("certificate", "falsifier_float32"),
]


def judge(folder: Path, images: int, certified: int) -> tuple[list[dict], list[dict]]:
    """The rows of the two tables of one network."""
    model, name = lipbench.load(folder), "/".join(folder.resolve().parts[-4:-2])
    test: Split = instantiate(
        {**OmegaConf.to_container(OmegaConf.load(folder / "config.yaml").dataset), "root": None}
    ).test
    x, y = test.images[:certified], test.labels[:certified]
    lower = {key: certify_images(model, x, y, function, key) for key, function in CERTIFICATES.items()}
    upper = {key: attack_images(model, x[:images], y[:images], attack, key) for key, attack in ATTACKS.items()}
    found = []
    for certificate, attack in PAIRS:
        table = pd.concat([lower[certificate].table, upper[attack].table])
        both = pd.concat(
            {"lower": best(table, "lower"), "upper": best(table, upper[attack].table["side"].iloc[0])},
            axis=1,
            join="inner",
        )
        both = both[(both["lower"] > 0) & (both["upper"] < float("inf"))]
        excess = both["upper"] / both["lower"] - 1
        row = {"network": name, "certificate": certificate, "against": attack, "images": len(both)}
        row |= {"smallest excess": f"{excess.min():.2e}", "median excess": f"{excess.median():.2e}"}
        claims = (certificate, attack) != PAIRS[-1]
        row["violations"] = violations(table)["index"].nunique() if claims else f"no claim; {(excess < 0).sum()} inside"
        found.append(row)
    radii = {key: best(judged.table, "lower") for key, judged in lower.items()}
    lost = (radii["certificate"] - radii["certificate_float"])[radii["certificate"] > 0]
    accuracy = {key: 100 * survival(values, EPSILONS) for key, values in radii.items()}
    pairs = zip(EPSILONS, accuracy["certificate"], accuracy["certificate_float"], strict=True)
    shares = {f"at {eps:g}": f"{exact:.2f} / {deployed:.2f}" for eps, exact, deployed in pairs}
    largest = float((accuracy["certificate"] - accuracy["certificate_float"]).max())
    times = " / ".join(f"{lower[key].seconds:.2f}" for key in CERTIFICATES)
    cost = {"network": name, "images": len(y), "mean loss": f"{lost.mean():.1e}", "seconds": times, **shares}
    return found, [{**cost, "largest": f"{largest:.2f}"}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "folders", nargs="+", type=Path, help="of runs: <results>/<dataset>/<experiment>/<variant>/<seed>"
    )
    parser.add_argument("--images", type=int, default=100, help="that are attacked, the first ones of the test set")
    parser.add_argument("--certified", type=int, default=10**9, help="that are certified; default: the whole test set")
    options = parser.parse_args()
    torch.manual_seed(0)
    parts = [judge(folder, options.images, options.certified) for folder in options.folders]
    for tables in zip(*parts, strict=True):
        print(pd.DataFrame([row for rows in tables for row in rows]).to_markdown(index=False), end="\n\n")


if __name__ == "__main__":
    main()
