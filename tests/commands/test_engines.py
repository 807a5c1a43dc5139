"""Sweeps on the engines themselves, with a job whose process is killed and one that fails. `make test-extra`."""

import os
import secrets
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lipbench.results import table_paths

pytestmark = pytest.mark.extra

TESTS = Path(__file__).parents[1]
RAY = Path(sys.executable).parent / "ray"
PORT = 46379
TINY = ["loss.alpha=0.9", "training.epochs=1", "images=4", "attack=[fgsm]", "measure=[]", "threads=1"]
VARIANT = "dataset._target_=helpers.mortal.moons,loss.alpha=0.9,training.epochs=1"


@pytest.fixture(scope="module")
def environment():
    """Of a shell in which the network of this machine alone is used."""
    path = os.pathsep.join([str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH", "")])
    # A secret of this cluster's own: Ray would look for the user's.
    ray = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "no_proxy": "*", **ray}


@pytest.fixture(scope="module")
def sweep(environment):
    """A function that runs a sweep of seeds: -> the finished process. `fates`: seed -> what its data set does."""

    def run(root, options, seeds="0,1,2,3", fates=None):
        (root / "fates").mkdir()
        for seed, fate in (fates or {}).items():
            (root / "fates" / str(seed)).write_text(fate)
        data = ["dataset._target_=helpers.mortal.moons", f"+dataset.path={root}/fates/${{seed}}"]
        command = [sys.executable, "-m", "lipbench", "run", "suite=two_moons/hkr_mlp", f"seed={seeds}", *data, *TINY]
        # Paths are relative to the working directory, which jobs have to find.
        return subprocess.run(
            [*command, "results=runs", *options], cwd=root, env=environment, capture_output=True, text=True, check=False
        )

    return run


@pytest.fixture(scope="module")
def undisturbed(sweep, tmp_path_factory):
    """The tables of seed 0, made by Hydra's own launcher."""
    root = tmp_path_factory.mktemp("basic")
    done = sweep(root, [], seeds="0")
    assert done.returncode == 0, done.stderr
    return tables(root, 0)


@pytest.fixture(scope="module")
def cluster(environment):
    """A Ray cluster of one node, on the loopback device."""
    pytest.importorskip("ray", reason="pip install 'lipbench[ray]'")
    address = ["--node-ip-address=127.0.0.1", f"--port={PORT}"]
    options = ["--block", "--num-cpus=1", "--include-dashboard=false", "--disable-usage-stats"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    head = subprocess.Popen([RAY, "start", "--head", *address, *options], env=environment, **quiet)
    try:
        end = time.monotonic() + 120
        while subprocess.call([RAY, "status", f"--address=127.0.0.1:{PORT}"], env=environment, **quiet):
            assert head.poll() is None
            assert time.monotonic() < end
            time.sleep(1)
        yield f"127.0.0.1:{PORT}"
    finally:
        head.terminate()  # and with it its processes: `ray stop` would end those of others as well
        head.wait(60)


def tables(root, seed):
    folder = root / "runs" / "two_moons" / "hkr_mlp" / VARIANT / str(seed)
    assert (folder / "summary.json").exists(), folder
    return {path.name: path.read_bytes() for path in table_paths(folder)}


@pytest.mark.parametrize("launcher", ["joblib", "ray", "ray_cluster"])
def test_a_death_and_a_failure_stop_no_other(launcher, sweep, undisturbed, tmp_path, request):
    options = [f"hydra/launcher={launcher}"]
    if launcher == "ray":
        pytest.importorskip("ray", reason="pip install 'lipbench[ray]'")
    if launcher == "ray_cluster":
        options.append(f"hydra.launcher.address={request.getfixturevalue('cluster')}")
    done = sweep(tmp_path, options, fates={1: "dies", 2: "fails"})
    output = done.stdout + done.stderr
    assert done.returncode == 1, output
    assert "again: seed=1" in output, output
    assert "fated to fail" in output, output
    assert "3 finished, 1 failed" in output, output
    # With the same threads, the same bytes.
    assert tables(tmp_path, 0) == undisturbed
    assert tables(tmp_path, 1)
    assert tables(tmp_path, 3)


def test_a_job_whose_time_is_over_stops_no_other(sweep, tmp_path):
    options = ["hydra/launcher=joblib", "hydra.launcher.minutes=0.5"]
    done = sweep(tmp_path, options, seeds="0,1", fates={0: "hangs"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0.5 minutes are over" in done.stderr
    assert tables(tmp_path, 0)
    assert tables(tmp_path, 1)


def test_optuna_chooses_margin_and_lambda_and_goes_on(sweep, tmp_path):
    pytest.importorskip("optuna", reason="pip install 'lipbench[optuna]'")
    space = ["loss.margin=interval(0.02,0.2)", "loss.alpha=tag(odds,interval(0.5,0.99))"]
    options = ["hydra/sweeper=optuna", "hydra.sweeper.batch=2", *space]
    first = sweep(tmp_path, [*options, "hydra.sweeper.trials=2"], seeds="0,1")
    assert first.returncode == 0, first.stderr
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("summary.json")}
    assert len(made) == 4  # of each trial two seeds
    (tmp_path / "fates").rmdir()
    second = sweep(tmp_path, [*options, "hydra.sweeper.trials=4"], seeds="0,1")
    assert second.returncode == 0, second.stderr
    lines = [line for line in second.stdout.splitlines() if line.startswith("trial ")]
    assert len(lines) == 4
    assert [line for line in first.stdout.splitlines() if line.startswith("trial ")] == lines[:2]
    assert "best of 4: loss.alpha=" in second.stdout  # the experiment sweeps it as well
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("summary.json")}
    assert len(after) == 8
    assert after.items() >= made.items()


def test_optuna_tunes_on_the_validation_set_alone(sweep, tmp_path):
    options = ["hydra/sweeper=optuna", "hydra.sweeper.objective=accuracy", "loss.margin=interval(0.02,0.2)"]
    refused = sweep(tmp_path, options)
    assert refused.returncode == 1
    assert "only numbers of the validation set" in refused.stderr
