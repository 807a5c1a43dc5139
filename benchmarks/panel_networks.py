"""The networks of the panel: public ones that lipbench did not train, and three of our own for tests."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import lipbench
from lipbench.interop.adapters import InBatches
from lipbench.interop.load import load_model
from lipbench.margins import predict

# The folder of the public networks; their licences and sizes keep them out of a clone.
FOLDER = "LIPBENCH_NETWORKS"
SHAPES = {"mnist": (1, 28, 28), "cifar10_jpeg": (3, 32, 32)}


class Skipped(Exception):
    """A network cannot be had here; the message says why."""


@dataclass(frozen=True)
class Public:
    """A public network.

    Attributes:
        file: in the folder of the public networks.
        dataset: function of `lipbench.data`.
        options: of `lipbench.interop.load.load_model`.
    """

    file: str
    dataset: str = "mnist"
    options: Mapping[str, Any] = field(default_factory=dict)


# Pixels from 0 to 255.
BYTES = {"input_std": 1 / 255}
PUBLIC = {
    "mnist_relu_256x2": Public("mnist_relu_256x2.onnx"),
    "mnist_relu_9x200": Public("mnist_relu_9x200.onnx"),
    "mnist_sigmoid": Public("mnist_sigmoid_200_100_50.onnx", options=BYTES),
    "mnist_tanh": Public("mnist_tanh_200_100_50.onnx", options=BYTES),
    "mnist_set_trained": Public("mnist_set_trained.onnx", options={"input_layout": "CWH_flat"}),
    "mnist_small_0_3": Public("mnist_small_0_3.pth"),
    "mnist_convnet_maxpool": Public("mnist_convnet_maxpool.onnx"),
    "mnist_diffai": Public("mnist_diffai_unnormalised.onnx", options={"input_mean": 0.1307, "input_std": 0.3081}),
    "cifar10_resnet_2b": Public(
        "cifar10_resnet_2b.onnx",
        "cifar10_jpeg",
        {"input_mean": (0.4914, 0.4822, 0.4465), "input_std": (0.2471, 0.2435, 0.2616)},
    ),
    "cifar10_provable_base": Public(
        "cifar10_provable_base.onnx", "cifar10_jpeg", {"input_mean": (0.485, 0.456, 0.406), "input_std": 0.225}
    ),
    "cifar10_channels_last": Public("cifar10_channels_last.onnx", "cifar10_jpeg"),
}


def public(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    """A public network and its test images [N, C, H, W] in [0, 1] with their labels [N].

    Raises:
        Skipped: the file, or the data set, is not on this machine.
    """
    entry = PUBLIC[name]
    folder = os.environ.get(FOLDER)
    path = Path(folder or "", entry.file)
    if not folder or not path.exists():
        raise Skipped(f"{entry.file} is not in the folder that {FOLDER} names ({folder or 'not set'})")
    try:
        test = getattr(lipbench.data, entry.dataset)().test
    except Exception as error:
        raise Skipped(f"no data set {entry.dataset}: {error}") from error
    if path.suffix == ".pth":
        model = _convex_adversarial(path)
    else:
        model = load_model(str(path), shape=SHAPES[entry.dataset], classes=10, **entry.options).network
        model = _in_whole_batches(model)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model, test.images, test.labels


class Mapped(nn.Module):
    """A network for single images, mapped over a batch at once."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        """[N, ...] -> logits [N, K]."""
        logits: Tensor = torch.vmap(lambda image: self.module(image[None])[0])(x)
        return logits


def _in_whole_batches(model: nn.Module) -> nn.Module:
    """The same network many times faster, where its file was exported for one image, and batches are cut."""
    for parent in model.modules():
        for name, cut in parent.named_children():
            if isinstance(cut, InBatches) and cut.largest == 1:
                setattr(parent, name, Mapped(cut.module))
    if isinstance(model, InBatches) and model.largest == 1:
        model = Mapped(model.module)
    return model.eval()


def _convex_adversarial(path: Path) -> nn.Module:
    """The small network of Wong and Kolter's convex_adversarial, whose checkpoint holds a list of state_dicts."""
    convolutions = [nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU()]
    model = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(1568, 100), nn.ReLU(), nn.Linear(100, 10))
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["state_dict"][0])
    return model.eval()


def right_images(model: nn.Module, images: Tensor, labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The first `count` images that the model classifies as their labels say, as floats in [0, 1]."""
    images, labels = images[: 4 * count], labels[: 4 * count]
    x = images.float() / 255 if images.dtype == torch.uint8 else images
    rows = (predict(model, x) == labels).nonzero()[:count, 0]
    return x[rows], labels[rows]


def saturating() -> nn.Module:
    """Three layers of sigmoids, trained until they saturate: gradients vanish."""
    layers = [nn.Linear(64, 50), nn.Sigmoid(), nn.Linear(50, 50), nn.Sigmoid(), nn.Linear(50, 50), nn.Sigmoid()]
    return _trained(nn.Sequential(nn.Flatten(), *layers, nn.Linear(50, 10)), epochs=150)


def deep_narrow() -> nn.Module:
    """Nine layers of 20 ReLUs: many small linear regions, and many kinks between an image and its boundary."""
    layers: list[nn.Module] = [nn.Flatten(), nn.Linear(64, 20), nn.ReLU()]
    for _ in range(8):
        layers += [nn.Linear(20, 20), nn.ReLU()]
    return _trained(nn.Sequential(*layers, nn.Linear(20, 10)), epochs=80, lr=3e-3)


def interval_trained() -> nn.Module:
    """Trained on the worst logits that interval arithmetic allows in an L-infinity ball (Gowal et al., 2018,
    arXiv 1810.12715): flat regions far from the boundary.
    """
    return _trained(nn.Sequential(nn.Flatten(), nn.Linear(64, 60), nn.ReLU(), nn.Linear(60, 10)), epochs=80, radius=0.1)


OWN: dict[str, Callable[[], nn.Module]] = {
    "digits_saturating": saturating,
    "digits_deep_narrow": deep_narrow,
    "digits_interval_trained": interval_trained,
}


def own(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    """A small network of our own, trained in seconds on scikit-learn's digits, and their test images and labels."""
    test = lipbench.data.digits().test
    return OWN[name](), test.images, test.labels


def _trained(model: nn.Sequential, epochs: int, lr: float = 1e-2, radius: float = 0.0) -> nn.Module:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        for layer in model:
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()
        train = lipbench.data.digits().train
        x, y = train.images.float() / 255, train.labels
        optimizer = torch.optim.Adam(model.parameters(), lr)
        for epoch in range(epochs):
            for rows in torch.randperm(len(x)).split(128):
                optimizer.zero_grad()
                loss = cross_entropy(model(x[rows]), y[rows])
                if radius:
                    loss = loss + cross_entropy(_worst(model, x[rows], y[rows], radius * epoch / epochs), y[rows])
                loss.backward()
                optimizer.step()
    return model.eval()


def _worst(model: nn.Sequential, x: Tensor, y: Tensor, radius: float) -> Tensor:
    """Logits that interval arithmetic allows at worst: the lower bound of class y, the upper bounds of the others."""
    low, high = (x - radius).clamp(0, 1), (x + radius).clamp(0, 1)
    for layer in model:
        if isinstance(layer, nn.Linear):
            middle, reach = layer((low + high) / 2), ((high - low) / 2) @ layer.weight.abs().T
            low, high = middle - reach, middle + reach
        else:
            low, high = layer(low), layer(high)
    return torch.where(nn.functional.one_hot(y, high.shape[1]).bool(), low, high)
