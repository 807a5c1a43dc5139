"""Twelve kinds of network as users have them: which certificate they get, and why.

    python benchmarks/your_networks.py                          # the table goes to docs/your_model.md
    python benchmarks/your_networks.py --onnx FILE --shape 1 28 28   # with an ONNX file, on random images
    python benchmarks/your_networks.py --random 2000            # random networks against Jacobians and attacks

Each network is trained for a few seconds on the 8x8 digits of scikit-learn and certified on 100 test images. "Before"
is the certificate where forward code is not read, "local" that of `certificate_local` on four of the images.
"""

import argparse
import copy
import math
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lipbench
from lipbench.certificate import certify, certify_inscribed, certify_local, layer_table, lipschitz
from lipbench.files import write_text
from lipbench.interop.load import load_model
from lipbench.layers import LayerCentering, bake

PAGE = Path(__file__).parent.parent / "docs" / "your_model.md"
MARK = "<!-- networks -->"
SHAPE = (1, 8, 8)
# Images of `certificate_local`, which takes seconds for each.
LOCAL = 4


class Block(nn.Module):
    """A residual block of torchvision's ResNet."""

    def __init__(self, before: int, after: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(after), nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or before != after:
            self.downsample = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.layer1, self.layer2 = Block(16, 16, 1), Block(16, 32, 2)
        self.fc = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.adaptive_avg_pool2d(self.layer2(self.layer1(x)), 1)
        return self.fc(torch.flatten(x, 1))


class ViT(nn.Module):
    """A small vision transformer: patches of 2x2, one encoder layer."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 32, 2, stride=2)
        self.position = nn.Parameter(torch.zeros(1, 16, 32))
        self.norm1, self.norm2 = nn.LayerNorm(32), nn.LayerNorm(32)
        self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 32)
        self.mlp, self.head = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32)), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.position
        q, k, v = self.qkv(self.norm1(x)).chunk(3, dim=-1)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v))
        x = x + self.mlp(self.norm2(x))
        return self.head(x.mean(1))


class Mixer(nn.Module):
    """One layer of an MLP-Mixer on patches of 2x2.

    Args:
        norm: makes the normalisation of 32 features.
    """

    def __init__(self, norm: Callable[[], nn.Module]):
        super().__init__()
        self.patches = nn.Conv2d(1, 32, 2, stride=2)
        self.norm1, self.norm2 = norm(), norm()
        self.tokens = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.channels = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        x = x + self.channels(self.norm2(x))
        return self.head(x.mean(1))


class Recurrent(nn.Module):
    """An LSTM that reads the image row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(8, 32, batch_first=True), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        rows, _ = self.lstm(x.squeeze(1))
        return self.head(rows[:, -1])


class Plain(nn.Module):
    """PyTorch's own example of MNIST."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 16, 3), nn.Conv2d(16, 16, 3)
        self.dropout, self.fc = nn.Dropout(0.25), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        x = self.dropout(torch.flatten(F.max_pool2d(x, 2), 1))
        return F.log_softmax(self.fc(x), dim=1)


class Normed(nn.Module):
    """A convolutional network with group normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(1, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.avg_pool2d(F.relu(self.norm(self.conv(x))), 2).flatten(1))


class WeightNormed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        normed = nn.utils.parametrizations.weight_norm
        self.first, self.second = normed(nn.Linear(64, 64)), normed(nn.Linear(64, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x.view(len(x), -1))))


def _deel_mlp() -> nn.Module:
    from deel import torchlip as deel

    return deel.Sequential(
        nn.Flatten(), deel.SpectralLinear(64, 64), deel.FullSort(), deel.SpectralLinear(64, 32), deel.FullSort(),
        deel.FrobeniusLinear(32, 10, disjoint_neurons=True),
    )  # fmt: skip


def _deel_cnn() -> nn.Module:
    from deel import torchlip as deel

    return deel.Sequential(
        deel.SpectralConv2d(1, 16, 3, padding=1), deel.BatchLipNorm(16, factory=deel.SharedLipFactory()),
        deel.GroupSort2(), deel.ScaledL2NormPool2d(2), deel.SpectralConv2d(16, 32, 3, padding=1), deel.HouseHolder(32),
        deel.ScaledAvgPool2d(2), nn.Flatten(), deel.SpectralLinear(128, 64), deel.GroupSort2(),
        deel.FrobeniusLinear(64, 10, disjoint_neurons=True),
    )  # fmt: skip


def _orthogonium_cnn() -> nn.Module:
    from orthogonium import layers as ol

    return nn.Sequential(
        nn.PixelUnshuffle(2), ol.AdaptiveOrthoConv2d(4, 16, 3, padding=1), ol.BatchCentering2D(16), ol.MaxMin(),
        ol.AdaptiveOrthoConv2d(16, 16, 3, padding=1), ol.ChannelShuffle(4, 4), ol.MaxMin(), nn.Flatten(),
        ol.OrthoLinear(256, 64), ol.MaxMin(), ol.UnitNormLinear(64, 10),
    )  # fmt: skip


def _scripted(model: nn.Module) -> nn.Module:
    scripted: nn.Module = torch.jit.script(model)
    return scripted


def _exported(model: nn.Module) -> nn.Module:
    batch = {0: torch.export.Dim("batch", min=1)}
    return torch.export.export(model, (torch.zeros(2, *SHAPE),), dynamic_shapes=(batch,), strict=False).module()


# Name -> the network, what is made of it once it is trained, and what would give a larger certificate.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module], nn.Module], str]] = {
    "deel-torchlip, dense": (
        _deel_mlp,
        bake,
        "little: the layers before the head have constant 1, each row of the head norm 1",
    ),
    "deel-torchlip, exported": (
        _deel_mlp,
        lambda m: m.vanilla_export(),
        "little: the layers before the head have constant 1, each row of the head norm 1",
    ),
    "deel-torchlip, CNN": (_deel_cnn, bake, "`BatchCentering` for `BatchLipNorm`, whose scale counts"),
    "orthogonium, CNN": (
        _orthogonium_cnn,
        bake,
        "little: the layers before the head have constant 1, each row of the head norm 1",
    ),
    "ResNet (torchvision's code)": (ResNet, lambda m: m, "Lipschitz layers, no batch normalisation"),
    "example of PyTorch, log_softmax": (Plain, lambda m: m, "Lipschitz layers"),
    "small ViT": (ViT, lambda m: m, "`certificate_local`: attention has no global bound"),
    "MLP-Mixer": (
        lambda: Mixer(lambda: nn.LayerNorm(32)),
        lambda m: m,
        "`certificate_local`, or `lipbench.layers.LayerCentering`, next row",
    ),
    "MLP-Mixer with `LayerCentering`": (lambda: Mixer(LayerCentering), lambda m: m, "Lipschitz layers"),
    "LSTM over rows": (Recurrent, lambda m: m, "`certificate_local`, or fewer steps: constants of all rows multiply"),
    "GroupNorm": (Normed, lambda m: m, "`certificate_local`, or `lipbench.layers.LayerCentering`"),
    "weight_norm": (WeightNormed, bake, "a constraint on the spectral norm instead of the rows'"),
    "TorchScript": (Plain, _scripted, "Lipschitz layers"),
    "torch.export": (Plain, _exported, "Lipschitz layers"),
}


def trained(model: nn.Module, images: Tensor, labels: Tensor, steps: int) -> nn.Module:
    """After a few steps of Adam on cross-entropy with a temperature."""
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    model.train()
    for step in range(steps):
        batch = torch.randint(len(images), (128,), generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        F.cross_entropy(10 * model(images[batch]), labels[batch]).backward()
        optimizer.step()
    return model.eval()


def certified(model: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float]:
    """The median certificate before forward code was read, and now."""
    now, reader = certify(model, x, y), lipschitz.reader
    try:
        lipschitz.reader = lambda module, shape: module
        before = certify(model, x, y)
    except Exception:  # a module without a rule may not even have a shape
        before = torch.zeros(1)
    finally:
        lipschitz.reader = reader
    return float(before.median()), float(now.median())


def row(name: str, model: nn.Module, x: Tensor, y: Tensor, helps: str) -> dict[str, object]:
    """One line of the table."""
    with torch.no_grad():
        right = model(x).argmax(1) == y
    before, now = certified(model, x[right], y[right])
    local = float(certify_local(model, x[right][:LOCAL], y[right][:LOCAL]).median())
    table = layer_table(model, tuple(x.shape[1:]))
    # Its steps follow a graph with their own reasons, each with its line of code.
    refused = table[(table["bound"] == math.inf) & (table["type"] != "Graph")]
    reasons = refused["why"].str.replace(r" \(\S+, line \d+\)", "", regex=True)
    why = "; ".join(dict.fromkeys(reasons)) or f"constant {lipschitz(model, tuple(x.shape[1:])):.3g}"
    remedy = helps or "; ".join(dict.fromkeys(filter(None, refused["remedy"])))
    return {
        "network": name, "accuracy": f"{float(right.float().mean()):.0%}", "before": f"{before:.2g}",
        "now": f"{now:.2g}", "local": f"{local:.2g}", "why": why, "what would help": remedy,
    }  # fmt: skip


def networks(steps: int, onnx: list[str], shape: tuple[int, ...]) -> pd.DataFrame:
    """The table of all kinds."""
    digits = lipbench.data.digits()
    images, labels = digits.train.images.float() / 255, digits.train.labels
    x, y = digits.test.images[:100].float() / 255, digits.test.labels[:100]
    rows = []
    for name, (build, finished, helps) in NETWORKS.items():
        torch.manual_seed(0)
        model = trained(build(), images, labels, steps)
        rows.append(row(name, finished(model).eval() if name != "torch.export" else finished(model), x, y, helps))
        print(rows[-1], flush=True)
    for file in onnx:
        model = load_model(file, shape=shape, classes=10).network
        noise = torch.rand(100, *shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            own = model(noise).argmax(1)
        rows.append(row(f"ONNX: {Path(file).stem}", model, noise, own, "Lipschitz layers"))
    return pd.DataFrame(rows)


def random_networks(count: int, first: int = 0) -> int:
    """Random traced networks: their constants against Jacobians at random points, their certificates, the inscribed one
    as well, against the attack `deepfool`; the number of violations.
    """
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from helpers.traced_cases import SHAPE as SMALL
    from helpers.traced_cases import jacobian_norm, network

    found, ratios, nearest = 0, [], []
    for seed in range(first, first + count):
        model, exact = network(seed), copy.deepcopy(network(seed)).double()
        x = torch.rand(2, *SMALL, generator=torch.Generator().manual_seed(seed))
        y = model(x).argmax(1)
        constant, norm = lipschitz(exact, SMALL), jacobian_norm(exact, x.double())
        radii = certify_inscribed(model, x, y, steps=10)
        adversarial = lipbench.attacks.deepfool(model, x, y)
        other = model(adversarial).argmax(1) != y
        distance = (adversarial - x).double().flatten(1).norm(dim=1)
        bad = norm > constant * (1 + 1e-12) or bool((other & (distance < radii)).any())
        found += bad
        ratios.append(constant / max(norm, 1e-300))
        nearest += (distance / radii)[other].tolist()
        if bad:
            print(f"violation: seed {seed}", flush=True)
        if seed % 100 == 99:
            print(
                f"{seed + 1}: {found} violations, median constant / norm {pd.Series(ratios).median():.3g}", flush=True
            )
    median, closest = pd.Series(ratios).median(), min(nearest, default=math.inf)
    print(f"{count} networks, {found} violations")
    print(f"constant / Jacobian: least {min(ratios):.4g}, median {median:.3g}")
    print(f"distance / certificate: least {closest:.3g}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--onnx", nargs="*", default=[])
    parser.add_argument("--shape", type=int, nargs=3, default=(1, 28, 28))
    parser.add_argument("--random", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.random:
        sys.exit(int(random_networks(options.random, options.first) > 0))
    table = networks(options.steps, options.onnx, tuple(options.shape))
    head, _, rest = PAGE.read_text(encoding="utf-8").partition(MARK)
    tail = rest.partition(MARK)[2] if MARK in rest else rest
    lines = [table.columns, ["---"] * len(table.columns), *table.to_numpy()]
    rows = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    write_text(PAGE, f"{head}{MARK}\n\n{rows}\n\n{MARK}{tail}")


if __name__ == "__main__":
    main()
