"""Seconds of a training step of every Lipschitz layer relative to plain torch, and its peak memory.

    python benchmarks/layers.py                 # the table goes to benchmarks/layers.md
    python benchmarks/layers.py --device cuda
    pip install -c constraints.txt -e ".[peers]"   # to have deel-torchlip and orthogonium in the same table

One step is forward, backward and the optimiser's step, on batches of 128. All variants of a table run interleaved in
one process, so that a noisy machine disturbs them alike: medians, and the ratio to plain torch. Memory is the peak of
the resident set above what it was before the network was made, in a process that does nothing else (Linux).
"""

import argparse
import ctypes
import gc
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch import nn
from torch.optim import Optimizer

from lipbench import layers, losses
from lipbench.files import write_text
from lipbench.models import convnet
from lipbench.training import adam, spectral

BATCH = 128
BURST = 12  # steps: whole cycles of the variants that step every 2 or 6 batches
Made = tuple[nn.Module, Optimizer]
FAMILIES = ("soc", "cayley", "sandwich", "aol", "cpl", "sll", "liresnet")


def dense(constraint: Callable = nn.Identity, optimizer: Callable[[nn.Module], Optimizer] = adam) -> Made:
    """784-256-128."""
    model = nn.Sequential(
        layers.constrain(nn.Linear(784, 256), constraint),
        layers.MaxMin(),
        layers.constrain(nn.Linear(256, 128), constraint),
    )
    return model, optimizer(model)


def conv(constraint: Callable = nn.Identity, optimizer: Callable[[nn.Module], Optimizer] = adam, mode="zeros") -> Made:
    """3x3, 32 -> 32 channels, on 28x28."""
    model = nn.Sequential(
        layers.constrain(nn.Conv2d(32, 32, 3, padding=1, padding_mode=mode), constraint, size=(28, 28))
    )
    return model, optimizer(model)


def network(constraint: Callable = nn.Identity, optimizer: Callable[[nn.Module], Optimizer] = adam) -> Made:
    """The network of mnist08/hkr_cnn."""
    model = convnet(
        (1, 28, 28),
        2,
        channels=(32, 64),
        kernel_size=2,
        stride=2,
        padding=0,
        widths=(128, 64, 32),
        constraint=constraint,
        activation=layers.MaxMin,
        pooling=nn.PixelUnshuffle,
        pool_first=True,
    )
    return model, optimizer(model)


def tables() -> dict[str, tuple[tuple[int, ...], dict[str, Callable[[], Made]]]]:
    """Title -> (shape of one input, variant -> maker); the first variant is plain torch."""
    others = {name: getattr(layers, name) for name in FAMILIES}
    convolutional = {name: made for name, made in others.items() if name != "sandwich"}  # it is cayley there
    every = partial(spectral, every=6)
    return {
        "Dense stack 784-256-128": (
            (784,),
            {
                "plain torch, Adam": dense,
                "orthogonal, spectral (a step every 6 batches)": partial(dense, layers.Orthogonal, every),
                "orthogonal, spectral": partial(dense, layers.Orthogonal, spectral),
                "orthogonal, Adam and retraction": partial(dense, layers.Orthogonal, adam),
                "Björck in the forward pass, Adam": partial(dense, layers.Bjorck, adam),
                "spectral norm, Adam": partial(dense, layers.Spectral, adam),
                **{f"{name}, Adam": partial(dense, made, adam) for name, made in others.items()},
                **_peers_dense(),
            },
        ),
        "3x3 convolution 32 -> 32 on 28x28": (
            (32, 28, 28),
            {
                "plain torch, Adam": conv,
                "aoc, spectral": partial(conv, layers.aoc, spectral),
                "aoc, spectral (a step every 6 batches)": partial(conv, layers.aoc, every),
                "aoc, Adam and retraction": partial(conv, layers.aoc, adam),
                "plain torch, circular, Adam": partial(conv, mode="circular"),
                "aoc, circular, spectral": partial(conv, layers.aoc, spectral, mode="circular"),
                **{
                    f"{name}, circular, Adam": partial(conv, m, adam, mode="circular")
                    for name, m in convolutional.items()
                },
                **_peers_conv(),
            },
        ),
        "MNIST 0 vs 8 CNN of hkr_cnn": (
            (1, 28, 28),
            {
                "plain torch, Adam": network,
                "orthogonal, spectral": partial(network, layers.aoc, spectral),
                "orthogonal, spectral (a step every 2 batches, as there)": partial(
                    network, layers.aoc, partial(spectral, every=2)
                ),
                "orthogonal, spectral (a step every 6 batches)": partial(network, layers.aoc, every),
            },
        ),
    }


def _peers_dense() -> dict[str, Callable[[], Made]]:
    def stack(linear: Callable[[int, int], nn.Module]) -> Made:
        model = nn.Sequential(linear(784, 256), layers.MaxMin(), linear(256, 128))
        return model, torch.optim.Adam(model.parameters())

    found: dict[str, Callable[[], Made]] = {}
    try:
        from deel.torchlip import SpectralLinear

        found["deel-torchlip SpectralLinear"] = partial(stack, SpectralLinear)
    except ImportError:
        pass
    try:
        from orthogonium.layers.linear import OrthoLinear

        found["orthogonium OrthoLinear"] = partial(stack, OrthoLinear)
    except ImportError:
        pass
    return found


def _peers_conv() -> dict[str, Callable[[], Made]]:
    def one(make: Callable[[], nn.Module]) -> Made:
        model = make()
        return model, torch.optim.Adam(model.parameters())

    found: dict[str, Callable[[], Made]] = {}
    try:
        from deel.torchlip import SpectralConv2d

        found["deel-torchlip SpectralConv2d"] = partial(one, lambda: SpectralConv2d(32, 32, 3, padding=1))
    except ImportError:
        pass
    try:
        from orthogonium.layers.conv.AOC import AdaptiveOrthoConv2d

        for mode in ("zeros", "circular"):
            make = partial(AdaptiveOrthoConv2d, 32, 32, 3, padding=1, padding_mode=mode)
            found[f"orthogonium AdaptiveOrthoConv2d, {mode}"] = partial(one, make)
    except ImportError:
        pass
    return found


def stepper(made: Made, shape: tuple[int, ...], device: torch.device) -> Callable[[], None]:
    model, optimizer = made
    x = torch.rand(BATCH, *shape, device=device)
    y = torch.randint(2, (BATCH,), device=device)

    def step() -> None:
        out = model(x)
        loss = losses.hkr(out, y) if out.ndim == 2 and out.shape[1] == 2 else out.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return step


def measure(title: str, rounds: int, device: torch.device) -> pd.DataFrame:
    shape, variants = tables()[title]
    steps = {}
    for name, make in variants.items():
        torch.manual_seed(0)
        model, optimizer = make()
        if device.type == "cuda":  # the optimisers hold the parameters, which move in place
            model.to(device)
        steps[name] = stepper((model, optimizer), shape, device)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for repetition in range(rounds + 2):
        for name, step in steps.items():
            started = time.perf_counter()
            for _ in range(BURST):
                step()
            if repetition >= 2:
                seconds[name].append((time.perf_counter() - started) / BURST)
    plain = next(iter(seconds))
    rows = []
    for name, times in seconds.items():
        ratios = [t / p for t, p in zip(times, seconds[plain], strict=True)]
        memory = peak_memory(title, name, device)
        rows.append(
            {"variant": name, "ms": 1e3 * statistics.median(times), "ratio": statistics.median(ratios), **memory}
        )
    table = pd.DataFrame(rows)
    table["memory ratio"] = table["MiB"] / table["MiB"].iloc[0]
    return table


def peak_memory(title: str, name: str, device: torch.device) -> dict[str, float]:
    """Growth of the peak memory while the variant takes 10 steps, in a process of its own."""
    threads = str(torch.get_num_threads())
    command = [sys.executable, __file__, "--memory", title, name, "--device", str(device), "--threads", threads]
    return {
        "MiB": float(
            json.loads(subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8").stdout)
        )
    }


def _memory(title: str, name: str, device: torch.device) -> float:
    shape, variants = tables()[title]
    first = stepper(variants[name](), shape, torch.device("cpu"))
    first()  # what torch and its libraries load and allocate once
    del first
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # forgets the peak of the imports
    model, optimizer = variants[name]()
    step = stepper((model.to(device), optimizer), shape, device)
    for _ in range(10):
        step()
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return _resident("VmHWM") - before


def _resident(field: str) -> float:
    """MiB of the resident set now (VmRSS), or at its peak (VmHWM)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(float(line.split()[1]) / 2**10 for line in lines if line.startswith(field))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", metavar="TITLE", help="measure this table again and leave the others as they are")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    parser.add_argument("--memory", nargs=2, metavar=("TITLE", "VARIANT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    if options.memory:
        print(json.dumps(_memory(*options.memory, device)))
        return
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.machine()
    head = (
        f"# Training step of each layer\n\n`python benchmarks/layers.py --device {options.device}`: batches of "
        f"{BATCH}, interleaved, medians of {options.rounds} rounds of {BURST} steps; ratio to plain torch in the "
        f"same round. {name}, {options.threads} threads, torch {torch.__version__}.\n\n"
    )
    written = options.out.read_text(encoding="utf-8").split("## ")[1:] if options.only and options.out.exists() else []
    sections = {section.split("\n")[0]: section for section in written}
    for title in [options.only] if options.only else tables():
        table = measure(title, options.rounds, device)
        sections[title] = f"{title}\n\n{table.to_markdown(index=False, floatfmt='.2f')}\n\n"
        print(sections[title], flush=True)
        write_text(options.out, head + "".join("## " + sections[t] for t in tables() if t in sections))


if __name__ == "__main__":
    main()
