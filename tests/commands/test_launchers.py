"""Launchers with an engine that does as it is told: what becomes of a sweep in which jobs fail and processes die."""

import sys
from collections import Counter
from types import SimpleNamespace

import pytest
from helpers.runs_on_disk import make
from hydra import compose, initialize_config_dir
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher

from hydra_plugins.lipbench_sweeps import _jobs, launchers
from hydra_plugins.lipbench_sweeps._jobs import JobDied, SideBySide
from hydra_plugins.lipbench_sweeps.launchers import JoblibLauncher
from lipbench.commands import sweeps
from lipbench.commands.options import check_overrides
from lipbench.commands.suites import CONF, CommandError
from lipbench.commands.sweeps import lost
from lipbench.runs.codes import ELSEWHERE, FAILED, FINISHED
from lipbench.runs.errors import write_error
from lipbench.runs.lock import locked
from lipbench.runs.outcome import Outcome

LAUNCHERS = ("joblib", "submitit_slurm", "ray", "ray_cluster")


class Given:
    """A handle that is done at the second look."""

    def __init__(self, what):
        self.what, self.looks = what, 0

    def done(self):
        self.looks += 1
        return self.looks > 1

    def result(self):
        if isinstance(self.what, Exception):
            raise self.what
        return self.what


class Told(SideBySide):
    """An engine of two places. `fates`: number of a job -> what becomes of it, one for each time it is started."""

    def __init__(self, fates, **options):
        super().__init__(**options)
        self.fates, self.started, self.busy, self.ended = fates, Counter(), {}, None

    def begin(self, count):
        return 2

    def start(self, place, job):
        before = self.busy.get(place)
        assert before is None or before.looks > 1, "a place has one job at a time"
        fates = self.fates.get(job.number, ["lives"])
        fate = fates[min(self.started[job.number], len(fates) - 1)]
        self.started[job.number] += 1
        if fate == "refused":
            raise OSError("no room")
        outcome = Outcome(f"run {job.number}", "folder", FAILED if fate == "fails" else FINISHED, "no data")
        self.busy[place] = Given(MemoryError("killed") if fate == "dies" else outcome)
        return self.busy[place]

    def end(self, running):
        self.ended = len(running)


def config_of(root, *overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=[f"results={root}", *overrides], return_hydra_config=True)


@pytest.fixture
def launched(tmp_path, monkeypatch):
    """A function that has six jobs run by an engine: -> the engine, the outcomes."""
    monkeypatch.setattr(_jobs, "PAUSE", 0.0)
    monkeypatch.setattr(sweeps, "OUTCOMES", [])

    def launch(fates, **options):
        engine = Told(fates, **options)
        engine.setup(hydra_context=None, task_function=None, config=config_of(tmp_path))
        returns = engine.launch([[f"seed={seed}", "images=5", f"results={tmp_path}"] for seed in range(10, 16)], 10)
        assert [one.return_value for one in returns] == sweeps.OUTCOMES
        return engine, sweeps.OUTCOMES

    return launch


def test_outcomes_come_in_the_order_of_the_jobs(launched):
    engine, outcomes = launched({})
    assert [outcome.name for outcome in outcomes] == [f"run {number}" for number in range(10, 16)]
    assert engine.ended == 0


def test_a_job_that_died_is_started_again(launched, capsys):
    engine, outcomes = launched({11: ["dies", "lives"]})
    assert [outcome.code for outcome in outcomes] == [FINISHED] * 6
    assert engine.started == {**dict.fromkeys(range(10, 16), 1), 11: 2}
    assert "again: seed=11: MemoryError: killed" in capsys.readouterr().out


def test_a_job_that_failed_is_not_started_again(launched, capsys):
    engine, outcomes = launched({12: ["fails", "lives"]})
    assert (outcomes[2].code, engine.started[12]) == (FAILED, 1)
    assert "FAILED, no data: seed=12" in capsys.readouterr().out


@pytest.mark.parametrize("fate", ["dies", "refused"])
def test_one_that_dies_every_time_stops_no_other(launched, fate, tmp_path):
    engine, outcomes = launched({10: [fate]}, retries=2)
    assert engine.started[10] == 3
    assert (outcomes[0].code, outcomes[0].folder) == (FAILED, str(tmp_path / "digits08/hkr_mlp/default/10"))
    assert ("killed" if fate == "dies" else "no room") in outcomes[0].why
    assert [outcome.code for outcome in outcomes[1:]] == [FINISHED] * 5


def test_a_run_whose_process_died_is_what_its_folder_says(tmp_path):
    """Its process may have finished it, or failed, or another one may make it."""
    config = config_of(tmp_path)

    def end_of(seed):
        return lost([f"seed={seed}", f"results={tmp_path}"], config, "killed")

    make(tmp_path, "hkr_mlp", dataset="digits08")
    failed = tmp_path / "digits08/hkr_mlp/default/1"
    failed.mkdir()
    write_error(failed, ValueError("no good"), "again")
    assert end_of(0).code == FINISHED
    assert (end_of(1).code, "no good" in end_of(1).why) == (FAILED, True)
    assert (end_of(2).code, end_of(2).why) == (FAILED, "killed")
    with locked(tmp_path / "digits08/hkr_mlp/default/3"):
        assert end_of(3).code == ELSEWHERE


def test_retries_can_be_switched_off(launched):
    engine, outcomes = launched({12: ["dies", "lives"]}, retries=0)
    assert outcomes[2].code == FAILED
    assert engine.started[12] == 1


def test_an_interrupted_sweep_lets_go_of_what_runs(launched, monkeypatch):
    ended = []
    monkeypatch.setattr(Told, "end", lambda self, running: ended.append(len(running)))
    monkeypatch.setattr(Given, "done", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        launched({})
    assert ended == [2]


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_every_launcher_composes_and_is_one_of_hydra(launcher, tmp_path):
    config = config_of(tmp_path, f"hydra/launcher={launcher}", "threads=3")
    made = Plugins.instance().instantiate_launcher(hydra_context=None, task_function=None, config=config)
    assert isinstance(made, Launcher)
    assert made.threads == 3
    assert made.retries == 1


def test_importing_the_plugins_imports_no_engine():
    """Hydra imports them whenever it starts, for whatever application."""
    import subprocess

    code = (
        "import hydra_plugins.lipbench_sweeps.launchers, hydra_plugins.lipbench_sweeps.optuna_sweeper, sys;"
        "print({'torch', 'ray', 'submitit', 'optuna', 'joblib', 'lipbench'} & set(sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


@pytest.fixture
def machine(monkeypatch):
    """A function that makes this a machine of so many cores and GPUs."""

    def of(cores, gpus, visible=None):
        monkeypatch.setattr("joblib.cpu_count", lambda only_physical_cores: cores)
        monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    return of


@pytest.mark.parametrize(
    ("options", "places", "devices"),
    [
        ({}, 4, [["0"], ["1"], ["2"], ["3"]]),
        ({"gpus": 2}, 2, [["0", "1"], ["2", "3"]]),
        ({"gpus": 0.5}, 8, [["0"], ["0"], ["1"], ["1"], ["2"], ["2"], ["3"], ["3"]]),
        ({"threads": 8}, 2, [["0"], ["1"]]),
        ({"gpus": 0}, 16, [[]] * 16),
        ({"jobs": 6}, 6, [["0"], ["1"], ["2"], ["3"], ["0"], ["1"]]),
    ],
)
def test_cores_and_gpus_are_shared_out(machine, options, places, devices):
    machine(16, 4)
    launcher = JoblibLauncher(**options)
    assert launcher.begin(100) == places
    assert [launcher.gpus_of(place) for place in range(places)] == devices


def test_only_the_gpus_that_this_process_may_use_are_shared_out(machine):
    machine(16, 2, visible="5,7")
    launcher = JoblibLauncher()
    assert launcher.begin(100) == 2
    assert [launcher.gpus_of(place) for place in range(2)] == [["5"], ["7"]]


def test_without_gpus_the_cores_decide(machine):
    machine(3, 0)
    assert JoblibLauncher(threads=2).begin(100) == 1
    assert JoblibLauncher(threads=8).begin(100) == 1
    assert JoblibLauncher().begin(2) == 2
    with pytest.raises(SystemExit, match="torch sees 0 GPUs"):
        JoblibLauncher(gpus=1).begin(2)


@pytest.mark.parametrize(
    "override",
    ["loss.margin=interval(0.1,2)", "loss.alpha=tag(odds,interval(0.5,0.9))", "seed=range(0,3)", "loss.margin=1,2"],
)
def test_sweeps_of_any_form_pass_the_check(override):
    check_overrides([override], "config")
    with pytest.raises(CommandError, match=r"Did you mean margin"):
        check_overrides([override, "loss.margn=interval(1,2)"], "config")


class InSlurm:
    """A job of submitit that nobody may ask: it would ask `sacct`, and wait for ever."""

    job_id = "7_1"

    def __init__(self, folder):
        self.paths = SimpleNamespace(result_pickle=folder / "7_1_0_result.pkl", stderr=folder / "7_1_0_log.err")


@pytest.fixture
def slurm(monkeypatch, tmp_path):
    """A job of Slurm, and the answers of `squeue` to come: None where it fails."""
    said, now = [], [0.0]

    def run(command, **_):
        answer = said.pop(0)
        return SimpleNamespace(returncode=int(answer is None), stdout=answer or "")

    def monotonic():
        now[0] += launchers.QUEUE_PAUSE + 1
        return now[0]

    monkeypatch.setattr(launchers, "time", SimpleNamespace(monotonic=monotonic))
    monkeypatch.setattr(launchers, "subprocess", SimpleNamespace(run=run))
    return launchers.InQueue(InSlurm(tmp_path), launchers.Queue()), said, tmp_path


def test_a_job_that_left_the_queue_without_an_answer_has_died(slurm):
    handle, said, _ = slurm
    # In the queue; gone; there again (the first look came too early); Slurm is busy; gone for good.
    said += ["7_0\n7_1\n", "", "7_1\n", None, *[""] * 9]
    looks = 0
    while not handle.done():
        looks += 1
    assert looks >= 5
    with pytest.raises(JobDied, match=r"7_1 left the queue.*7_1_0_log.err"):
        handle.result()


def test_an_answer_counts_before_the_queue(slurm):
    handle, _, folder = slurm
    (folder / "7_1_0_result.pkl").write_bytes(b"")
    assert handle.done()
