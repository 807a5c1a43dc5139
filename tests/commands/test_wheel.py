"""The installed wheel works from any directory, with its configuration inside."""

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(folder),
    ]
    subprocess.run([*command, str(ROOT)], check=True)
    (path,) = folder.glob("lipbench-*.whl")
    return path


def test_the_wheel_holds_configuration_and_types(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert "lipbench/py.typed" in names
    shipped = {name.removeprefix("lipbench/conf/") for name in names if name.startswith("lipbench/conf/")}
    assert shipped == {path.relative_to(ROOT / "conf").as_posix() for path in (ROOT / "conf").rglob("*.yaml")}
    assert not [name for name in names if name.startswith(("tests", "conf"))]
    plugins = {path.relative_to(ROOT).as_posix() for path in (ROOT / "hydra_plugins").rglob("*.py")}
    assert {name for name in names if name.startswith("hydra_plugins")} == plugins
    templates = {path.name for path in (ROOT / "lipbench/report/templates").iterdir()}
    assert {name.rpartition("/")[2] for name in names if name.startswith("lipbench/report/templates/")} == templates


def test_the_wheel_runs_an_experiment_elsewhere(wheel, tmp_path):
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)], check=True
    )
    # It sees this environment's packages, but not this checkout, which is installed there as editable.
    packages = next(Path(p) for p in sys.path if p.endswith("site-packages"))
    (site / "packages.pth").write_text(f"import sys; sys.path.append({str(packages)!r})\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    code = "import lipbench; print(lipbench.__file__)"
    where = subprocess.run([python, "-c", code], cwd=elsewhere, capture_output=True, text=True, check=True)
    assert str(site) in where.stdout
    options = ["experiment=digits08/hkr_mlp", "training.epochs=1", "images=4", "attack=[fgm,deepfool]"]
    subprocess.run([python, "-m", "lipbench", "run", *options], cwd=elsewhere, check=True, capture_output=True)
    assert (elsewhere / "results/runs/digits08/hkr_mlp/training.epochs=1/0/summary.json").exists()
    subprocess.run([python, "-m", "lipbench", "report"], cwd=elsewhere, check=True, capture_output=True)
    assert (elsewhere / "results/runs/figures/accuracy_digits08.png").exists()
