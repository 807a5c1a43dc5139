"""Both sides of the distance, each from the other's result."""

import math
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lipbench
from lipbench import layers
from lipbench.attacks.engine.searching import FINISHED
from lipbench.certificate import InscribedBalls, certify
from lipbench.evaluation import bracket
from lipbench.judge import Judge, distance


def isometry(pixels: int, classes: int) -> nn.Sequential:
    parts = [nn.Linear(pixels, pixels), layers.MaxMin(), nn.Linear(pixels, classes)]
    for dense in parts[::2]:
        nn.init.orthogonal_(dense.weight)
    return nn.Sequential(nn.Flatten(), *parts).eval()


@pytest.mark.parametrize(("classes", "solved"), [(2, 0.7), (5, 0.5)])
def test_it_meets_in_the_middle(classes: int, solved: float) -> None:
    model = isometry(36, classes)
    x = torch.rand(30, 1, 6, 6).mul(1.5).sub(0.25).clamp(0, 1)
    y = model(x).argmax(1)
    found = lipbench.bracket(model, x, y)
    assert (found.lower <= found.upper).all()
    assert (found.lower >= certify(model, x, y)).all()
    assert found.solved(1e-2).float().mean() >= solved
    assert (found.upper <= 1.01 * certify(model, x, y)).float().mean() < solved, "from |f(x)| alone"
    assert (found.solved(1e-2) | ~found.solved(1e-3)).all()
    known = found.upper.isfinite()
    assert known.float().mean() >= 0.9
    assert Judge(model)(found.images, y)[known].all()
    assert torch.equal(distance(x, found.images)[known], found.upper[known])
    assert ((found.images >= 0) & (found.images <= 1)).all()
    assert found.proof is not None
    assert torch.allclose(found.proof.radius(), found.lower, rtol=1e-6)
    assert torch.equal(found.labels, y)


def test_mistakes_have_the_distance_zero_and_networks_without_a_bound_the_lower_one() -> None:
    model, x = isometry(16, 3), torch.rand(10, 1, 4, 4)
    y = model(x).argmin(1)
    found = lipbench.bracket(model, x, y, rounds=1)
    assert (found.upper == 0).all()
    assert (found.lower == 0).all()
    assert not found.solved().any()
    assert str(found) == "0 of 10 images are classified as labelled."
    assert (found.table()["gap"] == 0).all()
    assert found.proof is None
    unbounded = nn.Sequential(model, nn.LayerNorm(3)).eval()
    y = model(x).argmax(1)
    found = lipbench.bracket(unbounded, x, rounds=1)
    assert (found.lower == 0).all()
    assert found.proof is not None
    assert (found.proof.radius() == 0).all()
    assert found.upper.isfinite().any()
    assert not found.solved().any()


def test_what_a_model_shows_is_said() -> None:
    class Blind(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x.detach())

    with pytest.warns(lipbench.HealthWarning, match="no_gradients"):
        lipbench.bracket(Blind(isometry(16, 3)), torch.rand(5, 1, 4, 4), rounds=0)


@dataclass
class Seen:
    """What the searches of a bracket were given, round by round."""

    centres: list[dict[str, Any]] = field(default_factory=list)
    starts: list[tuple[Tensor, Tensor]] = field(default_factory=list)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    found, search, attack = Seen(), bracket.inscribed_balls, bracket.tangent

    def balls(model: nn.Module, x: Tensor, y: Tensor, **options: Any) -> InscribedBalls:
        result = search(model, x, y, **options)
        found.centres.append({"x": x, **options, "balls": result})
        return result

    def tangent(model: nn.Module, x: Tensor, y: Tensor, *, start: Tensor, **options: Any) -> Tensor:
        found.starts.append((x, start))
        return attack(model, x, y, start=start, **options)

    monkeypatch.setattr(bracket, "inscribed_balls", balls)
    monkeypatch.setattr(bracket, "tangent", tangent)
    return found


def test_images_within_the_gap_leave(seen: Seen) -> None:
    model = isometry(36, 5)
    x = torch.rand(30, 1, 6, 6).mul(1.5).sub(0.25).clamp(0, 1)
    wide = lipbench.bracket(model, x, gap=0.1)
    searched = [given["x"] for given in seen.centres]
    seen.centres.clear()
    lipbench.bracket(model, x, gap=0.0)
    assert sum(map(len, searched)) < 0.7 * sum(len(given["x"]) for given in seen.centres)
    assert len(searched[0]) == len(x), "nothing is known of any image at first"
    left = [image for image in x if not any((image == other).all() for other in searched[-1])]
    assert len(left) > 5
    rows = [int((x == image).flatten(1).all(1).nonzero()[0, 0]) for image in left]
    assert wide.solved(0.1)[rows].float().mean() > 0.5
    # One round: those that it brings within the gap are not searched again.
    seen.centres.clear()
    first = lipbench.bracket(model, x, gap=0.1, rounds=0)
    done = first.solved(0.1)
    assert done.any()
    seen.centres.clear()
    lipbench.bracket(model, x, gap=0.1, rounds=1)
    again = seen.centres[1]["x"]
    assert not any((image == other).all() for image in x[done] for other in again)


def test_the_attack_begins_where_the_ray_leaves_the_ball(seen: Seen) -> None:
    model, x = isometry(36, 2), torch.rand(30, 1, 6, 6)
    y = model(x).argmax(1)
    lipbench.bracket(model, x, rounds=1)
    origin, start = seen.starts[0]
    ray = (seen.centres[0]["balls"].exits() - origin).flatten(1)
    along = (start - origin).flatten(1).double()
    begun = along.norm(dim=1) > 0
    assert begun.float().mean() > 0.3
    assert (torch.cosine_similarity(along, ray)[begun] > 0.999).all()
    assert Judge(model)(start, y)[begun].all()


def test_the_next_centre_is_searched_behind_the_adversarial_image(seen: Seen) -> None:
    model, x = isometry(36, 2), torch.rand(30, 1, 6, 6)
    y = model(x).argmax(1)
    lipbench.bracket(model, x, gap=0.0, rounds=2)
    first, second = seen.centres[:2]
    assert torch.equal(first["start"], first["x"])
    assert first["known"] is None
    news = (second["start"] != second["x"]).flatten(1).any(1)
    assert news.float().mean() > 0.9
    assert torch.equal(second["x"], x)
    assert Judge(model)(second["start"], y)[news].all()
    assert second["known"] is not None


def test_what_it_says_in_words_and_in_a_table() -> None:
    lower = torch.tensor([1.0, 2.0, 0.0, 4.0, 0.0], dtype=torch.float64)
    upper = torch.tensor([1.0005, 2.01, 0.0, torch.inf, 8.0], dtype=torch.float64)
    found = lipbench.Bracket(lower, upper, torch.zeros(5, 1, 2, 2), None, torch.tensor([3, 1, 0, 2, 2]))
    assert str(found) == (
        "4 of 5 images are classified as labelled. Median certified radius 1.5, median attack distance 5.005. "
        "The two differ by at most 1 % on 50.0 % of these images, by at most 0.1 % on 25.0 %."
    )
    table = found.table()
    assert list(table) == ["index", "label", "lower", "upper", "gap"]
    assert table["label"].tolist() == [3, 1, 0, 2, 2]
    assert table["gap"].tolist() == pytest.approx([0.0005, 0.005, 0.0, math.inf, math.inf])


def test_no_more_centres_are_searched_where_the_gap_cannot_close(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    attacked: list[int] = []

    def thorough(model: nn.Module, x: Tensor, y: Tensor, *, start: Tensor, **options: Any) -> Tensor:
        attacked.append(len(x))
        return start

    monkeypatch.setattr(bracket, "lipbench", thorough)
    x = torch.rand(10, 1, 4, 4)
    tight = isometry(16, 3)
    loose = nn.Sequential(tight, nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)).eval()
    with torch.no_grad():  # the same network, with a constant that is 100 times too large
        loose[1].weight.copy_(torch.diag(torch.tensor([100.0, 1.0, 1.0])))
        loose[2].weight.copy_(torch.diag(torch.tensor([0.01, 1.0, 1.0])))
    found = lipbench.bracket(loose, x)
    assert (found.lower > 0).all()
    known = found.upper.isfinite()
    assert known.sum() >= 8
    assert (found.lower < found.upper / 10).all()
    assert sum(len(given["x"]) for given in seen.centres) == 10 + 4 * int((~known).sum())
    assert sum(attacked) == 10, "each once"


@pytest.mark.parametrize("gap", [0.0, 1e-4, 0.05])
def test_the_attack_ends_at_the_gap(gap: float, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[Tensor, Tensor]] = []

    def thorough(model: nn.Module, x: Tensor, y: Tensor, *, start: Tensor, lower: Tensor, **options: Any) -> Tensor:
        told.append((x, lower))
        return start

    monkeypatch.setattr(bracket, "lipbench", thorough)
    model, x = isometry(36, 5), torch.rand(20, 1, 6, 6)
    found = lipbench.bracket(model, x, gap=gap, rounds=1)
    ((attacked, lower),) = told
    rows = [int((x == image).flatten(1).all(1).nonzero()[0, 0]) for image in attacked]
    # After the attack in the first round the certificate may grow, so `lower` is at most the last bound.
    enough = (1 + FINISHED) * lower
    assert (enough <= (1 + gap) * found.lower[rows] * (1 + 1e-9)).all()
    assert (enough >= (1 + gap) * certify(model, x, model(x).argmax(1))[rows] * (1 - 1e-9)).all()


def test_it_searches_in_parts(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = isometry(36, 3), torch.rand(10, 1, 6, 6)
    y = model(x).argmax(1)
    y[4:6] = (y[4:6] + 1) % 3  # a part without any image that is labelled right
    whole = lipbench.bracket(model, x, y, rounds=1)
    monkeypatch.setattr(bracket, "AT_ONCE", 2)
    seen.centres.clear()
    parts = lipbench.bracket(model, x, y, rounds=1)
    assert max(len(given["x"]) for given in seen.centres) == 2
    assert torch.equal(parts.upper > 0, whole.upper > 0)
    assert torch.allclose(parts.lower, whole.lower, rtol=2e-3)
    assert torch.allclose(parts.upper, whole.upper, rtol=2e-3)
    assert parts.proof is not None
    assert torch.allclose(parts.proof.radius(), parts.lower, rtol=1e-6)
    pairs = parts.proof.image * 3 + parts.proof.rival
    assert len(pairs.unique()) == len(pairs), "one ball of each pair"


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"gap": -0.1}, "gap=-0.1"),
        ({"gap": float("nan")}, "gap=nan"),
        ({"gap": 5}, "gap=0.05 is 5 %"),
        ({"rounds": -1}, "rounds=-1"),
        ({"rounds": 1.5}, "rounds=1.5"),
        ({"gap": "1%"}, "gap='1%'"),
    ],
)
def test_options_that_make_no_sense(wrong: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        lipbench.bracket(isometry(4, 2), torch.rand(2, 1, 2, 2), **wrong)
