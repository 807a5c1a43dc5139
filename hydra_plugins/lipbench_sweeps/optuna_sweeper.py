"""A sweeper of Hydra: Optuna chooses the values. `hydra/sweeper=optuna`, see `conf/hydra/sweeper/optuna.yaml`."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from hydra.utils import instantiate
from omegaconf import DictConfig

from hydra_plugins.lipbench_sweeps._jobs import need

# A tag: log-uniform in x / (1 - x), which for loss.alpha is the lambda of the HKR paper.
ODDS = "odds"
# What is tuned on the test set is no measurement: of the summary of a run only these may be an objective.
TUNABLE = "validation_"
# Overrides whose values are all run in every trial: a trial's value is the mean over them.
REPEATED = ("seed",)


class OptunaSweeper(Sweeper):
    """Batches of trials, each a job or, with several seeds, a job for each.

    The runs are the memory of a study. Its sampler has a seed and the finished runs are not made again, so the same
    command proposes the same trials, goes on where it stopped, and goes further with more `trials`.

    Args:
        objective: the number of a run's summary, of the validation set.
        direction: "maximize" or "minimize".
        trials: in all.
        batch: how many trials are chosen at once and run side by side; the next ones know how they ended.
        sampler: of `optuna.samplers`, as a configuration with `_target_`.
        params: override -> values, besides those of the command line.
    """

    def __init__(
        self,
        objective: str,
        direction: str,
        trials: int,
        batch: int,
        sampler: DictConfig,
        params: Mapping[str, Any] | None = None,
    ) -> None:
        if not objective.startswith(TUNABLE):
            raise SystemExit(
                f"hydra.sweeper.objective={objective}: only numbers of the validation set are tuned on: {TUNABLE}..."
            )
        if trials < 1 or batch < 1:
            raise SystemExit(f"hydra.sweeper.trials={trials} hydra.sweeper.batch={batch}: 1 or more each.")
        self.objective, self.direction, self.trials, self.batch = objective, direction, trials, batch
        self.sampler, self.params = sampler, params or {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config
        self.runner = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> list[Sequence[JobReturn]]:
        """Runs all trials. A trial of which a job failed is a failed trial; the others go on."""
        optuna = need("optuna")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        space, fixed = self._read(arguments)
        study = optuna.create_study(direction=self.direction, sampler=instantiate(self.sampler))
        returns: list[Sequence[JobReturn]] = []
        while len(study.trials) < self.trials:
            trials = [study.ask() for _ in range(min(self.batch, self.trials - len(study.trials)))]
            chosen = [[parameter.choose(trial) for parameter in space] for trial in trials]
            wanted = [[(*values, *same) for same in product(*fixed)] for values in chosen]
            jobs = list(dict.fromkeys(job for jobs in wanted for job in jobs))  # two trials may be alike
            self.validate_batch_is_legal(jobs)
            answers = self.runner.launch(jobs, initial_job_idx=sum(map(len, returns)))
            returns.append(answers)
            answer_of = dict(zip(jobs, answers, strict=True))
            for trial, values, mine in zip(trials, chosen, wanted, strict=True):
                value = self._value([answer_of[job] for job in mine])
                trial.set_user_attr("overrides", values)
                study.tell(trial, value, state=None if value is not None else optuna.trial.TrialState.FAIL)
                print(f"trial {trial.number}: {_line(values, self.objective, value)}", flush=True)
        ended = [trial for trial in study.trials if trial.value is not None]
        if ended:
            best = study.best_trial
            print(
                f"best of {len(ended)}: {_line(best.user_attrs['overrides'], self.objective, best.value)}", flush=True
            )
        return returns

    def _read(self, arguments: Sequence[str]) -> tuple[list["_Parameter"], list[list[str]]]:
        """What Optuna chooses, and of every other override its values, all of which are run."""
        assert self.hydra_context is not None  # Hydra calls `setup` first
        given = [*(f"{key}={value}" for key, value in self.params.items()), *arguments]
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        # The last one for a key counts, as everywhere in Hydra.
        overrides = {override.get_key_element(): override for override in parser.parse_overrides(given)}
        space = [_Parameter.of(o) for key, o in overrides.items() if o.is_sweep_override() and key not in REPEATED]
        if not space:
            raise SystemExit("Optuna has nothing to choose: give an interval, such as 'loss.margin=interval(0.1,2)'.")
        if any(parameter.key == "experiment" for parameter in space):
            raise SystemExit("A study is of one experiment: suite=<dataset>/<experiment>.")
        chosen = {parameter.key for parameter in space}
        return space, [_all_values(override) for key, override in overrides.items() if key not in chosen]

    def _value(self, answers: Sequence[JobReturn]) -> float | None:
        """The mean of the objective over the jobs of a trial; None where one is not finished."""
        values = []
        for answer in answers:
            outcome = answer.return_value if answer.status == JobStatus.COMPLETED else None
            if outcome is None or outcome.code != 0:
                return None
            summary = json.loads((Path(outcome.folder) / "summary.json").read_text(encoding="utf-8"))
            if self.objective not in summary:
                known = ", ".join(key for key in summary if key.startswith(TUNABLE))
                raise SystemExit(f"hydra.sweeper.objective={self.objective}: a summary has {known}.")
            values.append(float(summary[self.objective]))
        mean = math.fsum(values) / len(values)
        return mean if math.isfinite(mean) else None


@dataclass(frozen=True)
class _Parameter:
    """An override whose value Optuna chooses: one of `choices`, or from `low` to `high`."""

    key: str
    choices: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    tags: frozenset[str] = frozenset()

    @classmethod
    def of(cls, override: Override) -> "_Parameter":
        key, value = override.get_key_element(), override.value()
        if not isinstance(value, IntervalSweep):
            return cls(key, choices=tuple(str(text) for text in override.sweep_string_iterator()))
        low, high, tags = value.start, value.end, frozenset(value.tags)
        if low is None or high is None or not low < high:
            raise SystemExit(f"{override.input_line}: an interval goes up.")
        if tags - {"log", ODDS}:
            raise SystemExit(f"{override.input_line}: the tags of an interval are log and {ODDS}.")
        if ("log" in tags and low <= 0) or (ODDS in tags and not 0 < low < high < 1):
            raise SystemExit(f"{override.input_line}: log needs numbers above 0, {ODDS} numbers between 0 and 1.")
        return cls(key, low=low, high=high, tags=tags)

    def choose(self, trial: Any) -> str:
        """The override with the value that Optuna suggests, in six digits, as a folder's name can show them."""
        if self.choices:
            return f"{self.key}={trial.suggest_categorical(self.key, self.choices)}"
        if ODDS in self.tags:
            odds = trial.suggest_float(self.key, self.low / (1 - self.low), self.high / (1 - self.high), log=True)
            return f"{self.key}={odds / (1 + odds):.6g}"
        if isinstance(self.low, int) and isinstance(self.high, int):
            return f"{self.key}={trial.suggest_int(self.key, self.low, self.high, log='log' in self.tags)}"
        return f"{self.key}={trial.suggest_float(self.key, self.low, self.high, log='log' in self.tags):.6g}"


def _all_values(override: Override) -> list[str]:
    key = override.get_key_element()
    if override.is_sweep_override():
        return [f"{key}={value}" for value in override.sweep_string_iterator()]
    return [f"{key}={override.get_value_element_as_str()}"]


def _line(values: Sequence[str], objective: str, value: float | None) -> str:
    return f"{' '.join(values)}: {'failed' if value is None else f'{objective} {value:.4f}'}"
