"""Anonymous memory of the data path, from JPEG files to a certified test set, on drawn faces (Linux).

    python benchmarks/data_memory.py               # 2,000 and 20,000 faces; writes benchmarks/data_memory.md
    python benchmarks/data_memory.py --root DIR     # keeps the faces in DIR/<number>, or finds them there

Anonymous memory is what the system cannot take back: RssAnon of the process and of its children, sampled while each
phase runs, above what the imported libraries take. Pages of the mapped cache are not in it. A network of its own takes
memory too, for activations and gradients: that is in both columns, and does not grow with the number of images.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from lipbench import data, layers, losses
from lipbench.certificate import certify
from lipbench.data.celeba.drawn import write_faces
from lipbench.data.own.cache import cores
from lipbench.evaluation.bounds import certify_images
from lipbench.files import write_text
from lipbench.layers import bake
from lipbench.models import convnet
from lipbench.training import fit, spectral

HERE = Path(__file__).parent
MIB = 2**20
PERIOD = 0.02


def anonymous() -> float:
    """MiB of anonymous memory of this process and its children."""
    children = [
        pid for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text(encoding="utf-8").split()
    ]
    return sum(map(_anonymous, ["self", *children]))


def _anonymous(pid: str) -> float:
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:  # it ended meanwhile
        return 0.0
    return sum(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon:")) / 1024


def measured(phase: Callable[[], Any]) -> tuple[dict[str, float], Any]:
    """Seconds, and the peak of the anonymous memory in MiB, of a phase; and what it returns."""
    peak, done = 0.0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(PERIOD):
            peak = max(peak, anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.perf_counter()
    try:
        result = phase()
    finally:
        seconds = time.perf_counter() - started
        done.set()
        watcher.join()
    return {"seconds": seconds, "peak": max(peak, anonymous())}, result


def phases(root: Path, number: int, size: int, minutes: float) -> list[dict[str, Any]]:
    """One row per phase, in a process that does nothing else."""
    torch.set_num_threads(1)
    base = anonymous()
    rows = []

    def run(title: str, phase: Callable[[], Any]) -> Any:
        row, result = measured(phase)
        rows.append({"phase": title, "seconds": row["seconds"], "mib": row["peak"] - base})
        return result

    if not (root / "celeba_drawn").exists():
        run("drawing the faces", lambda: write_faces(number, root=root, progress=False))
    read = partial(data.celeba_drawn, "Eyeglasses", size=size, root=root, progress=False)
    for path in root.glob("cache/*"):
        path.unlink()
    run("decoding them into the cache", read)
    dataset = run("opening the cache again", read)
    model = convnet(
        dataset.shape,
        2,
        channels=(16, 32, 64),
        kernel_size=2,
        stride=2,
        padding=0,
        widths=(64,),
        constraint=layers.Orthogonal,
        activation=layers.MaxMin,
        pooling=nn.PixelUnshuffle,
        pool_first=True,
    )
    training = partial(fit, model, dataset, losses.hkr, spectral, epochs=1, minutes=minutes, progress=False)
    run("training for an epoch, and monitoring", training)
    bake(model)
    test = dataset.test
    run("certifying the whole test set", lambda: certify_images(model, test.images, test.labels, certify))
    everything = sum(split.images.nbytes for split in (dataset.train, dataset.validation, dataset.test)) / MIB
    return [*rows, {"phase": "(the decoded images themselves)", "seconds": float("nan"), "mib": everything}]


def table(columns: dict[int, list[dict[str, Any]]], size: int) -> str:
    """The Markdown file."""
    frames = []
    for number, rows in columns.items():
        frame = pd.DataFrame(rows).set_index("phase")
        frames.append(frame.rename(columns={"seconds": f"{number:,}: s", "mib": f"{number:,}: MiB"}))
    joined = pd.concat(frames, axis=1).reindex([row["phase"] for row in max(columns.values(), key=len)])
    body = joined.to_markdown(floatfmt=".1f", missingval="")
    return (
        "# Anonymous memory of the data path\n\n"
        f"`python benchmarks/data_memory.py`: drawn faces of 178x218 as 3x{size}x{size}; peak of RssAnon, children "
        "included, above what the imported libraries take. "
        f"{platform.machine()}, {cores()} cores, torch {torch.__version__}.\n\n{body}\n"
    ).replace("nan", "")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="folder of the faces; default: a temporary one")
    parser.add_argument("--numbers", type=int, nargs="+", default=[2000, 20_000])
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=2.0, help="of training, at most")
    parser.add_argument("--out", type=Path, default=HERE / "data_memory.md")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(phases(options.root, options.one, options.size, options.minutes)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        columns = {}
        for number in options.numbers:
            root = (options.root or Path(temporary)) / str(number)
            command = [sys.executable, __file__, "--root", str(root), "--one", str(number)]
            command += ["--size", str(options.size), "--minutes", str(options.minutes)]
            output = subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8").stdout
            columns[number] = json.loads(output.splitlines()[-1])
            print(number, columns[number], flush=True)
    write_text(options.out, table(columns, options.size))


if __name__ == "__main__":
    main()
