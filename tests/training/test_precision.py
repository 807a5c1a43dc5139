"""In which precision products are computed: in evaluation always float32, in training what is asked for."""

import copy

import pytest
import torch
from torch import nn

import lipbench
from lipbench import layers, losses
from lipbench.commands.options import judging
from lipbench.evaluation import bounds, loop, transport_law
from lipbench.evaluation import evaluate as evaluation
from lipbench.models import mlp
from lipbench.precision import float32_products, own_precision
from lipbench.training import adam, spectral

NEW = hasattr(torch.backends.cudnn, "conv")


def state() -> tuple:
    old = (torch.get_float32_matmul_precision(), torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
    if not NEW:
        return old
    b = torch.backends
    new = (b.cuda.matmul, b.cudnn.conv, b.cudnn.rnn, b.mkldnn.matmul, b.mkldnn.conv)
    return (*old, *(switch.fp32_precision for switch in new))


@pytest.fixture(params=["high", "medium", "highest"])
def switched_on(request):
    """A user's global choice."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision(request.param)
    torch.backends.cudnn.allow_tf32 = True
    yield request.param
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


def is_exact() -> bool:
    """What is switched on where this is called, by both of torch's interfaces."""
    off = torch.get_float32_matmul_precision() == "highest" and not torch.backends.cudnn.allow_tf32
    return off and not torch.is_autocast_enabled("cpu") and not torch.is_autocast_enabled("cuda")


def test_products_are_float32_inside_and_everything_is_as_before(switched_on):
    before = state()
    with torch.autocast("cpu", torch.bfloat16), float32_products():
        assert is_exact()
        product = torch.ones(2, 2) @ torch.full((2, 2), 1 + 2**-12)
        assert product.dtype == torch.float32
    assert state() == before
    with pytest.raises(KeyError), float32_products():
        raise KeyError
    assert state() == before


def test_tf32_is_allowed_where_it_is_asked_for_and_weights_are_made_without():
    before = state()
    with float32_products(tf32=True):
        assert torch.backends.cuda.matmul.allow_tf32
        assert torch.backends.cudnn.allow_tf32
        if NEW:
            assert torch.backends.mkldnn.matmul.fp32_precision == "ieee"
        with float32_products():
            assert not torch.backends.cuda.matmul.allow_tf32
        assert torch.backends.cuda.matmul.allow_tf32
    assert state() == before


def test_weights_on_a_gpu_are_made_in_float32():
    class OnGpu:
        device = torch.device("cuda")

    with float32_products(tf32=True), own_precision(OnGpu()):
        assert is_exact()


@pytest.mark.skipif(not NEW, reason="torch before 2.9 has one interface")
def test_the_newer_interface_is_respected():
    switch = torch.backends.cudnn.conv
    before = switch.fp32_precision
    try:
        switch.fp32_precision = "ieee"
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        with float32_products():
            assert torch.backends.cuda.matmul.fp32_precision == "ieee"
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
        assert switch.fp32_precision == "ieee"
    finally:
        switch.fp32_precision = before
        torch.set_float32_matmul_precision("highest")


class Watched(nn.Module):
    """Notes what is switched on when it computes."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner
        self.seen: list[bool] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(is_exact())
        return self.inner(x)

    def __deepcopy__(self, memo: dict) -> "Watched":
        copied = Watched(copy.deepcopy(self.inner, memo))
        copied.seen = self.seen
        return copied


@pytest.mark.filterwarnings("ignore::lipbench.evaluation.health.HealthWarning")
def test_evaluation_is_in_float32_whatever_is_switched_on(switched_on):
    model = Watched(mlp((1, 4, 4), 2, widths=[4]).eval())
    images, labels = torch.randint(0, 256, (8, 1, 4, 4), dtype=torch.uint8), torch.arange(8) % 2

    def attack(model, x, y):
        model(x)
        return x

    with torch.autocast("cpu", torch.bfloat16):
        for judge in (
            lambda: bounds.attack_images(model, images, labels, attack, "mine"),
            lambda: bounds.certify_images(model, images, labels, lipbench.certificate.certify),
            lambda: loop.health(model, images, labels),
            lambda: transport_law.transport_law(model, images, labels),
            lambda: evaluation.certify_model(model, images),
            lambda: evaluation.evaluate(model, images, labels, {"mine": attack}, progress=False),
        ):
            model.seen.clear()
            judge()
            assert model.seen
            assert all(model.seen)
        model(evaluation.as_pixels(images))
    assert not model.seen[-1], "what the test watches"


class Noted(nn.Identity):
    """Notes, in training and in evaluation, what is switched on for GPUs."""

    seen: list[tuple[bool, bool]] = []  # noqa: RUF012

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append((self.training, torch.backends.cuda.matmul.allow_tf32))
        return x


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_training_uses_what_is_asked_for_and_validation_float32(precision, switched_on):
    data = lipbench.data.digits(keep=(0, 8))
    model = nn.Sequential(Noted(), mlp(data.shape, 2, widths=[8], constraint=layers.Orthogonal))
    optimizer_saw: list[bool] = []

    def optimizer(model: nn.Module) -> torch.optim.Optimizer:
        made = spectral(model)
        made.register_step_post_hook(lambda *_: optimizer_saw.append(torch.backends.cuda.matmul.allow_tf32))
        return made

    Noted.seen.clear()
    lipbench.fit(
        model, data, losses.hkr, optimizer, epochs=1, batch_size=64, precision=precision, progress=False, epsilon=0.5
    )
    assert {on for training, on in Noted.seen if training} == {precision == "tf32"}
    assert {on for training, on in Noted.seen if not training} == {False}
    assert set(optimizer_saw) == {False}, "steps and retractions are made in float32"


def test_tf32_on_a_processor_is_float32():
    data = lipbench.data.digits(keep=(0, 8))

    def trained(precision: str) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = mlp(data.shape, 2, widths=[8], constraint=layers.Bjorck)
        lipbench.fit(model, data, losses.hkr, adam, epochs=1, precision=precision, progress=False)
        return list(model.parameters())

    assert all(map(torch.equal, trained("tf32"), trained("float32")))
    with pytest.raises(ValueError, match="tf32"):
        trained("float16")


@pytest.mark.parametrize("there", [False, True])
def test_bfloat16_is_used_where_the_processor_has_it(there, monkeypatch):
    """Imitated, it would be slower than float32."""
    data = lipbench.data.digits(keep=(0, 8))
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: there, raising=False)
    kinds = set()
    torch.manual_seed(0)
    model = mlp(data.shape, 2, widths=[8], constraint=layers.Orthogonal)

    def note(module: nn.Module, _: object, output: torch.Tensor) -> None:
        if module.training:
            kinds.add(output.dtype)

    next(m for m in model.modules() if isinstance(m, nn.Linear)).register_forward_hook(note)
    lipbench.fit(model, data, losses.hkr, spectral, epochs=1, precision="bfloat16", progress=False)
    assert kinds == {torch.bfloat16 if there else torch.float32}


def test_devices_that_are_not_there_are_refused(monkeypatch):
    options = {"images": 1, "batch_size": 1, "epsilons": [1.0], "force": False, "progress": False}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert judging({**options, "device": "auto"})["device"] == torch.device("cpu")
    with pytest.raises(ValueError, match="sees 0 GPUs"):
        judging({**options, "device": "cuda"})
    with pytest.raises(ValueError, match="give auto, cpu"):
        judging({**options, "device": "gpu"})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert judging({**options, "device": "auto"})["device"] == torch.device("cuda")
    with pytest.raises(ValueError, match="sees 2 GPUs"):
        judging({**options, "device": "cuda:2"})
