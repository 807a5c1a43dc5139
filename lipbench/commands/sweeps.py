"""The runs of a sweep: which ones there are, before any is started, and how they ended, with whatever launcher."""

import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf

from lipbench.commands.mistakes import CommandError
from lipbench.commands.suites import CONF
from lipbench.commands.variants import called, folder_of
from lipbench.runs import state as states
from lipbench.runs.outcome import ELSEWHERE, FAILED, FINISHED, Outcome
from lipbench.runs.state import state_of


@dataclass(frozen=True)
class Planned:
    """A run that a command line asks for.

    Attributes:
        name: "<dataset>/<experiment>".
        folder: where it lies, or will.
        command: what makes it alone.
    """

    name: str
    folder: Path
    command: str


def command_of(overrides: Sequence[str]) -> str:
    """The command that makes one run alone."""
    return shlex.join(["python", "-m", "lipbench", "run", *overrides])


def planned(arguments: Sequence[str]) -> list[Planned]:
    """The runs of a command line of `lipbench run`, by the rules of Hydra's basic sweeper; suites are expanded already.

    Raises:
        CommandError: a sweeper that chooses its runs as it goes.
    """
    # How they are launched is no matter here, and the launcher may not be installed.
    overrides = [a for a in arguments if not a.startswith(("-", "hydra/launcher", "hydra.launcher"))]
    parser = OverridesParser.create()
    fixed = [override.input_line for override in parser.parse_overrides(overrides) if not override.is_sweep_override()]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides=[str(line) for line in fixed], return_hydra_config=True)
    if not str(config.hydra.sweeper.get("_target_")).endswith(".BasicSweeper"):
        raise CommandError("A sweeper that chooses its runs as it goes has no list of them: give results= alone.")
    # What an experiment of one's own sweeps by itself, then the command line, which has the last word.
    own = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    parsed = parser.parse_overrides([*own, *(o for o in overrides if not o.startswith("hydra"))])
    (jobs,) = BasicSweeper.split_arguments(parsed, None)
    return [_planned(job, config, parser) for job in jobs]


def _planned(overrides: Sequence[str], config: DictConfig, parser: OverridesParser) -> Planned:
    task = [override for override in overrides if not override.lstrip("+~").startswith("hydra")]
    asked = {override.get_key_element(): override.value() for override in parser.parse_overrides(list(task))}
    name = str(asked.get("experiment") or OmegaConf.select(config, "hydra.runtime.choices.experiment"))
    folder = folder_of(asked.get("results", config.results), name, task, asked.get("seed", config.seed))
    return Planned(called(folder), folder, command_of(task))


@contextmanager
def recorded() -> Iterator[list[Outcome]]:
    """While it is open, the outcomes of all jobs that any launcher starts for any sweeper are gathered in the list.

    A launcher that breaks down, because a worker was killed for instance, is started again for the same jobs as long as
    that finishes more of them: finished ones are skipped, and those that still run elsewhere are left alone.
    """
    outcomes: list[Outcome] = []
    plugins = Plugins.instance()
    instantiate = plugins.instantiate_launcher

    def instantiate_recorded(*, config: DictConfig, **options: Any) -> Any:
        launcher = instantiate(config=config, **options)
        launch, parser = launcher.launch, OverridesParser.create()

        def launch_recorded(job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
            plan = [_planned(job, config, parser) for job in job_overrides]
            returns = _launched(launch, job_overrides, initial_job_idx, plan)
            outcomes.extend(_outcome(run, one) for run, one in zip(plan, returns, strict=True))
            return returns

        setattr(launcher, "launch", launch_recorded)  # noqa: B010 (to mypy, a method is not assigned to)
        return launcher

    setattr(plugins, "instantiate_launcher", instantiate_recorded)  # noqa: B010
    try:
        yield outcomes
    finally:
        del plugins.instantiate_launcher  # the one of the class again


def _launched(launch: Any, jobs: Sequence[Sequence[str]], first: int, plan: Sequence[Planned]) -> Sequence[JobReturn]:
    finished = _finished(plan)
    while True:
        try:
            returns: Sequence[JobReturn] = launch(jobs, initial_job_idx=first)
            return returns
        except Exception as error:
            why, before = f"its worker died ({type(error).__name__}: {error})", finished
            finished = _finished(plan)
            more = before < finished < len(plan)
            print(f"\nThe launcher broke down: {type(error).__name__}: {error}", file=sys.stderr)
            print("It is started again for what is left." if more else "It gets no further.", file=sys.stderr)
            if not more:
                return [_returned(job, _found(run, why)) for job, run in zip(jobs, plan, strict=True)]


def _finished(plan: Sequence[Planned]) -> int:
    return sum(state_of(run.folder).kind == states.FINISHED for run in plan)


def _found(run: Planned, why: str) -> Outcome:
    """What a folder says of a run whose worker said nothing."""
    state = state_of(run.folder)
    codes = {states.FINISHED: FINISHED, states.RUNNING: ELSEWHERE}
    said = state.detail if state.kind in (states.RUNNING, states.FAILED) else why
    return Outcome(run.name, str(run.folder), codes.get(state.kind, FAILED), said)


def _outcome(run: Planned, returned: JobReturn) -> Outcome:
    if returned.status == JobStatus.COMPLETED and isinstance(returned.return_value, Outcome):
        return returned.return_value
    # Nothing that a run raises comes this far: this is Hydra's, or the launcher's.
    return _found(run, str(getattr(returned, "_return_value", "no answer of its worker")))


def _returned(overrides: Sequence[str], outcome: Outcome) -> JobReturn:
    return JobReturn(overrides=overrides, status=JobStatus.COMPLETED, _return_value=outcome)
