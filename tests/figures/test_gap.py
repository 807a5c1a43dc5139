"""The figure of the gap: both certificates and the distance of each image."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.results_tree import make_results, runs_in
from matplotlib.backends.backend_agg import FigureCanvasAgg

from lipbench.figures import RECIPES as EVERY
from lipbench.figures import drawings
from lipbench.figures.gap import gap, gap_of, gap_parts_of
from lipbench.results import bounds_table, run_folders, write_bounds, write_manifest

DISTANCES = np.array([2.0, 1.0, 0.0, 4.0, np.inf, 3.0])
FLAT, BALL = 0.8 * DISTANCES[:4], np.array([1.9, 0.999, 0.0, 3.6])


def rows(flat: np.ndarray, ball: np.ndarray | None, distances: np.ndarray) -> pd.DataFrame:
    index = np.arange(len(distances))
    labels, found = np.zeros_like(index), {"certificate": flat, "certificate_inscribed": ball}
    tables = [bounds_table(index, labels, labels, "lipbench", "upper", distances)]
    for name, radii in found.items():
        if radii is not None:
            tables.append(bounds_table(index, labels, labels, name, "lower", radii))
    return pd.concat(tables)


def made() -> pd.DataFrame:
    return rows(np.array([*FLAT, 1.0, 2.4]), np.array([*BALL, 1.0, 2.4]), DISTANCES)


def test_it_draws_the_bounds_of_each_image_and_the_shares() -> None:
    drawn = gap_of({"hkr_mlp": made()})
    assert drawn is not None
    figure, table = drawn
    # Sorted; without the mistake and the image that no attack moved.
    assert table["distance"].tolist() == [1.0, 2.0, 3.0, 4.0]
    assert table["index"].tolist() == [1, 0, 5, 3]
    assert table["certificate_inscribed"].tolist() == [0.999, 1.9, 2.4, 3.6]
    above, below = figure.axes
    lines = {line.get_label(): line.get_ydata() for line in above.get_lines()}
    assert np.allclose(lines["|f(x)| / L"], 80)
    assert np.allclose(lines["attack"], 100)
    assert np.allclose(lines["inscribed ball"], 100 * table["certificate_inscribed"] / table["distance"])
    gaps = {line.get_label(): line.get_xydata() for line in below.get_lines()}
    assert np.allclose(gaps["inscribed ball"][1:, 0], [1 / 0.999 - 1, 2 / 1.9 - 1, 1 / 0.9 - 1, 0.25])
    assert np.allclose(gaps["inscribed ball"][1:, 1], [25, 50, 75, 100])
    assert np.allclose(gaps["|f(x)| / L"][1:, 0], 0.25)
    assert below.get_title() == "median: |f| 25 %, ball 5.3 %"
    assert [label.get_text() for label in below.get_xticklabels()] == ["0.01", "", "1", "", "100"]


def test_networks_of_every_body_are_drawn(tmp_path) -> None:
    make_results(tmp_path)
    folder = next(folder for folder in run_folders(tmp_path) if folder.parts[-3] == "hkr_cnn")
    write_bounds(folder, made()[made()["method"] == "certificate_inscribed"], {})
    write_manifest(folder)
    other = Path(*(part.replace("hkr_cnn", "hkr_mlp") for part in folder.parts))
    shutil.copytree(folder, other)
    drawn = gap(runs_in(tmp_path))
    assert drawn is not None
    assert set(drawn[1]["experiment"]) == {"hkr_cnn", "hkr_mlp"}


def test_the_parts_of_the_gap_are_numbers_too_as_the_smallest_bar_is_invisible() -> None:
    table = pd.DataFrame({"certificate": [3.6], "inscribed": [3.9], "rival": [3.9004], "distance": [4.0]})
    (axis,) = gap_parts_of({"hkr_mlp": table})[0].axes
    assert [text.get_text() for text in axis.texts] == [" 7.5 + 0.01 + 2.5 %"]
    assert axis.texts[0].get_position() == pytest.approx((10, 0)), "at the end of the bar"
    assert axis.get_xlim()[1] > 12


@pytest.mark.parametrize("without", ["ball", "tight", "images"])
def test_it_needs_both_certificates_and_a_tight_one(without: str) -> None:
    table = made()
    if without == "ball":
        table = table[table["method"] != "certificate_inscribed"]
    elif without == "tight":
        table.loc[table["side"] == "lower", "distance"] /= 2
    else:
        table = rows(np.zeros(2), np.zeros(2), np.zeros(2))
    assert gap_of({"hkr_mlp": table}) is None


def test_six_networks_fit_on_a_page() -> None:
    drawn = gap_of({f"network_{number}": made() for number in range(6)})
    assert drawn is not None
    figure, _ = drawn
    FigureCanvasAgg(figure).draw()
    (width, height), box = figure.get_size_inches(), figure.get_tightbbox()
    assert min(box.x0, box.y0) > -0.03
    assert box.x1 < width + 0.03
    assert box.y1 < height + 0.03
    assert width < 7
    assert sum(axis.get_visible() for axis in figure.axes) == 12


def test_its_recipe_is_drawn_from_a_results_folder(tmp_path) -> None:
    make_results(tmp_path)
    (recipe,) = [recipe for recipe in EVERY if recipe.name == "gap"]
    assert list(drawings(runs_in(tmp_path), [recipe])) == []
    folder = next(folder for folder in run_folders(tmp_path) if folder.parts[-3] == "hkr_cnn")
    write_bounds(folder, made()[made()["method"] == "certificate_inscribed"], {})
    write_manifest(folder)
    (drawing,) = drawings(runs_in(tmp_path), [recipe])
    assert drawing.name == "gap_made08"
    assert set(drawing.table["experiment"]) == {"hkr_cnn"}
    assert (drawing.table["dataset"] == "made08").all()
