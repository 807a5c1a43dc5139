"""Damages files of a finished run, and checks that every reader finds the damage: a Markdown table.

    python benchmarks/damage.py [--damages 10000] [--runs 500] [--seed 0]

A reader finds a damage when it refuses the run or leaves it out. `lipbench run` finds it when it refuses the run and
changes nothing, or makes the files again as they were. The exit code is 1 where a damage is accepted.
"""

import argparse
import contextlib
import io
import json
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from hydra import compose, initialize_config_dir

import lipbench
from lipbench.commands.export import export_run
from lipbench.commands.reproduce import reproduce
from lipbench.commands.run import experiment_of
from lipbench.commands.suites import CONF
from lipbench.files import ResultsError
from lipbench.report import find_runs
from lipbench.results import MANIFEST, Damaged, LawViolation, read_manifest, verify
from lipbench.runs.state import FINISHED, state_of

NAME = "digits08/hkr_mlp"
OPTIONS = [
    *("training.epochs=1", "model.widths=[8,4]", "images=4", "attack=[fgm]", "certificate=[certificate]"),
    *("measure=[one_class]", "measure.one_class.number=3", "measure.one_class.steps=2"),
    *("device=cpu", "progress=false"),
]
# Measured by a clock: other numbers in a run that is made again.
CLOCK = ("costs.csv", "summary.json", "environment.json", MANIFEST)
DIGITS = b"0123456789"


@dataclass
class Run:
    """A finished run, another one of the same experiment, and the files as the run wrote them."""

    root: Path
    seed: int = 0
    other: "Run | None" = None
    truth: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            chosen = [f"experiment={NAME}", f"results={self.root}", f"seed={self.seed}", *OPTIONS]
            self.job = experiment_of(compose("config", overrides=chosen), NAME, [])
        self.folder = self.job.folder
        self.job.run()
        self.truth = self.files()
        self.manifest = read_manifest(self.folder)
        self.table = lipbench.read(self.folder)
        self.weights = lipbench.load(self.folder).state_dict()

    def files(self) -> dict[str, bytes]:
        """Name -> content of every file."""
        paths = [path for path in self.folder.rglob("*") if path.is_file()]
        return {path.relative_to(self.folder).as_posix(): path.read_bytes() for path in paths}

    def restore(self) -> None:
        """Makes the folder what the run wrote; the manifest comes last."""
        now = self.files()
        for name in now.keys() - self.truth.keys():
            (self.folder / name).unlink()
        for name, content in sorted(self.truth.items(), key=lambda item: item[0] == MANIFEST):
            if now.get(name) != content or name == MANIFEST:
                (self.folder / name).write_bytes(content)


def _flipped(content: bytes, generator: np.random.Generator) -> bytes:
    changed = bytearray(content)
    if changed:
        changed[generator.integers(len(changed))] ^= 1 << int(generator.integers(8))
    return bytes(changed)


def _digit(content: bytes, generator: np.random.Generator) -> bytes:
    places = [place for place, byte in enumerate(content) if byte in DIGITS]
    changed = bytearray(content)
    if places:
        place = places[generator.integers(len(places))]
        changed[place] = DIGITS[(DIGITS.index(changed[place]) + generator.integers(1, 10)) % 10]
    return bytes(changed)


# Kind -> (content, that of the other run, generator) -> new content; None: the file is deleted.
KINDS: dict[str, Callable[[bytes, bytes, np.random.Generator], bytes | None]] = {
    "deleted": lambda content, other, generator: None,
    "emptied": lambda content, other, generator: b"",
    "cut": lambda content, other, generator: content[: generator.integers(max(1, len(content)))],
    "bit flipped": lambda content, other, generator: _flipped(content, generator),
    "digit changed": lambda content, other, generator: _digit(content, generator),
    "swapped": lambda content, other, generator: other,
}


@contextmanager
def damaged(run: Run, name: str, kind: str, generator: np.random.Generator) -> Iterator[bool]:
    """Damages one file; yields whether its content differs now. Afterwards the folder is what it was."""
    path, content = run.folder / name, run.truth[name]
    assert run.other is not None
    changed = KINDS[kind](content, run.other.truth.get(name, b""), generator)
    path.unlink() if changed is None else path.write_bytes(changed)
    try:
        yield changed != content
    finally:
        run.restore()


def readers(run: Run) -> dict[str, Callable[[], bool]]:
    """Name of a reader -> a function that reads the run and tells whether it got what the run wrote.

    A reader that refuses the run raises `ResultsError`.
    """

    def report() -> bool:
        finished = {found.folder: found.summary for found in find_runs(run.root).finished}
        if run.folder not in finished:
            raise ResultsError("left out")
        written = json.loads(run.truth["summary.json"])
        return {key: finished[run.folder][key] for key in written} == written

    def status() -> bool:
        state = state_of(run.folder)
        if state.kind != FINISHED:
            raise ResultsError(state.detail)
        return True

    def read() -> bool:
        return lipbench.read(run.folder).equals(run.table)

    def load() -> bool:
        found = lipbench.load(run.folder).state_dict()
        return found.keys() == run.weights.keys() and all(torch.equal(found[key], run.weights[key]) for key in found)

    return {"report": report, "status": status, "read": read, "load": load}


def refusing(run: Run, out: Path) -> dict[str, Callable[[], Any]]:
    """Readers that check all files before they begin."""
    return {"export": lambda: export_run(run.folder, out), "reproduce": lambda: reproduce(run.folder, out)}


def check(run: Run, name: str, out: Path) -> dict[str, str]:
    """Reader -> what it made of a damaged file: found, harmless or accepted."""
    manifest = run.manifest
    try:
        manifest = verify(run.folder)
        outcome = "found" if manifest is None else "accepted"
        if name == MANIFEST and manifest == run.manifest:
            outcome = "harmless"  # other white space
    except Damaged as error:
        outcome = "found" if set(error.files) & {name, MANIFEST} or name == MANIFEST else "accepted"
    outcomes = {"verify": outcome}
    for reader, function in readers(run).items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                outcomes[reader] = "harmless" if function() else "accepted"
        except ResultsError:
            outcomes[reader] = "found"
    whole = ("report", "status")  # these speak of all files
    if outcome == "found" and (wrong := [reader for reader in whole if outcomes[reader] != "found"]):
        outcomes |= dict.fromkeys(wrong, "accepted")
    for reader, function in refusing(run, out).items() if outcome == "found" and manifest is not None else ():
        try:
            function()
            outcomes[reader] = "accepted"
        except ResultsError:
            outcomes[reader] = "found"
    return outcomes


def check_run(run: Run) -> str:
    """What `lipbench.commands.run` makes of a damaged file: found, made again or accepted."""
    before = run.files()
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            run.job.run()
    except (ResultsError, LawViolation):
        return "found" if run.files() == before else "accepted"
    after = run.files()
    same = after.keys() == run.truth.keys() and all(after[n] == run.truth[n] for n in after if n not in CLOCK)
    return "made again" if same and verify(run.folder) is not None else "accepted"


def trials(run: Run, number: int, generator: np.random.Generator) -> Iterator[tuple[str, str]]:
    """Every file with every kind of damage, again and again: bits, digits and cuts are at other places each time."""
    pairs = [(name, kind) for name in sorted(run.truth) for kind in KINDS]
    for start in range(0, number, len(pairs)):
        yield from generator.permutation(np.array(pairs))[: number - start].tolist()


def main() -> None:
    """The script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--damages", type=int, default=10_000)
    parser.add_argument(
        "--runs", type=int, default=500, help="damages after which lipbench.commands.run is tried as well"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    generator, counts, started = np.random.default_rng(options.seed), Counter(), time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        root = Path(place, "runs")
        run = Run(root, 0, Run(root, 1))
        every = max(1, options.damages // max(1, options.runs))
        for number, (name, kind) in enumerate(trials(run, options.damages, generator)):
            with damaged(run, name, kind, generator) as differs:
                if not differs:
                    counts[kind, "-", "unchanged"] += 1
                    continue
                outcomes = check(run, name, Path(place, "out"))
                if number % every == 0:
                    outcomes["run"] = check_run(run)
            for reader, outcome in outcomes.items():
                counts[kind, reader, outcome] += 1
                if outcome == "accepted":
                    print(f"ACCEPTED by {reader}: {name} {kind} (number {number})", file=sys.stderr)
    rows = pd.DataFrame([(*key, count) for key, count in counts.items()], columns=["kind", "reader", "outcome", "n"])
    print(rows.pivot_table(index="reader", columns="outcome", values="n", aggfunc="sum", fill_value=0).to_markdown())
    print(f"\n{options.damages:,} damages of {len(run.truth)} files in {time.perf_counter() - started:.0f} s.")
    raise SystemExit(int((rows["outcome"] == "accepted").any()))


if __name__ == "__main__":
    main()
