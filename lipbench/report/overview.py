"""The main networks of every data set in one table."""

import pandas as pd

from lipbench.report.columns import mark, written, written_with
from lipbench.report.leaderboard import board_radii
from lipbench.results.radii import radius_text
from lipbench.results.selection import main_names
from lipbench.results.words import dataset_name

COLUMNS = ["data set", "network", "r", "acc", "cert@r", "rob@r", "radius", "distance", "tight", "n", "seeds"]


def overview(table: pd.DataFrame) -> pd.DataFrame:
    """The main networks (see `lipbench.results.selection`), variant "default", of all data sets at their main radius.

    Args:
        table: as `lipbench.report.leaderboard` returns it.

    Returns:
        text: data set, network, radius r, acc, cert@r and rob@r with their uncertainty, median radius and distance,
        tightness, number of images and of seeds.
    """
    lines = []
    for dataset, every in table.groupby("dataset", sort=True):
        radius, rows = board_radii(every)[-1:], every[every["variant"] == "default"]
        chosen = rows[rows["experiment"].isin(main_names(rows["experiment"]))]
        for row in chosen.to_dict("records"):
            line = {"data set": dataset_name(str(dataset)), "network": str(row["experiment"]) + mark(row)}
            line["r"] = radius_text(radius[0]) if radius else "-"
            line["acc"] = written("accuracy", row["accuracy"])
            for kind in ("cert", "rob"):
                name = f"{kind} @ {radius[0]:g}" if radius else kind
                line[f"{kind}@r"] = written_with(name, row)
            names = {"radius": "median certificate", "distance": "median distance", "tight": "tightness"}
            line |= {short: written(name, row.get(name)) for short, name in names.items()}
            lines.append(line | {"n": written("images", row["images"]), "seeds": written("seeds", row["seeds"])})
    return pd.DataFrame(lines, columns=COLUMNS)
