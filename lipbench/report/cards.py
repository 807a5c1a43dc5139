"""A card per network: its numbers seed by seed, what it is, where it was made, what it cost, how to make it again."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import pandas as pd
from omegaconf import OmegaConf

from lipbench.files import read_config, read_json
from lipbench.report.columns import COLUMNS, GROUP, rounded, split, written_with
from lipbench.report.leaderboard import leaderboard, numbers
from lipbench.report.methods import explained, method_cells, method_numbers
from lipbench.results.flags import Flag
from lipbench.results.layout import MANIFEST
from lipbench.results.radii import radius_text
from lipbench.results.runs import BROKEN, Run, Runs

Found = TypeVar("Found")

SHOWN = 10
# Certificates of a run whose command names none.
DEFAULT = ["certificate", "certificate_float", "certificate_inscribed", "certificate_inscribed_float"]
# Whose versions are shown, where the run had them.
PACKAGES = (
    "torch",
    "numpy",
    "pandas",
    "lipbench",
    "torchattacks",
    "foolbox",
    "adv-lib",
    "deel-torchlip",
    "orthogonium",
)


@dataclass(frozen=True)
class Card:
    """What the page says of one network: data set, experiment and variant, with all its seeds.

    Attributes:
        seeds: one row per seed, as text, the headings first.
        radii: certified and robust accuracy (%), one row per radius, as text, the headings first.
        command: makes the runs again; "" where it cannot be told.
        cautions: what the command may not give back; files that cannot be read.
        configuration: as YAML, of the first seed.
        environment: name -> value, of all seeds.
        methods: one row per method, its optimality and costs as text, the headings first.
        reference: what the optimality is relative to, in a sentence.
        flags: run's seed and flag.
        is_violated: whether the sandwich law does not hold.
        violations: the first rows of `violations.csv`, the headings first.
        law: what is said of the optimal-transport law.
    """

    dataset: str
    experiment: str
    variant: str
    seeds: list[list[str]]
    radii: list[list[str]]
    command: str
    cautions: list[str]
    configuration: str
    environment: list[tuple[str, str]]
    methods: list[list[str]]
    reference: str
    flags: list[tuple[Any, Flag]]
    is_violated: bool
    violations: list[list[str]]
    law: str

    @property
    def anchor(self) -> str:
        """Its place in the page."""
        return "run-" + quote(f"{self.dataset}/{self.experiment}/{self.variant}")


def cards(runs: Runs, table: pd.DataFrame | None = None) -> list[Card]:
    """One per data set, experiment and variant, by their names.

    Args:
        table: as `leaderboard` returns it; None: it is made.
    """
    table = leaderboard(runs) if table is None else table
    rows = {tuple(row[name] for name in GROUP): row for row in table.to_dict("records")}
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in sorted(runs.finished, key=lambda run: (*map(str, run.key[:3]), str(run.key[3]).zfill(9))):
        groups.setdefault(run.key[:3], []).append(run)
    return [_card(group, rows[key]) for key, group in groups.items()]


def _card(runs: Sequence[Run], row: Mapping[Any, Any]) -> Card:
    cautions: list[str] = []
    configuration = _part(read_config, runs[0], "config.yaml", cautions) or {}
    laws = {run.summary.get("transport_law") for run in runs}
    return Card(
        **{column: str(runs[0].summary[column]) for column in GROUP},
        seeds=_seeds(runs),
        radii=_radii(row),
        command=_command(runs, cautions),
        configuration=OmegaConf.to_yaml(OmegaConf.create(configuration)) if configuration else "",
        environment=_environment(runs, cautions),
        methods=_methods_table(runs, cautions),
        reference=explained([run.attacked for run in runs]),
        flags=[(run.summary["seed"], flag) for run in runs for flag in run.flags],
        is_violated=any(run.summary["violations"] for run in runs),
        violations=_violations(runs, cautions),
        law="VIOLATED" if False in laws else "holds" if True in laws else "not tested",
        cautions=cautions,
    )


def _part(read: Callable[[Path], Found], run: Run, name: str, cautions: list[str]) -> Found | None:
    """What a function reads in a file of a run. A file that is missing or broken costs a caution, not the card."""
    try:
        return read(run.folder / name)
    except BROKEN:
        cautions.append(f"{name} of seed {run.folder.name} cannot be read.")
        return None


def _seeds(runs: Sequence[Run]) -> list[list[str]]:
    """The main numbers of each seed: their spread is to be seen."""
    columns = [column for column in COLUMNS if column.card]
    names = [f"{column.name} (%)" if column.percent else column.name for column in columns]
    rows = [["seed", *names, "attacked images", "test images"]]
    for run in runs:
        known = numbers(run)
        values = [(column.values(known)[column.name], column.card) for column in columns]
        cells = ["-" if value is None else rounded(value, form) for value, form in values]
        counts = [str(known.get(key, "-")) for key in ("attacked_images", "test_images")]
        rows.append([str(run.summary["seed"]), *cells, *counts])
    return rows


def _radii(row: Mapping[Any, Any]) -> list[list[str]]:
    kinds = {"certified (%)": "cert", "robust (%)": "rob", "certified, whole test set (%)": "test cert"}
    radii = sorted({split(str(name))[1] for name in row if "test cert @ " in str(name)}, key=float)
    lines = [[radius_text(eps), *(written_with(f"{kind} @ {eps}", row) for kind in kinds.values())] for eps in radii]
    return [["L2 radius", *kinds], *(line for line in lines if set(line[1:]) != {"-"})]


def _command(runs: Sequence[Run], cautions: list[str]) -> str:
    """The command that makes the runs again: of the first run, with all seeds and with the methods that have tables."""
    words = _part(lambda _: shlex.split(runs[0].facts["command"]), runs[0], MANIFEST, cautions)
    if words is None:
        return ""
    if not words:
        cautions.append("The name of this variant is cut short: its options are those of the configuration below.")
        return ""
    seeds = [str(run.summary["seed"]) for run in runs]
    methods = _methods(runs[0], cautions)
    attacks = [name for name, images in methods.items() if images is not None]
    certificates = [name for name, images in methods.items() if images is None]
    options = {"attack": f"[{','.join(attacks)}]"}
    if attacks:
        options["images"] = str(methods[attacks[0]])
    if sorted(certificates) != sorted(DEFAULT):
        options["certificate"] = f"[{','.join(certificates)}]"
    if "source" in runs[0].summary:
        cautions.append("Run it where the model's file is, with checkpoint= if it had one.")
    else:
        options["seed"] = ",".join(seeds)
    kept = [word for word in words[2:] if word.partition("=")[0] not in options]
    sweep = ["-m"] if len(seeds) > 1 else []
    return shlex.join([*words[:2], *sweep, *kept, *(f"{name}={value}" for name, value in options.items())])


def _methods(run: Run, cautions: list[str]) -> dict[str, int | None]:
    """Method -> how many images it was given; None: the whole test set, as certificates are."""
    found = {}
    for path in sorted((run.folder / "bounds").glob("*.json")):
        identity = _part(_identity, run, f"bounds/{path.name}", cautions)
        if identity is not None and "imported" in identity:
            cautions.append(f"{path.stem} was imported: lipbench import reads its verdicts.")
        elif identity is not None:
            found[path.stem] = identity.get("images")
    return found


def _identity(path: Path) -> dict[str, Any]:
    """
    Raises:
        TypeError: the file holds something else.
    """
    identity: dict[str, Any] = read_json(path)
    images = identity.get("images")
    if not (images is None or type(images) is int):
        raise TypeError(f"images: {images}")
    return identity


def _environment(runs: Sequence[Run], cautions: list[str]) -> list[tuple[str, str]]:
    """Name -> value; where seeds differ, all of their values."""
    known: dict[str, dict[str, None]] = {}
    for run in runs:
        for key, value in (_part(_machine, run, "environment.json", cautions) or {}).items():
            known.setdefault(key, {})[value] = None
    return [(key, ", ".join(values)) for key, values in sorted(known.items())]


def _machine(path: Path) -> dict[str, str]:
    """What people read of an `environment.json`: name -> value, with the versions of `PACKAGES`."""
    held = dict(read_json(path))
    packages = dict(held.pop("packages", {}))
    shown = {**held, **{name: packages[name] for name in PACKAGES if name in packages}}
    # Other containers, and the build of torch, are for a machine to read.
    return {k: str(value) for k, value in shown.items() if not isinstance(value, dict | list) and k != "torch_build"}


def _methods_table(runs: Sequence[Run], cautions: list[str]) -> list[list[str]]:
    """Optimality and costs of each method and of the training, means over the seeds."""
    tables = []
    for run in runs:
        costs = _part(_seconds, run, "costs.csv", cautions)
        tables += [] if costs is None else [method_numbers(run.attacked, costs, run.flags)]
    return method_cells(tables) if tables else []


def _seconds(path: Path) -> pd.DataFrame:
    return pd.read_csv(path).set_index("method")[["seconds", "passes"]].astype(float)


def _violations(runs: Sequence[Run], cautions: list[str]) -> list[list[str]]:
    rows: list[list[str]] = []
    for run in runs:
        if run.summary["violations"]:
            heads, *found = _part(_first_rows, run, "violations.csv", cautions) or [[]]
            rows = rows or ([["seed", *heads]] if heads else [])
            rows += [[str(run.summary["seed"]), *row] for row in found]
    return rows


def _first_rows(path: Path) -> list[list[str]]:
    """The headings of a table, and its first rows."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    return [list(table), *table.head(SHOWN).to_numpy().tolist()]
