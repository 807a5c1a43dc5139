"""`python -m lipbench.report results=results/runs`: leaderboard and figures of a results folder. No model is loaded."""

import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import hydra
import pandas as pd
from omegaconf import DictConfig

from lipbench.commandline import CONF, CommandError, check_overrides
from lipbench.figures import (
    accuracy_curves,
    best_variants,
    construction_comparison,
    save_figure,
    training_comparison,
    training_curves,
)
from lipbench.health import Flag
from lipbench.results import (
    IMBALANCED,
    RUN_COLUMNS,
    ResultsError,
    read,
    read_histories,
    read_summary,
    run_folders,
    run_key,
    write_text,
)

GROUP = RUN_COLUMNS[:3]
# Shown in a second table, so that both fit a page.
SHORT = {
    "accuracy": "acc",
    "balanced accuracy": "bal",
    "sensitivity": "sens",
    "specificity": "spec",
    "median certificate": "cert",
    "median distance": "dist",
    "tightness": "tight",
    "violations": "viol",
}
# Kinds of columns "<kind> @ <epsilon>" -> beginning of the short name, and the entry of a summary. Those of each class
# alike stand in for the others where classes are of unequal size.
CURVES = {"rob": ("r@", "robust_accuracy"), "cert": ("c@", "certified_accuracy")}
BALANCED_CURVES = {
    "balanced rob": ("br@", "balanced_robust_accuracy"),
    "balanced cert": ("bc@", "balanced_certified_accuracy"),
}
BY_CLASS = ["balanced accuracy", "sensitivity", "specificity"]
LAWS = ["lipschitz", "KR / L", "W1", "transport law", "train seconds", "attack seconds"]


def leaderboard(root: Path) -> pd.DataFrame:
    """One row per dataset, experiment and variant: means over the seeds of their summaries.

    accuracy (for each class alike: balanced accuracy) and certified accuracy are over the whole test set, robust
    accuracy (combined attack) over the attacked images, in percent; violations are summed.

    Raises:
        ResultsError: there is no complete run under `root`.
    """
    rows, stale = [], []
    for folder in run_folders(root):
        summary = read_summary(folder)
        if summary is None:
            stale.append(str(folder))
        else:
            rows.append(_row(summary))
    if stale:
        print(f"Left out, unfinished (run them again): {', '.join(stale)}", file=sys.stderr)
    if not rows:
        raise ResultsError(f"{root} holds no finished run. Make some: make benchmark")
    runs = pd.DataFrame(rows)
    # A column that no run has a number for, such as the training time of brought models, is one of numbers still.
    numbers = [str(c) for c in runs if c not in (*RUN_COLUMNS, "violations", "transport law")]
    runs[numbers] = runs[numbers].astype(float)
    groups = runs.groupby(GROUP, sort=True)
    table = groups.mean(numeric_only=True).drop(columns="seed")
    # Whichever run came first, and whatever it lacks.
    kinds = (*CURVES, *BALANCED_CURVES)
    radii = {name: [c for c in table if str(c).startswith(f"{name} @ ")] for name in kinds}
    ordered = [c for name in radii for c in sorted(radii[name], key=_radius)]
    first = ["accuracy", *(c for c in BY_CLASS if c in table), *ordered]
    table = table[[*first, *(c for c in table if c not in first)]]
    table["violations"] = groups["violations"].sum()
    table.insert(0, "seeds", groups["seed"].nunique())
    table["transport law"] = groups["transport law"].agg(_verdict)
    return table.reset_index()


def constructions(root: Path, dataset: str) -> list[tuple[str, float, pd.DataFrame]]:
    """The comparisons in a results folder: experiments of which several constructions were trained.

    Returns:
        per experiment its name, the epsilon of the certified accuracy that chose the variants, and the table of
        `lipbench.figures.best_variants`.
    """
    rows = []
    for folder in run_folders(root):
        summary = read_summary(folder)
        if summary is not None and summary["dataset"] == dataset and "construction" in summary:
            eps = summary["validation_epsilon"]
            certified = (summary["certified_accuracy"] or {}).get(f"{eps:g}")
            if certified is not None:
                rows.append(_construction_row(summary, eps, certified))
    runs = pd.DataFrame(rows)
    found = []
    for experiment in sorted({row["experiment"] for row in rows}):
        group = runs[runs["experiment"] == experiment]
        if group["construction"].nunique() > 1:
            epsilon = float(group["epsilon"].iloc[0])
            found.append((experiment, epsilon, best_variants(group.drop(columns=["experiment", "epsilon"]))))
    return found


def _construction_row(summary: dict[str, Any], eps: float, certified: float) -> dict[str, Any]:
    return {
        "experiment": summary["experiment"],
        "epsilon": eps,
        "construction": summary["construction"],
        "variant": summary["variant"],
        "seed": summary["seed"],
        "validation": 100 * summary["validation_certified_accuracy"],
        "accuracy": 100 * summary["accuracy"],
        "certified": 100 * certified,
        "tightness": summary["tightness"],
        "ms": 1000 * summary["step_seconds"],
    }


def flag_lines(root: Path, datasets: Collection[str]) -> list[str]:
    """The health flags of every run of these data sets, a line each (see `lipbench.health`)."""
    lines = []
    for folder in run_folders(root):
        summary = read_summary(folder)
        if summary is not None and summary["dataset"] in datasets:
            run = "/".join(str(summary[column]) for column in RUN_COLUMNS)
            # Summaries that are older than the flags have none.
            lines += [f"* {run}: {Flag(**flag)}" for flag in summary.get("flags", [])]
    return lines


def write_leaderboard(table: pd.DataFrame, root: Path) -> str:
    """`leaderboard.csv` with all digits and `leaderboard.md` for readers, whose text is returned."""
    text = "\n\n".join([*_markdown(table), *_flags(flag_lines(root, set(table["dataset"])))])
    write_text(root / "leaderboard.csv", table.to_csv(index=False, lineterminator="\n"))
    write_text(root / "leaderboard.md", text + "\n")
    return text


def _flags(lines: list[str]) -> list[str]:
    explained = (
        "Signs that a number says less than it seems to. A warning: distances may be too large, or mean something else."
    )
    return ["## Flags", f"{explained}\n\n" + "\n".join(lines) if lines else "None."]


def _markdown(table: pd.DataFrame) -> list[str]:
    parts = [
        "# Leaderboard",
        "acc: accuracy on the test set, %. bal, sens, spec: balanced accuracy, sensitivity (of class 1) and "
        "specificity (of class 0), %, where the classes are of unequal size. r@eps: robust accuracy, combined attack "
        "on the attacked images, %. c@eps: certified accuracy on the test set, %. br@eps, bc@eps: their means over the "
        "classes, which stand for them where the classes are of unequal size. cert, dist: median certificate and "
        "distance of the combined attack, L2, pixels in [0, 1]. tight: median of distance / certificate, 1 is perfect. "
        "viol: violations of the sandwich law. lipschitz: bound of the network (of f, for two classes). Means over "
        "seeds.",
    ]
    for dataset, rows in table.groupby("dataset", sort=True):
        unequal = _is_imbalanced(rows)
        replaced = [c for c in rows if _kind(c) in (CURVES if unequal else BALANCED_CURVES)]
        hidden = ["imbalance", *([] if unequal else BY_CLASS), *replaced, *LAWS]
        shown = rows.drop(columns=hidden, errors="ignore")
        parts += [f"## {dataset}", _table(shown), _table(rows[[*GROUP, *LAWS]])]
    return parts


def _is_imbalanced(rows: pd.DataFrame) -> bool:
    # Summaries that are older than the column have none.
    return "imbalance" in rows and bool((rows["imbalance"] >= IMBALANCED).any())


def _table(rows: pd.DataFrame) -> str:
    """A Markdown table, rounded for readers; columns that are empty for a data set are left out."""
    shown = rows.drop(columns=["dataset"]).dropna(axis=1, how="all").copy()
    if set(shown["variant"]) == {"default"}:
        shown = shown.drop(columns="variant")
    numbers = list(map(str, shown.select_dtypes("number")))
    for column in numbers:
        shown[column] = shown[column].map(lambda v, c=column: "-" if pd.isna(v) else format(v, _format(c)))
    alignment = ["right" if column in numbers else "left" for column in shown]
    shown = shown.rename(columns=_short)
    return shown.to_markdown(index=False, disable_numparse=True, colalign=alignment)


def _short(column: str) -> str:
    kind, _, radius = column.partition(" @ ")
    return (CURVES | BALANCED_CURVES)[kind][0] + radius if radius else SHORT.get(column, column)


def _kind(column: Any) -> str:
    """Of a column such as "cert @ 0.5"."""
    return str(column).split(" @ ")[0]


def _radius(column: Any) -> float:
    """Of a column such as "cert @ 0.5"."""
    return float(str(column).split(" @ ")[1])


def _format(column: str) -> str:
    if column in ("seeds", "violations"):
        return ".0f"
    if column == "lipschitz":
        return ".3g"
    return ".1f" if column in ("accuracy", *BY_CLASS) or "@" in column or "seconds" in column else ".3f"


def _row(summary: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {column: summary[column] for column in RUN_COLUMNS}
    row["accuracy"] = 100 * summary["accuracy"]
    for column in BY_CLASS:
        value = summary.get(column.replace(" ", "_"))
        if value is not None:
            row[column] = 100 * value
    if "imbalance" in summary:
        row["imbalance"] = summary["imbalance"]
    unequal = summary.get("imbalance", 1.0) >= IMBALANCED
    for kind, (_, name) in (CURVES | (BALANCED_CURVES if unequal else {})).items():
        for eps, value in (summary.get(name) or {}).items():
            row[f"{kind} @ {eps}"] = 100 * value
    row["median certificate"] = summary["median_certificate"]
    row["median distance"] = summary["median_distance"]
    row["tightness"] = summary["tightness"]
    row["violations"] = summary["violations"]
    row["lipschitz"] = summary["lipschitz"]
    kr, bound = summary.get("kr"), summary["lipschitz"]
    row["KR / L"] = kr / bound if kr is not None and bound else None
    row["W1"] = summary.get("wasserstein")
    row["transport law"] = summary.get("transport_law")
    row["train seconds"] = summary["training_seconds"]
    row["attack seconds"] = summary["attack_seconds"]
    return row


def _verdict(values: pd.Series) -> str | None:
    known = values.dropna()
    if not len(known):
        return None
    return "holds" if known.astype(bool).all() else "VIOLATED"


def _write_constructions(root: Path, dataset: str) -> list[Path]:
    """Table and figure of each comparison of constructions on one data set."""
    written = []
    for experiment, eps, table in constructions(root, dataset):
        name = f"constructions_{dataset}_{experiment}"
        figure = construction_comparison(table, eps, title=f"{dataset}/{experiment}: one body, every construction")
        written += save_figure(figure, root / "figures" / name)
        write_text(root / f"{name}.csv", table.to_csv(index=False, lineterminator="\n"))
        written.append(root / f"{name}.csv")
    return written


def _chosen(training: bool | str | Sequence[str], known: list[str]) -> list[str]:
    """The experiments of which each run gets a figure of its own.

    Raises:
        ResultsError: a name that has no history.
    """
    if isinstance(training, bool):
        return known if training else []
    names = [training] if isinstance(training, str) else list(training)
    missing = [name for name in names if name not in known]
    if missing:
        raise ResultsError(
            f"training_curves={names}: no history of {', '.join(missing)}. Give true, false or a list of: "
            f"{', '.join(known)}."
        )
    return names


def _figures(root: Path, datasets: Sequence[str], training: bool | str | Sequence[str]) -> list[Path]:
    """Draws every data set; returns the files.

    Args:
        training: whether each run's training is drawn as well; or the names of the experiments whose is.
    """
    rows, histories, written = read(root), read_histories(root), []
    chosen = _chosen(training, sorted(set(histories["experiment"])))
    for dataset in datasets:
        figure = accuracy_curves(rows[rows["dataset"] == dataset], title=f"{dataset}: accuracy against epsilon")
        written += save_figure(figure, root / "figures" / f"accuracy_{dataset}")
        mine = histories[histories["dataset"] == dataset]
        if len(mine):
            figure = training_comparison(mine, title=f"{dataset}: training")
            written += save_figure(figure, root / "figures" / f"training_{dataset}")
        written += _write_constructions(root, dataset)
    for folder in run_folders(root):
        key = run_key(folder)
        if key["dataset"] in datasets and key["experiment"] in chosen and (folder / "history.csv").exists():
            # Read alone, the layers of a run keep their order.
            figure = training_curves(read_histories(folder), title=" ".join(map(str, key.values())))
            written += save_figure(figure, root / "figures" / "_".join(["training", *map(str, key.values())]))
    return written


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="report")
def task(cfg: DictConfig) -> None:
    """The report of one results folder."""
    root = Path(cfg.results)
    try:
        table = leaderboard(root)
        if cfg.datasets is not None:
            table = table[table["dataset"].isin(list(cfg.datasets))]
        print(write_leaderboard(table, root))
        written = [root / "leaderboard.csv", root / "leaderboard.md"]
        if cfg.figures:
            written += _figures(root, list(table["dataset"].unique()), cfg.training_curves)
        print("\nWritten: " + ", ".join(map(str, written)))
    except (ResultsError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        raise SystemExit(1) from error
    if (table["violations"] > 0).any() or (table["transport law"] == "VIOLATED").any():
        print("\nA LAW IS VIOLATED: see the column of violations and the transport law above.", file=sys.stderr)
        raise SystemExit(1)


def main() -> None:
    """The command `python -m lipbench.report`."""
    try:
        check_overrides(sys.argv[1:], "report")
        task()
    except CommandError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
