"""The laws of attacks, on exact hyperplanes: there the distance is known."""

import pytest
import torch
from helpers.hyperplanes import ALL, ITERATIVE, ONE_STEP, SHAPE, Hyperplane, corners, cross, exact, interior, judged
from torch import Tensor, nn

import lipbench
from lipbench.attacks import (
    chain,
    deepfool,
    fgsm,
    hop_skip_jump,
    nearest,
    tangent,
    to_boundary,
)
from lipbench.attacks.engine.leaving import leave
from lipbench.geometry import onto_halfspace, per_image, unit
from lipbench.judge import Classifier, Judge, distance
from lipbench.margins import margin_and_gradient
from lipbench.randomness import keys, normal, uniform


class Spy(nn.Module):
    """The same model; notes how many images pass."""

    def __init__(self, model: nn.Module, passed: list[int]):
        super().__init__()
        self.model, self.note = model, passed.append

    def forward(self, x: Tensor) -> Tensor:
        self.note(len(x))
        return self.model(x)


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("images", [interior, corners])
@pytest.mark.parametrize("attack", ITERATIVE)
def test_iterative_attacks_reach_the_nearest_point(attack, images, classes):
    model, x = Hyperplane(classes), images()
    y = model(x).argmax(1)
    ratio = judged(model, x, attack(model, x, y), y) / exact(model, x, y)
    assert ratio.isfinite().all(), "an attack failed"
    assert (ratio >= 1 - 1e-5).all(), "nearer than the exact distance: the test or the judge is wrong"
    # With ten classes a gradient attack may settle on the second nearest class.
    assert ratio.max() <= 1.01 if classes == 2 else ratio.median() <= 1.01


@pytest.mark.parametrize("attack", ONE_STEP)
def test_one_step_attacks_come_near_on_interior_images(attack):
    model, x = Hyperplane(), interior()
    y = model(x).argmax(1)
    ratio = judged(model, x, attack(model, x, y), y) / exact(model, x, y)
    assert ratio.max() <= 1.35


@pytest.mark.parametrize(("scale", "shift"), [(1e4, 0.0), (1e-3, 0.0), (1.0, 100.0), (1.0, -100.0), (50.0, -1e3)])
@pytest.mark.parametrize("attack", ALL)
def test_scale_and_shift_of_the_logits_change_nothing(attack, scale, shift):
    x = interior(20)
    plain, changed = Hyperplane(), Hyperplane(scale=scale, shift=shift)
    y = plain(x).argmax(1)
    before = judged(plain, x, attack(plain, x, y), y)
    after = judged(changed, x, attack(changed, x, y), y)
    assert before.isfinite().all()
    # A large shift costs digits of float32, and a decision near the boundary turns the sampled normal a little.
    assert torch.allclose(before, after, rtol=3e-2 if attack is hop_skip_jump else 5e-3)


@pytest.mark.parametrize("attack", ALL)
def test_the_batch_does_not_matter(attack):
    torch.manual_seed(3)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.ReLU(), nn.Linear(16, 3))
    for p in model.parameters():
        nn.init.normal_(p, std=0.5)
    x = torch.rand(12, *SHAPE)
    y = model(x).argmax(1)
    whole = distance(x, attack(model, x, y))
    single = torch.cat([distance(x[i : i + 1], attack(model, x[i : i + 1], y[i : i + 1])) for i in range(12)])
    assert ((whole - single).abs() / whole.clamp_min(1e-9)).median() <= 1e-3
    assert (whole > 0).sum() >= 6


@pytest.mark.parametrize("attack", ALL)
def test_the_model_is_left_as_it_was(attack):
    model = nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(36, 8), nn.Dropout()), nn.Linear(8, 2))
    model.train()
    model[1].eval()
    model[2].weight.requires_grad_(False)
    x = torch.rand(4, *SHAPE)
    with torch.no_grad():
        attack(model, x, torch.tensor([0, 1, 0, 1]))
        assert not torch.is_grad_enabled()
    assert model.training
    assert model[2].training
    assert not model[1].training
    assert not model[1][1].training
    assert not model[2].weight.requires_grad
    assert model[1][0].weight.requires_grad
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("attack", ALL)
def test_one_logit_is_refused_with_the_remedy(attack):
    with pytest.raises(ValueError, match=r"lipbench\.antipodal"):
        attack(nn.Sequential(nn.Flatten(), nn.Linear(36, 1)), torch.rand(2, *SHAPE), torch.zeros(2, dtype=torch.long))


@pytest.mark.parametrize("attack", ALL)
def test_a_constant_classifier_gives_the_images_back(attack):
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack((x.sum((1, 2, 3)) * 0 + 1, x.sum((1, 2, 3)) * 0), 1)

    x = torch.rand(3, *SHAPE)
    assert torch.equal(attack(Constant(), x, torch.zeros(3, dtype=torch.long)), x)


def test_misclassified_images_come_back_untouched():
    model, x = Hyperplane(), interior(10)
    y = 1 - model(x).argmax(1)
    for attack in ALL:
        assert torch.equal(attack(model, x, y), x)


def test_to_boundary_shortens_and_stretches():
    model, x = Hyperplane(), interior(30)
    y = model(x).argmax(1)
    gradient, gap = model.weight[y] - model.weight[1 - y], lipbench.margins.margin(model(x), y).detach()
    far = cross(x, gradient, 3 * gap)[0].float()
    short = x + 0.85 * (cross(x, gradient, gap)[0].float() - x)
    for start in (far, short):
        ratio = judged(model, x, to_boundary(model, x, start.detach(), y), y) / exact(model, x, y)
        assert ratio.max() <= 1.001
    too_short = x + 0.5 * (short - x)
    assert torch.equal(to_boundary(model, x, too_short.detach(), y), x), "no point on the ray crosses the boundary"


def test_nearest_takes_the_shortest_that_is_not_x():
    model, x = Hyperplane(), interior(8)
    y = model(x).argmax(1)
    good = deepfool(model, x, y)
    further = to_boundary(model, x, fgsm(model, x, y), y)
    assert torch.equal(nearest(x, further, x, good), good)
    assert torch.equal(nearest(x, x, x), x)


def test_the_soft_margin_counts_the_classes_close_to_the_best():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(16, 4)), torch.rand(5, 1, 4, 4)
    y, weight = model(x).argmax(1), model[1].weight.detach()
    softness = torch.tensor([0.0, 1e-3, 0.1, 0.5, 2.0])
    value, gradient = margin_and_gradient(model, x, y, softness)
    hard, first = margin_and_gradient(model, x, y)
    assert torch.equal(value, hard)
    assert torch.equal(gradient[0], first[0]), "no softness: the margin's own"
    logits = model(x).detach().scatter(1, y[:, None], -torch.inf)
    for n in range(1, 5):
        shares = (logits[n] / softness[n]).softmax(0)
        assert torch.allclose(gradient[n].flatten(), weight[y[n]] - shares @ weight, atol=1e-6)


def test_the_soft_margin_of_two_classes_is_the_margin_whatever_the_scale():
    x = interior(8)
    for scale in (1.0, 1e4):
        model = Hyperplane(scale=scale)
        y = model(x).argmax(1)
        soft = margin_and_gradient(model, x, y, torch.full((8,), 3.0))
        assert all(torch.equal(a, b) for a, b in zip(soft, margin_and_gradient(model, x, y), strict=True))


def test_the_judge_needs_both_precisions():
    class Rounded(nn.Module):
        """Misclassifies in float32 alone."""

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, x: Tensor) -> Tensor:
            f = torch.full((len(x),), -1.0 if x.dtype == torch.float32 else 1.0, dtype=x.dtype)
            return torch.stack((f, -f), 1)

    x, y = torch.rand(2, *SHAPE), torch.zeros(2, dtype=torch.long)
    assert Judge.misclassified(Rounded()(x), y).all()
    assert not Judge(Rounded())(x, y).any()


def test_projection_on_a_halfspace_is_the_nearest_image():
    torch.manual_seed(5)
    x = torch.rand(20, *SHAPE).double().round(decimals=1)
    normal_, _ = unit(torch.randn(20, *SHAPE).double())
    level = (x * normal_).flatten(1).sum(1) - torch.rand(20).double()
    moved = onto_halfspace(x, normal_, level)
    assert torch.allclose((moved * normal_).flatten(1).sum(1), level, atol=1e-9)
    for _ in range(200):  # no feasible competitor is nearer
        other = (moved + 0.05 * torch.randn_like(moved)).clamp(0, 1)
        feasible = (other * normal_).flatten(1).sum(1) <= level
        assert (distance(x, other)[feasible] >= distance(x, moved)[feasible] * (1 - 1e-9)).all()


def test_projection_on_a_halfspace_does_not_depend_on_the_other_images():
    torch.manual_seed(6)
    x, normal_ = torch.rand(30, 1, 28, 28), unit(torch.randn(30, 1, 28, 28))[0]
    level = (x * normal_).flatten(1).sum(1) - 6 * torch.rand(30)
    alone = [onto_halfspace(x[[i]], normal_[[i]], level[[i]]) for i in range(30)]
    assert torch.equal(onto_halfspace(x, normal_, level), torch.cat(alone))


def test_projection_on_a_halfspace_out_of_reach_is_the_corner():
    x, normal_ = torch.rand(3, *SHAPE), unit(torch.ones(3, *SHAPE))[0]
    assert torch.equal(onto_halfspace(x, normal_, torch.full((3,), -1.0)), torch.zeros_like(x))


def test_unit_survives_tiny_and_huge_gradients():
    gradient = torch.randn(2, *SHAPE)
    for scale in (1e-30, 1.0, 1e30):
        direction, norm = unit(gradient * scale)
        assert torch.allclose(direction, gradient / per_image(gradient.flatten(1).norm(dim=1), gradient), rtol=1e-5)
        assert torch.allclose(norm, gradient.flatten(1).norm(dim=1) * scale, rtol=1e-5)
    assert torch.equal(unit(torch.zeros(1, *SHAPE))[0], torch.zeros(1, *SHAPE))


def test_randomness_is_keyed_by_seed_and_image():
    x = torch.rand(5, *SHAPE)
    order = torch.tensor([3, 1, 4, 0, 2])
    assert torch.equal(uniform(keys(x), (7,))[order], uniform(keys(x[order]), (7,)))
    assert torch.equal(keys(x), keys(x.double())), "the precision of the images is not part of the key"
    assert not torch.equal(keys(x, seed=0), keys(x, seed=1))
    changed = x.clone()
    changed[0, 0, 2, 2] += 1e-3
    assert (keys(changed) != keys(x)).tolist() == [True, False, False, False, False]
    numbers = normal(keys(torch.rand(50, *SHAPE)), (1000,), draw=3)
    assert abs(float(numbers.mean())) < 0.02
    assert abs(float(numbers.std()) - 1) < 0.02
    assert abs(float((numbers[:25] * numbers[25:]).mean())) < 0.02
    assert float(uniform(keys(x), (1000,)).min()) >= 0


def test_a_chain_is_never_worse_than_its_parts_and_starts_where_they_end():
    model, x = Hyperplane(), corners(20)
    y = model(x).argmax(1)
    seen = []

    def spy(model, x, y, *, start=None):
        seen.append(start)
        return x

    first = fgsm(model, x, y)
    result = chain(fgsm, spy, deepfool)(model, x, y)
    assert torch.equal(seen[0], first)
    alone = [judged(model, x, images, y) for images in (first, deepfool(model, x, y))]
    assert (judged(model, x, result, y) <= torch.minimum(*alone)).all()
    assert torch.minimum(*alone).isfinite().all()


def test_a_finished_image_is_not_searched():
    model, x = Hyperplane(), interior(6)
    y = model(x).argmax(1)
    start = fgsm(model, x, y)
    lower = distance(x, start)
    lower[3:] /= 2
    passed = []
    spy = Spy(model, passed)

    result = tangent(spy, x, y, start=start, lower=lower)
    assert torch.equal(result[:3], start[:3])
    assert (distance(x, result)[3:] < lower[3:] * 2).all()
    whole = sum(passed)
    passed.clear()
    tangent(spy, x, y, start=start)
    assert whole < sum(passed)


def test_the_exit_of_a_ball_is_near_the_boundary():
    model, split = lipbench.load("digits08/hkr_mlp"), lipbench.data.digits(keep=(0, 8)).validation
    x, y = lipbench.images.pixels(split.images), split.labels
    right = model(x).argmax(1) == y
    x, y = x[right], y[right]
    exits = leave(Classifier.of(model), x, y, steps=40)
    assert (exits >= 0).all()
    assert (exits <= 1).all()
    before, after = (margin_and_gradient(model, images, y)[0] for images in (x, exits))
    assert (after.abs() < 0.1 * before).float().mean() > 0.8


def test_lipbench_stops_at_the_certificate():
    model, split = lipbench.load("digits08/hkr_mlp"), lipbench.data.digits(keep=(0, 8)).validation
    x, y = lipbench.images.pixels(split.images[:20]), split.labels[:20]
    free, bound = Classifier.of(model), Classifier.of(model)
    start = fgsm(model, x, y)
    images = lipbench.attacks.lipbench(free, x, y, start=start)
    reached = distance(x, images)
    lower = 0.9995 * reached
    stopped = lipbench.attacks.lipbench(bound, x, y, start=start, lower=lower)
    assert bound.passes < 0.7 * free.passes
    assert (distance(x, stopped) <= 1.001 * lower).all()
    # A bound that nothing comes near changes nothing, and a cold search is told nothing of it.
    assert torch.equal(lipbench.attacks.lipbench(model, x, y, start=start, lower=reached / 2), images)
    cold = lipbench.attacks.lipbench(model, x, y)
    assert torch.equal(lipbench.attacks.lipbench(model, x, y, lower=lower), cold)


def test_settled_images_leave_the_batch():
    model, x = Hyperplane(), interior(10)
    y = model(x).argmax(1)
    passed = []
    spy = Spy(model, passed)

    tangent(spy, x, y, steps=1000)
    assert sum(passed) < 10 * 200


def test_hop_skip_jump_sees_decisions_alone():
    class Decisions(nn.Module):
        def __init__(self):
            super().__init__()
            self.plane = Hyperplane()

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.one_hot(self.plane(x).argmax(1), 2).to(x)

    model, x = Decisions(), interior(10)
    y = model(x).argmax(1)
    images = hop_skip_jump(model, x, y, steps=15, queries=100)
    ratio = judged(model, x, images, y) / exact(model.plane, x, y)
    assert ratio.median() <= 1.2
    assert ratio.max() <= 2
    assert torch.equal(images[2:4], hop_skip_jump(model, x[2:4], y[2:4], steps=15, queries=100))
    blind = tangent(model, x, y)
    assert (distance(x, blind) > distance(x, images)).any(), "the gradient of a decision is zero"


def test_an_unsound_constant_is_caught():
    """One layer scaled by 1.05, its claimed constant still 1: the attacks must find images inside the certificate."""
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(36, 36), lipbench.layers.MaxMin(), nn.Linear(36, 36), lipbench.layers.MaxMin()]
    model = nn.Sequential(*layers, nn.Linear(36, 1))
    for layer in model[1::2]:
        nn.init.orthogonal_(layer.weight)
    honest = lipbench.antipodal(model)
    x = 0.5 + 0.05 * torch.randn(40, *SHAPE).clamp(-2, 2)
    y = honest(x).argmax(1)
    claimed = 1.05 * model(x).detach().double().abs()[:, 0]
    lipbench.evaluate(honest, x, y, attacks=["lipbench"], progress=False)  # the law holds with the true constant

    with pytest.raises(lipbench.LawViolation) as caught:
        lipbench.evaluate(
            honest, x, y, attacks=["lipbench"], certificates={"claimed": lambda *_: claimed}, progress=False
        )
    assert len(caught.value.pairs) >= 20
