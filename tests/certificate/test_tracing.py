"""Forward code that is read as a graph: it computes the same, its constant bounds every Jacobian, and what cannot be
read is refused with its line.
"""

import copy
import math
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.traced_cases import SHAPE, jacobian_norm, network
from torch import nn

from lipbench.certificate import (
    Affine,
    certify,
    certify_float,
    certify_inscribed,
    certify_inscribed_float,
    float_layerwise,
    follow,
    gaps,
    layer_table,
    lipschitz,
    read,
    rounding,
)
from lipbench.certificate.radius import TracedWarning

SQUARE = (1, 4, 4)


class Code(nn.Module):
    """A network of one function (module, x) -> x before a head."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.function(self, x).flatten(1)


def images(count=4, shape=SHAPE, seed=0):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seed", range(16))
def test_random_networks(seed):
    model, x = network(seed), images(seed=seed)
    exact = copy.deepcopy(model).double()
    traced, constant = read(exact, SHAPE), lipschitz(exact, SHAPE)
    assert math.isfinite(constant)
    assert torch.allclose(traced(x.double()), exact(x.double()), rtol=1e-9, atol=1e-9)
    assert jacobian_norm(exact, x.double()) <= constant * (1 + 1e-12)
    labels = model(x).argmax(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", TracedWarning)
        radii, rounded = certify(model, x, labels), certify_float(model, x, labels)
    assert (radii > 0).all()
    assert (rounded <= radii * (1 + 1e-9)).all()
    assert read(traced, SHAPE) is traced


def test_the_rounding_of_float32_is_bounded():
    known = 0
    for seed in range(20):
        model, x = network(seed), images(16, seed=seed)
        exact = copy.deepcopy(model).double()
        if any(layer.why for layer in float_layerwise(exact, SHAPE)):
            continue
        links = rounding.chain(read(exact, SHAPE), SHAPE)
        known += 1
        nothing = torch.zeros(len(x), dtype=torch.float64)
        with torch.no_grad():
            logits, _, error = follow(links, x.double(), Affine(nothing, nothing))
            assert ((model(x) - logits).norm(dim=1) <= error.at).all()
            assert (error.at < 1e-2 * logits.norm(dim=1).clamp_min(1)).all()
    assert known >= 3


def test_a_chain_in_python_has_the_certificate_of_the_sequence():
    torch.manual_seed(0)
    conv, head = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(16, 3)
    code = Code(lambda m, x: m.head(F.max_pool2d(F.relu(m.conv((x - 0.2) / 0.5)), 2).flatten(1)), conv=conv, head=head)
    chain = nn.Sequential(conv, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), head).eval()
    x = images(8, SQUARE)
    normalised = (x - 0.2) / 0.5
    labels = chain(normalised).argmax(1)
    expected = certify(chain, normalised.clamp(0, 1) * 0 + normalised.clamp(0, 1), labels)
    found = certify(code.eval(), x, labels)
    inside = ((normalised >= 0) & (normalised <= 1)).flatten(1).all(1)
    assert torch.allclose(found[inside], expected[inside] * 0.5)
    assert torch.allclose(gaps(code, SQUARE), 2 * gaps(chain, SQUARE), rtol=1e-8)


def sorted_pairs(module, x):
    return torch.cat((torch.max(x[:, :, :2], x[:, :, 2:]), torch.min(x[:, :, 2:], x[:, :, :2])), 2)


def coupled(module, x):
    a, b = x.chunk(2, dim=2)
    return torch.cat((b, a + torch.tanh(b)), 2)


def normalised(module, x):
    x = F.linear(x.flatten(1), torch.diag(torch.arange(16.0)))
    return F.batch_norm(x, torch.zeros(16), torch.full((16,), 4.0), 3 / (torch.arange(16.0) + 1), eps=0.0)


EXACT = {
    "twice": (lambda m, x: x + x, 2.0),
    "difference": (lambda m, x: 3 * x - x, 4.0),
    "doubled": (lambda m, x: torch.cat((x, x), 1), math.sqrt(2)),
    "put together again": (lambda m, x: torch.cat((x[:, :, 2:], x[:, :, :2]), 2), 1.0),
    "expanded": (lambda m, x: x.expand(-1, 3, -1, -1), math.sqrt(3)),
    "mean": (lambda m, x: x.mean((2, 3)), 1 / 4),
    "sum": (lambda m, x: x.sum(2), 2.0),
    "permuted": (lambda m, x: x.permute(0, 3, 1, 2).reshape(len(x), -1).flip(1), 1.0),
    "padded": (lambda m, x: F.pad(x, (1, 1)), 1.0),
    "reflected": (lambda m, x: F.pad(x, (1, 1, 0, 0), mode="reflect"), math.sqrt(2)),
    "largest": (lambda m, x: torch.maximum(x, 2 * x.flip(2)), math.sqrt(5)),
    "sorted pairs": (sorted_pairs, 1.0),
    "slice by slice": (lambda m, x: torch.cat([2 * x[:, :, i] for i in range(4)], 1), 2.0),
    "coupled": (coupled, (1 + math.sqrt(5)) / 2),
    "batch normalisation": (normalised, 1.5 * 15 / 16),
    "scaled": (lambda m, x: x * torch.tensor([1.0, -3.0, 2.0, 0.5]), 3.0),
    "shifted": (lambda m, x: 1 - x, 1.0),
    "matrix from the left": (lambda m, x: torch.diag(torch.tensor([1.0, 2.0, 5.0, 1.0])) @ x, 5.0),
    "each row": (lambda m, x: x.view(4, 4).mean(1, keepdim=True).view(1, 4) if len(x) == 1 else x.mean(3)[:, 0], 0.5),
    "in place": (lambda m, x: F.relu(x * 2, inplace=True).mul_(2).add_(1), 4.0),
    "one dimension": (lambda m, x: F.conv1d(x[:, 0], torch.eye(4)[:, :, None] * 3), 3.0),
    "one number": (lambda m, x: torch.stack((-x.flatten(1).mean(1), x.flatten(1).mean(1)), 1), math.sqrt(2) / 4),
    "softmax": (lambda m, x: x.flatten(1).softmax(1), 0.5),
}


@pytest.mark.parametrize("name", EXACT)
def test_constants_of_steps(name):
    function, constant = EXACT[name]
    model = Code(function).eval()
    assert lipschitz(model, SQUARE) == pytest.approx(constant, rel=1e-8)
    x = images(5, SQUARE)
    assert torch.allclose(read(model, SQUARE)(x), model(x))


@pytest.mark.parametrize(
    ("layer", "function"),
    [
        (nn.Softmax(1), lambda x: x.softmax(1)),
        (nn.Softmax(-1), lambda x: x.softmax(-1)),
        (nn.LogSoftmax(1), lambda x: x.log_softmax(1)),
        (nn.Softmin(1), lambda x: F.softmin(x, 1)),
        (nn.Unflatten(1, (2, 8)), lambda x: x.unflatten(1, (2, 8))),
        (nn.Softmax(0), lambda x: x.softmax(0)),
        (nn.LogSoftmax(0), lambda x: x.log_softmax(0)),
        (nn.Softmin(0), lambda x: F.softmin(x, 0)),
    ],
    ids=lambda value: str(value) if isinstance(value, nn.Module) else "",
)
def test_a_layer_has_the_constant_of_the_function(layer, function):
    as_layer = nn.Sequential(nn.Flatten(), layer, nn.Flatten()).eval()
    as_function = Code(lambda m, x: function(x.flatten(1)).flatten(1)).eval()
    bound = lipschitz(as_layer, SQUARE)
    assert bound == pytest.approx(lipschitz(as_function, SQUARE), rel=1e-8)
    assert math.isinf(bound) == (getattr(layer, "dim", 1) == 0), "along the batch there is none"


def counting(module, x):
    module.calls += 1
    return x * module.calls


def looked_at(module, x):
    return x if x.mean() > 0.5 else -x


def partly(module, x):
    y = x * 2
    y[:, :, 0] = 0
    return y


def still_used(module, x):
    y = x * 2
    z = y.view(-1)
    y.relu_()
    return z.view(1, -1)


REFUSED = {
    "a branch": (looked_at, "looks at the numbers"),
    "item": (lambda m, x: x * x.max().item(), "looks at the numbers"),
    "numpy": (lambda m, x: torch.from_numpy(x.numpy()) * 2, "memory"),
    "tolist": (lambda m, x: torch.tensor(x.tolist()), "memory"),
    "storage": (lambda m, x: torch.zeros(0).set_(x.untyped_storage(), 0, (len(x), 16)), "memory"),
    "out=": (lambda m, x: torch.cat((x, x), 1, out=torch.zeros(1, 2, 4, 4)), "out="),
    "a product": (lambda m, x: x * x, "activations by activations"),
    "attention": (lambda m, x: x @ x.transpose(-1, -2), "activations by activations"),
    "a quotient": (lambda m, x: x / x.sum(), "divides"),
    "a counter": (counting, "two calls of it differ"),
    "noise": (lambda m, x: x + torch.rand(4), "two calls of it differ"),
    "dropout": (lambda m, x: F.dropout(x, 0.5), "random"),
    "a part written to": (partly, "writes into"),
    "a tensor that is still used": (still_used, "writes into"),
    "rounding": (lambda m, x: x.round(), "jumps"),
    "a comparison": (lambda m, x: torch.where(x > 0.5, x, 0), "jump"),
    "a count": (lambda m, x: x * (1 + len(torch.nonzero(x > 0.9999))), "nonzero"),
    "places": (lambda m, x: x.argsort(1).float(), "places"),
    "half precision": (lambda m, x: x.half().float(), "rounded to torch.float16"),
    "unknown": (lambda m, x: torch.special.i0(x), "is not read"),
    "layer norm": (lambda m, x: F.layer_norm(x, (4,)), "statistic of the image"),
    "nothing of the image": (lambda m, x: torch.ones(1, 3), "no tensor"),
    "two outputs": (lambda m, x: x.max(3).indices.float(), "places"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_with_its_line(name):
    function, why = REFUSED[name]
    model = Code(function).eval()
    model.calls = 0
    table = layer_table(model, SQUARE)
    refused = table[np.isinf(table["bound"])]
    assert len(refused)
    assert why in " ".join(refused["why"])
    if why not in ("two calls of it differ", "no tensor"):
        assert f"{__name__.rpartition('.')[2]}.py, line {function.__code__.co_firstlineno}" in " ".join(
            refused["why"]
        ) or "line" in " ".join(refused["why"])
    assert refused["remedy"].all()
    assert math.isinf(lipschitz(model, SQUARE))
    if name not in ("nothing of the image", "a tensor that is still used"):
        assert (certify(model, images(2, SQUARE), torch.zeros(2, dtype=torch.long)) == 0).all()


def test_every_step_has_a_row():
    model = Code(
        lambda m, x: m.head((F.relu(m.conv(x)) + x).flatten(1)), conv=nn.Conv2d(1, 1, 1), head=nn.Linear(16, 3)
    )
    table = layer_table(model.eval(), SQUARE)
    assert table["layer"].tolist() == ["conv to add", "conv", "relu", "add", "view", "head"]
    assert np.isfinite(table["bound"]).all()
    assert table["bound"][0] == pytest.approx(1 + table["bound"][1])


def test_steps_of_one_kind_are_numbered():
    model = Code(
        lambda m, x: m.head(F.relu(F.relu(F.relu(m.conv(x)) + x)).flatten(1)),
        conv=nn.Conv2d(1, 1, 1),
        head=nn.Linear(16, 3),
    )
    names = ["conv to add", "conv", "relu", "add", "relu_2", "relu_3", "view", "head"]
    assert layer_table(model.eval(), SQUARE)["layer"].tolist() == names


def test_hooks_modes_and_replaced_methods_are_refused():
    def make():
        return Code(lambda m, x: m.head(x.flatten(1)), head=nn.Linear(16, 3)).eval()

    def halved(module, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return module.head(x.flatten(1)).float()

    hooked, training, replaced = make(), make(), make()
    bounds = layer_table(training.train(), SQUARE)["bound"]
    assert np.isfinite(bounds).all(), "the table is that of a copy in evaluation mode"
    assert training.training
    training.eval()
    autocast = Code(halved, head=nn.Linear(16, 3)).eval()
    hooked.head.register_forward_hook(lambda module, inputs, output: output * 2)
    training.head.train()
    replaced.head.forward = lambda x: x[:, :3] * 9
    assert math.isinf(lipschitz(training, SQUARE))
    for model, why in ((hooked, "hook"), (replaced, "replaced"), (autocast, "autocast")):
        assert math.isinf(lipschitz(model, SQUARE))
        assert why in layer_table(model, SQUARE)["why"][0]


def test_a_replaced_function_of_torch_is_read_as_what_it_does(monkeypatch):
    model = Code(lambda m, x: F.relu(x))
    monkeypatch.setattr(F, "relu", lambda x: 7 * x)
    assert lipschitz(model.eval(), SQUARE) == pytest.approx(7)


def test_code_that_does_something_else_for_a_batch_is_not_certified():
    head, x = nn.Linear(16, 3), images(5, SQUARE)
    always = Code(lambda m, x: m.head(x.flatten(1)) * len(x), head=head).eval()
    assert "several images" in layer_table(always, SQUARE)["why"][0]
    assert (certify(always, x, always(x).argmax(1)) == 0).all()
    sometimes = Code(lambda m, x: m.head(x.flatten(1)) * (9 if len(x) == 5 else 1), head=head).eval()
    for method in (certify, certify_float, certify_inscribed, certify_inscribed_float):
        with pytest.warns(TracedWarning, match="other logits on 5 of 5 images"):
            assert (method(sometimes, x, sometimes(x).argmax(1)) == 0).all()
    assert (certify(sometimes, x[:4], sometimes(x[:4]).argmax(1)) > 0).all()


def test_inscribed_balls_of_code_are_those_of_its_layers():
    torch.manual_seed(0)
    head, x = nn.Linear(16, 3), images(8, SQUARE).round()
    code = Code(lambda m, x: m.head(torch.flatten(x, 1)), head=head).eval()
    chain = nn.Sequential(nn.Flatten(), head).eval()
    labels = chain(x).argmax(1)
    for method, around in ((certify_inscribed, certify), (certify_inscribed_float, certify_float)):
        radii = method(code, x, labels)
        assert torch.allclose(radii, method(chain, x, labels), rtol=1e-6)
        assert (radii >= around(code, x, labels)).all()
        assert (radii > 1.001 * around(code, x, labels)).any()


def test_weights_of_the_forward_pass_are_not_certified_in_float32():
    model = Code(
        lambda m, x: F.linear(x.flatten(1), m.head.weight / m.head.weight.norm()), head=nn.Linear(16, 3)
    ).eval()
    x = images(5, SQUARE)
    labels = model(x).argmax(1)
    assert (certify(model, x, labels) > 0).all()
    assert (certify_float(model, x, labels) == 0).all()


def test_the_model_is_left_as_it_was():
    model = network(3)
    before, forwards = copy.deepcopy(model.state_dict()), [vars(m).get("forward") for m in model.modules()]
    certify(model, images(), torch.zeros(4, dtype=torch.long))
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
    assert [vars(m).get("forward") for m in model.modules()] == forwards


def test_recurrent_and_scripted_networks():
    torch.manual_seed(0)
    chain = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)).eval()
    x = images(6, SQUARE)
    labels = chain(x).argmax(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(copy.deepcopy(chain))
        batch = ({0: torch.export.Dim("batch", min=1)},)
        exported = torch.export.export(copy.deepcopy(chain), (x,), dynamic_shapes=batch, strict=False).module()
    for model in (scripted, exported):
        assert torch.allclose(certify(model, x, labels), certify(chain, x, labels), rtol=1e-9)
    recurrent = Code(
        lambda m, x: m.head(m.rnn(x[:, 0])[0][:, -1]), rnn=nn.RNN(4, 5, batch_first=True), head=nn.Linear(5, 3)
    )
    assert math.isfinite(lipschitz(recurrent.eval(), SQUARE))
    assert jacobian_norm(recurrent, x) <= lipschitz(recurrent, SQUARE)


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda net: nn.Sequential(nn.DataParallel(net[:2]), net[2])])
def test_a_data_parallel_model_has_the_certificate_of_the_model_inside(wrap):
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.Linear(4, 3)).eval()
    model, x = wrap(net).eval(), images(5, SQUARE)
    y = net(x).argmax(1)
    assert (certify(net, x, y) > 0).all()
    assert torch.equal(certify(model, x, y), certify(net, x, y))
    assert torch.allclose(certify_float(model, x, y), certify_float(net, x, y), rtol=1e-5)
