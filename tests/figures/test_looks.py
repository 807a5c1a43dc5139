"""Colours of networks: those of the built-in ones, and one each for all others. Lines of their curves."""

from pathlib import Path

from helpers.results_tree import make_results, make_run, runs_in

from lipbench.figures import RECIPES, drawings
from lipbench.figures.robustness import CAPTION, SAMPLE
from lipbench.report import draw
from lipbench.results import write_bounds, write_manifest
from lipbench.results.looks import COLORS, GREY, NETWORKS, distinct, kind_of, network_look
from lipbench.results.storage import read_table
from lipbench.results.words import network_name, note

ROOT = Path(__file__).parents[2]
OVERVIEW = [recipe for recipe in RECIPES if recipe.name == "overview"]


def test_external_networks_have_a_colour_each_which_is_the_same_in_every_figure_of_a_report(tmp_path, monkeypatch):
    for dataset, names in (("made08", "abc"), ("other", "bc")):
        for number, name in enumerate(names):
            make_run(tmp_path / dataset / name / "default" / "0", number)
    shown = {}

    def keep(figure, path, **_):
        shown[path.name] = {line.get_label(): line.get_color() for axis in figure.axes for line in axis.get_lines()}
        return []

    monkeypatch.setattr(draw, "save_figure", keep)
    draw.draw(runs_in(tmp_path), False)
    first, second = (shown[f"overview_{dataset}"] for dataset in ("made08", "other"))
    assert len({first[f"{name} certified"] for name in "abc"}) == 3
    assert {name: first[name] for name in second} == second, "though a is not in the second"
    alone = next(drawings(runs_in(tmp_path / "other"), OVERVIEW)).figure.axes[0].get_lines()
    assert {line.get_color() for line in alone} == {*COLORS[:2]}, "distinct without a report too"


def test_only_the_names_of_built_in_networks_have_their_looks():
    assert kind_of("plain_cnn") == kind_of("plain_mlp") == "plain"
    assert network_look("hkr_cnn") == NETWORKS["hkr"], "whatever the variant, which is no part of the name"
    assert network_look("record") == NETWORKS["record"]
    for name in ("plain_x", "plain", "hkr_cnn_2", "kr_net"):
        assert (kind_of(name), network_look(name).label, network_name(name), note(name)) == ("", name, name, "")


def test_colours_of_built_in_networks_in_the_figure_come_last():
    names = ["record", "margin_cnn", *"abcdefghijkl"[: len(COLORS)]]
    with distinct(names):
        colors = [network_look(name).color for name in names[2:]]
    assert set(colors[-2:]) == {NETWORKS["record"].color, NETWORKS["margin"].color}
    assert set(colors) == set(COLORS)
    assert GREY not in colors
    assert network_look("b").color == COLORS[0], "outside of the block"


def test_the_sample_of_a_line_has_the_colour_of_no_network():
    assert SAMPLE not in {*COLORS, *(look.color for look in NETWORKS.values())}


def test_one_caption_of_the_picture_everywhere():
    assert all(CAPTION in recipe.alt for recipe in RECIPES if recipe.name in ("overview", "robustness"))
    for page in ("README.md", "docs/index.md", "docs/figures.md"):
        text = (ROOT / page).read_text()
        sentences = CAPTION.rstrip(".").split(". ")
        assert all(sentence in text for sentence in sentences), page


def test_certificates_that_prove_more_are_a_thin_line(tmp_path):
    make_results(tmp_path)
    folder = tmp_path / "made08" / "hkr_cnn" / "default" / "0"
    rows = read_table(folder / "bounds" / "certificate.parquet")
    rows = rows[rows["norm"] == "l2"].assign(method="certificate_inscribed", distance=lambda t: 1.02 * t["distance"])
    write_bounds(folder, rows, {})
    write_manifest(folder)
    drawing = next(drawings(runs_in(tmp_path), OVERVIEW))
    curves = {line.get_label(): line for line in drawing.figure.axes[0].get_lines()}
    assert [name for name in curves if name.endswith("margin / L")] == ["hkr_cnn margin / L"]
    inscribed, margin = curves["hkr_cnn certified"], curves["hkr_cnn margin / L"]
    assert (inscribed.get_ydata() >= margin.get_ydata()).all()
    assert (inscribed.get_ydata() > margin.get_ydata()).any()
    assert (inscribed.get_linestyle(), margin.get_linestyle()) == ("-", "--")
    assert inscribed.get_linewidth() < margin.get_linewidth()
    attacked = curves["hkr_cnn under attack"]
    assert attacked.get_linewidth() > 2 * inscribed.get_linewidth(), "the certified curve is seen where both meet"
    assert attacked.get_alpha() < 0.5
    assert curves["ce_cnn certified"].get_linestyle() == "--"
