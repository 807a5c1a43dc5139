"""Sums of Intel's MKL, torch's BLAS on x86, in an order that does not depend on the number of threads.

MKL offers that for Intel's processors, and reads the setting once, before its first product: so it is made (on Linux)
when lipbench is imported, unless the caller has made it. Where products were made before that, it comes too late.
It costs nothing measurable (products of 64 to 3136 rows, float32 and float64, two threads).
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


if _intel():
    os.environ.setdefault("MKL_CBWR", STRICT)
