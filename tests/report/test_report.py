"""What the report writes besides its page: leaderboard, LaTeX, figures with words and data; what it leaves out."""

import io
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from helpers.reports import run_report
from helpers.results_tree import make_results, runs_in
from helpers.runs_on_disk import IMAGES, make
from matplotlib.figure import Figure
from PIL import Image

from lipbench.figures import RECIPES, drawings, save_figure
from lipbench.figures.numbers import drawn
from lipbench.files import ResultsError, read_json, write_json
from lipbench.report import find_runs, leaderboard, write_latex, write_leaderboard, write_page
from lipbench.report.cards import cards
from lipbench.report.overview import overview
from lipbench.results import read_bounds, write_bounds, write_manifest
from lipbench.results.facts import facts_of, run_facts


def test_a_folder_with_nothing_says_what_to_do(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "lipbench", "report", f"results={tmp_path}/none"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "lipbench run experiment=" in done.stderr
    assert "Traceback" not in done.stderr
    (tmp_path / "data/a/default/0").mkdir(parents=True)
    (tmp_path / "data/a/default/0/config.yaml").write_text("seed: 0\n")
    with pytest.raises(ResultsError, match=r"no finished run.*make benchmark(.|\n)*data/a/default/0: unfinished"):
        find_runs(tmp_path)


def test_broken_runs_are_listed_and_never_stop_the_report(tmp_path, capsys):
    make(tmp_path, "good")
    (make(tmp_path, "columns") / "bounds/fgm.parquet").write_text("index,label\n0,0\n")
    folder = make(tmp_path, "cell")
    (folder / "bounds/fgm.parquet").write_bytes((folder / "bounds/fgm.parquet").read_bytes()[:-1])
    (make(tmp_path, "json") / "summary.json").write_text("{")
    (make(tmp_path, "list") / "summary.json").write_text("[]")
    (make(tmp_path, "history") / "history.csv").write_text("")
    (make(tmp_path, "costs") / "costs.csv").unlink()
    (make(tmp_path, "copy").with_name("0_backup")).mkdir()
    shutil.copytree(tmp_path / "data/copy/default/0", tmp_path / "data/copy/default/0_backup", dirs_exist_ok=True)
    old = make(tmp_path, "old") / "summary.json"
    write_json(old, {key: value for key, value in read_json(old).items() if key != "tightness"})
    write_manifest(old.parent)
    (make(tmp_path, "card") / "config.yaml").write_text("a: [1\n")
    (tmp_path / "data/card/default/0/costs.csv").write_text("nothing\n")
    (tmp_path / "data/card/default/0/environment.json").unlink()
    write_manifest(tmp_path / "data/card/default/0")
    table = run_report(f"results={tmp_path}")
    assert sorted(table["experiment"]) == ["card", "copy", "good"]
    told = capsys.readouterr()
    left_out = {line.split("/")[1]: line for line in told.err.splitlines() if "Left out" in line}
    assert set(left_out) == {"columns", "cell", "json", "list", "history", "costs", "copy", "old"}
    for name, file in (("columns", "bounds/fgm.parquet"), ("list", "summary.json"), ("costs", "costs.csv is missing")):
        assert file in left_out[name]
    assert "a whole number; this one is called 0_backup" in left_out["copy"]
    assert "lacks tightness" in left_out["old"]
    assert "Not drawn: " in told.err
    assert str(tmp_path) not in (tmp_path / "report.html").read_text()
    for written in ("report.html", "leaderboard.md"):
        text = (tmp_path / written).read_text()
        assert all(f"data/{name}/default/0" in text for name in left_out)
    card = cards(find_runs(tmp_path))[0]
    assert {text.split()[0] for text in card.cautions} == {"config.yaml", "costs.csv", "environment.json"}


def test_a_broken_file_costs_the_figures_that_need_it(tmp_path, capsys):
    folder = make(tmp_path, "hkr_cnn")
    (folder / "illustrations.npz").write_text("no archive")
    write_manifest(folder)
    run_report(f"results={tmp_path}")
    named = "data/hkr_cnn/default/0/illustrations.npz is damaged"
    assert f"Not drawn: figure adversarial_data: {named}" in capsys.readouterr().err
    page = (tmp_path / "report.html").read_text()
    assert "<code>figure adversarial_data</code>" in page
    assert named in page
    assert 'id="figure-accuracy_data"' in page
    assert page.index('id="figure-overview_data"') < page.index('id="figure-accuracy_data"'), (
        "in the order of the recipes"
    )
    for name in ("overview_data", "accuracy_data"):
        assert {path.suffix for path in (tmp_path / "figures").glob(f"{name}.*")} == {".png", ".pdf", ".csv"}


ILLUSTRATED = ("gradients", "spectra")
CUT = {
    "half": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "text": lambda content: b"no archive",
    # The archive is whole, what is in it is not.
    "damaged": lambda content: content[:200] + bytes(255 - byte for byte in content[200:260]) + content[260:],
    # The bit that says so, in every entry and in the directory of the archive.
    "encrypted": lambda content: re.sub(
        rb"(PK\x03\x04..|PK\x01\x02....)\x00", lambda found: found[1] + b"\x01", content, flags=re.DOTALL
    ),
    "other arrays": lambda content: _npz(images=np.zeros(3)),
    "a dictionary": lambda content: _npz(images=np.array({}, dtype=object)),
}


def _npz(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


@pytest.mark.parametrize("how", CUT)
def test_a_broken_run_costs_the_pictures_of_its_data_set_alone(tmp_path, how):
    for dataset in ("amade", "made08"):
        make_results(tmp_path, dataset)
    path = tmp_path / "made08/ce_cnn/default/0/illustrations.npz"
    before = path.read_bytes()
    path.write_bytes(CUT[how](before))
    assert path.read_bytes() != before
    failed = {}
    recipes = [recipe for recipe in RECIPES if recipe.name in (*ILLUSTRATED, "robustness")]
    names = {one.name for one in drawings(runs_in(tmp_path), recipes, failed.setdefault)}
    assert names >= {"robustness", *(f"{name}_amade" for name in ILLUSTRATED)}
    if how != "other arrays":  # without those that a figure needs, the network is left out
        assert set(failed) == {f"{name}_made08" for name in ILLUSTRATED}
        assert all("made08/ce_cnn/default/0/illustrations.npz is damaged" in str(e) for e in failed.values())


@pytest.mark.parametrize("content", ["", "kind\n", "kind,x,y,f\ngrid,a,b,c\n", "\0\0", '"'])
def test_a_figure_of_all_data_sets_leaves_out_the_broken_one(tmp_path, content):
    plane = [recipe for recipe in RECIPES if recipe.name == "plane"]
    for dataset in ("moons", "circles"):
        folder = make(tmp_path, "hkr_mlp", dataset=dataset)
        grid = pd.DataFrame([(x, y, x - y) for x in (0, 1) for y in (0, 1)], columns=["x", "y", "f"])
        slopes = {"gradient_x": 1.0, "gradient_y": -1.0, "label": 0}
        pd.concat([grid.assign(kind=kind, **slopes) for kind in ("grid", "point")]).to_csv(folder / "plane.csv")
    failed = {}
    (whole,) = drawings(runs_in(tmp_path), plane, failed.setdefault)
    assert not failed
    (tmp_path / "moons/hkr_mlp/default/0/plane.csv").write_text(content)
    (left,) = drawings(runs_in(tmp_path), plane, failed.setdefault)
    assert left.table["dataset"].tolist() == ["circles"] != whole.table["dataset"].tolist()
    assert list(failed) == ["plane, moons"]


def test_pictures_that_are_no_longer_drawn_are_removed_and_no_others(tmp_path):
    make(tmp_path, "hkr_cnn")
    make(tmp_path, "hkr_cnn", dataset="gone")
    run_report(f"results={tmp_path}")
    figures = tmp_path / "figures"
    # That of several data sets is none of one.
    stale = {path.name for path in figures.iterdir() if "gone" in path.name or path.stem == "robustness"}
    assert {f"sandwich_gone.{suffix}" for suffix in ("png", "pdf", "csv")} <= stale
    kept = {path.name for path in figures.iterdir()} - stale
    shutil.rmtree(tmp_path / "gone")
    save_figure(figure(), figures / "mine", title="Mine", alt="what is seen")
    Image.new("RGB", (3, 3)).save(figures / "other.png")
    (figures / "broken.png").write_text("no picture")
    (figures / "sandwich_gone.txt").write_text("a note")
    (figures / "gone.csv").write_text("a,b\n")
    own = {"mine.png", "mine.pdf", "mine.csv", "other.png", "broken.png", "sandwich_gone.txt", "gone.csv"}
    run_report(f"results={tmp_path}", "figures=false")
    assert {path.name for path in figures.iterdir()} == kept | stale | own, "without figures they are left alone"
    run_report(f"results={tmp_path}")
    assert {path.name for path in figures.iterdir()} == kept | own
    assert "sandwich_gone" not in (tmp_path / "report.html").read_text()


def test_an_unknown_data_set_is_answered_with_those_there_are(tmp_path):
    make(tmp_path, "a")
    with pytest.raises(ResultsError, match=r"no run of dta\. There are: data"):
        run_report(f"results={tmp_path}", "datasets=[dta]")


def test_the_same_run_twice_is_not_two_seeds(tmp_path):
    make(tmp_path / "one", "a")
    make(tmp_path / "two", "a")
    runs = find_runs(tmp_path)
    assert leaderboard(runs)["seeds"].tolist() == [1]
    assert "the same run as one/data/a/default/0" in str(runs.problems[0])


def test_a_violation_is_loud(tmp_path):
    folder = make(tmp_path, "a")
    summary = read_json(folder / "summary.json")
    write_json(folder / "summary.json", {**summary, "violations": 3, "transport_law": False})
    table = read_bounds(folder)
    wrong = table[table["method"] == "fgm"].assign(distance=0.0)
    write_bounds(folder, wrong, read_json(folder / "bounds/fgm.json"))
    (folder / "violations.csv").write_text(
        "index,norm,lower_method,lower,upper_method,upper\n7,l2,certificate,2,fgm,1\n"
    )
    write_manifest(folder)
    runs = find_runs(tmp_path)
    assert runs.finished[0].summary["violations"] == 40, "of the tables, not of the summary"
    text = write_page(leaderboard(runs), runs).read_text()
    assert "sandwich law VIOLATED" in text
    assert "transport law VIOLATED" in text
    assert text.count('class="alarm" data-label=') == 1, "in the row of the board"
    assert "VIOLATION: an attack beat a certificate on 40 images (a)." in text, "in the answer"
    (card,) = cards(runs)
    assert card.violations[1] == ["0", "7", "l2", "certificate", "2", "fgm", "1"]


def test_how_to_make_a_network_again(tmp_path):
    make(tmp_path, "hkr/loss.margin=1,model.widths=_64_32_")
    make(tmp_path, "hkr/" + "a" * 100 + "-0123456789abcdef")
    make(tmp_path, "mine", source="net.py:build")
    commands = {
        card.experiment + card.variant[:4]: (card.command, card.cautions) for card in cards(find_runs(tmp_path))
    }
    assert commands["hkrloss"][0] == (
        "lipbench run experiment=data/hkr loss.margin=1 'model.widths=[64,32]' "
        f"'attack=[alma,fgm]' images={IMAGES} 'certificate=[certificate]' seed=0"
    )
    assert commands["hkraaaa"][0] == ""
    assert "cut short" in commands["hkraaaa"][1][0]
    assert commands["minedefa"][0].startswith("lipbench evaluate model=net.py:build dataset=data name=mine")


def test_latex_tables_are_booktabs_with_a_clear_lead_in_bold(tmp_path):
    make(tmp_path, "small_one", 0.0)
    make(tmp_path, "large_one", 2.0)
    make(tmp_path, "alone", dataset="other")
    table = leaderboard(find_runs(tmp_path))
    paths, problems = write_latex(table, tmp_path)
    assert not problems
    assert [path.name for path in paths] == ["leaderboard.tex", "leaderboard_data.tex", "leaderboard_other.tex"]
    *head, begin, _, _, _, large, small, _, end = paths[1].read_text().strip().splitlines()
    assert all(line.startswith("%") for line in head)
    assert "schema version 1" in head[0]
    assert begin.startswith(r"\begin{tabular}{lr")
    assert end == r"\end{tabular}"
    assert large.startswith(r"large\_one"), "best first"
    assert small.startswith(r"small\_one")
    assert rf"\textbf{{{table['median certificate'].max():.3f}}}" in large
    assert r"& 100.0 &" in large, "accuracies that are equal are not bold"
    assert "textbf" not in small
    columns = begin.split("{")[2].strip("}")
    assert all(line.count("&") == len(columns) - 1 for line in (large, small))
    assert "textbf" not in paths[2].read_text()
    assert paths[0].read_text().count("small\\_one") == 1


def test_the_main_networks_of_all_data_sets_are_one_table(tmp_path):
    for name in ("plain_mlp", "plain_cnn", "hkr_mlp/loss.margin=2", "special"):
        make(tmp_path, name)
    make(tmp_path, "hkr_mlp", 1.0)
    make(tmp_path, "hkr_cnn", dataset="uneven", imbalance=9.0)
    runs = find_runs(tmp_path)
    table = overview(leaderboard(runs))
    assert table[["data set", "network", "r"]].to_numpy().tolist() == [
        ["data", "hkr_mlp", "1.58"],  # the largest that tells them apart
        ["data", "plain_cnn", "1.58"],
        ["uneven", "hkr_cnn", "1"],  # alone: the middle one
    ]
    text = write_leaderboard(leaderboard(runs), runs)
    assert "## All data sets" in text
    assert "All data sets" not in write_leaderboard(leaderboard(runs.of(["data"])), runs.of(["data"]))


def figure() -> Figure:
    made = Figure()
    left, right = made.subplots(1, 2)
    left.plot([0, 1, 2, 3], [5, 5, 5, 4], label="curve")
    left.axhline(9)  # of no data
    left.set_title("left\npanel")
    right.scatter([1, 2], [3, 4], label="dots")
    right.bar([1], [7], label="bar")
    right.barh([1], [8], label="lying")
    right.set(xlabel="x", ylabel="y")
    return made


def test_the_data_of_a_figure_are_what_it_draws():
    rows = [tuple(row) for row in drawn(figure()).to_numpy()]
    assert rows[:3] == [("left panel", "curve", 0, 5), ("left panel", "curve", 2, 5), ("left panel", "curve", 3, 4)]
    assert rows[3:] == [
        ("y / x", "dots", 1, 3),
        ("y / x", "dots", 2, 4),
        ("y / x", "bar", 1, 7),
        ("y / x", "lying", 8, 1),
    ]
    picture = Figure()
    picture.subplots().imshow(np.zeros((2, 2)))
    assert drawn(picture).empty


def test_a_figure_carries_its_words_and_is_the_same_every_time(tmp_path):
    files = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        files.append(save_figure(figure(), tmp_path / name / "f", title="T & t", alt="what is seen"))
    assert [path.suffix for path in files[0]] == [".png", ".pdf", ".csv"]
    for one, two in zip(*files, strict=True):
        assert one.read_bytes() == two.read_bytes()
    with Image.open(files[0][0]) as image:
        assert image.text["Title"] == "T & t"
        assert image.text["Description"] == "what is seen"
    assert b"what is seen" in files[0][1].read_bytes()
    given = save_figure(figure(), tmp_path / "g", data=pd.DataFrame({"a": [1]}))
    assert given[-1].read_text() == "a\n1\n"
    assert len(save_figure(figure(), tmp_path / "h", data=pd.DataFrame())) == 2


def test_the_command_of_a_run_is_the_one_that_it_stores(tmp_path):
    stored = "lipbench run experiment=data/hkr seed=1 'attack=[fgm]' images=3 attack.fgm.step=0.5"
    for seed in (0, 1):
        folder = make(tmp_path, "hkr/renamed", seed=seed)
        about = facts_of("hkr", shlex.split(stored), ["loss.margin=7"])
        write_manifest(folder, "", about)
    (card,) = cards(find_runs(tmp_path))
    assert card.command == (
        "lipbench run -m experiment=data/hkr attack.fgm.step=0.5 "
        f"'attack=[alma,fgm]' images={IMAGES} 'certificate=[certificate]' seed=0,1"
    )
    write_manifest(folder, "", {**about, "look": "red"})
    assert run_facts(folder)["command"] == "lipbench run experiment=data/hkr seed=1 renamed=", "not what a run writes"
