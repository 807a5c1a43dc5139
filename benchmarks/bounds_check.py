"""The Lipschitz bound of every type of layer against a proof in rational arithmetic, on thousands of random layers.

    python benchmarks/bounds_check.py --cases 200

A row per type: cases; refused: how many have no bound; excess: the largest truth / bound - 1, where the truth is the
ratio that a rational vector reaches (0 is a bound that is exact); looseness: the median of bound / truth - 1; needless:
bounds beyond what is documented; violations: cases in which the bound could not be proved. The command fails where
there are any of the last two. Layers, weights and the proofs are those of tests/certificate/test_rigorous_bounds.py.
"""

import argparse
import math
import random
import statistics
import sys
import time
import warnings
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from helpers import linear_cases, network_cases, nonlinear_cases
from helpers.layer_cases import MAKERS, is_needless, verdict

from lipbench.certificate import lipschitz

assert linear_cases
assert network_cases
assert nonlinear_cases


def row(name: str, count: int, seed: int) -> dict[str, object]:
    """Checks `count` cases of one row."""
    excess, looseness, refused, needless, violations = -math.inf, [], 0, 0, 0
    for i in range(count):
        case = MAKERS[name][0](random.Random(f"{seed}-{name}-{i}"))
        found = verdict(case)
        if not found.proved or (case.refused and not math.isinf(found.bound)):
            violations += 1
            print(f"VIOLATION: {name}, case {i}: {case.layer}, {case.shape}, {found}", file=sys.stderr)
        needless += is_needless(case, found)
        refused += math.isinf(found.bound)
        if math.isfinite(found.bound):
            excess = max(excess, found.excess)
            looseness.append(found.looseness)
    middle = statistics.median(looseness) if looseness else math.nan
    return dict(zip(COLUMNS, (name, count, refused, excess, middle, needless, violations), strict=True))


COLUMNS = ("layer", "cases", "refused", "excess", "looseness", "needless", "violations")


def line(values: dict[str, object]) -> str:
    return "| " + " | ".join(f"{v:.1e}" if isinstance(v, float) else str(v) for v in values.values()) + " |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100, help="per row")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="rows whose name holds this")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # torch's, of paddings on one side
    torch.set_num_threads(1)
    started = time.perf_counter()
    missing = set(lipschitz.kinds) - {kind for _, kind in MAKERS.values()}
    print(f"Types with a rule: {len(lipschitz.kinds)}; without cases: {sorted(k.__name__ for k in missing)}")
    print(line(dict(zip(COLUMNS, COLUMNS, strict=True))))
    print("|" + "---|" * len(COLUMNS))
    rows = []
    for name in MAKERS:
        if options.only in name:
            rows.append(row(name, options.cases, options.seed))
            print(line(rows[-1]), flush=True)
    total, worst = (sum(int(r[c]) for r in rows) for c in ("cases", "violations"))  # type: ignore[call-overload]
    needless = sum(int(r["needless"]) for r in rows)  # type: ignore[call-overload]
    print(f"{total} cases, {worst} violations, {needless} needless; {time.perf_counter() - started:.0f} s")
    return int(bool(worst or needless or missing))


if __name__ == "__main__":
    sys.exit(main())
