"""Both sides at once: certificate and attack, each from what the other found, until they meet."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from lipbench.attacks import lipbench, tangent
from lipbench.attacks.engine.boundary import nearest, to_boundary
from lipbench.attacks.engine.searching import FINISHED
from lipbench.certificate import InscribedBalls, certify, inscribed_balls
from lipbench.certificate.inscribed_ball import joined, without_balls
from lipbench.data.dataset import tensors_of
from lipbench.evaluation.bounds import less_rounding
from lipbench.evaluation.evaluate import Images, _baked
from lipbench.evaluation.health import HealthWarning
from lipbench.evaluation.loop import health
from lipbench.geometry import per_image
from lipbench.images import as_pixels, check_batch, images_at_once, model_images, to_device
from lipbench.judge import Classifier, Judge, distance
from lipbench.margins import predict
from lipbench.modules import undisturbed
from lipbench.precision import float32_products

# Passes of the first search for a centre, of each later one, and of each search of the boundary from an exit point:
# chosen on validation images (docs/decisions.md).
FIRST, LATER, ATTACK = 40, 30, 30
# An image whose gap shrinks by less than this share in a round of both searches leaves, unless `lipbench` is to come.
STALLED = 0.03
# An adversarial image that is nearer by this share is where the next search for a centre begins.
NEARER = 1e-4
# Of an image whose certified radius is below this share of its attack distance after the first round no more centres
# are searched: what both searches gain is far less.
HOPELESS = 0.1
# Images that are searched at once, at most.
AT_ONCE = 500


@dataclass(frozen=True)
class Bracket:
    """The distance of each image to its nearest adversarial image, from both sides.

    Attributes:
        lower: certified radius, [N] float64 in L2.
        upper: distance of the adversarial image, [N] float64; inf where none was found, 0 for misclassified images.
        images: the adversarial images [N, C, H, W]; the image itself where there is none.
        proof: of the lower bounds, except where `certify` alone proves more; of radius 0 where the model has no finite
            Lipschitz bound. None where no round was needed, because all images are misclassified.
        labels: [N], those that were given, else the model's predictions.
    """

    lower: Tensor
    upper: Tensor
    images: Tensor
    proof: InscribedBalls | None
    labels: Tensor

    def solved(self, gap: float = 1e-3) -> Tensor:
        """Images that are classified as labelled and whose distance is known up to this share, bool [N].

        Raises:
            ValueError: a gap below 0 or above 1.
        """
        _check_gap(gap)
        return (self.upper > 0) & (self.upper <= (1 + gap) * self.lower)

    def table(self) -> pd.DataFrame:
        """One row per image: index, label, lower, upper, and gap = upper / lower - 1. The gap is 0 for a misclassified
        image and inf where a bound is missing.
        """
        lower, upper = self.lower.cpu(), self.upper.cpu()
        gap = torch.where(upper > 0, upper / lower - 1, 0.0)
        columns = {"label": self.labels.cpu(), "lower": lower, "upper": upper, "gap": gap}
        table = pd.DataFrame({name: column.numpy() for name, column in columns.items()})
        return table.rename_axis("index").reset_index()

    def __str__(self) -> str:
        right = self.upper > 0
        count = int(right.sum())
        first = f"{count} of {len(right)} images are classified as labelled."
        if not count:
            return first
        lower, upper = (float(np.median(side[right].cpu())) for side in (self.lower, self.upper))
        near, nearer = (100 * int(self.solved(gap).sum()) / count for gap in (1e-2, 1e-3))
        return (
            f"{first} Median certified radius {lower:.4g}, median attack distance {upper:.4g}. "
            f"The two differ by at most 1 % on {near:.1f} % of these images, by at most 0.1 % on {nearer:.1f} %."
        )


def _check_gap(gap: float) -> None:
    if not isinstance(gap, int | float) or not 0 <= gap <= 1:
        raise ValueError(f"gap={gap!r} is the share by which both bounds may differ, 0 to 1: gap=0.05 is 5 %.")


@float32_products()
@torch.inference_mode(False)
def bracket(
    model: nn.Module,
    images: Images,
    labels: Tensor | np.ndarray | None = None,
    gap: float = 1e-3,
    *,
    rounds: int = 4,
) -> Bracket:
    """The distance of each image to its nearest adversarial image from both sides, each from what the other found.

    The point in which the ray from x leaves its inscribed ball is where the attack begins. The search for the next
    centre begins behind the adversarial image. An image leaves when upper <= (1 + gap) lower, or
    when neither side moves any more. Where the certified radius is below a tenth of the distance after the first round,
    as on networks without a useful Lipschitz constant, `lipbench` attacks once, and that is all.

    Args:
        model: as in `lipbench.evaluate`; a copy is baked.
        images: as in `lipbench.evaluate`.
        labels: integers [N]; None: those of the data, else the model's predictions.
        gap: the share by which the two may differ, 0 to 1; 0.01 is 1 %.
        rounds: after the first, at most. The attack `lipbench` runs once, on what is open after half of them.

    Warns:
        HealthWarning: as `lipbench.evaluate`, what the model itself shows, such as random answers or no gradients.

    Raises:
        TypeError, ValueError: as `lipbench.certify`; a gap below 0 or above 1, rounds below 0.
    """
    _check_gap(gap)
    if type(rounds) is not int or rounds < 0:
        raise ValueError(f"rounds={rounds!r}: give the rounds of both searches after the first, 0 or more.")
    given, truth = tensors_of(images, labels)
    check_batch(given, truth)
    with _baked(model, given) as baked:
        x = model_images(baked, given)
        y = predict(baked, x) if truth is None else to_device(baked, truth.long())
        predict(baked, x[:1], labels=y[:1])
        classifier = Classifier(baked)
        for flag in health(classifier, given, y):
            if flag.severity == "warning":
                warnings.warn(str(flag), HealthWarning, stacklevel=4)  # over two decorators, to the caller
        with undisturbed(baked):
            size = min(AT_ONCE, images_at_once(x.shape[1:]))
            parts = [_Sides(classifier, *part, gap) for part in zip(x.split(size), y.split(size), strict=True)]
            for part in parts:
                part.search(rounds)
    lower, upper, images = (torch.cat([getattr(part, side) for part in parts]) for side in ("lower", "upper", "images"))
    wide = to_device(baked, as_pixels(given))
    upper = torch.where(upper > 0, distance(wide, images), 0.0).where(upper.isfinite(), torch.inf)
    return Bracket(less_rounding(lower, given, x), upper, images, _proof(parts), y)


def _proof(parts: Sequence["_Sides"]) -> InscribedBalls | None:
    """Of all images; None where no part of them has one."""
    classes = next((part.proof.at_x.shape[1] for part in parts if part.proof is not None), 0)
    if not classes:
        return None
    nothing = [torch.zeros(len(part.x), classes, dtype=torch.float64, device=part.x.device) for part in parts]
    pairs = zip(parts, nothing, strict=True)
    return joined([part.proof or without_balls(part.x, part.y, zero) for part, zero in pairs])


class _Sides:
    """What is known of every image of one part."""

    def __init__(self, model: Classifier, x: Tensor, y: Tensor, gap: float):
        self.model, self.x, self.y, self.gap = model, x, y, gap
        self.images = x.clone()
        self.lower = certify(model.model, x, y)
        self.upper = torch.full_like(self.lower, torch.inf).masked_fill(Judge(model)(x, y), 0.0)
        self.proof: InscribedBalls | None = None
        # Images whose adversarial image is news to the search for a centre; images that no search moves any more;
        # images whose gap no search closes.
        self.is_news = torch.zeros_like(y, dtype=torch.bool)
        self.is_stalled = torch.zeros_like(self.is_news)
        self.is_hopeless = torch.zeros_like(self.is_news)

    def search(self, rounds: int) -> None:
        """Rounds of both searches, until no image is open any more; `rounds` after the first at most."""
        for number in range(rounds + 1):
            if not self.step(number, rounds // 2):
                break
        self.attack_hopeless()

    def step(self, number: int, last: int) -> bool:
        """One round of the images that are open; whether there were any. `lipbench` attacks in the round `last`."""
        open_ = (self.upper > (1 + self.gap) * self.lower) & ~self.is_hopeless
        rows = (open_ & ~self.is_stalled if number > last else open_).nonzero()[:, 0]
        if not len(rows):
            return False
        before = self.upper[rows] / self.lower[rows]
        exits = self._inscribe(rows, LATER if number else FIRST)
        self._attack(rows, exits, number == last)
        self.is_hopeless |= self.upper.isfinite() & (self.lower < HOPELESS * self.upper)
        after = self.upper[rows] / self.lower[rows]
        self.is_stalled[rows] = after - 1 > (1 - STALLED) * (before - 1)
        return True

    def attack_hopeless(self) -> None:
        """`lipbench`, once, on the images whose gap no search closes."""
        rows = self.is_hopeless.nonzero()[:, 0]
        if len(rows):
            self._attack(rows, self.images[rows], thoroughly=True)

    def _inscribe(self, rows: Tensor, steps: int) -> Tensor:
        """Searches centres, behind the adversarial image where it is new, else from the best one: exit points."""
        x, y = self.x[rows], self.y[rows]
        start = torch.where(per_image(self.is_news[rows], x), self.images[rows], x)
        known = None if self.proof is None else self.proof.of(rows)
        balls = inscribed_balls(self.model.model, x, y, steps=steps, start=start, known=known)
        if self.proof is None:
            whole = torch.zeros(len(self.x), balls.at_x.shape[1], dtype=torch.float64, device=x.device)
            whole[rows] = balls.at_x
            self.proof = replace(balls, x=self.x.double(), at_x=whole, image=rows[balls.image])
        else:
            self.proof = self.proof.with_more(rows, balls)
        balls = self.proof.of(rows)
        self.lower[rows] = torch.maximum(self.lower[rows], balls.radius())
        self.is_news[rows] = False
        return balls.exits().to(x)

    def _attack(self, rows: Tensor, exits: Tensor, thoroughly: bool) -> None:
        """Searches adversarial images, from the exit points."""
        x, y, known = self.x[rows], self.y[rows], self.images[rows]
        first = nearest(x, to_boundary(self.model, x, exits, y), known)
        found = tangent(self.model, x, y, start=first, steps=ATTACK)
        if thoroughly:
            # Attacks take an image for finished that is within `FINISHED` of its bound. Here that is `gap`.
            found = lipbench(self.model, x, y, start=found, lower=(1 + self.gap) / (1 + FINISHED) * self.lower[rows])
        found = nearest(x, found, known)
        length = distance(x, found)
        self.images[rows] = found
        self.is_news[rows] = (length > 0) & (length < (1 - NEARER) * self.upper[rows])
        self.upper[rows] = torch.where(length > 0, length, self.upper[rows])
