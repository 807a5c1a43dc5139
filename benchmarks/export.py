"""Latency of an exported 1-Lipschitz network next to the plain networks of the same widths, and next to torch.

    python benchmarks/export.py                 # the table goes to benchmarks/export.md

The network of experiment mnist08/hkr_cnn under the constraint orthogonal, its unconstrained twin with the same
activation, and the twin with ReLU; the weights are random, which costs the same. The weights of a baked network are
fixed tensors in plain layers, so the first two should cost alike. All run interleaved in one process, in another order
each round, so that a noisy machine disturbs them alike: medians, and their ratio to the plain network with ReLU.
"""

import argparse
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pandas as pd
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import nn

from lipbench.commands.suites import CONF
from lipbench.files import write_text
from lipbench.interop.export import export
from lipbench.layers import bake
from lipbench.runs.network import build

SHAPE = (1, 28, 28)
BATCHES = (1, 128)
# The ratios are relative to the last one, in onnxruntime.
VARIANTS = {
    "orthogonal, MaxMin": [],
    "unconstrained, MaxMin": ["constraint=free"],
    "unconstrained, ReLU": ["constraint=free", "model.activation._target_=torch.nn.ReLU"],
}
Call = Callable[[], object]


def network(overrides: list[str]) -> nn.Module:
    """The network of mnist08/hkr_cnn with overrides, baked, with random weights."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", overrides=["experiment=mnist08/hkr_cnn", *overrides])
    recipe = {key: OmegaConf.to_container(cfg[key], resolve=True) for key in ("model", "constraint")}
    torch.manual_seed(0)
    return bake(build({**recipe, "shape": SHAPE, "classes": 2}))


def onnx_call(path: Path, x: torch.Tensor, threads: int) -> Call:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feed = {"images": x.numpy()}
    return lambda: session.run(None, feed)


def torch_call(model: nn.Module, x: torch.Tensor) -> Call:
    return lambda: model(x)


@torch.inference_mode()
def medians(calls: dict[str, Call], rounds: int, burst: int) -> pd.DataFrame:
    """Milliseconds per call, and the ratio to the last variant."""
    order, generator = list(calls), random.Random(0)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for repetition in range(rounds + 2):
        generator.shuffle(order)  # a fixed order can fall into step with the scheduler
        for name in order:
            started = time.perf_counter()
            for _ in range(burst):
                calls[name]()
            if repetition >= 2:
                seconds[name].append((time.perf_counter() - started) / burst)
    milliseconds = pd.Series({name: 1e3 * statistics.median(times) for name, times in seconds.items()})
    return pd.DataFrame({"ms": milliseconds, "ratio": milliseconds / milliseconds.iloc[-1]})


def table(rounds: int, threads: int) -> pd.DataFrame:
    """A row per variant and runtime, columns per batch size."""
    models = {name: network(overrides) for name, overrides in VARIANTS.items()}
    columns = []
    with tempfile.TemporaryDirectory() as folder:
        for name, model in models.items():
            export(model, SHAPE, Path(folder) / name, formats=["onnx"])
        for batch in BATCHES:
            x = torch.rand(batch, *SHAPE)
            calls = {f"torch: {name}": torch_call(model, x) for name, model in models.items()}
            calls |= {
                f"onnxruntime: {name}": onnx_call(Path(folder) / name / "model.onnx", x, threads) for name in models
            }
            measured = medians(calls, rounds, burst=8 if batch == 1 else 1)
            columns.append(measured.rename(columns=lambda c, b=batch: f"{c}, batch {b}"))
    return pd.concat(columns, axis=1).rename_axis("variant").reset_index()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found = table(options.rounds, options.threads)
    text = (
        f"# Latency of an exported network\n\n`python benchmarks/export.py`: the network of mnist08/hkr_cnn and its "
        f"plain twins, random weights, interleaved, medians of {options.rounds} rounds; ratio to the plain network "
        f"with ReLU in onnxruntime. {platform.machine()}, threads: {options.threads}, onnxruntime "
        f"{onnxruntime.__version__}, torch {torch.__version__} (eager).\n\n"
        f"{found.to_markdown(index=False, floatfmt=('', '.3f', '.2f', '.3f', '.2f'))}\n"
    )
    print(text)
    write_text(options.out, text)


if __name__ == "__main__":
    main()
