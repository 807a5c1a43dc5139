"""A sweep of 24 tiny runs on 2 workers, of which 5 are killed (SIGKILL) at random moments and started again, against an
undisturbed one: a row of a Markdown table.

    python benchmarks/kills.py [--kills 5] [--seed 0]

Both workers are processes with the very same command: what one makes, the other leaves to it. Compared byte for byte:
all tables, what they depend on, networks, flags, galleries; not costs and seconds. Ends with 1 where anything differs.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SWEEP = [
    "-m",
    "experiment=digits08/hkr_mlp,digits08/ce_mlp,digits08/plain_mlp",
    "seed=0,1,2,3",
    "training.batch_size=32,64",
    "training.epochs=2",
    "images=4",
    "attack=[fgm,deepfool]",
    "device=cpu",
    "threads=1",
    "progress=false",
]
RUNS = 24
COMPARED = ("bounds/*", "model.safetensors", "model.json", "config.yaml", "data.json", "flags.json", "gallery.npz")


def worker(results: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "lipbench", "run", *SWEEP, f"results={results}"]
    with (results.parent / f"{results.name}.log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def finished(results: Path) -> int:
    return len(list(results.glob("*/*/*/*/summary.json")))


def killed_sweep(results: Path, kills: int, random_: random.Random) -> tuple[list[int], list[int]]:
    """Runs the sweep to its end; returns how many runs were finished at each kill, and the exit codes of the workers
    that ended by themselves.
    """
    workers, at, codes = [worker(results), worker(results)], [], []
    # Spread over the sweep, at moments that have nothing to do with what the workers are doing.
    goals = sorted(random_.sample(range(1, RUNS - 2), kills))
    while workers:
        time.sleep(random_.uniform(0.01, 0.1))
        for one in [one for one in workers if one.poll() is not None]:
            codes.append(one.returncode)
            workers.remove(one)
        if goals and finished(results) >= goals[0] and workers:
            goals.pop(0)
            time.sleep(random_.uniform(0, 2))
            victim = random_.choice(workers)
            if victim.poll() is None:
                victim.kill()
                victim.wait()
                at.append(finished(results))
                workers[workers.index(victim)] = worker(results)
    return at, codes


def content(results: Path) -> dict[str, bytes]:
    runs = [path.parent for path in results.glob("*/*/*/*/summary.json")]
    found = {p.relative_to(results).as_posix(): p.read_bytes() for run in runs for f in COMPARED for p in run.glob(f)}
    for run in runs:
        held = json.loads((run / "summary.json").read_text(encoding="utf-8"))
        found[f"{run.relative_to(results)}/summary"] = json.dumps(
            {key: value for key, value in held.items() if "seconds" not in key}
        ).encode()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder:
        seconds = []
        for name in ("undisturbed", "killed"):
            started, results = time.perf_counter(), Path(folder) / name
            results.mkdir()
            if name == "killed":
                at, codes = killed_sweep(results, options.kills, random.Random(options.seed))
                # A worker that ended while the other made the last run says 75; this one finds all of them.
                codes.append(worker(results).wait())
            elif worker(results).wait() != 0:
                raise SystemExit((Path(folder) / f"{name}.log").read_text(encoding="utf-8"))
            seconds.append(time.perf_counter() - started)
        first, second = (content(Path(folder) / name) for name in ("undisturbed", "killed"))
        differing = sorted(name for name in {*first, *second} if first.get(name) != second.get(name))
        whole = finished(Path(folder) / "killed")
        left = [p.name for p in (Path(folder) / "killed").rglob("*") if p.name.startswith(".") or p.name == "lock.json"]
        if codes[-1] != 0 or whole != RUNS:
            print((Path(folder) / "killed.log").read_text(encoding="utf-8")[-3000:], file=sys.stderr)
    print("| runs | workers | kills, after so many finished runs | finished | files compared | differing | left over |")
    print("|---|---|---|---|---|---|---|")
    killed_after = f"{len(at)} ({', '.join(map(str, at))})"
    print(f"| {RUNS} | 2 | {killed_after} | {whole} | {len(first)} | {len(differing)} | {len(left)} |")
    print(
        f"\nExit codes of the workers: {codes}. Seconds: {seconds[0]:.0f} undisturbed (one worker), {seconds[1]:.0f}."
    )
    for name in [*differing, *left]:
        print(f"  {name}")
    raise SystemExit(bool(differing or left or whole != RUNS or codes[-1] != 0 or len(at) != options.kills))


if __name__ == "__main__":
    main()
