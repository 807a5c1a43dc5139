"""The histories of trained networks, as the figures read them."""

from pathlib import Path

import pandas as pd

from lipbench.files import ResultsError
from lipbench.results.layout import RUN_COLUMNS, run_folders, run_key


def read_histories(root: str | Path) -> pd.DataFrame:
    """The rows of every `history.csv` under a folder, with the columns dataset, experiment, variant, seed in front.

    A column that a run does not have (each network has its own layers, see `lipbench.training.monitor.monitor`) is
    NaN. Empty where no run has a history.

    Raises:
        ResultsError: a history is no table.
    """
    tables = []
    for folder in run_folders(Path(root)):
        path = folder / "history.csv"
        if path.exists():
            try:
                table = pd.read_csv(path)
                tables.append(pd.concat([pd.DataFrame([run_key(folder)] * len(table)), table], axis=1))
            except OSError:
                raise
            except Exception as error:  # of pandas' parser, in many ways
                raise ResultsError(f"{path} is damaged ({error}). Run it again with force=true.") from error
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=RUN_COLUMNS)


def layer_columns(history: pd.DataFrame, quantity: str) -> dict[str, str]:
    """Layer -> its column of one quantity (sigma_min, sigma_max, lipschitz, gradient), in the order of the
    columns (of one run: that of the model's modules), for the layers of which `history` holds a number.
    """
    suffix = f".{quantity}"
    return {c.removesuffix(suffix): c for c in map(str, history) if c.endswith(suffix) and history[c].notna().any()}
