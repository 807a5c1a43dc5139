"""What a report costs of 10,000 finished runs: seconds and peak memory, a row of a Markdown table for each part.

    python benchmarks/leaderboard.py [RUN] [--runs 10000] [--figures]

The runs are made from one real run (made first where none is given): its numbers vary in every summary; its tables
are links to the same files.
"""

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# Data sets, experiments, variants of each, seeds of each.
SHARES = (5, 20, 20, 5)
RUN = ["experiment=digits08/hkr_mlp", "images=100", "training.epochs=2", "progress=false", "device=cpu"]


def fabricate(real: Path, root: Path, runs: int) -> None:
    """Writes the results folder."""
    summary, draw = json.loads((real / "summary.json").read_text(encoding="utf-8")), random.Random(0)
    files = [path for path in real.rglob("*") if path.is_file() and path.name not in ("summary.json", "lock.json")]
    for number in range(runs):
        rest, places = number, []
        for share in reversed(SHARES):
            rest, place = divmod(rest, share)
            places.append(place)
        seed, variant, experiment, dataset = places
        name = f"loss.margin={variant}" if variant else "default"
        folder = root / f"data{dataset}" / f"hkr_{experiment}" / name / str(seed)
        (folder / "bounds").mkdir(parents=True)
        for path in files:
            if path.parent in (real, real / "bounds"):
                os.link(path, folder / path.relative_to(real))
        held = {
            **summary,
            "dataset": f"data{dataset}",
            "experiment": f"hkr_{experiment}",
            "variant": name,
            "seed": seed,
        }
        for key in ("accuracy", "median_certificate", "tightness"):
            held[key] = (held[key] or 1) * draw.uniform(0.8, 1)
        (folder / "summary.json").write_text(json.dumps(held, indent=2, sort_keys=True), encoding="utf-8")


def child(part: str, root: Path) -> None:
    """One part in a process of its own: prints its seconds without the imports, and the peak memory in MiB."""
    from hydra import compose, initialize_config_dir

    from lipbench.commands import report
    from lipbench.commands.suites import CONF
    from lipbench.report import find_runs, leaderboard, write_leaderboard
    from lipbench.runs.state import begun, state_of

    started, cpu = time.perf_counter(), time.process_time()
    if part == "leaderboard":
        runs = find_runs(root)
        write_leaderboard(leaderboard(runs), runs)
    elif part == "status":
        assert all(state_of(folder).kind == "finished" for folder in begun(root))
    else:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            chosen = [f"results={root}", f"figures={'true' if part == 'figures' else 'false'}"]
            cfg = compose("report", overrides=chosen)
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (the report itself, which is long)
        report._report(cfg)
        sys.stdout = sys.__stdout__
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    print(seconds, cpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--figures", action="store_true", help="draw the figures as well")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        child(options.part, options.run)
        return
    with tempfile.TemporaryDirectory() as folder:
        real = options.run
        if real is None:
            made = Path(folder) / "real"
            subprocess.run([sys.executable, "-m", "lipbench", "run", *RUN, f"results={made}"], check=True)
            real = next(made.glob("*/*/*/*/summary.json")).parent
        root = Path(folder) / "runs"
        real = shutil.copytree(real, Path(folder) / "copy")  # links do not leave a file system
        fabricate(real, root, options.runs)
        parts = {
            "leaderboard": "leaderboard",
            "page": "leaderboard, LaTeX and page",
            "status": "lipbench.commands.status",
        }
        parts |= {"figures": "the report with its figures"} if options.figures else {}
        print(f"| {options.runs} runs | seconds | of them CPU | peak memory, MiB |\n|---|---|---|---|", flush=True)
        for part, words in parts.items():
            command = [sys.executable, __file__, str(root), "--part", part]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, encoding="utf-8")
            seconds, cpu, memory = map(float, done.stdout.split()[-3:])
            print(f"| {words} | {seconds:.1f} | {cpu:.1f} | {memory:.0f} |", flush=True)


if __name__ == "__main__":
    main()
