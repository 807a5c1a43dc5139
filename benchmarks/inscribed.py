"""How close is the inscribed certificate to the attack, what does it cost, and does it survive? Of trained networks.

    python benchmarks/inscribed.py results/runs/mnist08/hkr_mlp/default/0 RUN... --images 500 --pairs 100000

Per network and method: distance / certificate (the distance is that of the attack `lipbench`), the share of images with
a ratio below 1.001 and 1.01, certified accuracies, passes and milliseconds an image. Then the bracket. Then `--pairs`
searches within the inscribed radius: projected gradient descent from a random image of the ball around x, or near the
point in which the ray leaves the inscribed ball. Prints Markdown.
"""

import argparse
import time
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn

from lipbench.attacks import lipbench
from lipbench.certificate import certify, certify_float, certify_inscribed, certify_inscribed_float, inscribed_balls
from lipbench.data import Split
from lipbench.evaluation.bounds import Judged, attack_images, certify_images
from lipbench.geometry import onto_ball, per_image, unit
from lipbench.images import model_images
from lipbench.judge import Judge, distance
from lipbench.margins import margin_and_gradient, predict
from lipbench.results import best, survival, violations

CERTIFICATES = {
    "certificate": certify,
    "certificate_float": certify_float,
    "certificate_inscribed (5)": partial(certify_inscribed, steps=5),
    "certificate_inscribed (20)": partial(certify_inscribed, steps=20),
    "certificate_inscribed (40)": certify_inscribed,
    "certificate_inscribed (80)": partial(certify_inscribed, steps=80),
    "certificate_inscribed_float (40)": certify_inscribed_float,
}
# Steps of a search within the radius.
STEPS = 10


def methods(name: str, model: nn.Module, x: Tensor, y: Tensor, epsilons: list[float]) -> list[dict]:
    """A row per certificate, and one of the attack."""
    attack = attack_images(model, x, y, lipbench, "lipbench")
    upper = best(attack.table, "upper")
    rows = []
    for key, certificate in CERTIFICATES.items():
        judged = certify_images(model, x, y, certificate, key)
        lower = best(judged.table, "lower")
        ratio = (upper / lower)[lower > 0]
        row = {"network": name, "method": key, "median": f"{ratio.median():.4f}", "mean": f"{ratio.mean():.4f}"}
        row |= {f"within {gap:.1%}": f"{100 * (ratio < 1 + gap).mean():.1f} %" for gap in (1e-3, 1e-2)}
        broken = violations(pd.concat([judged.table, attack.table]))["index"].nunique()
        rows.append({**row, "violations": broken, **_costs(judged, lower, epsilons)})
    return [*rows, {"network": name, "method": "lipbench (attack)", **_costs(attack, upper, epsilons)}]


def _costs(judged: Judged, distances: pd.Series, epsilons: list[float]) -> dict[str, str]:
    shares = survival(distances, epsilons)
    accuracies = {f"at {eps:g}": f"{100 * share:.1f}" for eps, share in zip(epsilons, shares, strict=True)}
    return {
        **accuracies,
        "passes": f"{judged.passes:.1f}",
        "ms an image": f"{1e3 * judged.seconds / len(distances):.2f}",
    }


def solved(name: str, model: nn.Module, x: Tensor, y: Tensor) -> dict[str, str]:
    """The row of the bracket."""
    started = time.perf_counter()
    found = lipbench.bracket(model, x, y)
    seconds = time.perf_counter() - started
    shares = {f"solved to {gap:.1%}": f"{100 * found.solved(gap).double().mean():.1f} %" for gap in (1e-3, 1e-2)}
    return {"network": name, **shares, "ms an image": f"{1e3 * seconds / len(x):.1f}"}


def inside(name: str, model: nn.Module, x: Tensor, y: Tensor, pairs: int) -> dict[str, str]:
    """Searches within the inscribed radius: the smallest margin found, and the images that are adversarial."""
    balls = inscribed_balls(model, x, y)
    radii, exits, judge = balls.radius(), balls.exits().to(x), Judge(model)
    kept = (radii > 0).nonzero()[:, 0]
    searches, broken, smallest = 0, 0, torch.inf
    while searches < pairs:
        origin, labels, radius = x[kept], y[kept], radii[kept]
        near = torch.rand(len(kept)) < 0.5
        noise = torch.randn_like(origin)
        spread = 10 ** -(4 * torch.rand(len(kept)))
        around = exits[kept] + per_image(spread * radius.to(origin), origin) * unit(noise)[0]
        start = torch.where(per_image(near, origin), around, torch.rand_like(origin))
        images = onto_ball(origin, start.clamp(0, 1), radius)
        for step in range(STEPS):
            value, gradient = margin_and_gradient(model, images, labels)
            smallest = min(smallest, float(value.min()))
            pace = 0.5 * radius.to(origin) * 0.5**step
            images = (images - per_image(pace, origin) * unit(gradient)[0]).clamp(0, 1)
            images = onto_ball(origin, images, radius)
        within = distance(origin, images) < radius
        broken += int((judge(images, labels) & within).sum())
        searches += len(kept)
    return {"network": name, "searches": str(searches), "smallest margin": f"{smallest:.2e}", "violations": str(broken)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="of runs")
    parser.add_argument("--images", type=int, default=500, help="the first ones of the test set")
    parser.add_argument("--pairs", type=int, default=100_000, help="searches within the inscribed radius")
    parser.add_argument("--epsilons", type=float, nargs="+", default=[1.0, 2.0, 2.5, 3.0])
    options = parser.parse_args()
    torch.manual_seed(0)
    tables: list[list[dict]] = [[], [], []]
    for folder in options.folders:
        model, name = lipbench.load(folder), "/".join(folder.resolve().parts[-4:-2])
        recipe = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml").dataset)
        test: Split = instantiate({**recipe, "root": None}).test
        x, y = test.images[: options.images], test.labels[: options.images]
        tables[0] += methods(name, model, x, y, options.epsilons)
        tables[1].append(solved(name, model, x, y))
        x = model_images(model, x)
        tables[2].append(inside(name, model, x, predict(model, x), options.pairs))
    for rows in tables:
        print(pd.DataFrame(rows).fillna("").to_markdown(index=False), end="\n\n")


if __name__ == "__main__":
    main()
