"""Two results folders compared: paired by image, intervals that are right, errors that say what does not pair."""

import numpy as np
import pandas as pd
import pytest
from helpers.reports import run_report
from helpers.runs_on_disk import IMAGES, make
from helpers.tables import rewrite

from lipbench.files import ResultsError, write_json
from lipbench.report import compare_runs, find_runs, write_comparison
from lipbench.report.comparison import changes
from lipbench.results import COMBINED, compare, read_bounds, survival
from lipbench.results.compare import _interval


@pytest.fixture
def two(tmp_path):
    """One network better by 0.5 everywhere, one the same; two seeds of the first."""
    for root, shift in (("new", 0.5), ("old", 0.0)):
        for seed in (0, 1):
            make(tmp_path / root, "better", shift, seed=seed)
        make(tmp_path / root, "same", 1.0)
    return tmp_path / "new", tmp_path / "old"


def test_differences_are_those_of_the_same_images(two):
    new, old = (find_runs(root) for root in two)
    found = compare_runs(new, old)
    table = found.table.set_index(["experiment", "method", "metric", "epsilon"]).sort_index()
    row = table.loc[("better", "certificate", "mean distance")].iloc[0]
    assert row["difference"] == pytest.approx(0.5)
    assert (row["low"], row["high"]) == pytest.approx((0.5, 0.5)), "paired: every image differs by the same"
    assert row["spread"] == pytest.approx(0, abs=1e-12)
    assert (row["seeds"], row["images"]) == (2, IMAGES)
    alone = table.loc[("same", "certificate", "accuracy", 1.0)]
    assert (alone["difference"], alone["low"], alone["high"]) == (0, 0, 0)
    assert np.isnan(alone["spread"])
    bounds = [read_bounds(root / f"data/better/default/{seed}") for root in two for seed in (0, 1)]
    shares = [survival(t[t["method"] == "alma"]["distance"], [1.0])[0] for t in bounds]
    row = table.loc[("better", "alma", "accuracy", 1.0)]
    assert row["first"] == pytest.approx(50 * (shares[0] + shares[1]))
    assert row["difference"] == pytest.approx(50 * (shares[0] + shares[1] - shares[2] - shares[3]))
    assert row["spread"] == pytest.approx(np.std([100 * (shares[i] - shares[i + 2]) for i in (0, 1)], ddof=1))
    assert row["low"] < row["difference"] < row["high"]
    nearest = table.loc[("better", COMBINED, "accuracy", 1.0)]
    assert nearest.equals(row.rename(nearest.name)), "ALMA is the nearer one everywhere"
    assert compare_runs(new, old).table.equals(found.table), "the same numbers every time"


def test_the_interval_is_that_of_the_mean():
    random = np.random.default_rng(0)
    values = random.normal(size=(400, 2)) * [1.0, 3.0]
    low, high = _interval(values, 0)
    width = 2 * 1.96 * values.std(axis=0) / 20
    assert (high - low) / width == pytest.approx(1, abs=0.1)
    assert np.isnan(_interval(values[:1], 0)[0]).all()


def test_a_failed_attack_leaves_the_mean_distance_alone(two):
    new, old = two
    path = new / "data/same/default/0/bounds/fgm.parquet"
    rewrite(path, lambda table: table.assign(distance=table["distance"].where(table["index"] > 0, np.inf)))
    folders = [[root / "data/same/default/0"] for root in (new, old)]
    table = compare(*folders).table
    fgm = table[(table["method"] == "fgm") & (table["metric"] == "mean distance")].iloc[0]
    assert fgm["difference"] == 0
    assert fgm["images"] == IMAGES - 1


def test_other_images_are_refused(two):
    old = two[1]
    write_json(old / "data/same/default/0/data.json", {"shape": [1, 2, 2], "test": {"images": IMAGES, "hash": "11"}})
    folders = [[root / "data/same/default/0"] for root in two]
    with pytest.raises(ResultsError, match=r"Nothing to compare(.|\n)*the images differ \(test.hash: 00 -> 11\)"):
        compare(*folders)
    write_json(old / "data/same/default/0/data.json", {"shape": [1, 2, 2]})
    with pytest.raises(ResultsError, match="does not say the shape and the hash of the test images"):
        compare(*folders)
    (old / "data/same/default/0/data.json").unlink()
    assert "no data.json" in compare(*folders).notes[0]
    path = old / "data/same/default/0/bounds/alma.parquet"
    rewrite(path, lambda table: table.assign(label=table["label"].where(table["index"] > 0, 1)))
    with pytest.raises(ResultsError, match=f"1 of {IMAGES} have another label"):
        compare(*folders)


def test_nothing_that_pairs_is_an_error_after_the_report(two, tmp_path, capsys):
    make(tmp_path / "third", "unlike")
    with pytest.raises(ResultsError, match=r"Nothing to compare(.|\n)*data/better/default/0: only in one"):
        run_report(f"results={two[0]}", f"compare={tmp_path / 'third'}", "figures=false")
    assert (two[0] / "report.html").exists(), "the rest is there"
    assert not (two[0] / "comparison.csv").exists()
    (two[0] / "report.html").unlink()
    with pytest.raises(ResultsError, match="no results folder"):
        run_report(f"results={two[0]}", f"compare={tmp_path / 'nowhere'}", "figures=false")
    assert not (two[0] / "report.html").exists(), "nothing is written for a folder that there is not"


def test_the_report_tells_the_comparison(two, capsys):
    make(two[0], "extra")
    run_report(f"results={two[0]}", f"compare={two[1]}", "figures=false")
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines()[:5])) <= 100
    assert "data, radius 1, from old to new: the certified accuracy" in " ".join(said.split())
    text = (two[0] / "comparison.md").read_text()
    assert "First: new; second: old" in text
    (line,) = [line for line in text.splitlines() if "data/better" in line and "certificate" in line and "mean" in line]
    assert "+0.500 to +0.500" in line
    assert "* data/extra/default/0: only in one of the two folders" in text
    table = pd.read_csv(two[0] / "comparison.csv")
    assert set(table["method"]) == {"certificate", "fgm", "alma", COMBINED}
    page = (two[0] / "report.html").read_text()
    assert page.count('<tr class="clear">') == sum(
        (row["low"] > 0 or row["high"] < 0) and row["method"] in ("certificate", COMBINED)
        for row in table.to_dict("records")
    )
    comparison = compare_runs(*(find_runs(root) for root in two))
    assert write_comparison(comparison, two[0]) == write_comparison(comparison, two[0])


def test_a_sentence_says_what_changed_clearly(two):
    new, old = (find_runs(root) for root in two)
    found = compare_runs(new, old)
    (said,) = changes(found)
    table = found.table[(found.table["metric"] == "accuracy") & (found.table["epsilon"] == 1)]
    row = table[(table["experiment"] == "better") & (table["method"] == "certificate")].iloc[0]
    assert row["low"] > 0
    certified, robust = said.split(" and the robust accuracy ")
    assert "certified accuracy rises in 1 of 2 networks (most in better: " in certified
    assert f"{row['second']:.1f} to {row['first']:.1f} %" in certified
    assert f"{row['low']:+.1f} to {row['high']:+.1f}" in certified
    assert robust.startswith("rises in 1 of 2 networks")
    (back,) = changes(compare_runs(old, new))
    assert "from new to old: the certified accuracy falls in 1 of 2 networks" in back
    (same,) = changes(compare_runs(old, old))
    assert same.count("does not change clearly in any of 2 networks") == 2
