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
    state.expect()
    return state


def test_the_worse_the_linearisation_the_more_rounds_are_wanted() -> None:
    state = best([0.1] * 6, [0.1, 0.105, 0.096, 0.11, 0.3, torch.nan])
    few, many = module.FEWEST, module.MOST
    assert state.needed[:3].tolist() == [few] * 3
    assert few < state.needed[3] < many
    assert state.needed[4:].tolist() == [many] * 2
    state.linear = torch.full((6,), 0.1)
    state.expect()
    assert state.needed[4] == many


def test_a_start_that_has_come_back_is_a_vote_and_one_far_away_is_none() -> None:
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
    assert state.same.tolist() == state.rounds.tolist() == [0, 1, 0, 0, 0]
    state.promising(rows, starts, False)
    assert state.same.tolist() == [0, 1, 0, 0, 0]


def test_without_an_adversarial_image_every_start_is_promising() -> None:
    x = torch.rand(3, 1, 2, 2)
    state = module._Best(x, None, None)
    state.needed += 5
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


def test_ten_equal_rounds_on_a_curved_boundary_and_a_gain_starts_anew() -> None:
    state = best([0.1, 0.1], [0.1, 0.3])
    rows = torch.arange(2)
    known = state.distance.clone()
    for votes, distances in ((True, known), (False, known), (True, 1.02 * known), (True, 1.1 * known)):
        state.add(rows, state.images, distances, votes)
    assert state.same.tolist() == [2, 2], "1.02 times the distance is the same minimum, 1.1 times is not"
    assert state.rounds.tolist() == [3, 3]
    assert state.rows().tolist() == [1], "two of three are enough for the straight one"
    state.add(rows, state.images, torch.full((2,), torch.inf), True)
    state.add(rows, state.images, 1.3 * known, True)
    assert state.rounds.tolist() == [3, 3], "given up"
    state.add(rows, state.x, 0.9 * known, True)
    assert state.same.tolist() == [1, 1]
    assert torch.equal(state.images, state.x)
    assert torch.equal(state.distance, 0.9 * known)
    for _ in range(9):
        assert 1 in state.rows()
        state.add(rows, state.images, state.distance, True)
    assert state.same.tolist() == [10, 10]
    assert not len(state.rows())


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
    kinds = {"towards", "lagrangian", "coarse", "noise", "cold", "salt", "hop", "midway"}
    assert set(votes) == (kinds if classes == 10 else kinds | {"ball"})
    assert {name for name, vote in votes.items() if not vote} == {"hop"}
    assert {numbers[0] for name, numbers in starts.asked if name == "coarse"} == {2, 4, 8}
    draws = [numbers[-1] for name, numbers in starts.asked if name in {"coarse", "noise", "salt", "hop", "midway"}]
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
