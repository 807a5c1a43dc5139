"""Launchers with an engine that does as it is told: what becomes of a sweep in which jobs fail and processes die."""

import sys
from collections import Counter
from types import SimpleNamespace

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import OmegaConf

from hydra_plugins.lipbench_sweeps import _jobs, launchers
from hydra_plugins.lipbench_sweeps._jobs import JobDied, SideBySide
from hydra_plugins.lipbench_sweeps.launchers import JoblibLauncher
from lipbench.commands.options import check_overrides
from lipbench.commands.suites import CONF, CommandError

LAUNCHERS = ("joblib", "submitit_local", "submitit_slurm", "ray", "ray_cluster")


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
        self.fates, self.started, self.most, self.ended = fates, Counter(), 0, None

    def begin(self, count):
        self.places = [None, None]
        return 2

    def start(self, jobs):
        handles = {}
        for place, job in jobs.items():
            fates = self.fates.get(job.number, ["lives"])
            fate = fates[min(self.started[job.number], len(fates) - 1)]
            self.started[job.number] += 1
            if fate == "refused":
                raise OSError("no room")
            answer = JobReturn(overrides=list(job.overrides), status=JobStatus.COMPLETED, _return_value=job.number)
            handles[place] = Given(MemoryError("killed") if fate == "dies" else answer)
        return handles

    def end(self, running):
        self.ended = len(running)


@pytest.fixture
def launched(tmp_path, monkeypatch):
    """A function that has six jobs run by an engine: -> the engine, the answers."""
    monkeypatch.setattr(_jobs, "PAUSE", 0.0)

    def launch(fates, **options):
        engine = Told(fates, **options)
        config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}})
        engine.setup(hydra_context=None, task_function=None, config=config)
        return engine, engine.launch([[f"seed={seed}", "images=5"] for seed in range(10, 16)], 10)

    return launch


def test_answers_come_in_the_order_of_the_jobs(launched):
    engine, answers = launched({})
    assert [answer.return_value for answer in answers] == list(range(10, 16))
    assert engine.ended == 0


def test_a_job_that_died_is_started_again(launched, capsys):
    engine, answers = launched({11: ["dies", "lives"]})
    assert [answer.return_value for answer in answers] == list(range(10, 16))
    assert engine.started == {**dict.fromkeys(range(10, 16), 1), 11: 2}
    assert "again: seed=11: MemoryError: killed" in capsys.readouterr().out


@pytest.mark.parametrize("fate", ["dies", "refused"])
def test_one_that_dies_every_time_stops_no_other(launched, fate):
    engine, answers = launched({10: [fate]}, retries=2)
    assert engine.started[10] == 3
    with pytest.raises(JobDied, match="killed" if fate == "dies" else "no room"):
        _ = answers[0].return_value
    assert [answer.return_value for answer in answers[1:]] == list(range(11, 16))


def test_retries_can_be_switched_off(launched):
    engine, answers = launched({12: ["dies", "lives"]}, retries=0)
    assert answers[2].status == JobStatus.FAILED
    assert engine.started[12] == 1


def test_an_interrupted_sweep_lets_go_of_what_runs(launched, monkeypatch):
    ended = []
    monkeypatch.setattr(Told, "end", lambda self, running: ended.append(len(running)))
    monkeypatch.setattr(Given, "done", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        launched({})
    assert ended == [2]


def test_an_error_that_cannot_travel_is_told():
    class Local(Exception):
        pass

    assert isinstance(_jobs._sendable(ValueError("a")), ValueError)
    assert str(_jobs._sendable(Local("why"))) == "Local: why"


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_every_launcher_composes_and_is_one_of_hydra(launcher, tmp_path):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        overrides = [f"hydra/launcher={launcher}", "threads=3", f"results={tmp_path}"]
        config = compose("config", overrides=overrides, return_hydra_config=True)
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
    return launchers._InQueue(InSlurm(tmp_path), launchers._Queue()), said, tmp_path


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
