"""Tables on disk: every bit survives, what is derived is what was computed, damage is refused."""

from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers.tables import in_the_old_layout

import lipbench
from lipbench.evaluation import norms
from lipbench.files import ResultsError
from lipbench.results import (
    bounds_table,
    layout,
    read_bounds,
    read_table,
    run_folders,
    table_path,
    write_bounds,
    write_manifest,
)
from lipbench.runs.network import build, save

EXTREMES = [0.0, float("inf"), 5e-324, 1 / 3, np.nextafter(0.1, 1), 1.7e308]


def rows(side: str, radii: dict[str, np.ndarray], method: str = "m") -> pd.DataFrame:
    number = np.arange(len(radii["l2"]))
    parts = [bounds_table(number, number % 2, number % 3, method, side, found, norm) for norm, found in radii.items()]
    return pd.concat(parts, ignore_index=True)


def certificate(l2: np.ndarray, pixels: int) -> pd.DataFrame:
    return rows("lower", {norm: v.numpy() for norm, v in norms.radii(torch.from_numpy(l2), pixels).items()})


def stored(path: Path) -> set[str]:
    return set(pq.read_table(path)["norm"].to_pylist())


def bits(table: pd.DataFrame) -> list[int]:
    return table["distance"].to_numpy().view(np.int64).tolist()


@pytest.mark.parametrize("pixels", [1, 2, 3, 64, 784, 3072, 3 * 64 * 64])
def test_certificates_of_other_norms_are_derived_to_the_last_bit(pixels, tmp_path):
    random = np.random.default_rng(pixels)
    table = certificate(np.concatenate([EXTREMES[:1], EXTREMES[1:2], random.uniform(0, 9, 200)]), pixels)
    path = write_bounds(tmp_path, table, {})
    assert stored(path) == {"l2"}
    pd.testing.assert_frame_equal(read_table(path), table, check_exact=True)
    assert bits(read_table(path)) == bits(table)


@pytest.mark.parametrize("radii", [[0.0, 0.0], [np.inf, 0.0], [1.0, np.nan]])
def test_radii_that_do_not_tell_the_number_of_pixels(radii, tmp_path):
    table = certificate(np.nan_to_num(np.array(radii), nan=0.0), 784)
    pd.testing.assert_frame_equal(read_table(write_bounds(tmp_path, table, {})), table, check_exact=True)


@pytest.mark.parametrize("side", ["lower", "upper", "upper_float32"])
def test_what_cannot_be_derived_is_stored(side, tmp_path):
    l2 = np.array(EXTREMES[:5])
    table = rows(side, {"l2": l2, "linf": np.nextafter(l2, 0), "l1": 3 * l2})
    path = write_bounds(tmp_path, table, {})
    assert stored(path) == {"l2", "linf", "l1"}
    assert bits(read_table(path)) == bits(table)
    changed = certificate(np.array([1.0, 2.0]), 784)
    changed.loc[5, "distance"] = np.nextafter(changed.loc[5, "distance"], 9)
    assert bits(read_table(write_bounds(tmp_path, changed, {}))) == bits(changed)
    alone = rows("lower", {"l2": l2})
    pd.testing.assert_frame_equal(read_table(write_bounds(tmp_path, alone, {})), alone, check_exact=True)


def test_the_attacks_of_a_network_keep_their_distances_in_every_norm(tmp_path):
    images = torch.rand(6, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(9, 2)).eval()
    table = lipbench.evaluate(model, images, torch.tensor([0, 1] * 3), attacks=["fgm"], progress=False)
    for _, part in table.groupby("method"):
        path = write_bounds(tmp_path, part, {})
        assert stored(path) == ({"l2"} if (part["side"] == "lower").all() else {"l2", "linf", "l1"})
    found = read_bounds(tmp_path)
    order = ["method", "norm", "index"]
    a, b = (one.sort_values(order, ignore_index=True) for one in (found, table))
    assert bits(a) == bits(b)


def test_the_same_table_gives_the_same_bytes(tmp_path):
    table = certificate(np.array(EXTREMES[:5]), 9)
    first = write_bounds(tmp_path / "a", table, {}).read_bytes()
    shuffled = table.set_index(pd.Index(range(50, 50 + len(table))))[table.columns[::-1]]
    assert write_bounds(tmp_path / "b", shuffled, {}).read_bytes() == first
    in_the_old_layout(write_bounds(tmp_path / "c", table, {}))
    assert write_bounds(tmp_path / "d", read_bounds(tmp_path / "c"), {}).read_bytes() == first


def test_a_file_says_its_schema_and_its_rows(tmp_path):
    path = write_bounds(tmp_path, certificate(np.array([1.0, 2.0]), 784), {})
    held = pq.read_metadata(path)
    assert held.metadata == {b"schema_version": b"1", b"rows": b"6", b"pixels": b"784"}
    assert held.num_rows == 2
    assert held.row_group(0).column(6).compression == "ZSTD"
    write_manifest(tmp_path)
    assert lipbench.results.read_manifest(tmp_path)["files"]["bounds/m.parquet"]["rows"] == 6


def test_the_old_layout_is_read_and_gives_the_same(tmp_path):
    table = certificate(np.array(EXTREMES[:5]), 9)
    path = write_bounds(tmp_path / "d/e/default/0", table, {})
    old = in_the_old_layout(path)
    folder = path.parent.parent
    assert table_path(folder, "m") == old
    assert run_folders(tmp_path) == [folder]
    assert bits(read_bounds(folder)) == bits(table)
    write_manifest(folder)
    assert bits(lipbench.read(tmp_path)) == bits(table)
    write_bounds(folder, table.iloc[:1], {})
    assert len(read_bounds(folder)) == 1, "the new layout comes first, and a method counts once"


def test_text_of_many_runs_is_categorical(tmp_path):
    for seed in (0, 1):
        folder = tmp_path / f"d/e{seed}/default/{seed}"
        write_bounds(folder, rows("upper", {"l2": np.ones(2)}, f"m{seed}"), {})
        write_manifest(folder)
    table = lipbench.read(tmp_path)
    text = ["dataset", "experiment", "variant", "method", "side", "norm"]
    assert [c for c in table if isinstance(table[c].dtype, pd.CategoricalDtype)] == text
    assert table["experiment"].tolist() == ["e0", "e0", "e1", "e1"]
    assert table["method"].tolist() == ["m0", "m0", "m1", "m1"]
    assert table["seed"].tolist() == [0, 0, 1, 1]


def _parquet(path: Path, table: pd.DataFrame, facts: dict[str, str]) -> None:
    made = pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(facts)
    pq.write_table(made, path)


FACTS = {"schema_version": "1", "rows": "3"}


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        ({"side": "sideways"}, FACTS),
        ({"norm": "l7"}, FACTS),
        ({"distance": -0.5}, FACTS),
        ({"distance": np.nan}, FACTS),
        ({"label": 0.5}, FACTS),
        ({"method": None}, FACTS),
        ({"more": 1}, FACTS),
        ({}, {}),
        ({}, {**FACTS, "schema_version": "2"}),
        ({}, {**FACTS, "rows": "4"}),
        ({}, {**FACTS, "rows": "2"}),
        ({}, {**FACTS, "rows": str(10**12), "pixels": "4"}),
        ({}, {**FACTS, "rows": "9", "pixels": "0"}),
    ],
)
def test_a_table_of_other_content_is_damaged(change, facts, tmp_path):
    path = write_bounds(tmp_path, rows("lower", {"l2": np.array([0.5, 1.0, 2.0])}), {})
    table = read_table(path)
    _parquet(path, table, FACTS)
    assert bits(read_table(path)) == bits(table), "written by another program"
    _parquet(path, table.assign(**change), facts)
    with pytest.raises(ResultsError, match=r"m\.parquet is damaged"):
        read_table(path)


def test_no_cut_and_no_flipped_bit_is_another_error(tmp_path):
    path = write_bounds(tmp_path, certificate(np.linspace(0, 3, 50), 9), {})
    whole, random = path.read_bytes(), np.random.default_rng(0)
    for place in random.integers(0, len(whole), 150):
        for content in (whole[:place], whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :]):
            path.write_bytes(content)
            with suppress(ResultsError):
                assert len(read_table(path)) == 150


RECIPE = {
    "model": {"_target_": "lipbench.models.mlp", "widths": [3]},
    "constraint": {"_target_": "torch.nn.Identity", "_partial_": True},
    "shape": [1, 2, 2],
    "classes": 2,
}


def test_a_network_is_loaded_by_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr(layout, "REFERENCE", tmp_path / "reference")
    for place in ("reference/d/e/default/0", "reference/d/e/wide/3", "reference/d/e/wide/0", "runs/d/e/default/0"):
        save(build(RECIPE, baked=True), RECIPE, tmp_path / place)

    def weights(name: str | Path) -> list[torch.Tensor]:
        return [t.flatten()[0] for t in lipbench.load(name).state_dict().values()]

    whole = weights(tmp_path / "reference/d/e/default/0")
    assert weights("d/e") == weights("d/e/default") == weights("d/e/default/0") == whole
    assert weights("d/e/wide") == weights(tmp_path / "reference/d/e/wide/0") != whole
    assert weights("d/e/wide/3") == weights(tmp_path / "reference/d/e/wide/3") != whole
    monkeypatch.chdir(tmp_path / "runs")
    assert weights("d/e") == weights(tmp_path / "runs/d/e") != whole, "a folder comes first"
    with pytest.raises(ResultsError, match="There is no folder d/unknown"):
        lipbench.load("d/unknown")


@pytest.mark.parametrize("name", ["net.onnx", "net.pt2", "net.pth", "mine.py:build", "notes"])
def test_a_file_is_no_run(name, tmp_path):
    (tmp_path / "notes").touch()
    with pytest.raises(ResultsError, match=rf"{name} is no folder.*lipbench\.load_model\('.*{name}', shape="):
        lipbench.load(tmp_path / name)
