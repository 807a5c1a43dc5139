"""The leaderboard: one population per number, uncertainties, and what the terminal shows."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.runs_on_disk import make

from lipbench.files import ResultsError, write_json
from lipbench.report import find_runs, leaderboard, terminal, write_latex, write_leaderboard, write_page
from lipbench.report.answers import answer
from lipbench.report.board import columns
from lipbench.report.columns import MARK, MARKED, SCHEMA_VERSION, leader, uncertainty, written, written_with
from lipbench.report.leaderboard import board_radii, left_aside
from lipbench.results import bounds_table, read_bounds, run_folders, write_bounds, write_manifest, write_summary
from lipbench.results.attacked import attacked_images, attacked_numbers, median_error, share_error
from lipbench.results.layout import REFERENCE
from lipbench.results.radii import main_radii, radius_of, radius_text
from lipbench.results.words import network_name

TESTED, ATTACKED = 60, 20


def run(root: Path, name: str, seed: int = 0, attacks: tuple[str, ...] = ("lipbench", "fgm"), images: int = ATTACKED):
    """A run whose whole test set is far better than its attacked images, as the first ones are the hardest."""
    folder = root / "data" / name / "default" / str(seed)
    lower = np.linspace(0.2, 3, TESTED) + 0.01 * seed
    labels = np.arange(TESTED) % 2
    write_bounds(folder, bounds_table(range(TESTED), labels, labels, "certificate", "lower", lower), {})
    for number, attack in enumerate(attacks):
        distances = (1.01 + 0.3 * number) * lower[:images]
        table = bounds_table(range(images), labels[:images], labels[:images], attack, "upper", distances)
        write_bounds(folder, table, {})
    write_json(folder / "data.json", {"shape": [1, 2, 2], "test": {"images": TESTED, "hash": "00"}})
    (folder / "costs.csv").write_text("method,seconds,passes\n")
    write_json(folder / "environment.json", {})
    (folder / "config.yaml").write_text("seed: 0\n")
    write_summary(folder, {"lipschitz": 1.0, "flags": []}, {})
    write_manifest(folder)
    return folder


def contradictions(table: pd.DataFrame) -> list[str]:
    """The cells of a board that no network can have: certified above robust, or a median radius above the distance."""
    found = []
    for row in table.to_dict("records"):
        pairs = [(name, name.replace("cert @ ", "rob @ ")) for name in row if name.startswith("cert @ ")]
        for low, high in [*pairs, ("median certificate", "median distance")]:
            if "±" not in low and row[low] > row[high]:
                found.append(f"{row['dataset']}/{row['experiment']}: {low} {row[low]} > {row[high]}")
    return found


def test_every_number_of_a_row_is_over_the_same_images(tmp_path):
    folder = run(tmp_path, "hkr_cnn")
    table = leaderboard(find_runs(tmp_path))
    (row,) = table.to_dict("records")
    assert row["images"] == ATTACKED
    assert row["test images"] == TESTED
    assert row["test cert @ 1"] > row["rob @ 1"], "over other images the two cannot be compared"
    assert contradictions(table) == []
    lower = read_bounds(folder).query("method == 'certificate' and norm == 'l2'")["distance"].to_numpy()[:ATTACKED]
    assert row["cert @ 0.5"] == pytest.approx(100 * (lower > 0.5).mean())
    assert row["median certificate"] == pytest.approx(np.median(lower))
    assert row["tightness"] == pytest.approx(1.01)


COMMITTED = sorted(REFERENCE.parent.glob("*/leaderboard.csv")) if REFERENCE.is_dir() else []


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.parent.name)
def test_no_committed_board_contradicts_itself(path):
    board = pd.read_csv(path)
    networks = {run.parent for run in run_folders(path.parent)}
    assert len(board) == len(networks), "a row for each network"
    assert set(board["schema_version"]) == {SCHEMA_VERSION}
    assert contradictions(board) == []
    assert (board["cert @ 0.5"].dropna() > 0).any()
    # And it is what the tables give.
    rows = leaderboard(find_runs(path.parent / "digits"))
    committed = board[board["dataset"] == "digits"].set_index("experiment")
    for name in ("cert @ 0.5", "rob @ 0.5", "median certificate", "median distance", "images"):
        assert committed.loc[rows["experiment"], name].tolist() == pytest.approx(rows[name].tolist())


def test_a_contradiction_is_found():
    row = {"dataset": "d", "experiment": "e", "cert @ 1": 2.0, "rob @ 1": 1.0}
    assert len(contradictions(pd.DataFrame([{**row, "median certificate": 2.0, "median distance": 1.0}]))) == 2


@pytest.mark.parametrize("other", [{"attacks": ("fgm",)}, {"images": 10}])
def test_seeds_that_were_attacked_otherwise_are_not_averaged(tmp_path, other):
    run(tmp_path, "hkr_cnn", 0)
    run(tmp_path, "hkr_cnn", 1)
    run(tmp_path, "hkr_cnn", 2, **other)
    runs = find_runs(tmp_path)
    (row,) = leaderboard(runs).to_dict("records")
    assert (row["seeds"], row["images"], row["attacks"]) == (2, ATTACKED, 2)
    (problem,) = left_aside(runs)
    assert problem.where == "data/hkr_cnn/default/2"
    text = write_leaderboard(leaderboard(runs), runs)
    assert "data/hkr\\_cnn/default/2: not in its row" in text or "data/hkr_cnn/default/2: not in its row" in text


def test_what_was_not_attacked_has_no_number(tmp_path):
    run(tmp_path, "hkr_cnn", attacks=())
    run(tmp_path, "plain_cnn")
    runs = find_runs(tmp_path)
    rows = leaderboard(runs).set_index("experiment")
    assert rows.loc["hkr_cnn", ["cert @ 1", "rob @ 1", "accuracy", "median certificate", "tightness"]].isna().all()
    assert rows.loc["hkr_cnn", "test cert @ 1"] > 0
    line = next(line for line in terminal(leaderboard(runs), runs).splitlines() if line.startswith("hkr_cnn"))
    assert line.split()[1:10] == ["-"] * 8 + ["0"]


def test_an_attack_on_few_images_does_not_narrow_the_row():
    lower, labels = np.full(6, 0.5), np.zeros(6, int)
    parts = [
        bounds_table(range(6), labels, labels, "certificate", "lower", lower),
        bounds_table(range(6), labels, labels, "certificate_inscribed", "lower", lower + 0.1),
        bounds_table(range(6), labels, labels, "certificate_float", "lower", lower - 0.1),
        bounds_table(range(4), labels[:4], labels[:4], "lipbench", "upper", np.full(4, 1.0)),
        bounds_table(range(6), labels, labels, "fgm", "upper", np.full(6, 2.0)),
        bounds_table(range(2), labels[:2], labels[:2], "slow", "upper", np.full(2, 0.7)),
    ]
    own = attacked_images(pd.concat(parts))
    assert own.attacks == ("fgm", "lipbench")
    assert own.certificates == ("certificate", "certificate_inscribed")
    assert own.images["upper"].tolist() == [1.0] * 4
    assert own.images["lower"].tolist() == pytest.approx([0.6] * 4), "the largest certificate of an image"
    numbers = attacked_numbers(own.images, [0.55])
    assert numbers["attacked_certified_accuracy"] == {"0.55": 1.0}
    assert numbers["attacked_certificate_accuracy"] == {"0.55": 0.0}
    assert attacked_numbers(own.images.iloc[:0], [0.5])["robust_accuracy"] is None


def test_the_uncertainty_is_that_of_a_bootstrap():
    random = np.random.default_rng(0)
    values = (random.uniform(size=400) < 0.8).astype(float)
    resampled = [random.choice(values, 400).mean() for _ in range(2000)]
    low, high = np.quantile(resampled, [0.025, 0.975])
    assert share_error(values) == pytest.approx((high - low) / 2, rel=0.1)
    assert 0.004 < share_error(np.ones(500)) < 0.007, "500 of 500 are not certain"
    labels = np.arange(400) % 40 == 0
    assert share_error(values, labels) > 2 * share_error(values), "ten images of a class tell little"
    continuous = random.normal(size=400)
    medians = [np.median(random.choice(continuous, 400)) for _ in range(2000)]
    low, high = np.quantile(medians, [0.025, 0.975])
    assert median_error(continuous) == pytest.approx((high - low) / 2, rel=0.25)
    assert median_error(np.full(9, np.inf)) == np.inf


def test_seeds_widen_the_uncertainty():
    row = {"cert @ 1": 90.0, "cert @ 1 ± images": 2.0, "cert @ 1 ± seeds": 3.0}
    assert uncertainty(row, "cert @ 1") == 3
    assert written_with("cert @ 1", row) == "90.0±3.0"
    assert written_with("cert @ 1", {"cert @ 1": None}) == "-"


def test_bold_is_a_lead_beyond_both_uncertainties():
    rows = pd.DataFrame({"cert @ 1": [90.0, 80.0, np.nan], "cert @ 1 ± images": [5.0, 5.0, np.nan]})
    assert leader(rows, "cert @ 1") == 0
    assert leader(rows.assign(**{"cert @ 1 ± images": 8.0}), "cert @ 1") is None
    assert leader(rows.assign(**{"cert @ 1 ± seeds": [8.0, 8.0, np.nan]}), "cert @ 1") is None, "the larger one counts"
    assert leader(rows.iloc[:1], "cert @ 1") is None, "alone it leads nobody"


def test_the_terminal_has_lines_of_100_letters_and_the_best_first(tmp_path):
    make(tmp_path, "plain_cnn", 0.0)
    for end in ("one", "two"):
        make(tmp_path, f"hkr_cnn_with_a_name_that_is_far_too_long_for_a_board_{end}", 0.3)
    make(tmp_path, "hkr_mlp", 0.6)
    make(tmp_path, "hkr_mlp/loss.margin=2", 0.6)
    for name in ("a_cnn", "b_cnn", "c_cnn"):
        make(tmp_path, name, 3.0)
    make(tmp_path, "kr_mlp", -0.05)
    runs = find_runs(tmp_path)
    table = leaderboard(runs)
    text = terminal(table, runs)
    assert max(map(len, text.splitlines())) <= 100
    rows = [line.split()[0] for line in text.splitlines() if "±" in line and line[0] not in " ±"]
    one, two = (row for row in rows if "…" in row)
    assert one.endswith("_one")
    assert two.endswith("_two"), "the middle of a name is cut"
    assert rows == ["a_cnn", "hkr_mlp", one, two, "plain_cnn", "kr_mlp"]
    assert "Also 100 % in each of these accuracies: b_cnn, c_cnn." in text
    assert "hkr_mlp: 1 variant is in leaderboard.md." in text
    assert "kr_mlp is trained with the Kantorovich-Rubinstein loss alone" in text
    assert "The laws hold in all 9 runs." in text
    assert len(columns(table)) + 1 <= 12


def test_many_data_sets_show_their_main_networks(tmp_path):
    for number in range(5):
        make(tmp_path, "hkr_cnn", dataset=f"d{number}")
        make(tmp_path, "special", dataset=f"d{number}")
    runs = find_runs(tmp_path)
    text = terminal(leaderboard(runs), runs)
    assert text.count("hkr_cnn") == 5
    assert "special" not in text
    assert "d4, r = 1" in text
    assert max(map(len, text.splitlines())) <= 100


def test_each_file_names_its_schema(tmp_path):
    run(tmp_path, "hkr_cnn")
    runs = find_runs(tmp_path)
    table = leaderboard(runs)
    text = write_leaderboard(table, runs)
    assert "Schema version 1." in text
    assert pd.read_csv(tmp_path / "leaderboard.csv")["schema_version"].tolist() == [1]
    stored = json.loads((tmp_path / "leaderboard.json").read_text())
    assert stored["schema_version"] == 1
    assert stored["rows"][0]["cert @ 1"] == table["cert @ 1"].iloc[0]
    assert stored["rows"][0]["cert @ 1 ± seeds"] is None


def test_radii_are_printed_as_the_literature_writes_them():
    assert [radius_text(r) for r in ("0.141176", 36 / 255, 0.5, "1.58", 0.2)] == ["36/255"] * 2 + ["0.5", "1.58", "0.2"]
    assert radius_of("36/255") == radius_of("0.141176") == 36 / 255
    assert radius_of("0.25") == 0.25
    assert main_radii(["0.25", "0.5", "1", "1.5", "1.58", "2"]) == [0.5, 1]
    assert main_radii([0.1]) == [0.1]
    assert main_radii([]) == []
    for wrong in ("a", "1/0", "", None):
        with pytest.raises(ResultsError, match="is no radius"):
            radius_of(wrong)


def test_the_answer_names_the_best_network_and_what_it_does_not_beat(tmp_path):
    make(tmp_path, "plain_cnn", -0.09)
    make(tmp_path, "hkr_cnn", 0.45)
    make(tmp_path, "hkr_mlp", 0.5)
    make(tmp_path, "hkr_cnn/loss.margin=2", 2.0)
    rows = leaderboard(find_runs(tmp_path))
    text = answer(rows).replace("\u00a0", " ")
    best, radius = rows[rows["variant"] == "default"].iloc[0], f"{board_radii(rows)[-1]:g}"
    proven = f"{network_name(best['experiment'])} is proven right on {best[f'cert @ {radius}']:.1f} ±"
    assert text.startswith(f"data, radius {radius}: {proven}")
    assert "(40 images, 1 seed)" in text, "the variant of a sweep does not speak for its experiment"
    other = "HKR MLP" if best["experiment"] == "hkr_cnn" else "HKR CNN"
    assert f"Its lead over {other} is within the uncertainty." in text
    assert "The classical CNN:" in text
    assert text.count("images,") == 1, "all were judged on the same images"
    fewer = rows.assign(images=rows["images"].where(rows["experiment"] != "plain_cnn", 20))
    assert "proven (20 images, 1 seed)." in answer(fewer)
    run(tmp_path, "margin_cnn", attacks=())
    assert answer(leaderboard(find_runs(tmp_path))).count("Not attacked") <= 1


def test_a_network_that_was_not_attacked_is_named_where_its_certificates_are_better(tmp_path):
    run(tmp_path, "plain_cnn", images=TESTED)
    folder = run(tmp_path, "margin_cnn", attacks=())
    table = read_bounds(folder)
    write_bounds(folder, table.assign(distance=9.0), {})
    write_summary(folder, {"lipschitz": 1.0, "flags": []}, {})
    write_manifest(folder)
    text = answer(leaderboard(find_runs(tmp_path)))
    assert "Not attacked: 1-Lipschitz margin CNN, proven right on 100.0 % of the whole test set" in text


def test_a_board_shows_the_radius_that_tells_most_networks_apart():
    certified = {"0.5": [99.0, 98.0, 97.0], "1": [98.0, 97.0, 0.0], "2": [90.0, 70.0, 0.0], "3": [9.0, 7.0, 0.0]}
    names = {"experiment": ["a", "b", "c"], "variant": "default"}
    rows = pd.DataFrame({**names, **{f"cert @ {radius}": shares for radius, shares in certified.items()}})
    known = [name for name in rows if name.startswith("cert")]
    rows = rows.assign(**{f"{name} ± images": 5.0 for name in known}, **{f"test {name}": rows[name] for name in known})
    assert board_radii(rows) == [1, 2], "three pairs, against two at 1, one at 3 and none at 0.5"
    assert board_radii(rows[:1]) == [0.5, 1], "one network: the middle one"
    assert board_radii(rows.drop(columns="test cert @ 2")) == [0.5, 1]
    assert board_radii(rows[:2].drop(columns="test cert @ 2")) == [0.5, 1]
    assert board_radii(rows[[*names, "cert @ 1"]]) == []


@pytest.mark.parametrize(
    ("value", "text"), [(1.0, "1.00"), (1.0049, "1.00"), (24.364, "24.4"), (100.0, "100"), (696965.5, "> 100")]
)
def test_tightness_has_three_digits_and_ends_at_100(value, text):
    assert written("tightness", value) == text


def test_a_network_without_a_certificate_that_others_have_is_marked(tmp_path):
    run(tmp_path, "ce_cnn")
    runs = find_runs(tmp_path)
    alone = leaderboard(runs)
    assert MARK not in terminal(alone, runs) + write_leaderboard(alone, runs), "nothing to compare with"
    folder = run(tmp_path, "hkr_cnn")
    own = read_bounds(folder)
    write_bounds(folder, own[own["side"] == "lower"].assign(method="certificate_inscribed"), {})
    write_manifest(folder)
    runs = find_runs(tmp_path)
    table = leaderboard(runs)
    for text in (terminal(table, runs), write_leaderboard(table, runs).replace("\\_", "_")):
        assert f"ce_cnn{MARK}" in text
        assert f"hkr_cnn{MARK}" not in text
        assert f"{MARK} certified without certificate" in " ".join(text.split())
    files, _ = write_latex(table, tmp_path)
    assert all("ce\\_cnn\\textdagger{} " in path.read_text() for path in files)
    page = write_page(table, runs).read_text()
    assert f"ce_cnn</a>{MARK}" in page
    assert f"hkr_cnn</a>{MARK}" not in page
    assert MARKED in page


def test_one_class_networks_are_not_ranked(tmp_path):
    flag = {"name": "low_accuracy", "severity": "note", "message": "40 %", "method": ""}
    for inlier, shift in ((0, 0.0), (1, 3.0)):
        make(tmp_path, f"hkr_mlp/dataset.inlier={inlier}", shift, dataset="a_oneclass", flags=[flag])
        make(tmp_path, f"hkr_mlp/loss.margin={inlier}", shift, flags=[flag])
    runs = find_runs(tmp_path)
    table = leaderboard(runs)
    rows, others = (table[table["dataset"] == name] for name in ("a_oneclass", "data"))
    assert answer(rows).startswith("a_oneclass: each inlier class is a task of its own, so the board is not ranked.")
    assert list(rows["variant"]) == ["dataset.inlier=0", "dataset.inlier=1"]
    assert leader(rows, "cert @ 1") is None
    assert "is proven right on" in answer(others)
    assert list(others["variant"]) == ["loss.margin=1", "loss.margin=0"]
    assert leader(others, "cert @ 1") is not None
    flags = {str(run.key[0]): len(run.flags) for run in runs.finished}
    assert flags == {"a_oneclass": 0, "data": 1}, "older summaries hold a flag that says nothing of such networks"
