"""Images per second of reading, of what is done to each batch, and of training steps, side by side.

    python benchmarks/data.py                 # the table goes to benchmarks/data.md
    python benchmarks/data.py --device cuda

Reading happens once per run; a batch is taken and augmented in every step, so its row says how much of the time that
adds to a step. The files read are drawn, in the official layout and size, and were read before (so the disk
is not measured). Batches are of 256 images 3x32x32; they and the steps run interleaved: medians. One step is forward,
backward and the optimiser's step. With one thread on the CPU, seconds are those of the processor: other programs on the
machine do not count.
"""

import argparse
import io
import pickle
import platform
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from lipbench import layers, losses
from lipbench.data import cifar10_jpeg
from lipbench.data.celeba.drawn import write_faces
from lipbench.data.cifar.jpeg_edition import ARCHIVE, CLASSES, make_cifar10_jpeg
from lipbench.data.own.cache import decoded
from lipbench.data.own.pictures import FilePictures, Preparation
from lipbench.data.root import data_root
from lipbench.files import write_text
from lipbench.images import pixels
from lipbench.models import convnet
from lipbench.training import adam, crop_flip_cutout, random_affine, spectral

BATCH, SHAPE, IMAGES = 256, (3, 32, 32), 60_000
FACES = 500
Work = Callable[[], object]


def pickles() -> dict[str, bytes]:
    """Drawn batches in the official layout: name -> content."""
    rng = np.random.default_rng(0)
    labels = (np.arange(10_000) % 10).tolist()
    found = {"batches.meta": pickle.dumps({"label_names": list(CLASSES)}, 4)}
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        # The mean of two uniform bytes packs as photographs do: to 92 %.
        data = rng.integers(0, 256, (2, 10_000, 3072), np.uint8).mean(axis=0, dtype=np.float32).astype(np.uint8)
        found[name] = pickle.dumps({"data": data, "labels": labels}, 4)
    return found


def read_folder(folder: Path) -> Work:
    base = folder / "py" / "cifar10_jpeg" / "cifar-10-batches-py"
    base.mkdir(parents=True)
    for name, content in pickles().items():
        (base / name).write_bytes(content)
    return partial(cifar10_jpeg, root=folder / "py")


def read_archive(folder: Path) -> Work:
    base = folder / "tar" / "cifar10_jpeg"
    base.mkdir(parents=True)
    with tarfile.open(base / "cifar-10-python.tar.gz", "w:gz", compresslevel=1) as tar:
        for name, content in pickles().items():
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return partial(cifar10_jpeg, root=folder / "tar")


def make_layout(folder: Path) -> Work | None:
    """From the real archive: drawn JPEG files would be slower or faster to decode. None where it is missing."""
    archive = data_root() / ARCHIVE
    numbers = iter(range(1_000_000))
    return (lambda: make_cifar10_jpeg(folder / f"jpeg{next(numbers)}", archive)) if archive.is_file() else None


def decode_faces(workers: int, folder: Path) -> Work:
    """Every call into a cache of its own."""
    faces = write_faces(FACES, root=folder, progress=False) / "img_align_celeba"
    pictures = FilePictures(faces, sorted(path.name for path in faces.iterdir()))
    numbers = iter(range(1_000_000))
    prepare = Preparation((64, 64), crop=148)
    return lambda: decoded(pictures, prepare, f"faces{next(numbers)}", folder, workers, progress=False)


# Title -> (maker of the work in a temporary folder, or None where it cannot be done here; images).
READING: dict[str, tuple[Callable[[Path], Work | None], int]] = {
    "read CIFAR-10, folder of pickles": (read_folder, IMAGES),
    "read CIFAR-10, tar.gz of pickles": (read_archive, IMAGES),
    "decode the JPEG edition and write its layout": (make_layout, IMAGES),
    "decode faces of 178x218 to 64x64 into the cache, one thread": (partial(decode_faces, 1), FACES),
    "the same on two threads, seconds of both": (partial(decode_faces, 2), FACES),
}


def take(device: torch.device) -> Work:
    """What `fit` does to get a batch: uint8 images by their numbers, as floats on the device."""
    images = torch.randint(256, (50_000, *SHAPE), dtype=torch.uint8)
    return lambda: pixels(images[torch.randint(len(images), (BATCH,))], device)


def augment(function: Callable[[torch.Tensor], torch.Tensor], device: torch.device) -> Work:
    return partial(function, torch.rand(BATCH, *SHAPE, device=device))


AUGMENTATION: dict[str, Callable[[torch.device], Work]] = {
    "take a batch": take,
    "crop": partial(augment, partial(crop_flip_cutout, flip=False)),
    "crop, flip": partial(augment, crop_flip_cutout),
    "crop, flip, cutout 8": partial(augment, partial(crop_flip_cutout, cutout=8)),
    "random_affine": partial(augment, random_affine),
}


def step(lipschitz: bool, channels: tuple[int, ...], device: torch.device) -> Work:
    torch.manual_seed(0)
    common = {"channels": channels, "widths": (256,)}
    if lipschitz:
        parts = {
            "constraint": layers.aoc,
            "activation": layers.MaxMin,
            "pooling": nn.PixelUnshuffle,
            "pool_last": False,
        }
        model = convnet(SHAPE, 10, **common, **parts)
    else:
        model = convnet(SHAPE, 10, **common)
    model.to(device)
    optimizer = spectral(model) if lipschitz else adam(model)
    loss = losses.margin_cross_entropy if lipschitz else losses.cross_entropy
    x, y = torch.rand(BATCH, *SHAPE, device=device), torch.randint(10, (BATCH,), device=device)

    def work() -> None:
        value = loss(model(x), y)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()

    return work


STEPS: dict[str, Callable[[torch.device], Work]] = {
    "step, plain CNN 32-64": partial(step, False, (32, 64)),
    "step, Lipschitz CNN 32-64 (aoc, spectral)": partial(step, True, (32, 64)),
}


def seconds_of(work: Work, device: torch.device) -> float:
    clock = time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = clock()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - started


def measure_reading(rounds: int) -> pd.DataFrame:
    rows = []
    for title, (make, images) in READING.items():
        with tempfile.TemporaryDirectory() as folder:
            if (work := make(Path(folder))) is None:
                continue
            found = [seconds_of(work, torch.device("cpu")) for _ in range(rounds)]
        seconds = statistics.median(found)
        rows.append({"what": title, "images per second": images / seconds, "s": seconds})
        print(rows[-1], flush=True)
    return pd.DataFrame(rows)


def measure_batches(rounds: int, device: torch.device) -> pd.DataFrame:
    works = {title: make(device) for title, make in (AUGMENTATION | STEPS).items()}
    seconds: dict[str, list[float]] = {title: [] for title in works}
    for repetition in range(rounds + 2):
        for title, work in works.items():
            found = seconds_of(work, device)
            if repetition >= 2:
                seconds[title].append(found)
    median = {title: statistics.median(found) for title, found in seconds.items()}
    rows = []
    for title, found in median.items():
        row = {"what": title, "images per second": BATCH / found, "ms per batch": 1e3 * found}
        rows.append(row | {f"% of {name}": 100 * found / median[name] for name in STEPS})
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30, help="of the batches and steps")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    reading, batches = measure_reading(3), measure_batches(options.rounds, device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.machine()
    seconds = "processor" if device.type == "cpu" and options.threads == 1 else "clock"
    text = (
        f"# The data path\n\n`python benchmarks/data.py --device {options.device}`: {name}, {options.threads} threads, "
        f"torch {torch.__version__}. Reading happens once per run, medians of 3; batches of {BATCH} images 3x32x32, "
        f"medians of {options.rounds} interleaved rounds. Seconds are of the {seconds}.\n\n"
    )
    parts = [frame.to_markdown(index=False, floatfmt=("", ".0f", *[".2f"] * 9)) for frame in (reading, batches)]
    write_text(options.out, text + "\n\n".join(parts) + "\n")
    print("\n\n".join(parts))


if __name__ == "__main__":
    main()
