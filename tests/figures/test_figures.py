"""Figures: each draws what its table says, from files alone, the same bytes every time, nothing cut, or is left out."""

import ast
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.results_tree import ATTACKS, IMAGES, NETWORKS, make_results, make_run, make_sweep, runs_in
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import lipbench
from lipbench.figures import RECIPES as EVERY
from lipbench.figures import Recipe, drawings, save_figure
from lipbench.figures.sandwich import tightness_of
from lipbench.figures.style import network_look
from lipbench.figures.tradeoff import pareto
from lipbench.results import best, bounds_table, run_folders, survival, write_bounds, write_manifest
from lipbench.results.runs import Runs
from lipbench.results.selection import main_networks

# Tested where they are measured; of several data sets.
MEASURED = {"anytime", "conformal", "explanations", "gap", "gap_parts", "one_class", "plane", "plane_lambda"}
MEASURED |= {"robustness", "shapes"}
# Tested with the histories and summaries that they need; and with the accuracies.
ELSEWHERE = {"accuracy", "training", "constructions"}
RECIPES = {recipe.name: recipe for recipe in EVERY if recipe.name not in ELSEWHERE}
MINE = tuple(RECIPES.values())
# What needs tables, histories and costs alone.
FROM_TABLES = {"overview_made08", "sandwich_made08", "tightness_made08", "costs_made08"}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return make_sweep(make_results(tmp_path_factory.mktemp("results")))


@pytest.fixture(scope="module")
def results(root) -> Runs:
    return runs_in(root)


@pytest.fixture(scope="module")
def drawn(results):
    return {drawing.name: drawing for drawing in drawings(results, MINE)}


def points(figure, label: str, axis: int = 0) -> np.ndarray:
    """x and y, [N, 2], of the lines and points of one panel with a label."""
    panel = figure.axes[axis]
    lines = [line.get_xydata() for line in panel.get_lines() if line.get_label() == label]
    return np.concatenate([*lines, *(c.get_offsets() for c in panel.collections if c.get_label() == label)])


def pictures(drawing) -> list[np.ndarray]:
    """Of a gallery, row by row."""
    return [np.asarray(image.get_array()) for image in drawing.figure.axes[0].images]


def test_of_images_that_are_not_kept_the_numbers_are_drawn(tmp_path):
    make_results(tmp_path)
    for path in tmp_path.rglob("illustrations.npz"):
        with np.load(path) as held:
            kept = {k: v for k, v in held.items() if k not in {"images", "gradients", "adversarial", "pair_images"}}
        np.savez_compressed(path, **kept)
    names = {drawing.name for drawing in drawings(runs_in(tmp_path), MINE)}
    assert names >= {f"{name}_made08" for name in ("spectra", "gradients")}
    assert not names & {f"{name}_made08" for name in ("adversarial", "saliency", "counterfactuals", "transport")}


def test_every_figure_is_drawn_where_its_inputs_are(drawn):
    mine = [recipe for recipe in MINE if recipe.name not in MEASURED]
    expected = {recipe.name if recipe.each == "all" else f"{recipe.name}_made08" for recipe in mine}
    assert set(drawn) == expected
    for drawing in drawn.values():
        assert len(drawing.table) > 0
        assert drawing.title
        assert len(drawing.alt) > 40


@pytest.mark.parametrize(("title", "shown"), [("HKR of growing", "made08: HKR of growing"), ("The", "made08: the")])
def test_a_title_begins_small_behind_its_data_set_unless_it_is_an_abbreviation(tmp_path, title, shown):
    recipe = Recipe("a", title, "", lambda results: (Figure(), pd.DataFrame()))
    (drawing,) = drawings(runs_in(make_results(tmp_path)), [recipe])
    assert drawing.title == shown


def test_what_lacks_its_inputs_is_left_out(tmp_path):
    make_results(tmp_path, illustrated=False)
    assert {drawing.name for drawing in drawings(runs_in(tmp_path), MINE)} == FROM_TABLES
    for path in tmp_path.rglob("*.parquet"):
        if path.stem in ATTACKS:
            path.unlink()
    for folder in run_folders(tmp_path):
        write_manifest(folder)
    assert list(drawings(runs_in(tmp_path), MINE)) == []


def test_the_bound_of_a_gradient_norm_has_the_colour_of_its_network(drawn):
    (axis,) = drawn["gradients_made08"].figure.axes
    table = drawn["gradients_made08"].table
    bounds = [line for line in axis.get_lines() if len(set(line.get_xdata())) == 1 and line.get_linestyle() == "--"]
    within = table.groupby("experiment")["bound"].first() <= axis.get_xlim()[1]
    assert {line.get_color() for line in bounds} == {network_look(name).color for name in within[within].index}
    assert len(bounds) > 1


def test_nothing_is_cut(drawn):
    for name, drawing in drawn.items():
        figure = drawing.figure
        FigureCanvasAgg(figure).draw()
        width, height = figure.get_size_inches()
        box = figure.get_tightbbox()
        slack = 0.03
        assert box.x0 > -slack, name
        assert box.y0 > -slack, name
        assert box.x1 < width + slack, name
        assert box.y1 < height + slack, name
        assert width < 7, f"{name} is wider than a page"
        for axis in figure.axes:
            label, panel = axis.yaxis.label.get_window_extent(), axis.get_window_extent()
            assert label.height <= panel.height, f"{name}: {axis.get_ylabel()} is longer than its axis"


def test_the_same_results_give_the_same_bytes(root, tmp_path):
    kinds = tuple(RECIPES[name] for name in ("overview", "saliency", "transport"))
    for again in ("a", "b"):
        for drawing in drawings(runs_in(root), kinds):
            save_figure(drawing.figure, tmp_path / again / drawing.name)
    paths = sorted((tmp_path / "a").iterdir())
    assert {path.suffix for path in paths} >= {".png", ".pdf"}
    for path in paths:
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name
    assert b"/FontFile2" in (tmp_path / "a" / "overview_made08.pdf").read_bytes()  # TrueType, embedded


def test_accuracy_against_epsilon(results, drawn):
    drawing = drawn["overview_made08"]
    assert set(drawing.table["experiment"]) == set(NETWORKS)
    for name in NETWORKS:
        rows = results.tables[results.tables["experiment"] == name]
        for curve, side in (("under attack", "upper"), ("certified", "lower")):
            table = drawing.table[(drawing.table["experiment"] == name) & (drawing.table["curve"] == curve)]
            assert np.allclose(table["accuracy"], 100 * survival(best(rows, side), table["epsilon"]))
            assert np.allclose(points(drawing.figure, f"{name} {curve}"), table[["epsilon", "accuracy"]])


def test_several_data_sets_are_panels_of_one_figure_and_one_table(root, drawn, tmp_path):
    shutil.copytree(root, tmp_path / "results")
    make_results(tmp_path / "results", "other", illustrated=False)
    (drawing,) = drawings(runs_in(tmp_path / "results"), (RECIPES["robustness"],))
    assert [axis.get_title() for axis in drawing.figure.axes] == ["made08", "other"]
    FigureCanvasAgg(drawing.figure).draw()
    assert "0" in [label.get_text() for label in drawing.figure.axes[0].get_xticklabels()], "not 0.0 next to 0"
    alone = drawn["overview_made08"].table
    pd.testing.assert_frame_equal(drawing.table[drawing.table["dataset"] == "made08"], alone)
    for axis in (0, 1):
        assert len(points(drawing.figure, "hkr_cnn certified", axis)) == len(alone) / 6


def test_bands_are_intervals_over_images_and_seeds(tmp_path):
    make_results(tmp_path)
    alone = next(drawings(runs_in(tmp_path), (RECIPES["overview"],))).table
    assert (alone["uncertainty"] > 0).all()
    make_run(tmp_path / "made08" / "hkr_cnn" / "default" / "1", 7)
    both = next(drawings(runs_in(tmp_path), (RECIPES["overview"],))).table
    wider = [t[(t["experiment"] == "hkr_cnn") & (t["curve"] == "certified")] for t in (alone, both)]
    assert not np.allclose(wider[0]["accuracy"], wider[1]["accuracy"]), "the mean over both seeds"
    # A seed that was attacked otherwise is none of them.
    folder = tmp_path / "made08" / "hkr_cnn" / "default" / "1"
    (folder / "bounds" / "lipbench.parquet").unlink()
    write_manifest(folder)
    pd.testing.assert_frame_equal(next(drawings(runs_in(tmp_path), (RECIPES["overview"],))).table, alone)


def test_the_selection_prefers_convolutions_and_takes_every_seed(tmp_path):
    make_results(tmp_path)
    make_run(tmp_path / "made08" / "hkr_mlp" / "default" / "0", 0)
    make_run(tmp_path / "made08" / "hkr_cnn" / "default" / "1", 1)
    found = main_networks(runs_in(tmp_path))
    assert list(found) == ["plain_cnn", "ce_cnn", "hkr_cnn"]
    assert [run.key[3] for run in found["hkr_cnn"]] == [0, 1]


def test_every_image_of_the_sandwich(results, drawn):
    drawing = drawn["sandwich_made08"]
    assert len(drawing.table) == IMAGES * len(NETWORKS)
    for axis, name in enumerate(NETWORKS):
        table = drawing.table[drawing.table["experiment"] == name]
        rows = results.tables[results.tables["experiment"] == name]
        assert np.allclose(table["distance"], best(rows, "upper"))
        assert np.allclose(table["certificate"], best(rows, "lower"))
        assert np.allclose(points(drawing.figure, name, axis), table[["certificate", "distance"]])


def test_tightness_by_attack(drawn):
    table = drawn["tightness_made08"].table.set_index(["experiment", "method"])
    # The certificate of the plain network is a tenth of the distance.
    assert set(table.index.get_level_values(0)) == {"ce_cnn", "hkr_cnn"}
    assert np.isclose(table.loc[("hkr_cnn", "lipbench"), "q50"], 1 / 0.95)
    assert np.isclose(table.loc[("ce_cnn", "deepfool"), "q50"], 1.1 / 0.9)
    assert table.loc[("ce_cnn", "fgm"), "q95"] == np.inf
    assert table.loc[("ce_cnn", "fgm"), "failed"] == 100 / IMAGES
    assert np.isclose(points(drawn["tightness_made08"].figure, "deepfool")[0, 0], 1.1 / 0.9)


def test_the_median_of_a_weak_attack_is_read_above_its_bar():
    far = np.array([1.02, 9.0, 9.0, 9.0])
    parts = {"certificate": ("lower", 1.0), "lipbench": ("upper", 1.1), "fgm": ("upper", far), "fgsm": ("upper", 8.0)}
    zeros = np.zeros(4, int)
    rows = [bounds_table(range(4), zeros, zeros, name, side, zeros + far) for name, (side, far) in parts.items()]
    figure, _ = tightness_of({"hkr_cnn": pd.concat(rows)}, np.inf)
    FigureCanvasAgg(figure).draw()
    (axis,) = figure.axes
    beside, above = sorted(axis.texts, key=lambda label: label.get_text())
    assert (beside.get_text(), above.get_text()) == ("8.00 \u2192", "9.00 \u2192")
    row = next(line for line in axis.get_lines() if line.get_xdata()[0] == 1.02).get_ydata()[0]
    assert axis.transData.inverted().transform(above.get_window_extent())[0, 1] > row, "the bar is not covered"
    assert axis.get_xticks()[0] == 1, "the line of a perfect certificate has its number"


def test_cost_and_quality_of_attacks(drawn):
    table = drawn["costs_made08"].table
    rows = table[table["experiment"] == "hkr_cnn"].set_index("method")
    assert np.isclose(rows.loc["lipbench", "quality"], 100)
    assert np.isclose(rows.loc["deepfool", "quality"], 100 / 1.1)
    assert np.isclose(rows.loc["fgm", "quality"], 100 / 1.5 * (IMAGES - 1) / IMAGES)  # a failure counts 0
    assert rows.loc["lipbench", "passes"] == 1, "of one image"
    # fgm takes as long as deepfool and finds less.
    assert rows["front"].to_dict() == {"deepfool": True, "fgm": False, "lipbench": True}
    axis = list(NETWORKS).index("hkr_cnn")
    assert np.allclose(
        points(drawn["costs_made08"].figure, "DeepFool", axis), rows.loc[["deepfool"], ["passes", "quality"]]
    )


def test_adversarial_images_and_their_differences(results, drawn):
    drawing = drawn["adversarial_made08"]
    arrays = results.finished[0].arrays("illustrations.npz")
    first = drawing.table.iloc[0]
    image = int(first["index"])
    original, adversarial, difference = pictures(drawing)[:3]
    assert np.allclose(original, arrays["images"][image, 0] / 255)
    chosen = {name: run.arrays("illustrations.npz") for name, (run, *_) in main_networks(results).items()}["plain_cnn"]
    assert np.allclose(adversarial, chosen["adversarial"][image, 0].astype(float), atol=1e-6)
    assert np.allclose(difference, adversarial - chosen["images"][image, 0] / 255)
    assert first["distance"] == chosen["adversarial_distances"][image]
    assert set(drawing.table["label"]) == {0, 1}


def test_colour_images_and_points_of_the_plane(tmp_path):
    make_results(tmp_path, "colour", shape=(3, 8, 8))
    make_results(tmp_path, "points", shape=(1, 1, 2))
    names = ("adversarial", "saliency", "counterfactuals", "transport")
    drawn = {d.name: d for d in drawings(runs_in(tmp_path), tuple(RECIPES[name] for name in names))}
    assert set(drawn) == {f"{name}_colour" for name in names if name != "counterfactuals"}
    original, adversarial, difference = pictures(drawn["adversarial_colour"])[:3]
    assert original.shape == adversarial.shape == (8, 8, 3)
    strongest = np.take_along_axis(adversarial - original, np.abs(adversarial - original).argmax(2)[..., None], axis=2)
    assert np.allclose(difference, strongest[..., 0], atol=2e-3)  # half precision


def test_unequal_classes_count_alike(tmp_path):
    folder = tmp_path / "d" / "hkr_cnn" / "default" / "0"
    labels = np.array([0, 1, 1, 1])
    for name, side in (("certificate", "lower"), ("fgm", "upper")):
        distances = np.array([1.0, 3.0, 3.0, 3.0])
        write_bounds(folder, bounds_table(range(4), labels, labels, name, side, distances), {})
    write_manifest(folder)
    (drawing,) = drawings(runs_in(tmp_path), (RECIPES["overview"],))
    between = drawing.table[(drawing.table["epsilon"] > 1) & (drawing.table["epsilon"] < 2.9)]
    assert len(between)
    assert np.allclose(between["accuracy"], 50)


def test_networks_that_are_always_wrong_or_never_fooled(tmp_path):
    for name, distance in (("plain_cnn", 0.0), ("hkr_cnn", np.inf)):
        folder = tmp_path / "d" / name / "default" / "0"
        for method, side, value in (("certificate", "lower", 0.0), ("fgm", "upper", distance)):
            rows = bounds_table(range(2), np.array([0, 1]), np.array([1, 0]), method, side, np.full(2, value))
            write_bounds(folder, rows, {})
        write_manifest(folder)
    (drawing,) = drawings(runs_in(tmp_path), MINE)
    assert drawing.name == "overview_d"
    upper = drawing.table[drawing.table["curve"] == "under attack"].groupby("experiment")["accuracy"]
    assert upper.max().to_dict() == {"plain_cnn": 0, "hkr_cnn": 100}
    assert upper.min().to_dict() == {"plain_cnn": 0, "hkr_cnn": 100}


def test_saliency_maps_are_the_gradients(results, drawn):
    table, shown = drawn["saliency_made08"].table, pictures(drawn["saliency_made08"])
    arrays = [run.arrays("illustrations.npz") for (run, *_) in main_networks(results).values()]
    for i, held in enumerate(arrays):
        row = table.iloc[i]
        assert np.allclose(shown[1 + i], held["gradients"][int(row["index"]), 0].astype(float))
        assert row["gradient_norm"] == held["gradient_norms"][int(row["index"])]


def test_counterfactuals_move_against_the_gradient(results, drawn):
    drawing = drawn["counterfactuals_made08"]
    (run, *_) = main_networks(results)["plain_cnn"]
    held, rows = run.arrays("illustrations.npz"), drawing.table[drawing.table["experiment"] == "plain_cnn"]
    image = int(rows["index"].iloc[0])
    mine = rows[rows["index"] == image]
    assert np.allclose(mine["f"], held["margins"][image] * (1 - mine["t"]))
    step = held["margins"][image] / held["gradient_norms"][image] * held["gradients"][image, 0].astype(float)
    for shown, t in zip(pictures(drawing), mine["t"], strict=False):
        assert np.allclose(shown, np.clip(held["images"][image, 0] / 255 - t * step, 0, 1))


def test_singular_values(drawn):
    drawing = drawn["spectra_made08"]
    values = drawing.table[drawing.table["experiment"] == "plain_cnn"]
    assert values[["layer", "value"]].to_numpy().tolist() == [
        ["0", 0.5],
        ["0", 1.0],
        ["0", 1.5],
        ["2", 1.0],
        ["2", 1.0],
    ]
    assert points(drawing.figure, "plain_cnn")[:, 1].tolist() == values["value"].tolist()


def test_no_gradient_is_drawn_beyond_the_longest(results, drawn):
    drawing = drawn["gradients_made08"]
    for name, rows in drawing.table.groupby("experiment"):
        norms = {n: run.arrays("illustrations.npz") for n, (run, *_) in main_networks(results).items()}[name]["norms"]
        assert rows["norm"].tolist() == sorted(norms)
        assert rows["share"].iloc[-1] == 100
        line = points(drawing.figure, name)
        assert line[line[:, 1] < 100][:, 0].max() <= norms.max() <= 1
        assert np.isclose(line[line[:, 0] <= np.median(norms)][:, 1].max(), 50, atol=100 / len(norms))
    curves = drawing.figure.axes[0].lines
    bounds = [line for line in curves if line.get_linestyle() == "--"]
    assert bounds
    assert min(line.get_zorder() for line in bounds) > max(line.get_zorder() for line in curves if line not in bounds)


def test_transport_pairs_and_the_second_law(drawn):
    drawing = drawn["transport_made08"]
    pairs = drawing.table[(drawing.table["quantity"] == "pair") & (drawing.table["experiment"] == "hkr_cnn")]
    assert np.allclose(pairs["value"], 0.8 * pairs["exact"] / 2.0)  # by the bound of f
    assert np.allclose(points(drawing.figure, "hkr_cnn", -2), pairs[["x", "value"]])
    assert points(drawing.figure, "hkr_cnn", -1)[:, 1].tolist() == [0.5, 1.0, 1.5]
    estimates = drawing.table[drawing.table["quantity"] == "estimate"]
    assert (estimates["value"] <= estimates["exact"]).all()


def test_tradeoff_along_a_sweep(drawn):
    table = drawn["tradeoff_made08"].table
    assert set(table["parameter"]) == {"margin"}  # alpha is the same in all
    assert table["epsilon"].unique().tolist() == [1.0]
    assert table["value"].tolist() == [0.5, 1.0, 2.0]
    assert table["front"].tolist() == [True, True, False]
    assert np.allclose(points(drawn["tradeoff_made08"].figure, "Pareto front"), [[50, 99], [70, 98]])


def test_pareto_front_of_equal_points():
    x, y = pd.Series([1.0, 1.0, 2.0, 0.5]), pd.Series([3.0, 3.0, 1.0, 2.0])
    assert pareto(x, y).tolist() == [True, True, True, False]


def test_figures_know_no_network():
    folder = Path(lipbench.__file__).parent / "figures"
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.split(".")[0] != "torch", path.name
                if name.startswith("lipbench"):
                    assert name.startswith(
                        (
                            "lipbench.figures",
                            "lipbench.results",
                            "lipbench.escapes",
                            "lipbench.files",
                            "lipbench.outlines",
                        )
                    ), f"{path.name}: {name}"
