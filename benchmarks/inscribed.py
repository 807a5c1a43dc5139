"""How close is the inscribed certificate to the attack, what does it cost, and does it survive? Of trained networks.

    python benchmarks/inscribed.py results/runs/mnist08/hkr_mlp/default/0 RUN... --images 200 --pairs 100000

Per network and method: distance / certificate (the distance is that of the attack `lipbench`), the share of images with
a ratio below 1.001 and 1.01, certified accuracies, passes and milliseconds an image. Then the bracket. Then `--pairs`
searches for an adversarial image within the radii that the bracket proves. Prints Markdown.
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

import lipbench
from lipbench import attacks
from lipbench.certificate import certify, certify_float, certify_inscribed, certify_inscribed_float
from lipbench.certificate.exact.solve import certify_exact
from lipbench.evaluation.bounds import Judged, attack_images, certify_images
from lipbench.geometry import onto_ball, per_image, unit
from lipbench.images import model_images
from lipbench.judge import Judge, distance
from lipbench.margins import margin_and_gradient
from lipbench.results import best, survival, violations

CERTIFICATES = {
    "certificate": certify,
    "certificate_float": certify_float,
    "certificate_inscribed (5 steps)": partial(certify_inscribed, steps=5),
    "certificate_inscribed (20)": partial(certify_inscribed, steps=20),
    "certificate_inscribed (38, default)": certify_inscribed,
    "certificate_inscribed (80)": partial(certify_inscribed, steps=80),
    "certificate_inscribed_float (20, default)": certify_inscribed_float,
}
# Gradient steps of a search within the radius, and the largest margin of float32 that float64 is asked about.
STEPS, CLOSE = 3, 1e-4
# Float32 images of the ball of this share of the radius are in the ball.
INWARD = 1 - 1e-6


def methods(name: str, model: nn.Module, x: Tensor, y: Tensor, options: argparse.Namespace) -> list[dict]:
    """A row per certificate, and one of the attack."""
    attack = attack_images(model, x, y, attacks.lipbench, "lipbench")
    upper = best(attack.table, "upper")
    certificates = CERTIFICATES | ({"certificate_exact": certify_exact} if name in options.exact else {})
    rows = []
    for key, certificate in certificates.items():
        judged = certify_images(model, x, y, certificate, key)
        lower = best(judged.table, "lower")
        ratio = (upper / lower)[lower > 0]
        row = {"network": name, "method": key, "median": f"{ratio.median():.4f}", "mean": f"{ratio.mean():.4f}"}
        row |= {"smallest": f"{ratio.min():.6f}"}
        row |= {f"within {gap:.1%}": f"{100 * (ratio < 1 + gap).mean():.1f} %" for gap in (1e-3, 1e-2)}
        broken = violations(pd.concat([judged.table, attack.table]))["index"].nunique()
        rows.append({**row, "violations": broken, **_costs(judged, lower, options.epsilons)})
    return [*rows, {"network": name, "method": "lipbench (attack)", **_costs(attack, upper, options.epsilons)}]


def _costs(judged: Judged, distances: pd.Series, epsilons: list[float]) -> dict[str, str]:
    shares = survival(distances, epsilons)
    accuracies = {f"at {eps:g}": f"{100 * share:.1f}" for eps, share in zip(epsilons, shares, strict=True)}
    return {
        **accuracies,
        "passes": f"{judged.passes:.1f}",
        "ms an image": f"{1e3 * judged.seconds / len(distances):.2f}",
    }


def bracketed(name: str, model: nn.Module, x: Tensor, y: Tensor) -> tuple[lipbench.Bracket, dict[str, str]]:
    """The bracket and its row."""
    started = time.perf_counter()
    found = lipbench.bracket(model, x, y)
    seconds = time.perf_counter() - started
    ratio = (found.upper / found.lower)[found.lower > 0]
    row = {"network": name, "median": f"{ratio.median():.5f}", "mean": f"{ratio.mean():.5f}"}
    solved = {gap: found.solved(gap)[found.upper > 0].double().mean() for gap in (1e-3, 1e-2)}
    row |= {f"solved to {gap:.1%}": f"{100 * share:.1f} %" for gap, share in solved.items()}
    return found, {**row, "ms an image": f"{1e3 * seconds / len(x):.1f}"}


def inside(name: str, model: nn.Module, x: Tensor, y: Tensor, known: lipbench.Bracket, pairs: int) -> dict[str, str]:
    """Searches within the proved radii: the smallest margin found, and the images that are adversarial.

    A search begins near the point of the ball towards the adversarial image, near the exit of the inscribed ball, or
    anywhere in the ball, a third each. Its gradient steps stay within the radius, and every image on the way counts.
    """
    assert known.proof is not None
    kept = (known.lower > 0).nonzero()[:, 0]
    origin, labels, radius, judge = x[kept], y[kept], known.lower[kept] * INWARD, Judge(model)
    towards = [known.images[kept], known.proof.exits().to(x)[kept]]
    searches, images_seen, broken, smallest = 0, 0, 0, torch.inf
    while searches < pairs:
        images = _start(origin, radius, towards[searches // len(kept) % 3 :][:1])
        for step in range(STEPS + 1):
            value, gradient = margin_and_gradient(model, images, labels)
            smallest = min(smallest, float(value.min()))
            close = (value <= CLOSE).nonzero()[:, 0]
            if len(close):
                adversarial = judge(images[close], labels[close])
                within = distance(origin[close], images[close]) < known.lower[kept[close]]
                broken += int((adversarial & within).sum())
            pace = 10 ** -(4 * torch.rand(len(kept))) * radius.to(origin) * 0.5**step
            images = (images - per_image(pace, origin) * unit(gradient)[0]).clamp(0, 1)
            images = onto_ball(origin, images, radius)
            images_seen += len(kept)
        searches += len(kept)
    counts = {"searches": f"{searches:,}", "images": f"{images_seen:,}"}
    return {"network": name, **counts, "smallest margin": f"{smallest:.2e}", "adversarial": str(broken)}


def _start(origin: Tensor, radius: Tensor, towards: list[Tensor]) -> Tensor:
    """Images of the ball: its point towards the given images, moved at random, or any; by far for some."""
    direction = towards[0] - origin if towards else torch.rand_like(origin) - origin
    surface = origin + per_image(radius.to(origin), origin) * unit(direction)[0]
    spread = 10 ** -(5 * torch.rand(len(origin))) * radius.to(origin)
    moved = surface + per_image(spread, origin) * unit(torch.randn_like(origin))[0]
    return onto_ball(origin, moved.clamp(0, 1), radius)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="of runs")
    parser.add_argument("--images", type=int, default=500, help="the first ones of the test set")
    parser.add_argument("--pairs", type=int, default=100_000, help="searches within the radii")
    parser.add_argument("--epsilons", type=float, nargs="+", default=[0.5, 1.0, 2.0, 2.5, 3.0])
    parser.add_argument("--exact", nargs="*", default=[], help="networks that are small enough for certificate_exact")
    options = parser.parse_args()
    torch.manual_seed(0)
    tables: list[list[dict]] = [[], [], []]
    for folder in options.folders:
        model, name = lipbench.load(folder), "/".join(folder.resolve().parts[-4:-1])
        test = instantiate(OmegaConf.load(folder / "config.yaml").dataset).test
        x, y = test.images[: options.images], test.labels[: options.images]
        tables[0] += methods(name, model, x, y, options)
        known, row = bracketed(name, model, x, y)
        tables[1].append(row)
        tables[2].append(inside(name, model, model_images(model, x), y, known, options.pairs))
    for rows in tables:
        print(pd.DataFrame(rows).astype(object).fillna("").to_markdown(index=False, disable_numparse=True), end="\n\n")


if __name__ == "__main__":
    main()
