"""The images of a finished run, read again: those that the run was made with, or an error."""

from collections.abc import Sequence
from inspect import signature
from pathlib import Path

from hydra.utils import get_method, instantiate

from lipbench.data import Dataset
from lipbench.files import ResultsError, differences, read_config, read_json
from lipbench.runs.identity import described, read_back
from lipbench.runs.trust import check_targets


def dataset_of(
    run: Path, trust: Sequence[str] = (), data_root: str | None = None, source: str | None = None
) -> Dataset:
    """The data set that the configuration of a run names.

    Args:
        run: its folder.
        trust: see `lipbench.load`.
        data_root: folder with the files of the data sets; None: LIPBENCH_DATA, else a cache folder.
        source: where the images of `dataset=folder`, or the file of `dataset=arrays`, lie.

    Raises:
        ResultsError: the run names no data set, or its images were others.
        OSError: the data are not there.
        UntrustedError: its configuration names a function that it may not.
    """
    path = run / "config.yaml"
    options = read_config(path).get("dataset") if path.exists() else None
    if not isinstance(options, dict):
        raise ResultsError(f"{path} names no dataset.")
    check_targets(options, f"{path}: dataset", trust)
    taken = set(signature(get_method(options["_target_"])).parameters)
    if "cache" in taken:
        places = {"cache": data_root, "path" if "path" in taken else "root": source}
    else:
        places = {"root": data_root} if "root" in taken else {}
    given = {place: value for place, value in places.items() if value is not None}
    dataset: Dataset = instantiate({**options, **given, "_partial_": True}, _convert_="all")()
    held = run / "data.json"
    if held.exists() and (lines := differences(read_json(held), read_back(described(dataset)))):
        raise ResultsError(
            f"{run} was made with other images. Differences (there -> now):\n  " + "\n  ".join(map(str, lines))
        )
    return dataset
