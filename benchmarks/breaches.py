"""Is there an adversarial image inside an inscribed radius? A million (image, attack) pairs on small networks.

    python benchmarks/breaches.py --pairs 1000000
    python benchmarks/breaches.py --pairs 20000 --fault constant     (or slack, ray: all must be found)

Networks of many kinds of layers, with two and with ten classes, in float32 and float64, are trained on digits (8x8).
Shifted: a large number is added to the image first and taken away, so that rounding counts. A pair is an image with a
certified radius and an attack, which has its own start or its own search. Breaches: adversarial images (misclassified
by the network and by its float64 weights) nearer than `certificate_inscribed`, images that float32 misclassifies nearer
than `certificate_inscribed_float`. The balls are also searched for from behind the adversarial images, which makes them
larger. Prints Markdown; exits with 1 where a breach was found, with a fault where none was.
"""

import argparse
import contextlib
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from unittest import mock

import pandas as pd
import torch
from torch import Tensor, nn

import lipbench
from lipbench import attacks, layers, losses
from lipbench.certificate import certify_inscribed, certify_inscribed_float, inscribed, inscribed_ball, inscribed_balls
from lipbench.certificate.float64 import Passes
from lipbench.geometry import onto_ball, per_image, unit
from lipbench.judge import Classifier, Judge, distance
from lipbench.margins import margin_and_gradient
from lipbench.models import convnet, mlp
from lipbench.training import auto, fit

Attack = Callable[[Classifier, Tensor, Tensor], Tensor]

SHAPE, IMAGES = (1, 8, 8), 100
# Searches within the radius from the image of each attack, and tangents from other images; gradient steps within.
SEARCHES, OTHERS, STEPS = 20, 2, 3
# Float32 images of the ball of this share of the radius are in the ball.
INWARD = 1 - 2e-7


class Shift(nn.Sequential):
    """Adds a large number and takes it away: what rounding leaves of an image."""

    def __init__(self, size: float):
        there, back = nn.Linear(64, 64), nn.Linear(64, 64)
        for layer, bias in ((there, size), (back, -size)):
            nn.init.eye_(layer.weight)
            nn.init.constant_(layer.bias, bias)
        super().__init__(nn.Flatten(), there, back, nn.Unflatten(1, SHAPE))
        self.requires_grad_(False)


def networks(classes: int) -> dict[str, Callable[[], nn.Sequential]]:
    """Untrained, by name."""
    orthogonal, dense, conv = layers.Orthogonal, partial(mlp, SHAPE, classes), partial(convnet, SHAPE, classes)
    cells = partial(conv, constraint=orthogonal, widths=(16,), activation=layers.MaxMin)
    return {
        "dense, FullSort": partial(dense, widths=(32, 16), constraint=orthogonal, activation=layers.FullSort),
        "dense, MaxMin": partial(dense, widths=(64, 32, 16), constraint=orthogonal, activation=layers.MaxMin),
        "dense, Abs, input scaled": partial(
            dense, widths=(32,), constraint=orthogonal, activation=layers.Abs, mean=(0.3,), std=(0.4,)
        ),
        "dense, ReLU, spectral": partial(dense, widths=(32, 16), constraint=layers.Spectral),
        "dense, ReLU, unconstrained": partial(dense, widths=(16,)),
        "one dense layer": partial(dense, widths=(), constraint=orthogonal),
        "space-to-depth, 2x2 convolutions": partial(
            cells, channels=(16, 32), kernel_size=2, stride=2, padding=0, pooling=nn.PixelUnshuffle, pool_first=True
        ),
        "circular 3x3, L2 pooling": partial(cells, channels=(8,), padding_mode="circular", pooling=layers.L2Pool2d),
        "zero-padded 3x3, max pooling": partial(cells, channels=(8,)),
        "zero-padded 3x3, average pooling": partial(cells, channels=(4, 8), pooling=nn.AvgPool2d),
    }


def trained(make: Callable[[], nn.Sequential], data: lipbench.data.Dataset) -> nn.Sequential:
    model = make()
    free = not any(hasattr(part, "parametrizations") for part in model.modules())
    fit(model, data, losses.cross_entropy if free else losses.hkr, auto, epochs=6, batch_size=64, progress=False)
    return layers.bake(model).eval().requires_grad_(False)


def pictures(data: lipbench.data.Dataset, count: int) -> Tensor:
    """Digits, mixtures of two, black and white ones, noise: a quarter each."""
    digits = torch.cat([data.train.images, data.test.images]).float() / 255
    one, other = (digits[torch.randint(len(digits), (count // 4,))] for _ in range(2))
    mixed = one + torch.rand(len(one), 1, 1, 1) * (other - one)
    return torch.cat([one, mixed, (one + 0.3 * torch.rand_like(one)).round(), torch.rand_like(one)])


def others(x: Tensor, y: Tensor) -> Tensor:
    """For each image another one at random, where one of some has another label; else the image itself."""
    result = x.clone()
    for _ in range(8):
        order = torch.randperm(len(x))
        result = torch.where(per_image((y[order] != y) & (result == x).flatten(1).all(1), x), x[order], result)
    return result


def minimum_attacks(exits: Tensor) -> dict[str, Attack]:
    """By name, each with its start."""

    def slide(model: Classifier, x: Tensor, y: Tensor, start: Tensor) -> Tensor:
        return attacks.tangent(model, x, y, start=attacks.to_boundary(model, x, start, y), steps=30)

    chosen: dict[str, Attack] = {
        "fgm": attacks.fgm,
        "deepfool": attacks.deepfool,
        "ddn": partial(attacks.ddn, steps=40),
        "alma": partial(attacks.alma, steps=60),
        "tangent": attacks.tangent,
        "tangent from the exit of the ball": partial(slide, start=exits),
    }
    for number in range(OTHERS):
        chosen[f"tangent from another image ({number})"] = lambda model, x, y: slide(model, x, y, others(x, y))
    return chosen


class Trial:
    """One network and its images, with what is certified and what was found.

    Attributes:
        pairs: name of an attack -> images with a radius that it attacked.
        nearest: name -> distance / radius of the nearest image found.
        breaches: images found inside.
    """

    def __init__(self, model: nn.Sequential, x: Tensor):
        self.model, self.x = Classifier(model), x
        self.y = model(x).argmax(1)
        self.judge = Judge(self.model)
        self.pairs: dict[str, int] = {}
        self.nearest: dict[str, float] = {}
        self.breaches = 0

    def run(self) -> None:
        x, y, model = self.x, self.y, self.model.model
        images = attacks.lipbench(self.model, x, y)
        balls = inscribed_balls(model, x, y)
        self.radius = torch.maximum(certify_inscribed(model, x, y, start=images), balls.radius())
        self.in_float32 = torch.zeros_like(self.radius)
        if x.dtype == torch.float32:
            self.in_float32 = certify_inscribed_float(model, x, y, start=images)
        self.held("lipbench", images)
        starts = {"lipbench": images, "noise": torch.rand_like(x)}
        for name, attack in minimum_attacks(balls.exits().to(x)).items():
            starts[name] = attack(self.model, x, y)
            self.held(name, starts[name])
            images = attacks.nearest(x, images, starts[name])
        for name in ("falsifier", "falsifier_float32"):
            starts[name] = getattr(attacks, name)(self.model, x, y, start=images)
            self.held(name, starts[name])
        for name, start in starts.items():
            for number in range(SEARCHES):
                self.within(f"within the radius, from {name.partition(' (')[0]} ({number})", start)

    def held(self, name: str, images: Tensor) -> None:
        """Holds images against the radii."""
        length, deployed = distance(self.x, images), self.judge.deployed(images, self.y)
        ratio = torch.cat(
            [
                (length / radius)[wrong & (radius > 0)]
                for wrong, radius in ((self.judge(images, self.y), self.radius), (deployed, self.in_float32))
            ]
        )
        name = name.partition(" (")[0]
        self.pairs[name] = self.pairs.get(name, 0) + int((self.radius > 0).sum())
        self.nearest[name] = min([self.nearest.get(name, torch.inf), *ratio.tolist()])
        self.breaches += int((ratio < 1).sum())

    def within(self, name: str, towards: Tensor) -> None:
        """A search for a negative margin within the radius. It begins near the point of the ball towards an image."""
        radius = (self.radius * INWARD).to(self.x)
        images = self.x + per_image(radius, self.x) * unit(towards - self.x)[0]
        spread = 10 ** (-5 * torch.rand_like(radius)) * radius
        images = images + per_image(spread, images) * unit(torch.randn_like(images))[0]
        best, lowest = images, torch.full_like(radius, torch.inf)
        for step in range(STEPS + 1):
            images = onto_ball(self.x, images.clamp(0, 1), radius)
            value, gradient = margin_and_gradient(self.model, images, self.y)
            best = torch.where(per_image(value < lowest, images), images, best)
            lowest = torch.minimum(value.to(lowest), lowest)
            images = images - per_image(0.5**step * (radius + spread) / 2, images) * unit(gradient)[0]
        self.held(name, best)


# --- planted faults ---------------------------------------------------------------------------------------------------


class NoSlack(Passes):
    """Float64 passes that claim to round nothing."""

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits, slack = super().__call__(x)
        return logits, torch.zeros_like(slack)


def length_of_the_ray(x: Tensor, centre: Tensor, depth: Tensor, t: Tensor) -> Tensor:
    """The length of the clipped ray for a t rounded up, where the closed form holds for every t."""
    ray = inscribed_ball.clipped_ray(x, centre - x, t * (1 + 1e-3)).norm(dim=1)
    return torch.where(ball_radius(x, centre, depth, t) > 0, ray, 0.0)


right, ball_radius = inscribed.gaps_of, inscribed_ball.ball_radius
FAULTS = {
    "none": contextlib.nullcontext,
    "constant": lambda: mock.patch.object(inscribed, "gaps_of", lambda *given: right(*given) / 1.01),
    "slack": lambda: mock.patch.object(inscribed, "Passes", NoSlack),
    "ray": lambda: mock.patch.object(inscribed_ball, "ball_radius", length_of_the_ray),
}


# --- all of them ------------------------------------------------------------------------------------------------------


def trials() -> Iterator[tuple[dict[str, object], Trial]]:
    """Without end. Networks, classes, precisions and shifts take turns: 80 of them are of all combinations."""
    data = {2: lipbench.data.digits(keep=(0, 8)), 10: lipbench.data.digits()}
    for seed in itertools.count():
        turn = (seed + seed // 40) % 8
        dtype, shifted, classes = (torch.float32, torch.float64)[turn % 2], turn // 2 % 2, (2, 10)[turn // 4]
        choice = networks(classes)
        name = list(choice)[seed % len(choice)]
        torch.manual_seed(seed)
        model = trained(choice[name], data[classes])
        if shifted:
            model = nn.Sequential(Shift(1e7 if dtype == torch.float64 else 100.0), *model).eval()
        row = {"network": name, "shifted": "yes" if shifted else "", "classes": classes, "precision": str(dtype)[6:]}
        yield row, Trial(model.to(dtype), pictures(data[classes], IMAGES).to(dtype))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--fault", choices=FAULTS, default="none")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows, by_attack, total, started = [], {}, 0, time.perf_counter()
    with contextlib.suppress(KeyboardInterrupt):  # then the tables are of what was done
        for row, trial in trials():
            with FAULTS[options.fault]():
                trial.run()
            pairs = sum(trial.pairs.values())
            total += pairs
            rows.append({**row, "pairs": pairs, "nearest": min(trial.nearest.values()), "breaches": trial.breaches})
            for name, count in trial.pairs.items():
                before = by_attack.setdefault(name, [0, torch.inf])
                by_attack[name] = [before[0] + count, min(before[1], trial.nearest[name])]
            print(rows[-1], f"{time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
            if total >= options.pairs:
                break
    if not rows:
        return 1  # stopped before the first network was done
    table, seconds = pd.DataFrame(rows), time.perf_counter() - started
    print(f"{total:,} pairs in {seconds:.0f} s, {table['breaches'].sum()} breaches\n")
    print(table.to_markdown(floatfmt=".9f"), end="\n\n")
    counted = [{"attack": name, "pairs": count, "nearest": least} for name, (count, least) in by_attack.items()]
    print(pd.DataFrame(counted).to_markdown(index=False, floatfmt=".9f"))
    return int((table["breaches"].sum() > 0) == (options.fault == "none"))


if __name__ == "__main__":
    sys.exit(main())
