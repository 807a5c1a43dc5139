"""Distances in the format of AttackBench: written, read back, and matched by their images."""

import hashlib
import json

import numpy as np
import pandas as pd
import pytest
import torch

from lipbench.files import ResultsError, write_json
from lipbench.interop.attackbench import read_distances, sample_hashes, write_distances
from lipbench.interop.formats import ExportError
from lipbench.results import bounds_table

IMAGES = torch.arange(5 * 4, dtype=torch.uint8).view(5, 1, 2, 2)


def table() -> pd.DataFrame:
    labels, predictions = np.array([0, 1, 0, 1]), np.array([0, 1, 0, 0])
    l2, linf = np.array([0.5, np.inf, 1.0, 0.0]), np.array([0.25, np.inf, 0.5, 0.0])
    parts = [bounds_table(range(4), labels, predictions, "ddn", "upper", d, n) for n, d in (("l2", l2), ("linf", linf))]
    return pd.concat([*parts, bounds_table(range(4), labels, predictions, "certificate", "lower", np.zeros(4))])


def test_hashes_are_those_of_the_float32_pixels():
    pixels = (IMAGES[3].numpy().astype(np.float32) / np.float32(255)).tobytes()
    assert sample_hashes(IMAGES)[3] == hashlib.sha512(pixels).hexdigest()


def test_what_is_written_is_read_back(tmp_path):
    (path,) = write_distances(table(), IMAGES, tmp_path, dataset="tiny", network="net")
    assert path.name == "tiny-l2-net-ddn-lipbench-4.json"
    held = json.loads(path.read_text())
    assert held["correct"] == [True, True, True, False]
    assert held["adv_success"] == [True, False, True, True]
    assert held["metadata"]["distance_semantics"] == "best_observed"
    back = read_distances(path, table(), IMAGES)
    expected = table()[lambda t: t["side"] == "upper"].assign(method="lipbench_ddn")
    keys = ["norm", "index"]
    pd.testing.assert_frame_equal(
        back.sort_values(keys, ignore_index=True), expected.sort_values(keys, ignore_index=True)
    )


def test_images_are_matched_by_their_pixels(tmp_path):
    (path,) = write_distances(table(), IMAGES, tmp_path, dataset="tiny", network="net")
    moved = IMAGES.flip(0)
    back = read_distances(path, table(), moved)
    assert dict(zip(*(back[back["norm"] == "l2"][c] for c in ("index", "distance")), strict=True)) == {
        1: 0.0,
        2: 1.0,
        3: np.inf,
    }
    with pytest.raises(ResultsError, match="none of its 4 images"):
        read_distances(path, table(), 255 - IMAGES)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"hashes": []}, "hashes"),
        ({"distances": [1]}, "no distances"),
        ({"distances": {"l2": [1.0]}}, "other numbers"),
        ({"distances": {"l2": ["a", 1, 1, 1]}}, "no number"),
        ({"distances": {"l2": [-1, 1, 1, 1]}}, "non-negative"),
    ],
)
def test_other_files_are_refused(change, what, tmp_path):
    (path,) = write_distances(table(), IMAGES, tmp_path, dataset="tiny", network="net")
    write_json(path, {**json.loads(path.read_text()), **change})
    with pytest.raises(ResultsError, match=what):
        read_distances(path, table(), IMAGES)


def test_a_table_without_an_attack_has_no_distances(tmp_path):
    lower = table()[lambda t: t["side"] == "lower"]
    with pytest.raises(ExportError, match="attack"):
        write_distances(lower, IMAGES, tmp_path, dataset="tiny", network="net")
