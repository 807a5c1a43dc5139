"""Which images of the attack `lipbench` go on, and where its rounds begin."""

import importlib
from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lipbench.judge import Classifier
from lipbench.modules import undisturbed
from lipbench.randomness import uniform

module = importlib.import_module("lipbench.attacks.lipbench")


def best(distances: list[float], linear: list[float]) -> module._Best:
    """A state in which the best image of each lies to the right of x, at this distance."""
    x = torch.full((len(distances), 1, 2, 2), 0.2)
    images = x.clone()
    images[:, 0, 0, 0] += torch.tensor(distances)
    state = module._Best(x, images, None)
    state.linear = torch.tensor(linear)
    state.bend()
    return state


def test_a_boundary_that_is_not_where_its_linearisation_says_is_curved_and_stays_so() -> None:
    state = best([0.1] * 6, [0.1, 0.105, 0.096, 0.11, 0.3, torch.nan])
    assert state.curved.tolist() == [False] * 3 + [True] * 3
    assert state.straight().tolist() == [True] * 3 + [False] * 3
    state.linear = torch.full((6,), 0.1)
    state.bend()
    assert state.curved.tolist() == [False] * 3 + [True] * 3
    state.linear[0] = 0.3
    state.bend()
    assert state.curved[0]


def test_a_start_that_has_come_back_is_an_end_and_one_far_away_is_none() -> None:
    """Rows: straight, back at the best image, far away, nearer, and an image on the other side."""
    state = best([0.1] * 5, [0.1, 0.3, 0.3, 0.3, 0.3])
    rows, starts = torch.arange(5), state.images.clone()
    starts[0, 0, 0, 0] += 0.001
    starts[1, 0, 0, 0] += 0.001
    starts[2, 0, 0, 0] += 0.2
    starts[3, 0, 0, 0] -= 0.002
    starts[4] = state.x[4] + torch.tensor([[0.0, 0.12], [0.0, 0.0]])
    left, images = state.promising(rows, starts, True)
    assert left.tolist() == [0, 3, 4]
    assert torch.equal(images, starts[left])
    assert state.rounds.tolist() == [0, 1, 0, 0, 0]
    assert state.ends[1, :2].tolist() == [pytest.approx(0.1), torch.inf]
    state.promising(rows, starts, False)
    assert state.rounds.tolist() == [0, 1, 0, 0, 0]


def test_without_an_adversarial_image_every_start_is_promising() -> None:
    x = torch.rand(3, 1, 2, 2)
    state = module._Best(x, None, None)
    state.curved[:] = True
    assert len(state.promising(torch.arange(3), torch.rand(3, 1, 2, 2), True)[0]) == 3


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 8, 8), (2, 1, 2)])
def test_coarse_noise_moves_neighbours_together(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []

    def remember(model: nn.Module, x: Tensor, y: Tensor, *, steps: int, start: Tensor) -> Tensor:
        seen.append(start - x)
        return start

    monkeypatch.setattr(module, "oscillate", remember)
    torch.manual_seed(0)
    size = shape[0] * shape[1] * shape[2]
    net = nn.Sequential(nn.Flatten(), nn.Linear(size, 3)).eval()
    x = 0.4 + 0.2 * torch.rand(20, *shape)
    with undisturbed(net):
        starts = module._Starts(Classifier(net), x, net(x).argmax(1), module._Best(x, None, None))
        starts.best.distance[:] = 0.01
        rows, _ = starts.coarse(2, 3)
        starts.noise(4)
        starts.coarse(2, 5)
    assert rows.tolist() == list(range(20))
    coarse, fine, other = seen
    low, high = (0.01 * length for length in module.NOISE)
    lengths = coarse.flatten(1).norm(dim=1)
    assert ((lengths > 0.999 * low) & (lengths < 1.001 * high)).all()
    assert lengths.std() > 0.01
    assert not torch.equal(coarse, other)
    if shape[-1] > 2:
        rough = [(noise.diff(dim=-1).norm() / noise.norm()).item() for noise in (coarse, fine)]
        assert rough[0] < 0.5
        assert rough[1] > 1


def test_two_equal_rounds_on_a_straight_boundary_and_a_gain_starts_anew() -> None:
    state = best([0.1], [0.1])
    row, known = torch.arange(1), state.distance.clone()
    for votes, distance in ((True, known), (False, known), (True, 1.1 * known)):
        state.add(row, state.images, distance, votes)
    assert state.rounds.tolist() == [2], "a hop that comes back is no end"
    assert len(state.rows()), "one end, and one that is 10 % farther"
    state.add(row, state.images, 1.02 * known, True)
    assert not len(state.rows()), "2 % farther is the same minimum"
    state.add(row, state.images, torch.full((1,), torch.inf), True)
    state.add(row, state.images, 1.3 * known, True)
    assert state.rounds.tolist() == [3], "given up"
    state.add(row, state.x, 0.9 * known, False)
    assert state.rounds.tolist() == [4], "a hop that finds a nearer image is an end"
    assert len(state.rows())
    assert torch.equal(state.images, state.x)
    assert torch.equal(state.distance, 0.9 * known)


def test_a_curved_image_leaves_when_the_next_round_promises_little() -> None:
    """Rows: ends that are equal, that differ by 0.1 % each, by 1 % each."""
    state = best([0.1] * 3, [0.3] * 3)
    rows, known = torch.arange(3), state.distance.clone()
    steps = torch.tensor([0.0, 0.001, 0.01])
    for k in reversed(range(module.ENDS)):
        assert state.rows().tolist() == [0, 1, 2], "fewer ends than it takes"
        state.add(rows, state.images, (1 + k * steps).clamp_max(1.2) * known, True)
    assert state.rows().tolist() == [2], "a step of 0.1 % over ten rounds is 0.01 %"
    wanted = int(0.01 / module.PROMISE)
    for _ in range(wanted - module.ENDS):
        state.add(rows, state.images, 1.2 * known, True)
    assert state.rows().tolist() == [2], "1 % over 33 rounds"
    state.add(rows, state.images, 1.2 * known, True)
    assert not len(state.rows())


def test_alma_is_long_where_the_boundary_is_curved(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def remember(model: nn.Module, x: Tensor, y: Tensor, *, steps: int) -> Tensor:
        asked.append((steps, len(x)))
        return x + steps

    monkeypatch.setattr(module, "descend", remember)
    state = best([0.1] * 3, [0.1, 0.3, 0.1])
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).eval()
    with undisturbed(net):
        starts = module._Starts(Classifier(net), state.x, net(state.x).argmax(1), state)
        rows, images = starts.lagrangian()
    assert rows.tolist() == [0, 1, 2]
    assert sorted(asked) == [(module.ALMA, 2), (module.LONG_ALMA, 1)]
    assert (images - state.x)[:, 0, 0, 0].round().tolist() == [module.ALMA, module.LONG_ALMA, module.ALMA]


def test_uphill_begins_at_the_boundary_behind_a_kink() -> None:
    """The margin of one pixel falls slowly to the right, where the boundary is 0.7 away, and behind a hill to the left,
    where it is 0.09 away.
    """
    net = nn.Sequential(nn.Flatten(), nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 2)).eval()
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[1.0], [-1.0]]))
        net[1].bias.copy_(torch.tensor([0.0, 0.25]))
        net[3].weight.copy_(torch.tensor([[0.0, 0.0], [-1.0, -20.0]]))
        net[3].bias.copy_(torch.tensor([0.0, 1.0]))
    x, y = torch.full((1, 1, 1, 1), 0.3), torch.ones(1, dtype=torch.long)
    with undisturbed(net):
        starts = module._Starts(Classifier(net), x, y, module._Best(x, None, None))
        starts.best.images, starts.best.distance = x + 0.7, torch.tensor([0.7])
        starts.best.curved[:] = True
        assert starts.cold()[1].item() > 0.3
        _, images = starts.uphill(3)
    assert abs(images.item() - 4 / 19) < 0.01


class Named:
    """Stands in for `_Starts`: notes what is asked of it."""

    def __init__(self, classes: int):
        self.order, self.best = torch.zeros(3, classes - 1), self
        self.asked: list[tuple[str, tuple[int, ...]]] = []

    def rows(self) -> Tensor:
        return torch.arange(3)

    def __getattr__(self, name: str) -> Any:
        def note(*numbers: int) -> tuple[str, tuple[int, ...]]:
            self.asked.append((name, numbers))
            return name, numbers

        setattr(self, name, note)
        return note


@pytest.mark.parametrize("classes", [2, 10])
def test_all_kinds_of_rounds_take_turns_and_only_hops_have_no_vote(classes: int) -> None:
    starts = Named(classes)
    votes = {explore()[0]: vote for explore, _, vote in islice(module._rounds(starts), 40)}
    kinds = {"towards", "lagrangian", "coarse", "noise", "cold", "uphill", "salt", "hop", "midway"}
    assert set(votes) == (kinds if classes == 10 else kinds | {"ball"})
    assert {name for name, vote in votes.items() if not vote} == {"hop"}
    assert {numbers[0] for name, numbers in starts.asked if name == "coarse"} == {2, 4, 8}
    draws = [numbers[-1] for name, numbers in starts.asked if name in {*kinds} - {"towards"} and numbers]
    assert len(set(draws)) == len(draws)
    later = [name for name, _ in starts.asked[-21:]]
    assert later[:7] == later[7:14] == later[14:]


def test_no_two_rounds_share_random_numbers() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).eval()
    x = torch.rand(2, 1, 3, 4)
    with undisturbed(net):
        starts = module._Starts(Classifier(net), x, net(x).argmax(1), module._Best(x, None, None))
    rows = torch.arange(2)
    seen = []
    for draw in range(1, 9):
        seen += [
            starts._normal(rows, starts.shape, draw),
            *(starts._uniform(rows, starts.shape, draw, k) for k in (0, 1, 2)),
        ]
    # Normal numbers are functions of the uniform ones of the same place.
    first = [uniform(starts.key, (2, *starts.shape), 3 * draw).unbind(1) for draw in range(1, 9)]
    fields = torch.stack([*(f for pair in first for f in pair), *(s for k, s in enumerate(seen) if k % 4)])
    assert len(fields.flatten(1).unique(dim=0)) == len(fields)
    normals = torch.stack(seen[::4])
    assert abs(normals.mean()) < 0.4
    assert 0.5 < normals.std() < 1.5
