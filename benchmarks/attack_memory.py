"""Peak memory of the attack `lipbench` by batch size and number of images, on a network with random weights (Linux).

    python benchmarks/attack_memory.py               # writes benchmarks/attack_memory.md

Every cell is a process of its own: the largest resident set while the attack runs, above the one just before it, when
the network has already classified and differentiated an image. Memory is bounded by the batch size where a column grows
downwards and a row hardly grows to the right: the images given and found are kept, and labels are predicted up to 1000
at once.
"""

import argparse
import json
import platform
import subprocess
import sys
from pathlib import Path

import pandas as pd
import torch

from lipbench.attacks import lipbench
from lipbench.evaluation.bounds import attack_images
from lipbench.files import write_text
from lipbench.layers import MaxMin, Orthogonal, bake
from lipbench.margins import margin_and_gradient
from lipbench.models import convnet

SHAPE = (1, 28, 28)
BATCHES, NUMBERS = (16, 64, 256), (64, 256)
KIB = 1024


def resident(field: str) -> float:
    """MiB of this process: VmRSS, now, or VmHWM, the most since `forget`."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / KIB


def forget() -> None:
    """The most so far is what is resident now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def network() -> torch.nn.Module:
    """The architecture of mnist08/hkr_cnn, as it was initialised."""
    torch.manual_seed(0)
    settings = {"channels": (32, 64), "kernel_size": 2, "stride": 2, "padding": 0, "widths": (128, 64, 32)}
    pooling = {"pooling": torch.nn.PixelUnshuffle, "pool_first": True}
    return bake(convnet(SHAPE, 2, **settings, **pooling, constraint=Orthogonal, activation=MaxMin)).eval()


def cell(number: int, batch_size: int) -> dict[str, float]:
    """MiB and images found, in a process that does nothing else."""
    torch.set_num_threads(1)
    model, images = network(), torch.rand(number, *SHAPE)
    with torch.no_grad():
        labels = torch.cat([model(batch).argmax(1) for batch in images.split(16)])
    margin_and_gradient(model, images[:1], labels[:1])
    forget()
    before = resident("VmRSS")
    judged = attack_images(model, images, labels, lipbench, "lipbench", batch_size=batch_size)
    peak = resident("VmHWM") - before
    found = judged.table["distance"].between(0, float("inf"), inclusive="neither")[judged.table["norm"] == "l2"]
    return {"mib": peak, "found": int(found.sum()), "seconds": judged.seconds}


def table(rows: list[dict[str, float]]) -> str:
    """The Markdown file."""
    frame = pd.DataFrame(rows)
    cells = frame.pivot(index="batch_size", columns="images", values="mib").rename(columns="{} images: MiB".format)
    found, images = int(frame["found"].sum()), int(frame["images"].sum())
    pixels = max(NUMBERS) * torch.Size(SHAPE).numel() * 4 / KIB**2
    return (
        "# Peak memory of the attack `lipbench`\n\n"
        f"`python benchmarks/attack_memory.py`: `lipbench` on the architecture of mnist08/hkr_cnn, random weights and "
        f"images of 1x28x28, one thread, {platform.machine()}, torch {torch.__version__}; {found} of {images} images "
        f"found. Peak of the resident set above that before the attack, each cell a process. {max(NUMBERS)} images "
        f"themselves are {pixels:.1f} MiB, of which several copies are kept; labels are predicted up to 1000 images "
        f"at once, whatever the batch size.\n\n{cells.to_markdown(floatfmt='.1f')}\n"
    )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".md"))
    parser.add_argument("--cell", type=int, nargs=2, metavar=("IMAGES", "BATCH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell is not None:
        print(json.dumps(cell(*options.cell)))
        return
    rows = []
    for number in NUMBERS:
        for batch_size in BATCHES:
            command = [sys.executable, __file__, "--cell", str(number), str(batch_size)]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, encoding="utf-8").stdout
            rows.append({"images": number, "batch_size": batch_size, **json.loads(output.splitlines()[-1])})
            print(rows[-1], flush=True)
    write_text(options.output, table(rows))


if __name__ == "__main__":
    main()
