"""Where results were made: what a reader needs besides the configuration to make them again."""

import hashlib
import os
import platform
import subprocess
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch

# Variables that change numbers or speed. No others: an environment holds secrets.
VARIABLES = (
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_CBWR", "KMP_AFFINITY", "PYTHONHASHSEED"),
    *("CUBLAS_WORKSPACE_CONFIG", "NVIDIA_TF32_OVERRIDE", "CUDA_VISIBLE_DEVICES", "ATEN_CPU_CAPABILITY"),
)


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, machine, settings and commit, as JSON values.

    Returns:
        python, packages (name -> version of every installed one: `pip install` of these pins rebuilds it), machine,
        system, platform, processor, processor_flags, cores, threads, interop_threads, device; torch_build (torch's own
        words) and its hash; deterministic: what makes torch choose its algorithms; variables: those of `VARIABLES` that
        are set; commit (of lipbench; null outside of a checkout) and dirty: whether files differed from it.
    """
    commit, build = _commit(), torch.__config__.show()
    cuda = device.type == "cuda"
    return {
        "python": platform.python_version(),
        "packages": _packages(),
        "machine": platform.machine(),
        "system": platform.system(),
        "platform": platform.platform(),
        "processor": torch.cuda.get_device_name(device)
        if cuda
        else _of_processor("model name") or platform.processor(),
        "processor_flags": sorted(_of_processor("flags").split()),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
        "device": device.type,
        "cuda": torch.version.cuda if cuda else None,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
        "torch_build": build,
        "torch_build_hash": hashlib.sha256(build.encode()).hexdigest()[:16],
        "deterministic": {
            "algorithms": torch.are_deterministic_algorithms_enabled(),
            "cudnn_deterministic": torch.backends.cudnn.deterministic,
            "cudnn_benchmark": torch.backends.cudnn.benchmark,
            "mkldnn": torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled,
            "flush_denormal": not float(torch.tensor(1e-310, dtype=torch.float64) / 2),
        },
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "commit": commit,
        "dirty": commit.endswith("-dirty") if commit else None,
    }


def _packages() -> dict[str, str]:
    found = {str(one.metadata["Name"]): one.version for one in distributions() if one.metadata["Name"]}
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def _commit() -> str | None:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        found = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False, encoding="utf-8"
        )
    except OSError:  # no git
        return None
    return found.stdout.strip() or None


def _of_processor(key: str) -> str:
    """A line of /proc/cpuinfo where the system has it; otherwise empty."""
    info = Path("/proc/cpuinfo")
    for line in info.read_text(encoding="utf-8").splitlines() if info.exists() else ():
        if line.startswith(key):
            return line.split(":", 1)[1].strip()
    return ""
