"""Damaged and hostile files for every loader: `python benchmarks/fuzzing.py --examples 300`.

Each input is a valid file with some mutations, drawn by hypothesis. It is loaded, or refused by the loader's own error;
anything else is a crash, and so are a hang and more memory than `MEMORY`. Prints a row per loader; the exit code is 1
where something crashed. A loader runs in a process of its own, so that not even a segmentation fault ends the others.
"""

import argparse
import json
import multiprocessing
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pandas as pd
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings

sys.path.insert(0, str(Path(__file__).parent))

from fuzzed import LOADERS, Loader

SECONDS, MEMORY = 30, 2**30


@dataclass
class Outcome:
    """Of a loader: numbers of inputs, and what went wrong."""

    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    crashes: list[str] = field(default_factory=list)


# --- mutations --------------------------------------------------------------------------------------------

EXTREMES = [
    number.to_bytes(width, order)
    for width in (1, 2, 4, 8)
    for order in ("little", "big")
    for number in (0, 1, 2 ** (8 * width) - 1, 2 ** (8 * width - 1), 2 ** (8 * width - 1) - 1, 2 ** (8 * width - 2))
]
WORDS = [
    b"-1",
    b"1e999",
    b"NaN",
    b"Infinity",
    b"null",
    b"",
    b"9" * 30,
    b"9" * 5000,
    b"1000000000",
    b"[]",
    b"{}",
    b'""',
    b"[" * 2000,
    b"${oc.env:HOME}",
    b"os.system",
    b"../../x",
    b"\xff\xfe",
    b"\x00",
    b"&a [*a, *a]",
    "²".encode(),
    b"true",
    b",",
    b"\n",
    b'"x"',
]


@st.composite
def mutations(draw: st.DrawFn, content: bytes, text: bool) -> bytes:
    """One to four changes of a file; half of them near its beginning or its end, where headers are."""
    for _ in range(draw(st.integers(1, 4))):
        length = len(content)
        at = draw(
            st.one_of(
                st.integers(0, max(0, min(128, length - 1))),
                st.integers(0, max(0, length - 1)),
                st.integers(max(0, length - 300), max(0, length - 1)),
            )
        )
        kinds = ["bit", "extreme", "cut", "remove", "repeat", "insert", "bytes", *(["word"] * 6 if text else [])]
        match draw(st.sampled_from(kinds)):
            case "bit" if length:
                flipped = bytes([content[at] ^ (1 << draw(st.integers(0, 7)))])
                content = content[:at] + flipped + content[at + 1 :]
            case "extreme":
                number = draw(st.sampled_from(EXTREMES))
                content = content[:at] + number + content[at + len(number) :]
            case "cut":
                content = content[:at]
            case "remove":
                content = content[:at] + content[at + draw(st.integers(1, 64)) :]
            case "repeat":
                content = content[:at] + content[at : at + draw(st.integers(1, 512))] * 2 + content[at:]
            case "insert":
                content = content[:at] + draw(st.binary(min_size=1, max_size=16)) + content[at:]
            case "bytes":
                some = draw(st.binary(min_size=1, max_size=8))
                content = content[:at] + some + content[at + len(some) :]
            case "word":
                content = _other_word(content, at, draw(st.sampled_from(WORDS)))
    return content


def _other_word(content: bytes, at: int, word: bytes) -> bytes:
    """The word (of letters, digits, dots and signs) at or after a place, replaced."""
    letters = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-+"
    start = next((i for i in range(at, len(content)) if content[i] in letters), len(content))
    while start > 0 and content[start - 1 : start] and content[start - 1] in letters:
        start -= 1
    end = next((i for i in range(start, len(content)) if content[i] not in letters), len(content))
    return content[:start] + word + content[end:]


# --- one loader -------------------------------------------------------------------------------------------


class Hang(BaseException):
    """An input took more than `SECONDS`. No loader catches it."""


def _alarm(*_: Any) -> None:
    raise Hang(f"more than {SECONDS} s")


def fuzz(loader: Loader, examples: int, start: int = 0) -> Outcome:
    """Loads `examples` mutated files; a crash does not end it."""
    outcome = Outcome()
    with tempfile.TemporaryDirectory() as name:
        valid = Path(name) / "valid"
        valid.mkdir()
        files = [path.relative_to(valid) for path in loader.make(valid)]
        contents = [(valid / file).read_bytes() for file in files]
        loader.load(valid)

        @seed(start)
        @settings(
            max_examples=examples,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(st.data())
        def each(data: st.DataObject) -> None:
            which = data.draw(st.integers(0, len(files) - 1))
            content = data.draw(mutations(contents[which], loader.text))
            place = Path(name) / "mutated"
            shutil.copytree(valid, place)
            try:
                (place / files[which]).write_bytes(content)
                _try(loader, place, outcome, f"{files[which]}: {content[:200]!r}")
            finally:
                shutil.rmtree(place)

        each()
    return outcome


def _try(loader: Loader, place: Path, outcome: Outcome, what: str) -> None:
    outcome.inputs += 1
    before = signal.signal(signal.SIGALRM, _alarm)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        loader.load(place)
        outcome.accepted += 1
    except loader.errors as error:
        outcome.refused += 1
        if not str(error).strip():
            outcome.crashes.append(f"no message: {what}")
    except (Exception, Hang):
        outcome.crashes.append(f"{traceback.format_exc(limit=-4)}\n{what}")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _child(name: str, examples: int, start: int, results: Any) -> None:
    warnings.simplefilter("ignore")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    outcome = fuzz(LOADERS[name], examples, start)
    memory = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    if memory > MEMORY:
        outcome.crashes.append(f"{memory / 2**20:.0f} MiB")
    results.put((outcome, memory, time.perf_counter() - began))


def main() -> int:
    """The command; 1 where a loader crashed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=300, help="inputs per loader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=list(LOADERS), choices=list(LOADERS), metavar="LOADER")
    options = parser.parse_args()
    torch.set_num_threads(1)
    context = multiprocessing.get_context("fork")  # spawning would import torch for each
    rows, failures = [], []
    for name in options.only:
        results = context.SimpleQueue()
        process = context.Process(target=_child, args=(name, options.examples, options.seed, results))
        process.start()
        process.join(SECONDS * options.examples)
        if process.exitcode != 0 or results.empty():
            process.kill()
            failures.append(f"{name}: the process ended with {process.exitcode}")
            rows.append([name, "-", "-", "-", 1, "-", "-"])
            continue
        outcome, memory, seconds = results.get()
        failures += [f"{name}: {crash}" for crash in outcome.crashes]
        rows.append(
            [
                name,
                outcome.inputs,
                outcome.accepted,
                outcome.refused,
                len(outcome.crashes),
                f"{memory / 2**20:.0f}",
                f"{seconds:.0f}",
            ]
        )
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    heads = ["loader", "inputs", "accepted", "refused", "crashes", "memory (MiB)", "seconds"]
    print(pd.DataFrame(rows, columns=heads).to_markdown(index=False))
    print("\n\n".join(failures[:20]), file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
