"""MKL sums in an order that does not depend on the number of threads. Without torch: MKL reads this once, before its
first product, so it is set when lipbench is imported, unless the caller has set it.
"""

import os
from pathlib import Path

STRICT = "AUTO,STRICT"


def strict() -> bool:
    """Whether MKL is told to sum in the same order by any number of threads."""
    return "STRICT" in os.environ.get("MKL_CBWR", "")


def _intel() -> bool:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as file:
            return "GenuineIntel" in file.read(200)
    except OSError:
        return False


# On Intel's processors alone; it costs nothing measurable (products of 64 to 3136 rows, float32 and float64, two
# threads).
if _intel():
    os.environ.setdefault("MKL_CBWR", STRICT)
