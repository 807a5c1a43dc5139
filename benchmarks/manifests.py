"""Writes the manifests of runs that an older version finished: it wrote none.

    python benchmarks/manifests.py results/reference [--data-root PATH]

Of each run the hashes of the tables are compared with those of its summary, the network of each table with
config.yaml, and the laws are computed again. `data.json` gets the hash of all images: the images are loaded, and must
have the hash that is there, of the labels and the first images. The exit code is 1 where a run was left as it is.
"""

import argparse
import hashlib
import sys
from functools import cache
from pathlib import Path

from lipbench.commands.reproduce import _dataset
from lipbench.data import Dataset, Split
from lipbench.files import ResultsError, fingerprint, read_config, read_json, write_json
from lipbench.results import MANIFEST, LawViolation, check_laws, run_folders, table_hashes, write_manifest
from lipbench.runs.identity import described, read_back
from lipbench.runs.trust import check_targets

# Images of a split that the hash of older versions covers.
HASHED = 16


def old_hash(part: Split) -> str:
    """The hash of a split in the `data.json` of older versions."""
    digest = hashlib.sha256(part.labels.numpy().tobytes())
    digest.update(part.images[:HASHED].contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def sign(folder: Path, data_root: str | None) -> None:
    """
    Raises:
        ResultsError, LawViolation, OSError: the run cannot be signed.
    """
    network, summary = read_config(folder / "config.yaml"), read_json(folder / "summary.json")
    if summary.get("tables") != table_hashes(folder):
        raise ResultsError("its tables are not those of its summary.")
    for path in sorted(folder.glob("bounds/*.json")):
        if read_json(path)["network"] != fingerprint(read_back(network)):
            raise ResultsError(f"{path.name} is of another network than config.yaml.")
    check_laws(folder, summary)
    path = folder / "data.json"
    if path.exists() and "hash" in (held := read_json(path))["test"]:
        check_targets(network["dataset"], str(folder / "config.yaml"))
        dataset = loaded(str(network["dataset"]), folder, data_root)
        for name in ("train", "validation", "test"):
            if held[name]["hash"] != old_hash(getattr(dataset, name)):
                raise ResultsError(f"the images of {name} are others than those of the run.")
        write_json(path, read_back(described(dataset)))
    write_manifest(folder, str(summary.get("identity") or ""))


@cache
def _datasets() -> dict[str, Dataset]:
    return {}


def loaded(options: str, folder: Path, data_root: str | None) -> Dataset:
    """The data set of a run; each is loaded once."""
    if options not in _datasets():
        _datasets()[options] = _dataset(read_config(folder / "config.yaml")["dataset"], data_root, None)
    return _datasets()[options]


def main() -> None:
    """The script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--data-root")
    options = parser.parse_args()
    left = 0
    for folder in run_folders(options.root):
        if (folder / MANIFEST).exists():
            continue
        try:
            sign(folder, options.data_root)
        except (ResultsError, LawViolation, OSError, ValueError) as error:
            left += 1
            print(f"{folder}: {error}", file=sys.stderr)
    print(f"{left} runs are left without a manifest.")
    raise SystemExit(int(left > 0))


if __name__ == "__main__":
    main()
