"""Properties go to verifiers and their verdicts come back: proofs are held against attacks, witnesses are judged."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.linear_run import IMAGES, dataset, make_linear_run

from lipbench.commands.export import property_radius, spelled, write_properties
from lipbench.commands.main import main
from lipbench.files import ResultsError, read_json
from lipbench.interop.attackbench import read_distances
from lipbench.interop.formats import ExportError
from lipbench.interop.vnnlib import Property, property_text
from lipbench.report.cards import cards
from lipbench.report.find import find_runs
from lipbench.results import Damaged, best, equalities, read_bounds, verify
from lipbench.runs.claim import Claim
from lipbench.runs.network import load
from lipbench.runs.verdicts import import_verdicts, network_mark


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return make_linear_run(tmp_path_factory.mktemp("results"))


@pytest.fixture
def run(made, tmp_path) -> Path:
    folder = tmp_path / "results" / "digits08" / "linear" / "default" / "0"
    shutil.copytree(made, folder)
    return folder


def answers(run: Path, *rows: tuple[int, float, str]) -> Path:
    """A CSV file of verdicts: (image, radius, result)."""
    path = run.parents[4] / "results.csv"
    lines = [f"{Property(index, radius, network_mark(run))},{result},2.5" for index, radius, result in rows]
    path.write_text("instance,result,time\n" + "\n".join(lines) + "\n")
    return path


def witness(file: Path, run: Path, index: int, radius: float, image: torch.Tensor) -> None:
    pixels = "\n".join(f"(X_{i} {value!r})" for i, value in enumerate(image.flatten().tolist()))
    (file.parent / f"m_{Property(index, radius, network_mark(run))}.counterexample").write_text(f"sat\n({pixels})\n")


def across(run: Path, index: int, share: float) -> torch.Tensor:
    """A point of the way from an image to one of the other class, where the linear network changes its mind at 1."""
    model, test = load(run), dataset().test
    x = test.images[index : index + 1].float() / 255
    other = test.images[test.labels != test.labels[index]][:1].float() / 255
    with torch.no_grad():
        f = [float(z[1] - z[0]) for z in model(torch.cat([x, other]))]
    return x + share * f[0] / (f[0] - f[1]) * (other - x)


def l2(run: Path, method: str) -> dict[int, float]:
    table = read_bounds(run)
    rows = table[(table["method"] == method) & (table["norm"] == "l2")]
    return dict(zip(rows["index"], rows["distance"], strict=True))


def test_proofs_are_lower_bounds_and_witnesses_upper_ones(run):
    before, manifest = read_bounds(run), verify(run)
    nearest = best(before, "upper")
    radius = float(nearest.min()) * 0.99
    file = answers(
        run, (0, radius, "unsat"), (0, radius / 2, "unsat"), (1, 9.0, "timeout"), (2, 9.0, "sat"), (3, 9.0, "sat"),
        (4, 9.0, "sat"),
    )  # fmt: skip
    witness(file, run, 2, 9.0, across(run, 2, 1.01))
    witness(file, run, 3, 9.0, across(run, 3, 0.99))
    done = import_verdicts(run, file, "prover")
    assert (done.asked, done.proved, done.broken) == (5, 1, 1)
    assert len(done.notes) == 2, "the witness that is no adversarial image, and the one that is missing"
    assert l2(run, "prover") == {0: radius, 1: 0, 2: 0, 3: 0, 4: 0}
    x = dataset().test.images[2].double() / 255
    length = float((across(run, 2, 1.01)[0].double() - x).norm())
    assert l2(run, "prover_witness") == {2: pytest.approx(length, rel=1e-6)}
    assert set(read_bounds(run).query("method == 'prover'")["norm"]) == {"l2", "linf", "l1"}
    after = verify(run)
    assert after is not None
    assert manifest is not None
    assert after["identity"] == manifest["identity"], "the run is still the one that was made"
    assert read_json(run / "summary.json")["violations"] == 0
    assert read_json(run / "summary.json")["lipschitz"] == 1.0
    costs = pd.read_csv(run / "costs.csv").set_index("method")["seconds"]
    assert costs.to_dict() == {"deepfool": 0.5, "prover": 15.0}


def test_what_the_run_itself_made_stays_and_can_be_claimed_and_compared(run, made):
    import_verdicts(run, answers(run, (0, 0.01, "unsat")), "prover")
    for name in ("certificate", "deepfool", "fgm"):
        file = f"bounds/{name}.parquet"
        assert (run / file).read_bytes() == (made / file).read_bytes()
    assert all(row.equal for row in equalities(run, made)), "an import is no result that can be made again"
    claim = Claim.of(run, ())
    claim.check_others(["certificate"], read_json(run / "bounds" / "fgm.json")["network"])
    (card,) = cards(find_runs(run.parents[3]))
    assert "prover" not in card.command
    assert any(text.startswith("prover was imported") for text in card.cautions)
    import_verdicts(run, answers(run, (0, 0.02, "unsat")), "prover")
    assert l2(run, "prover") == {0: 0.02}, "the same name replaces"


def test_a_proof_that_an_attack_beats_fails_the_command(run, capsys):
    distance = float(best(read_bounds(run), "upper").loc[1])
    file = answers(run, (1, 1.01 * distance, "unsat"))
    command = ["import", f"run={run}", f"verdicts={file}", "method=liar"]
    assert main(command) == 1
    assert "SANDWICH LAW IS VIOLATED" in capsys.readouterr().err
    pairs = pd.read_csv(run / "violations.csv")
    assert set(pairs["lower_method"]) == {"liar"}
    with np.load(run / "violations.npz") as arrays:
        assert np.isnan(arrays["x_adv"]).all(), "the image of the attack is not kept"
    assert l2(run, "liar") == {1: 1.01 * distance}, "nothing is dropped"
    answers(run, (1, 0.5 * distance, "unsat"))
    assert main(command) == 0
    assert not (run / "violations.csv").exists()


def test_a_proof_that_a_witness_beats_is_a_violation_with_its_image(run):
    image = across(run, 0, 1.0001)
    distance = float((image[0].double() - dataset().test.images[0].double() / 255).norm())
    file = answers(run, (0, 1.01 * distance, "unsat"), (0, 9.0, "sat"))
    witness(file, run, 0, 9.0, image)
    assert main(["import", f"run={run}", f"verdicts={file}", "method=liar"]) == 1
    pairs = pd.read_csv(run / "violations.csv").query("norm == 'l2'")
    assert set(pairs["lower_method"]) == {"liar"}


@pytest.mark.parametrize(
    ("rows", "method", "what"),
    [
        ([(0, 1.0, "unsat")], "deepfool", "a method of the run"),
        ([(0, 1.0, "unsat")], "SDP crown", "small letters"),
        ([(10_000, 1.0, "unsat")], "prover", "no image 10000"),
    ],
)
def test_other_verdicts_are_refused_before_anything_is_written(rows, method, what, run):
    files = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(ResultsError, match=what):
        import_verdicts(run, answers(run, *rows), method)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == files


def test_another_network_an_unfinished_and_a_damaged_run_are_refused(run):
    file = answers(run, (0, 0.01, "unsat"))
    file.write_text(file.read_text().replace(network_mark(run), "01234567"))
    with pytest.raises(ResultsError, match="another network"):
        import_verdicts(run, file, "prover")
    (run / "costs.csv").write_text("")
    with pytest.raises(Damaged):
        import_verdicts(run, file, "prover")
    (run / "manifest.json").unlink()
    with pytest.raises(ResultsError, match="unfinished"):
        import_verdicts(run, file, "prover")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["import"], "Which run?"),
        (["import", "run=x"], "Which verdicts?"),
        (["import", "run=x", "verdicts=y"], "Which method?"),
        (["import", "run=x", "verdicts=y", "method=z"], "is no folder"),
        (["export", "run=x", "--vnnlib", "3", "--attackbench"], "leave out vnnlib"),
        (["export", "run=x", "--vnnlib", "3", "formats=[torch]"], "as ONNX"),
        (["export", "run=x", "vnnlib=-1"], "0 or more"),
    ],
)
def test_wrong_command_lines_are_answered(words, said, capsys):
    if "formats=[torch]" in words:
        pytest.importorskip("vnnlib", reason="the extra lipbench[vnnlib] is not installed")
    assert main(words) == 1
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


def test_options_with_dashes_are_the_same_options():
    words = spelled(["results/a=1/0", "--onnx", "--vnnlib", "20", "--attackbench", "radius=36/255"])
    assert words == ["run=results/a=1/0", "formats=[onnx]", "vnnlib=20", "attackbench=true", "radius=36/255"]
    assert spelled(["run=a", "--vnnlib=3"]) == ["run=a", "vnnlib=3"]


def test_the_distances_of_a_run_are_written_and_read_back(run, capsys):
    assert main(["export", str(run), "--attackbench"]) == 0
    files = sorted((run / "export" / "attackbench").iterdir())
    assert all(str(file) in capsys.readouterr().out for file in files[:1])
    assert [json.loads(file.read_text())["metadata"]["attack_name"] for file in files] == ["deepfool", "fgm"]
    back = read_distances(files[0], read_bounds(run), dataset().test.images)
    own = read_bounds(run).query("method == 'deepfool'")
    keys = ["norm", "index"]
    assert back.set_index(keys)["distance"].to_dict() == own.set_index(keys)["distance"].to_dict()


def test_the_radius_of_a_property_is_the_middle_one_of_the_run(run):
    assert property_radius(run, None) == 1.0
    assert property_radius(run, "36/255") == 36 / 255
    with pytest.raises(ExportError, match="larger than 0"):
        property_radius(run, 0)


def test_properties_are_of_the_first_attacked_images_that_are_classified_rightly(run, tmp_path):
    pytest.importorskip("vnnlib", reason="the extra lipbench[vnnlib] is not installed")
    files = write_properties(run, tmp_path / "out", IMAGES + 5, 0.25, 60, dataset().test)
    table = read_bounds(run).query("method == 'fgm' and norm == 'l2' and label == prediction")
    asked = [Property.of(path.name) for path in files[1:]]
    assert [one.index for one in asked if one] == table["index"].tolist()
    rows = list(csv.reader(files[0].read_text().splitlines()))
    assert rows == [["model.onnx", f"vnnlib/{path.name}", "60"] for path in files[1:]]
    x, y = dataset().test.images[0].numpy().astype(np.float32) / np.float32(255), int(dataset().test.labels[0])
    assert files[1].read_text() == property_text(x, y, 2, 0.25)


def test_the_command_writes_network_properties_and_list(run, capsys):
    for package in ("onnx", "onnxruntime", "onnxscript", "vnnlib"):
        pytest.importorskip(package, reason=f"{package}, of the extras onnx and vnnlib, is not installed")
    assert main(["export", str(run), "--onnx", "--vnnlib", "2", "radius=36/255"]) == 0
    out = run / "export"
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    mark = network_mark(run)
    properties = {f"vnnlib/{Property(index, 36 / 255, mark)}.vnnlib" for index in (0, 1)}
    assert names == {"certificate.json", "model.onnx", "instances.csv", *properties}
    assert read_json(out / "certificate.json")["weights_sha256"].startswith(mark)
    assert "2 properties of the L2 radius 36/255" in capsys.readouterr().out
