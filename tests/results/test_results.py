"""Tables: schema, round trips, the sandwich law, files that are whole or absent."""

import os
import stat

import numpy as np
import pandas as pd
import pytest

from lipbench.figures import accuracy_curves, save_figure
from lipbench.files import ResultsError, atomic, differences, fingerprint
from lipbench.results import (
    COLUMNS,
    RUN_COLUMNS,
    Damaged,
    best,
    bounds_table,
    read,
    read_summary,
    summarize,
    survival,
    violations,
    write_bounds,
    write_manifest,
    write_summary,
)
from lipbench.transport import wasserstein


def rows(method: str, side: str, distances: list[float], norm: str = "l2") -> pd.DataFrame:
    count = len(distances)
    return bounds_table(range(count), np.zeros(count), np.zeros(count), method, side, np.array(distances), norm)


def example() -> pd.DataFrame:
    return pd.concat(
        [
            rows("certificate", "lower", [1.0, 0.5, 0.0, 2.0]),
            rows("a", "upper", [1.5, np.inf, 0.0]),
            rows("b", "upper", [1.2, 0.6, 0.0]),
        ]
    )


def test_survival_is_strict_and_monotone():
    assert survival(np.array([0.0, 1.0, 2.0, np.inf]), [0, 1, 1.5, 2, 100]).tolist() == [0.75, 0.5, 0.5, 0.25, 0.25]


def test_best_of_each_side():
    assert best(example(), "upper").tolist() == [1.2, 0.6, 0.0]
    assert best(example(), "lower").tolist() == [1.0, 0.5, 0.0, 2.0]


def other_norms() -> pd.DataFrame:
    return pd.concat(
        [
            example(),
            rows("certificate", "lower", [0.1, 0.05, 0.0, 0.2], "linf"),
            rows("a", "upper", [0.9, np.inf, 0.0], "linf"),
            rows("b", "upper", [0.8, 0.3, 0.0], "linf"),
            rows("certificate", "lower", [1.0, 0.5, 0.0, 2.0], "l1"),
            rows("a", "upper", [7.0, np.inf, 0.0], "l1"),
            rows("b", "upper", [8.0, 4.0, 0.0], "l1"),
        ]
    )


def test_each_norm_is_read_alone():
    table = other_norms()
    for side in ("lower", "upper"):
        assert best(table, side).equals(best(example(), side))
    assert best(table, "upper", "linf").tolist() == [0.8, 0.3, 0.0]
    assert best(table, "lower", "l1").tolist() == [1.0, 0.5, 0.0, 2.0]
    assert violations(table).empty
    bad = violations(pd.concat([table, rows("c", "upper", [0.09, 1.0, 0.0], "linf")]))
    assert bad[["index", "norm", "upper_method"]].values.tolist() == [[0, "linf", "c"]]


def test_violations_name_the_pair():
    assert violations(example()).empty
    assert violations(pd.concat([example(), rows("c", "upper", [1.0, 0.5, 0.0])])).empty, "equality is no violation"
    bad = violations(pd.concat([example(), rows("c", "upper", [9.0, np.nextafter(0.5, 0), 0.0])]))
    assert bad[["index", "lower_method", "upper_method"]].values.tolist() == [[1, "certificate", "c"]]


def test_an_image_of_float32_alone_is_held_against_the_certificate_of_float32_alone():
    deployed = rows("certificate_float", "lower", [0.9, 0.4, 0.0, 1.9])
    table = pd.concat([example(), deployed, rows("falsifier_float32", "upper_float32", [0.95, 0.45, 0.0])])
    assert violations(table).empty, "it is below the certificate of exact arithmetic, which says nothing of float32"
    assert best(table, "upper").equals(best(example(), "upper")), "it is no adversarial example"
    assert summarize(table)["robust_accuracy"] == summarize(example())["robust_accuracy"]
    bad = violations(pd.concat([table, rows("falsifier_float32", "upper_float32", [9.0, 0.39, 0.0])]))
    pairs = bad[["index", "lower_method", "upper_method"]].values.tolist()
    assert pairs == [[1, "certificate_float", "falsifier_float32"]]


def test_every_certificate_is_held_against_adversarial_images():
    table = pd.concat([example(), rows("certificate_float", "lower", [1.1, 0.4, 0.0, 1.9])])
    bad = violations(pd.concat([table, rows("c", "upper", [1.05, 1.0, 0.0])]))
    assert bad[["index", "lower_method", "upper_method"]].values.tolist() == [[0, "certificate_float", "c"]]


def test_a_law_of_one_norm_does_not_judge_another():
    other = bounds_table([0], np.zeros(1), np.zeros(1), "linf", "upper", np.array([0.1]), norm="linf")
    assert violations(pd.concat([example(), other])).empty


def test_bad_distances_and_sides_are_refused():
    with pytest.raises(ResultsError, match="NaN"):
        rows("a", "upper", [np.nan])
    with pytest.raises(ResultsError, match="non-negative"):
        rows("a", "upper", [-1.0])
    with pytest.raises(ResultsError, match="side"):
        rows("a", "middle", [1.0])
    with pytest.raises(ResultsError, match="norm"):
        rows("a", "upper", [1.0], "l3")


def test_summary_of_a_known_table():
    summary = summarize(example(), [0.55])
    assert summary["accuracy"] == summary["balanced_accuracy"] == 1
    assert summary["test_images"] == 4
    assert summary["attacked_images"] == 3
    assert summary["certified_accuracy"] == {"0.55": 0.5}
    assert summary["robust_accuracy"] == {"0.55": pytest.approx(2 / 3)}
    assert summary["median_certificate"] == 0.5, "of the attacked images, as the median distance"
    attacks_nothing = example()[example()["side"] == "lower"]
    assert summarize(attacks_nothing, [0.55])["median_certificate"] == 0.75, "of all images"
    assert summary["mean_distance"] == pytest.approx(0.6)
    assert summary["tightness"] == pytest.approx(1.2)


def test_summary_of_other_norms_changes_nothing_in_l2():
    summary, alone = summarize(other_norms(), [0.55]), summarize(example(), [0.55])
    assert summary["linf"] == {"median_certificate": pytest.approx(0.05), "median_distance": 0.3}
    assert summary["l1"] == {"median_certificate": 0.5, "median_distance": 4.0}
    # A table from before there were other norms.
    assert alone["linf"] == alone["l1"] == {"median_certificate": None, "median_distance": None}
    assert {k: v for k, v in summary.items() if k not in ("linf", "l1")} == {
        k: v for k, v in alone.items() if k not in ("linf", "l1")
    }
    # One image is one violation, in however many norms.
    twice = [rows("c", "upper", [0.01, 9.0, 0.0], norm) for norm in ("l2", "linf")]
    assert summarize(pd.concat([other_norms(), *twice]))["violations"] == 1


def test_round_trip_keeps_every_bit(tmp_path):
    folder = tmp_path / "data" / "net" / "default" / "3"
    exact = [1 / 3, np.nextafter(0.1, 1), np.inf]
    write_bounds(folder, rows("a", "upper", exact), {"method": "a"})
    with pytest.warns(UserWarning, match="unfinished"), pytest.raises(ResultsError, match="no finished run"):
        read(tmp_path)
    write_manifest(folder)
    table = read(tmp_path)
    assert list(table.columns) == RUN_COLUMNS + COLUMNS
    assert table["distance"].tolist() == exact
    assert table.loc[0, RUN_COLUMNS].tolist() == ["data", "net", "default", 3]
    # Any folder inside the root will do.
    assert read(folder)["experiment"].unique().tolist() == ["net"]


def test_a_folder_without_results_says_so(tmp_path):
    with pytest.raises(ResultsError, match="no results"):
        read(tmp_path)


def test_a_foreign_table_is_refused(tmp_path):
    (tmp_path / "bounds").mkdir()
    (tmp_path / "bounds" / "a.csv").write_text("x,y\n1,2\n")
    write_manifest(tmp_path)
    with pytest.raises(ResultsError, match="expected"):
        read(tmp_path)


def test_a_summary_is_of_a_finished_run_alone(tmp_path):
    folder = tmp_path / "d" / "e" / "default" / "0"
    for method, side in (("certificate", "lower"), ("a", "upper")):
        write_bounds(folder, rows(method, side, [1.0, 2.0]), {})
    write_summary(folder, {"lipschitz": 1.0}, {"training": 3.0, "a": 1.0, "certificate": 9.0})
    assert read_summary(folder) is None
    write_manifest(folder)
    summary = read_summary(folder)
    assert summary is not None
    assert summary["attack_seconds"] == 1
    write_bounds(folder, rows("a", "upper", [1.0, 2.5]), {})
    with pytest.raises(Damaged, match=r"bounds/a\.parquet"):
        read_summary(folder)


def test_a_file_and_its_name_are_on_the_disk_before_anything_later(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync

    def noting(descriptor: int) -> None:
        synced.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), (tmp_path / "a.json").exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    with atomic(tmp_path / "a.json") as temporary:
        temporary.write_text("{}")
    assert synced == [(False, False), (True, True)], "(of a folder, under its name)"


def test_atomic_leaves_the_old_file_when_writing_fails(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def write_half() -> None:
        with atomic(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_fingerprints_and_differences():
    assert fingerprint({"a": 1, "b": [2, 3]}) == fingerprint({"b": (2, 3), "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    assert differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 3, "c": 2}}) == ["a.b: 1 -> 3"]


def test_wasserstein_is_exact():
    generator = np.random.default_rng(0)
    a = generator.normal(size=(40, 1))
    b = generator.normal(size=(40, 1)) + 2
    # In one dimension the optimal assignment is the sorted one.
    assert wasserstein(a, b) == pytest.approx(np.abs(np.sort(a[:, 0]) - np.sort(b[:, 0])).mean())
    assert wasserstein(a, a[::-1]) == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match="one size"):
        wasserstein(a, b[:3])


def of_a_run(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(dataset="d", experiment="net", variant="default", seed=0)[RUN_COLUMNS + COLUMNS]


def test_figure_draws_the_curves_of_the_shared_images(tmp_path):
    figure = accuracy_curves(of_a_run(example()), "title")
    lines = {line.get_label(): line for line in figure.axes[0].get_lines()}
    assert set(lines) == {"a", "b", "all attacks", "certificate"}
    assert lines["certificate"].get_linestyle() == "--"
    for line in lines.values():
        assert (np.diff(line.get_ydata()) <= 0).all()
    # Image 3 has no attack: it must not lift the certificate's curve.
    assert lines["certificate"].get_ydata()[0] == pytest.approx(200 / 3)
    assert (lines["certificate"].get_ydata() <= lines["all attacks"].get_ydata()).all()
    written = save_figure(figure, tmp_path / "figure")
    assert [path.suffix for path in written] == [".png", ".pdf", ".csv"]
    assert b"/FontFile2" in written[1].read_bytes(), "fonts are embedded as TrueType"


def test_figure_draws_one_norm():
    def curves(norm: str) -> dict[str, np.ndarray]:
        (axis, *_) = accuracy_curves(of_a_run(other_norms()), norm=norm).axes
        assert axis.get_xlabel() == {"l2": "epsilon (L2)", "linf": "epsilon (L-infinity)", "l1": "epsilon (L1)"}[norm]
        return {line.get_label(): np.column_stack(line.get_data()) for line in axis.get_lines()}

    (axis, *_) = accuracy_curves(of_a_run(example())).axes
    for line in axis.get_lines():
        assert np.array_equal(curves("l2")[line.get_label()], np.column_stack(line.get_data())), "no other row enters"
    for norm, distances in (("linf", [0.8, 0.3, 0.0]), ("l1", [7.0, 4.0, 0.0])):
        epsilons, drawn = curves(norm)["all attacks"].T
        assert epsilons[-1] > distances[0]
        assert np.allclose(drawn, 100 * survival(np.array(distances), epsilons))
    with pytest.raises(ResultsError, match="the table has l2"):
        accuracy_curves(of_a_run(example()), norm="l1")
