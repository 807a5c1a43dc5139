"""Optuna as a sweeper, with a launcher that knows how good a margin is."""

import json

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus

from hydra_plugins.lipbench_sweeps.optuna_sweeper import _Parameter
from lipbench.commands.suites import CONF
from lipbench.runs.codes import FAILED
from lipbench.runs.outcome import Outcome

pytest.importorskip("optuna", reason="pip install 'lipbench[optuna]'")
pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

MARGIN, SEEDS = "loss.margin=interval(0.0,2.0)", "seed=0,1"


class Known:
    """A launcher whose runs are best at the margin 1.3; seed 1 is worse by 0.1. `fails`: whether a run fails."""

    def __init__(self, root, fails):
        self.root, self.fails, self.batches = root, fails, []

    def launch(self, job_overrides, initial_job_idx):
        self.batches.append([list(job) for job in job_overrides])
        return [
            self.answer(dict(o.split("=") for o in job), initial_job_idx + k) for k, job in enumerate(job_overrides)
        ]

    def answer(self, job, number):
        folder = self.root / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        value = 1 - (float(job["loss.margin"]) - 1.3) ** 2 - 0.1 * float(job["seed"])
        (folder / "summary.json").write_text(json.dumps({"validation_certified_accuracy": value, "accuracy": 0}))
        code = FAILED if self.fails(float(job["loss.margin"])) else 0
        return JobReturn(status=JobStatus.COMPLETED, _return_value=Outcome("a/b", str(folder), code))


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """A function that sweeps: -> the launcher."""

    def run(arguments=(MARGIN, SEEDS), *options, fails=lambda margin: False):
        launcher = Known(tmp_path, fails)
        monkeypatch.setattr(Plugins.instance(), "instantiate_launcher", lambda **_: launcher)
        with initialize_config_dir(str(CONF), version_base="1.3"):
            asked = [f"hydra.sweeper.{option}" for option in options]
            config = compose("config", overrides=["hydra/sweeper=optuna", *asked], return_hydra_config=True)
        context = type("Context", (), {"config_loader": None})()
        sweeper = Plugins.instance().instantiate_sweeper(hydra_context=context, task_function=None, config=config)
        monkeypatch.setattr(type(sweeper), "validate_batch_is_legal", lambda *_: None)
        sweeper.sweep(list(arguments))
        return launcher

    return run


def margins(launcher):
    return [float(job[0].removeprefix("loss.margin=")) for batch in launcher.batches for job in batch[::2]]


def test_it_finds_the_best_margin(sweep, capsys):
    launcher = sweep((MARGIN, SEEDS), "trials=40", "batch=4")
    assert [len(batch) for batch in launcher.batches] == [8] * 10
    best = capsys.readouterr().out.splitlines()[-1]
    assert best.startswith("best of 40: loss.margin=1.")
    # The mean over the seeds.
    assert float(best.rpartition(" ")[2]) == pytest.approx(0.95, abs=0.01)
    late = margins(launcher)[20:]
    assert sum(abs(margin - 1.3) < 0.5 for margin in late) > 0.8 * len(late)


def test_the_same_command_proposes_the_same_and_more_trials_go_further(sweep):
    short, long = sweep((MARGIN, SEEDS), "trials=8"), sweep((MARGIN, SEEDS), "trials=16")
    assert margins(long)[:8] == margins(short)
    assert len(set(margins(long))) == 16


def test_failed_trials_stop_no_other(sweep, capsys):
    launcher = sweep((MARGIN, SEEDS), "trials=12", fails=lambda margin: margin > 1)
    assert len(margins(launcher)) == 12
    failed = sum(margin > 1 for margin in margins(launcher))
    assert 0 < failed < 12
    output = capsys.readouterr().out
    assert output.count(": failed") == failed
    assert f"best of {12 - failed}:" in output


def test_trials_that_are_alike_are_run_once(sweep):
    launcher = sweep(("loss.margin=1.0,1.3", "seed=0"), "trials=8", "batch=8")
    assert sorted(job[0] for job in launcher.batches[0]) == ["loss.margin=1.0", "loss.margin=1.3"]


@pytest.mark.parametrize(
    ("arguments", "options", "why"),
    [
        (["loss.margin=1"], [], "nothing to choose"),
        ([MARGIN, "experiment=a/b,a/c"], [], "one experiment"),
        ([MARGIN], ["objective=accuracy"], "validation set"),
        ([MARGIN, "seed=0"], ["objective=validation_nothing"], "validation_certified_accuracy"),
        ([MARGIN], ["trials=0"], "1 or more"),
        (["loss.margin=interval(2,1)"], [], "goes up"),
        (["loss.margin=tag(odds,interval(1.0,2.0))"], [], "between 0 and 1"),
        (["loss.margin=tag(lg,interval(1.0,2.0))"], [], "the tags"),
    ],
)
def test_what_makes_no_sense_is_refused(sweep, arguments, options, why):
    with pytest.raises(SystemExit, match=why):
        sweep(arguments, *options)


class Middle:
    """A trial that suggests the lower end and keeps what it was asked."""

    def __getattr__(self, name):
        return lambda key, low, *high, **options: setattr(self, "asked", (name, low, *high, options)) or low


@pytest.mark.parametrize(
    ("override", "value", "asked"),
    [
        ("a=interval(0.25,4.0)", "a=0.25", ("suggest_float", 0.25, 4.0, {"log": False})),
        ("a=int(interval(1,4))", "a=1", ("suggest_int", 1, 4, {"log": False})),
        ("a=tag(log,interval(0.1,1))", "a=0.1", ("suggest_float", 0.1, 1.0, {"log": True})),
        ("a=tag(odds,interval(0.5,0.75))", "a=0.5", ("suggest_float", 1.0, 3.0, {"log": True})),
    ],
)
def test_overrides_are_what_optuna_is_asked(override, value, asked):
    trial = Middle()
    assert _Parameter.of(OverridesParser.create().parse_override(override)).choose(trial) == value
    assert trial.asked == asked
