"""The tables of docs/theory.md, docs/baselines.md and docs/layers.md, and the passes in docs/attacks.md, are those of
the committed results. A failure prints what they should be.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lipbench.figures.gap import DISTANCES
from lipbench.files import read_json
from lipbench.report import find_runs, leaderboard, write_leaderboard
from lipbench.results.storage import read_bounds

ROOT = Path(__file__).parent.parent
PAGE, REFERENCE = ROOT / "docs/theory.md", ROOT / "results/reference"
NAMES = {
    "certificate": "abs(f(x)) / L",
    "certificate_inscribed": "inscribed, {steps} steps ({passes:.0f} passes an image)",
    "certificate_inscribed_float": "inscribed for float32, {steps} steps ({passes:.0f} passes)",
}

pytestmark = pytest.mark.skipif(not (PAGE.exists() and REFERENCE.exists()), reason="no documentation, or no results")


def line(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |".replace("|  |", "| |").replace("|  |", "| |")


def table(network: str, epsilons: tuple[float, ...]) -> list[str]:
    """The lines of a network: ratios are of the images with a certificate, accuracies of all that were attacked."""
    folder = REFERENCE / network / "default/0"
    bounds = read_bounds(folder)
    bounds = bounds[bounds["norm"] == "l2"]
    attacked = bounds[bounds["side"] == "upper"].groupby("index")["distance"].min()
    passes = pd.read_csv(folder / "costs.csv").set_index("method")["passes"]
    ratios = ("distance / certificate, median", "mean", "smallest", "gap < 0.1 %", "gap < 1 %")
    lines = [line(f"{network}, {len(attacked)} test images", *ratios, *(f"certified at {eps:g}" for eps in epsilons))]
    lines.append("|" + "---|" * (1 + len(ratios) + len(epsilons)))
    for method, name in NAMES.items():
        options = read_json(folder / f"bounds/{method}.json")["options"]
        lower = bounds[bounds["method"] == method].set_index("index")["distance"].loc[attacked.index]
        ratio = (attacked / lower)[lower > 0]
        cells = [f"{value:.4f}" for value in (ratio.median(), ratio.mean(), ratio.min())]
        cells += [f"{100 * (ratio < 1 + gap).mean():.1f} %" for gap in (1e-3, 1e-2)]
        cells += [f"{100 * (lower > eps).mean():.1f}" for eps in epsilons]
        lines.append(line(name.format(steps=options.get("steps"), passes=passes[method]), *cells))
    under = [f"{100 * (attacked > eps).mean():.1f}" for eps in epsilons]
    return [*lines, line("under all attacks", *[""] * len(ratios), *under)]


def passes(kind: str) -> str:
    """The passes of `lipbench` per image, over the runs that have inscribed balls. Points of the plane are left out,
    and so are networks that guess.
    """
    found = []
    for path in REFERENCE.glob("*/*/*/*/costs.csv"):
        dataset, experiment, variant = path.parts[-5:-2]
        costs = pd.read_csv(path).set_index("method")["passes"]
        is_ordinary = experiment.startswith(("plain_", "adversarial_")) or "constraint=free" in variant
        mine = "ordinary" if is_ordinary else dataset
        named = {"mnist08": "two", "digits08": "two", "mnist": "ten", "digits": "ten"}.get(mine, mine)
        has_both = {"lipbench", "certificate_inscribed"} <= {*costs.index}
        flags = [flag["name"] for flag in read_json(path.parent / "summary.json")["flags"]]
        if named == kind and has_both and "low_accuracy" not in flags and not dataset.startswith("two_"):
            found.append(costs["lipbench"])
    assert len(found) > 10
    return f"{np.median(found):,.0f} ({min(found):,.0f} to {max(found):,.0f})"


def test_the_passes_of_the_attack_are_those_of_the_committed_results() -> None:
    expected = (
        f"1-Lipschitz networks with two classes: {passes('two')}, with ten: {passes('ten')}; "
        f"ordinary networks: {passes('ordinary')} |"
    )
    assert expected in (ROOT / "docs/attacks.md").read_text(), f"attacks.md should hold: {expected}"


@pytest.mark.parametrize(
    ("network", "epsilons"), [("mnist08/hkr_mlp", (2.0, 2.5, 3.0)), ("digits/hkr_mlp", (0.25, 0.5, 1.0))]
)
def test_the_tables_are_those_of_the_committed_results(network: str, epsilons: tuple[float, ...]) -> None:
    expected = "\n".join(table(network, epsilons))
    assert f"\n\n{expected}\n\n" in PAGE.read_text(), f"{PAGE.name} should hold:\n\n{expected}\n"


def test_the_exact_distances_are_those_of_the_committed_results() -> None:
    text, columns = (ROOT / "docs/baselines.md").read_text(), []
    for network in ("plain_mlp/model.widths=_32,16_", "hkr_mlp/model.activation._target_=lipbench.layers.MaxMin,*"):
        (folder,) = REFERENCE.glob(f"digits08/{network}/0")
        bounds = read_bounds(folder)
        wide = bounds[bounds["norm"] == "l2"].pivot_table(index="index", columns="method", values="distance").dropna()
        assert len(wide) == 60
        assert (wide["exact"] / wide["certificate_exact"]).max() < 1 + 1e-5
        columns.append((wide.div(wide["certificate_exact"], axis=0), wide.div(wide["exact"], axis=0), folder))
    for name, digits in (("certificate_inscribed", (3, 5)), ("certificate", (3, 5)), ("certificate_crown", (3, 3))):
        cells = [
            f"{r[name].median():.{n}f} ({r[name].min():.{n}f})" for (r, _, _), n in zip(columns, digits, strict=True)
        ]
        expected = line(f"`{name}` / exact", *cells)
        assert expected in text, f"baselines.md should hold: {expected}"
    cells = [f"{ratio['lipbench'].median():.5f} ({ratio['lipbench'].max():.5f})" for _, ratio, _ in columns]
    expected = line("attack `lipbench` / exact", *cells)
    assert expected in text, f"baselines.md should hold: {expected}"
    costs = [pd.read_csv(folder / "costs.csv").set_index("method")["seconds"] / 60 for _, _, folder in columns]
    cells = [f"{cost['certificate_exact']:.2f} and {cost['exact']:.2f}" for cost in costs]
    expected = line("seconds per image, `certificate_exact` and `exact`", *cells)
    assert expected in text, f"baselines.md should hold: {expected}"


def families() -> list[str]:
    """The lines of docs/layers.md: the body of layers_cnn by constraint, best first."""
    found = []
    for folder in REFERENCE.glob("mnist08/layers_cnn/*/0"):
        bounds = read_bounds(folder)
        l2 = bounds[bounds["norm"] == "l2"]
        wide = l2.pivot_table(index="index", columns="method", values="distance").dropna()
        right = wide[wide["lipbench"] > 0]
        shares = [100 * (wide[name] > 2).mean() for name in ("certificate", "certificate_inscribed", "lipbench")]
        ratios = [(right["lipbench"] / right[name]).median() for name in ("certificate", "certificate_inscribed")]
        cells = [100 * len(right) / len(wide), *shares]
        name = folder.parent.name.partition(",")[0].removeprefix("constraint=")
        texts = [f"{cell:.1f}" for cell in cells] + [f"{ratio:.3f}" if ratio < 10 else "-" for ratio in ratios]
        found.append((shares[1], line(f"`{name}`", *texts)))
    return [text for _, text in sorted(found, reverse=True)]


def test_the_families_are_those_of_the_committed_results() -> None:
    expected = "\n".join(families())
    assert len(families()) == 15
    assert f"\n{expected}\n\n" in (ROOT / "docs/layers.md").read_text(), f"layers.md should hold:\n\n{expected}\n"


def test_the_parts_of_the_gap_are_those_of_the_committed_results() -> None:
    held = pd.read_csv(REFERENCE / "mnist/hkr_cnn/default/0/bracket.csv")
    parts = 100 * held[list(DISTANCES)].diff(axis=1).iloc[:, 1:].div(held["distance"], axis=0).mean()
    box, rivals, rest = parts
    expected = (
        f"leaves {parts.sum():.1f} % of it uncertified: the box is {box:.1f} %, other rivals are {rivals:.2f} %, "
        f"layers, kinks and both searches {rest:.1f} %"
    )
    assert expected in " ".join(PAGE.read_text().split()), f"theory.md should hold: {expected}"


def test_the_committed_leaderboard_follows_from_the_committed_results(tmp_path: Path) -> None:
    runs = find_runs(REFERENCE)
    write_leaderboard(leaderboard(runs), replace(runs, root=tmp_path))
    expected, committed = ((root / "leaderboard.md").read_text() for root in (tmp_path, REFERENCE))
    assert committed == expected, "`lipbench report results=results/reference` writes it"
