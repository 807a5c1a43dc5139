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
    state = best([0.1] * 8, [0.1, 0.105, 0.096, 0.11, 0.3, 0.05, 0.0, torch.nan])
    assert state.curved.tolist() == [False] * 3 + [True] * 5
    assert state.straight().tolist() == [True] * 3 + [False] * 5
    state.linear = torch.full((8,), 0.1)
    state.bend()
    assert state.curved.tolist() == [False] * 3 + [True] * 5
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
    state.add(row, state.images, 0.99 * known, False)
    assert state.rounds.tolist() == [3], "a hop that slides on within the same minimum is no end"
    state.add(row, state.x, 0.9 * known, False)
    assert state.rounds.tolist() == [4], "one that finds another minimum is"
    assert len(state.rows())
    assert torch.equal(state.images, state.x)
    assert torch.equal(state.distance, 0.9 * known)


def test_half_of_the_rounds_on_a_straight_boundary_or_five_end_in_the_same_minimum() -> None:
    state = best([0.1, 0.1], [0.1, 0.1])
    rows, known = torch.arange(2), state.distance.clone()
    for factor, row, left in ((1.0, 0, [0, 1]), (1.0, 0, [1]), (1.1, 0, [1]), (1.1, 0, [1]), (1.1, 0, [0, 1])):
        state.add(rows[[row]], state.images[[row]], factor * known[[row]], True)
        assert state.rows().tolist() == left
    for number in range(20):
        state.add(rows[[1]], state.images[[1]], (1.0 if number % 4 == 3 else 1.1) * known[[1]], True)
        assert (1 in state.rows()) == (number < 19)


def test_a_round_that_finds_nothing_on_an_image_never_broken_is_no_end() -> None:
    x = torch.rand(2, 1, 2, 2)
    state = module._Best(x, None, None)
    state.add(torch.arange(2), x, torch.full((2,), torch.inf), True)
    assert state.rounds.tolist() == [0, 0]
    state.bend()
    assert state.rows().tolist() == [0, 1]


def test_a_curved_image_leaves_when_the_next_round_promises_little() -> None:
    """Rows: ends that are equal, that differ by 0.1 % each, by 1 % each."""
    state = best([0.1] * 3, [0.3] * 3)
    rows, known = torch.arange(3), state.distance.clone()
    steps = torch.tensor([0.0, 0.001, 0.01])
    for k in reversed(range(module.ENDS)):
        assert state.rows().tolist() == [0, 1, 2], "fewer ends than it takes"
        state.add(rows, state.images, (1 + k * steps) * known, True)
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
        assert abs(starts.reached.item() - 0.7) < 1e-6
        assert 0.08 < starts.best.linear.item() < 0.5, "seen from behind x"
        assert starts.cold()[1].item() > 0.3
        _, images = starts.uphill(3)
    assert abs(images.item() - 4 / 19) < 0.01


def test_starts_are_neither_longer_than_the_box_nor_for_straight_boundaries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows: straight, curved, never broken, broken far away."""
    seen: list[Tensor] = []

    def remember(model: nn.Module, x: Tensor, y: Tensor, *, steps: int, start: Tensor) -> Tensor:
        seen.append(start)
        return start

    monkeypatch.setattr(module, "oscillate", remember)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval()
    x = torch.full((4, 1, 8, 8), 0.5)
    with undisturbed(net):
        starts = module._Starts(Classifier(net), x, net(x).argmax(1), module._Best(x, None, None))
        starts.best.distance[:] = torch.tensor([0.01, 0.01, torch.inf, 100.0])
        starts.best.curved[1:] = True
        rows, _ = starts.uphill(3)
        starts.noise(4)
    uphill, noise = seen
    assert rows.tolist() == [1, 2, 3]
    low, high = (0.01 * length for length in module.UPHILL)
    assert 0.999 * low < (uphill[0] - x[0]).norm() < 1.001 * high
    longest = module.NOISE[1] * module.LARGEST * 8
    assert noise.isfinite().all()
    for image in noise[2:]:
        assert 0.1 < (image - 0.5).norm() < longest
        assert ((image > 0) & (image < 1)).float().mean() > 0.05


def test_an_oscillation_that_begins_at_x_goes_to_the_boundary() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval()
    x = torch.full((3, 1, 2, 2), 0.5)
    y = net(x).argmax(1)
    with undisturbed(net):
        free = module.oscillate(Classifier(net), x, y, steps=30)
        begun = module.oscillate(Classifier(net), x, y, steps=30, start=x)
    assert torch.equal(begun, free)
    assert (free != x).any()


def test_an_image_behind_x_that_is_flat_or_misclassified(monkeypatch: pytest.MonkeyPatch) -> None:
    """The margin of one pixel is 0.3 - x on the right of 0.2; on the left of it 0.1, or it falls far below 0."""
    for slopes, linear in (((0.0, 0.0), 0.05), ((-100.0, 99.0), 0.0)):
        hill = nn.Sequential(nn.Flatten(), nn.Linear(1, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
        with torch.no_grad():
            hill[1].weight.copy_(torch.tensor([[1.0], [-1.0], [-1.0]]))
            hill[1].bias.copy_(torch.tensor([-0.2, 0.2, 0.15]))
            hill[3].weight.copy_(torch.tensor([[0.0, 0.0, 0.0], [-1.0, *slopes]]))
            hill[3].bias.copy_(torch.tensor([0.0, 0.1]))
        x, y = torch.full((1, 1, 1, 1), 0.25), torch.ones(1, dtype=torch.long)
        monkeypatch.setattr(module, "BEHIND", 3.0)
        with undisturbed(hill):
            starts = module._Starts(Classifier(hill), x, y, module._Best(x, None, None))
        assert abs(starts.best.linear.item() - linear) < 1e-6


class Refusing(nn.Module):
    """A model that fails on a batch of no images."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        assert len(x), "an empty batch"
        return self.model(x)


@pytest.mark.parametrize(("classes", "bends"), [(2, False), (10, False), (2, True)])
def test_no_batch_is_empty_and_curved_boundaries_get_the_long_alma(
    classes: int, bends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    layers = [nn.Linear(16, 20), nn.Tanh(), nn.Linear(20, classes)] if bends else [nn.Linear(16, classes)]
    net = Refusing(nn.Sequential(nn.Flatten(), *layers)).eval()
    with torch.no_grad():
        net.model[1].weight *= 8
    asked = []
    descend = module.descend

    def remember(*given: Any, steps: int) -> Tensor:
        asked.append(steps)
        return descend(*given, steps=steps)

    monkeypatch.setattr(module, "descend", remember)
    monkeypatch.setattr(module, "ROUNDS", 10)
    x = torch.rand(3, 1, 4, 4)
    module.lipbench(net, x, net(x).argmax(1))
    assert (module.LONG_ALMA in asked) == bends


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
