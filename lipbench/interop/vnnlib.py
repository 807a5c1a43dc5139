"""Properties for verifiers: "no image within an L2 distance of this one has another label", as VNN-LIB 2.0 files; and
what verifiers answer.

The format: https://www.vnnlib.org (VNN-LIB 2.0, December 2025). The files of an answer are those of VNN-COMP.
"""

import csv
import gzip
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from importlib.util import find_spec
from itertools import product
from math import inf, nextafter, prod
from pathlib import Path

import numpy as np

from lipbench.files import ResultsError
from lipbench.interop.formats import ExportError

INSTANCES = "instances.csv"
NAME = re.compile(r"image_(\d+)_l2_(\d+(?:\.\d+)?)_([0-9a-f]{8})(?:\.vnnlib)?$")
# Answers of a verifier that bound a distance. VNN-COMP 2021 wrote the second words.
PROVED, BROKEN = ("unsat", "holds"), ("sat", "violated")
# How answers begin that say nothing.
NOTHING = ("unknown", "timeout", "timed-out", "error", "no_result", "run_instance", "prepare_instance")
# Bytes of a witness, unpacked: the logits and the pixels of an image as text.
LARGEST = 2**26


@dataclass(frozen=True)
class Property:
    """What is asked of a verifier. Its name says all of it, so that an answer needs no other file.

    Attributes:
        index: of the image in the test set.
        radius: of the L2 ball, pixels in [0, 1].
        network: the first eight digits of a hash of the network.
    """

    index: int
    radius: float
    network: str

    def __str__(self) -> str:
        return f"image_{self.index}_l2_{_number(self.radius)}_{self.network}"

    @classmethod
    def of(cls, name: str) -> "Property | None":
        """The property of a file; None where the name is another."""
        found = NAME.match(name.replace("\\", "/").rpartition("/")[2])
        return cls(int(found[1]), float(found[2]), found[3]) if found else None


@dataclass(frozen=True)
class Verdict:
    """An answer.

    Attributes:
        asked: the property.
        proves, breaks: whether it claims that the property holds, or that it does not. Neither: it claims nothing.
        seconds: that the verifier took; 0 where the file does not say.
    """

    asked: Property
    proves: bool
    breaks: bool
    seconds: float


def property_text(x: np.ndarray, label: int, classes: int, radius: float) -> str:
    """A VNN-LIB 2.0 query that is unsatisfiable exactly where the network labels every image of [0, 1] within the
    radius `label`, with no tie.

    Numbers are written so that a reader in float64 has them to the last bit. The square of the radius is rounded up.

    Args:
        x: the image as the network is given it, float32 [C, H, W] in [0, 1].
        label: its label, that of the largest logit.
        classes: number of logits.
        radius: L2.
    """
    places = [f"X[0,{','.join(map(str, place))}]" for place in product(*map(range, x.shape))]
    pixels = x.astype(np.float64).ravel().tolist()
    box, squares = [], []
    for place, pixel in zip(places, pixels, strict=True):
        # The box around the ball changes nothing. Verifiers that begin with a box have a smaller one.
        low, high = max(0.0, nextafter(pixel - radius, -inf)), min(1.0, nextafter(pixel + radius, inf))
        box.append(f"(assert (>= {place} {_number(low)}))\n(assert (<= {place} {_number(high)}))")
        change = f"(- {place} {_number(pixel)})"
        squares.append(f"  (* {change} {change})")
    square = radius * radius
    if Fraction(square) < Fraction(radius) ** 2:
        square = nextafter(square, inf)
    rivals = [f"  (>= Y[0,{k}] Y[0,{label}])" for k in range(classes) if k != label]
    return "\n".join(
        [
            "(vnnlib-version <2.0>)",
            f"; Another class than {label} wins within the L2 distance {_number(radius)} of an image, in [0, 1].",
            "(declare-network network",
            f"  (declare-input X float32 [1,{','.join(map(str, x.shape))}])",
            f"  (declare-output Y float32 [1,{classes}])",
            ")",
            *box,
            "(assert (<= (+",
            *squares,
            f") {_number(square)}))",
            "(assert (or",
            *rivals,
            "))\n",
        ]
    )


def _number(value: float) -> str:
    """The shortest decimal number without an exponent, which VNN-LIB lacks, that reads back as this float64."""
    return np.format_float_positional(value, trim="0")


def need_checker() -> None:
    """
    Raises:
        ExportError: the package `vnnlib` is missing.
    """
    if not find_spec("vnnlib"):
        raise ExportError("vnnlib=N checks its files by the package vnnlib: pip install 'lipbench[vnnlib]'.")


def check_text(text: str, name: str) -> None:
    """Whether the reference parser of VNN-LIB reads a query, and its types and indices fit.

    Raises:
        ExportError: they do not.
    """
    import vnnlib  # an extra

    try:
        vnnlib.parse_query_string(text)
    except vnnlib.VNNLibException as error:
        raise ExportError(f"{name} is no VNN-LIB 2.0 query ({' '.join(str(error).split())[:300]}).") from error


def read_verdicts(path: Path) -> list[Verdict]:
    """The answers in a CSV file: rows (instance, result, time) with or without a line of headings, or the six columns
    of VNN-COMP (category, onnx, vnnlib, prepare time, result, time).

    Raises:
        ResultsError: there is no such file, or a row that is no answer to one of our properties.
    """
    try:
        rows = [row for row in csv.reader(path.read_text(encoding="utf-8").splitlines()) if any(row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ResultsError(f"verdicts={path} cannot be read as CSV ({error}).") from error
    if rows and rows[0][0].strip().lower() in ("instance", "category"):
        rows = rows[1:]
    if not rows:
        raise ResultsError(f"verdicts={path} has no row. Expected: instance, result, time.")
    return [_verdict(row, f"verdicts={path}, row {number}") for number, row in enumerate(rows, 1)]


def _verdict(row: Sequence[str], where: str) -> Verdict:
    cells = [cell.strip() for cell in row]
    if len(cells) not in (3, 6):
        raise ResultsError(f"{where} has {len(cells)} columns. Expected 3 (instance, result, time) or VNN-COMP's 6.")
    name, result, time = (cells[0], *cells[1:]) if len(cells) == 3 else (cells[2], *cells[4:])
    asked = Property.of(name)
    if asked is None:
        raise ResultsError(f"{where}: {name!r} is no property of lipbench export, such as image_17_l2_1.0_0123abcd.")
    word = result.lower()
    if word not in (*PROVED, *BROKEN) and not word.startswith(NOTHING):
        raise ResultsError(f"{where}: the result is {result!r}. Expected unsat, sat, unknown, timeout or error.")
    try:
        seconds = float(time or 0)
    except ValueError:
        raise ResultsError(f"{where}: the time is {time!r}. Expected seconds, a number.") from None
    return Verdict(asked, word in PROVED, word in BROKEN, seconds if 0 <= seconds < inf else 0.0)


def witness_file(folder: Path, asked: Property) -> Path | None:
    """The file of a folder with the witness against a property: `<anything><name>.counterexample`, or the same with
    `.gz`, as VNN-COMP names them. None where there is none.
    """
    found = [path for end in ("", ".gz") for path in sorted(folder.glob(f"*{asked}.counterexample{end}"))]
    return found[0] if found else None


def read_witness(path: Path, shape: Sequence[int]) -> np.ndarray:
    """The image in a witness, float32 [C, H, W]: text in the format of VNN-COMP, ((X_0 0.5) ... (Y_0 1.0)), or in that
    of VNN-LIB 2.0, a line `X float32 [1,C,H,W]` and a line per number. A pixel outside [0, 1] is left as it is.

    Raises:
        ResultsError: the file holds no such image.
    """
    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            text = file.read(LARGEST)
        values = _of_vnncomp(text) if "(" in text else _of_vnnlib(text)
        if len(values) != prod(shape):
            raise ValueError(f"it holds {len(values)} pixels of X, expected {prod(shape)}")
        return np.array(values, dtype=np.float32).reshape(tuple(shape))
    except (OSError, EOFError, ValueError, OverflowError) as error:
        raise ResultsError(f"{path} is no witness ({error}).") from error


def _of_vnncomp(text: str) -> list[float]:
    pixels = {int(place): float(value) for place, value in re.findall(r"\(\s*X_(\d+)\s+([^\s()]+)\s*\)", text)}
    if sorted(pixels) != list(range(len(pixels))):
        raise ValueError("pixels of X are missing")
    return [pixels[place] for place in range(len(pixels))]


def _of_vnnlib(text: str) -> list[float]:
    lines = [line.strip() for line in text.splitlines()]
    start = next((number for number, line in enumerate(lines) if re.match(r"X\s+\w+\s*\[", line)), len(lines))
    values = []
    for line in lines[start + 1 :]:
        if re.match(r"[A-Za-z]\w*\s+\w+\s*\[", line):  # the next variable
            break
        values += [float(word) for word in line.split()]
    return values
