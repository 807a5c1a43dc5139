"""Certificates, two-sided: never below the truth, and near it where the truth is known."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

import lipbench
from lipbench import layers
from lipbench.certificate import Unbounded, certify, convolution_norm, gaps, layerwise, lipschitz, radius


def operator_norm(module: nn.Module, shape: tuple[int, ...]) -> float:
    """Exact norm of a linear module, by its dense matrix in float64."""
    exact = copy.deepcopy(module).double()
    zero = torch.zeros(*shape, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda x: exact(x[None])[0].flatten(), zero)
    return torch.linalg.svdvals(jacobian.reshape(jacobian.shape[0], -1)).max().item()


def steepest(module: nn.Module, shape: tuple[int, ...], points: int = 20) -> float:
    """Largest norm of the Jacobian at random points."""
    exact, best = copy.deepcopy(module).double(), 0.0
    for seed in range(points):
        x = 2 * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        jacobian = torch.autograd.functional.jacobian(lambda x: exact(x[None])[0].flatten(), x)
        best = max(best, torch.linalg.svdvals(jacobian.reshape(jacobian.shape[0], -1)).max().item())
    return best


def reasons(module: nn.Module, shape: tuple[int, ...]) -> str:
    assert math.isinf(lipschitz(module, shape))
    return "; ".join(layer.reason for layer in layerwise(module, shape) if layer.reason)


@pytest.mark.parametrize(("features", "outputs"), [(5, 9), (9, 5), (1, 4), (4, 1), (6, 6)])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e8])
def test_dense(features, outputs, scale):
    layer = nn.Linear(features, outputs).eval()
    with torch.no_grad():
        layer.weight.mul_(scale)
    exact = operator_norm(layer, (features,))
    assert exact <= lipschitz(layer, (features,)) <= exact * (1 + 1e-6)


CONVOLUTIONS = [
    {"kernel_size": k, "stride": s, "padding": p, "dilation": d, "padding_mode": mode, "groups": g, "size": n}
    for k, s, p, d, mode, g, n in [
        (3, 1, 1, 1, "zeros", 1, 6),
        (3, 1, 0, 1, "zeros", 1, 6),
        (3, 2, 1, 1, "zeros", 1, 7),
        (5, 1, 2, 1, "zeros", 1, 8),
        (2, 2, 0, 1, "zeros", 1, 8),
        (3, 3, 0, 1, "zeros", 1, 8),
        (3, 1, 4, 1, "zeros", 1, 4),
        (3, 2, 2, 2, "zeros", 1, 8),
        (3, 4, 2, 2, "zeros", 1, 9),
        (3, 1, 1, 1, "zeros", 2, 6),
        (3, 2, 1, 1, "circular", 1, 6),
        (3, 1, 1, 1, "circular", 1, 5),
        (3, 2, 1, 1, "circular", 1, 7),
        (3, 1, 2, 2, "circular", 2, 6),
        (1, 1, 0, 1, "zeros", 1, 3),
        (3, 1, "same", 2, "zeros", 1, 6),
        (4, 1, "same", 1, "circular", 1, 6),
        (5, 1, 2, 1, "zeros", 1, 2),
        (3, 1, 1, 1, "zeros", 1, 1),
        (2, 1, 1, 1, "zeros", 4, 5),
        (3, 1, "valid", 1, "zeros", 1, 5),
        (4, 3, 2, 1, "zeros", 1, 7),
        (3, 2, 3, 1, "zeros", 1, 5),
    ]
]


@pytest.mark.parametrize("options", CONVOLUTIONS, ids=lambda o: "-".join(map(str, o.values())))
def test_convolution(options, monkeypatch):
    options = dict(options)
    size = options.pop("size")
    for channels in ((4, 8), (8, 4)):
        layer = nn.Conv2d(*channels, **options).eval()
        exact = operator_norm(layer, (channels[0], size, size))
        assert exact <= lipschitz(layer, (channels[0], size, size)) <= 1.02 * exact
        with monkeypatch.context() as patch:  # the Fourier bound alone, as on large maps
            patch.setattr("lipbench.certificate.rules.linear.DENSE_LIMIT", 0)
            fourier = convolution_norm(layer, (size, size))
            assert fourier >= exact
            if size >= 5 and options["kernel_size"] == 3 and options["stride"] == options["dilation"] == 1:
                assert fourier <= 1.2 * exact


def test_rectangular_convolution():
    layer = nn.Conv2d(2, 3, (3, 2), stride=(1, 2), padding=(1, 0), dilation=(2, 1)).eval()
    exact = operator_norm(layer, (2, 7, 5))
    assert exact <= lipschitz(layer, (2, 7, 5)) <= 1.02 * exact


@pytest.mark.parametrize(
    ("layer", "word"),
    [
        (nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"), "reflect"),
        (nn.Conv2d(1, 1, 3, padding=1, padding_mode="replicate"), "replicate"),
        (nn.Conv2d(1, 1, 3, padding=2, padding_mode="circular"), "repeats"),
        (nn.MaxPool2d(2, ceil_mode=True), "ceil_mode"),
        (nn.AvgPool2d(2, ceil_mode=True), "ceil_mode"),
        (nn.AvgPool2d(3, padding=1, count_include_pad=False), "count_include_pad"),
        (nn.LPPool2d(2, 2, ceil_mode=True), "blocks overlap"),
        (nn.BatchNorm2d(1, track_running_stats=False), "running statistics"),
        (nn.Flatten(0), "batch"),
        (nn.Softplus(), "threshold=40"),
        (nn.LayerNorm(7), "LayerCentering"),
        (nn.RMSNorm(7), "LayerCentering"),
        (nn.GroupNorm(1, 1), "LayerCentering"),
        (nn.InstanceNorm2d(1), "LayerCentering"),
        (nn.LocalResponseNorm(2), "LayerCentering"),
        (nn.AdaptiveMaxPool2d(2, return_indices=True), "return_indices"),
    ],
    ids=str,
)
def test_what_has_no_bound_is_refused(layer, word):
    assert word in reasons(layer.eval(), (1, 7, 7))


def test_planted_unsound_modules_are_refused():
    class Doubled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    hooked, prehooked, replaced, normed, poisoned = (nn.Linear(4, 4).eval() for _ in range(5))
    hooked.register_forward_hook(lambda module, inputs, output: 2 * output)
    prehooked.register_forward_pre_hook(lambda module, inputs: (2 * inputs[0],))
    replaced.forward = lambda x: 5 * x  # type: ignore[method-assign]
    with torch.no_grad():
        poisoned.weight[0, 0] = math.nan
    live = layers.constrain(nn.Linear(4, 4), layers.Orthogonal).eval()
    doubled = Doubled(4, 4).eval()
    assert lipschitz(doubled, (4,)) == pytest.approx(2 * float(torch.linalg.matrix_norm(doubled.weight.detach(), 2)))
    cases = {
        "hook": hooked,
        "hook, ": prehooked,
        "replaced": replaced,
        "lipbench.bake": live,
        "training mode": nn.Linear(4, 4),
        "training": nn.BatchNorm1d(4),
        "finite": poisoned,
        "parametrized": nn.utils.parametrizations.weight_norm(normed),
    }
    for word, module in cases.items():
        assert word in reasons(module, (4,)), word
        # Inside a network as well, and the certificate is zero.
        model = nn.Sequential(nn.Identity(), nn.Sequential(module), nn.Linear(4, 2)).eval()
        if "training" in word:
            module.train()
        assert word in reasons(model, (4,)), word
        assert gaps(model, (4,))[0, 1] == math.inf, word
        inner = nn.Sequential(layers.Residual(nn.Sequential(module)).eval()).eval()
        if "training" in word:
            module.train()
        assert word in reasons(inner, (4,)), word


def test_a_layer_used_twice_counts_twice():
    shared = nn.Linear(6, 6).eval()
    model = nn.Sequential(shared, nn.Identity(), shared).eval()
    once = lipschitz(shared, (6,))
    assert lipschitz(model, (6,)) == pytest.approx(once**2)
    head = nn.Linear(6, 2).eval()
    norm = (head.weight[0] - head.weight[1]).norm().item()
    assert gaps(nn.Sequential(*model, head).eval(), (6,))[0, 1] == pytest.approx(once**2 * norm)
    assert steepest(model, (6,), 1) <= lipschitz(model, (6,))


def test_broadcasting_is_refused():
    assert "repeat" in reasons(layers.Normalize((0.0,) * 3, (1.0,) * 3).eval(), (1, 4, 4))
    assert "repeat" in reasons(layers.Residual(nn.Linear(4, 1)).eval(), (4,))


def test_a_hook_on_a_container_is_refused():
    model = nn.Sequential(nn.Linear(4, 2)).eval()
    model.register_forward_hook(lambda module, inputs, output: 3 * output)
    assert gaps(model, (4,))[0, 1] == math.inf


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.ReLU(), (6,)),
        (nn.LeakyReLU(0.1), (6,)),
        (nn.LeakyReLU(-3.0), (6,)),
        (nn.PReLU(init=2.5), (6,)),
        (nn.Tanh(), (6,)),
        (nn.Sigmoid(), (6,)),
        (nn.ELU(2.0), (6,)),
        (nn.GELU(), (6,)),
        (nn.SiLU(), (6,)),
        (nn.Softplus(threshold=40), (6,)),
        (layers.MaxMin(), (6,)),
        (layers.GroupSort(3), (6,)),
        (layers.FullSort(), (6,)),
        (nn.MaxPool2d(2), (1, 6, 6)),
        (nn.MaxPool2d(3, 1), (1, 5, 5)),
        (nn.MaxPool2d(3, 2, 1), (1, 6, 6)),
        (nn.AvgPool2d(2), (1, 6, 6)),
        (nn.AvgPool2d(3, 1), (1, 7, 7)),
        (nn.AdaptiveAvgPool2d(1), (2, 4, 4)),
        (layers.ScaledAvgPool2d(2), (1, 6, 6)),
        (layers.L2Pool2d(2), (1, 6, 6)),
        (nn.PixelUnshuffle(2), (1, 4, 4)),
        (nn.Flatten(), (2, 3, 3)),
        (nn.Identity(), (3,)),
        (nn.Dropout(), (5,)),
        (layers.Antipodal(), (1,)),
        (layers.Normalize((0.5,), (0.25, 0.5)), (2, 3, 3)),
        (layers.Residual(nn.Identity(), 0.5), (4,)),
    ],
    ids=str,
)
def test_bound_is_never_below_the_jacobian(layer, shape):
    layer = layer.eval()
    bound, found = lipschitz(layer, shape), steepest(layer, shape, 40)
    assert found <= bound * (1 + 1e-12)  # the Jacobian is rounded as well
    assert bound <= found * 1.05


def test_a_residual_sum_is_bounded_by_that_of_its_terms():
    layer = layers.Residual(nn.Linear(4, 4)).eval()
    bound = lipschitz(layer, (4,))
    assert operator_norm(layer, (4,)) <= bound == pytest.approx(1 + operator_norm(layer.branch, (4,)))


POOLINGS = [
    (2, 2, 0, 6),
    (3, 1, 0, 3),
    (3, 2, 0, 15),
    (3, 1, 0, 5),
    (3, 2, 1, 2),
    (3, 2, 1, 7),
    (2, 3, 1, 6),
    (1, 1, 0, 4),
]


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize(("kernel", "stride", "padding", "size"), POOLINGS)
def test_poolings_are_tight(kernel, stride, padding, size, dilation):
    shape = (1, size, size + 2)
    average = nn.AvgPool2d(kernel, stride, padding).eval()
    exact = operator_norm(average, shape)
    assert exact <= lipschitz(average, shape) <= exact * (1 + 1e-6)
    largest = nn.MaxPool2d(kernel, stride, padding, dilation).eval()
    if dilation * (kernel - 1) >= size + 2 * padding:
        assert math.isinf(lipschitz(largest, shape)), "torch refuses it"
        return
    # A pixel above all others passes through each of its windows.
    peaks = torch.eye(size * (size + 2)).reshape(-1, *shape).requires_grad_()
    (windows,) = torch.autograd.grad(largest(peaks).sum(), peaks)
    passed = (windows * peaks.detach()).sum((1, 2, 3)).max().item()
    assert passed**0.5 <= lipschitz(largest, shape) <= passed**0.5 * (1 + 1e-6)


@pytest.mark.parametrize(("kernel", "padding", "size"), [(3, 1, 2), (3, 1, 4), (3, 0, 3), (5, 2, 3), (3, 2, 3)])
def test_orthogonal_convolutions_with_zeros_around_are_tight(kernel, padding, size):
    layer = layers.FourierOrthogonalConv2d(
        nn.Conv2d(3, 4, kernel, padding=padding), (size, size), lipbench.layers.algebra.skew.cayley_transform
    )
    nn.init.normal_(layer.bias, std=1e6)
    layer = layers.bake(layer)
    exact = operator_norm(layer, (3, size, size))
    assert exact <= lipschitz(layer, (3, size, size)) <= exact * (1 + 1e-6)


def test_batch_norm_in_evaluation_has_its_own_constant():
    layer = nn.BatchNorm2d(3)
    with torch.no_grad():
        layer.running_var.copy_(torch.tensor([0.01, 1.0, 4.0]))
        layer.weight.copy_(torch.tensor([0.3, 2.0, 1.0]))
    assert lipschitz(layer.eval(), (3, 4, 4)) == pytest.approx(0.3 / math.sqrt(0.01 + 1e-5))


def orthogonal_stack(constraint=layers.Orthogonal) -> nn.Sequential:
    model = nn.Sequential(
        layers.constrain(nn.Linear(12, 10), constraint),
        layers.MaxMin(),
        layers.constrain(nn.Linear(10, 8), constraint),
        layers.MaxMin(),
        layers.constrain(nn.Linear(8, 3), constraint),
    )
    return layers.bake(model)


def test_stacks_of_orthogonal_layers_are_tight():
    # Square layers keep every direction, so the product of the norms is reached.
    model = nn.Sequential(
        *[layer for _ in range(4) for layer in (layers.constrain(nn.Linear(8, 8), layers.Orthogonal), layers.MaxMin())]
    )
    bound, found = lipschitz(layers.bake(model), (8,)), steepest(model, (8,))
    assert found <= bound <= 1.02 * found


def test_a_claimed_constant_is_not_believed():
    model = orthogonal_stack()
    assert lipschitz(model, (12,)) == pytest.approx(1, abs=1e-5)
    with torch.no_grad():
        model[2].weight.mul_(1.05)
    assert lipschitz(model, (12,)) == pytest.approx(1.05, abs=1e-5)


def test_gaps_against_the_jacobian():
    model = orthogonal_stack()
    bounds = gaps(model, (12,))
    exact = copy.deepcopy(model).double()
    for seed in range(20):
        x = torch.randn(12, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        rows = torch.autograd.functional.jacobian(lambda x: exact(x[None])[0], x)
        found = (rows[:, None] - rows[None, :]).norm(dim=2)
        assert (found <= bounds).all()
    # Orthonormal rows: sqrt 2 apart; the general bound is no better.
    assert bounds[0, 1] == pytest.approx(math.sqrt(2), abs=1e-5)
    opaque = nn.Sequential(model, nn.Identity()).eval()
    assert gaps(opaque, (12,))[0, 1] == pytest.approx(math.sqrt(2), abs=1e-5)
    nested = nn.Sequential(nn.Sequential(*model[:2]), nn.Sequential(*model[2:])).eval()
    assert torch.equal(gaps(nested, (12,)), bounds)


def test_gap_of_a_binary_network_is_the_constant_of_f():
    f = layers.bake(nn.Sequential(layers.constrain(nn.Linear(12, 1), layers.Orthogonal)))
    bounds = gaps(layers.antipodal(f).eval(), (12,))
    assert bounds[0, 1] == bounds[1, 0] == pytest.approx(1, abs=1e-6)
    assert bounds[0, 0] == 0


def test_radius():
    logits = torch.tensor(
        [[3.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 2.0, 1.0], [math.nan, 0.0, 0.0], [math.inf, 0.0, 0.0]]
    )
    bounds = torch.tensor([[0.0, 1.0, 4.0], [1.0, 0.0, 1.0], [4.0, 1.0, 0.0]], dtype=torch.float64)
    labels = torch.zeros(5, dtype=torch.long)
    assert radius(logits, labels, bounds).tolist() == pytest.approx([0.75, 0, 0, 0, 0], abs=1e-6)
    assert radius(logits[:1], labels[:1], bounds)[0] <= 0.75
    assert radius(logits[:1], labels[:1], bounds * math.inf)[0] == 0
    assert radius(logits[:1], labels[:1], bounds * 0)[0] == math.inf


def test_certify_is_reached_by_a_linear_classifier_and_leaves_the_model():
    model = layers.antipodal(nn.Sequential(nn.Flatten(), nn.Linear(9, 1)).eval()).eval()
    x = torch.rand(20, 1, 3, 3)
    y = model(x).argmax(1)
    f = (model(x)[:, 1] - model(x)[:, 0]).abs().double() / model[0][1].weight.double().norm()
    distances = certify(model, x, y)
    assert torch.allclose(distances, f, rtol=1e-5)
    assert (certify(model, x, 1 - y) == 0).all()
    assert next(model.parameters()).dtype == torch.float32
    assert all(p.grad is None for p in model.parameters())
    model.train()
    assert (certify(model, x, y) == 0).all(), "a model in training mode is not certified"
    assert model.training
    assert model[0].training


def test_a_researcher_adds_a_layer():
    class Triple(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 3 * x

    assert lipschitz(Triple().eval(), (4,)) == pytest.approx(3), "read as what it does"
    lipschitz.register(Triple)(lambda layer, shape: 3.0)
    assert lipschitz(nn.Sequential(Triple(), Triple()).eval(), (4,)) == 9

    class Child(Triple):
        pass

    assert lipschitz(Child().eval(), (4,)) == pytest.approx(3)

    @lipschitz.register(Child)
    def _child(layer: Child, shape: tuple[int, ...]) -> float:
        raise Unbounded("because")

    assert reasons(Child().eval(), (4,)) == "because"
