"""Which images of the attack `lipbench` go on, and where its rounds begin."""

import importlib

import pytest
import torch
from torch import Tensor, nn

from lipbench.judge import Classifier
from lipbench.modules import undisturbed

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
