"""A run of a sweep as a value that any process can call, and the loop that starts such jobs and starts them again.

What Hydra's launchers do in one process (compose the configuration of a job, run it, keep its answer) a `Job` does in
any other process, on any machine that sees the same folders.
"""

import importlib
import os
import sys
import threading
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, env_override, filter_overrides, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

if TYPE_CHECKING:
    from lipbench.runs.outcome import Outcome

# Libraries of linear algebra read their number of threads from these when they are imported.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
# Seconds between two looks at the jobs that run.
PAUSE = 0.2


class JobDied(RuntimeError):
    """The process of a job ended without an answer."""


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Attributes:
        number: in the sweep.
        overrides: of the command line, those of this run.
        threads: of the CPU, where the configuration does not say.
        minutes: after which the process ends itself; None: never.
        folder: the working directory of the command.
        variables: of the environment of the command, which say where data lie.
    """

    number: int
    overrides: tuple[str, ...]
    threads: int
    minutes: float | None
    folder: str
    variables: Mapping[str, str]
    config: DictConfig
    context: HydraContext
    task: TaskFunction
    singletons: Mapping[Any, Any]

    def __call__(self) -> "Outcome":
        """Makes the run in this process.

        Raises:
            JobDied: this machine does not see the working directory of the command.
        """
        if not Path(self.folder).is_dir():
            raise JobDied(f"{self.folder} is not on this machine ({os.uname().nodename}): machines must share it.")
        os.chdir(self.folder)
        os.environ.update(self.variables)
        Singleton.set_state(self.singletons)
        setup_globals()
        end = threading.Timer(60 * (self.minutes or 0), self._end)
        end.daemon = True
        if self.minutes is not None:
            end.start()
        try:
            return self._run()
        except Exception as error:  # of Hydra: what a run raises is part of its outcome
            return self.lost(f"{type(error).__name__}: {error}")
        finally:
            end.cancel()

    def _run(self) -> "Outcome":
        config = self.context.config_loader.load_sweep_config(self.config, list(self.overrides))
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = self.number
            config.threads = config.get("threads") or self.threads
            config.progress = False  # the bars of several jobs would write over each other
        HydraConfig.instance().set_config(config)
        answer: Outcome = run_job(
            hydra_context=self.context,
            task_function=self.task,
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        ).return_value
        return answer

    def _end(self) -> None:
        print(f"{self.minutes:g} minutes are over: {' '.join(self.overrides)}", file=sys.stderr, flush=True)
        os._exit(1)

    def lost(self, why: str) -> "Outcome":
        """The outcome of a run that gave no answer, from its folder."""
        from lipbench.commands.sweeps import lost

        return lost(self.overrides, self.config, why)

    def checkpoint(self) -> Any:
        """What submitit puts into the queue again when the time of the job is over: the same job, which goes on."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


class Handle(Protocol):
    """A job that was given to an engine. `result` raises where its process died."""

    def done(self) -> bool: ...

    def result(self) -> "Outcome": ...


class SideBySide(Launcher):
    """Gives the jobs of a sweep to an engine. A job that fails, or whose process dies, leaves the others alone.

    Args:
        jobs: at once, at most; None: as many as the engine has room for.
        threads: of the CPU, for each job; None: 1, so that no number depends on how many jobs there are.
        gpus: for each job; 0.5: two jobs share one; None: 1 where there are any.
        minutes: the time limit of a job; None: none.
        retries: how often a job is started again whose process died or whose time was over. It goes on from its last
            checkpoint. An error of the job itself is final.
    """

    def __init__(
        self,
        *,
        jobs: int | None = None,
        threads: int | None = None,
        gpus: float | None = None,
        minutes: float | None = None,
        retries: int = 1,
    ) -> None:
        self.jobs, self.threads, self.gpus = jobs, threads or 1, gpus
        self.minutes, self.retries = minutes, retries

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.task, self.config = hydra_context, task_function, config

    @abstractmethod
    def begin(self, count: int) -> int:
        """Makes the engine ready for that many jobs: -> how many of them it is given at once."""

    @abstractmethod
    def start(self, place: int, job: Job) -> Handle:
        """Gives a job to the engine. Places count from 0 up to what `begin` returned; each has one job at a time."""

    @abstractmethod
    def end(self, running: Sequence[Any]) -> None:
        """Lets go of the engine, whose jobs with these handles still run because the sweep was interrupted."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs all jobs: -> their outcomes in the same order, which `OUTCOMES` gets too."""
        from lipbench.commands.sweeps import OUTCOMES

        if self.jobs is not None and not (isinstance(self.jobs, int) and self.jobs >= 1):
            raise SystemExit(f"hydra.launcher.jobs={self.jobs}: how many at once, 1 or more; null: all that have room.")
        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        with env_override({name: str(self.threads) for name in THREADS}):  # new processes inherit it
            setup_globals()
            jobs = [self._job(number, overrides) for number, overrides in enumerate(job_overrides, initial_job_idx)]
            places = self.begin(len(jobs))
            print(f"{len(jobs)} jobs, {min(places, len(jobs))} at once, threads of each: {self.threads}", flush=True)
            running: dict[int, tuple[Job, Handle]] = {}
            try:
                outcomes = self._run(jobs, places, running)
            finally:
                self.end([handle for _, handle in running.values()])
        OUTCOMES.extend(outcomes)
        return [JobReturn(status=JobStatus.COMPLETED, _return_value=outcome) for outcome in outcomes]

    def _run(self, jobs: Sequence[Job], places: int, running: dict[int, tuple[Job, Handle]]) -> "list[Outcome]":
        """The outcome of each job. `running` is kept up to date: place -> (job, handle)."""
        waiting, retries, outcomes = deque(jobs), {job.number: self.retries for job in jobs}, dict[int, Any]()
        common = set(jobs[0].overrides).intersection(*(job.overrides for job in jobs[1:])) if len(jobs) > 1 else set()
        while waiting or running:
            for place in [place for place in range(places) if place not in running][: len(waiting)]:
                job = waiting.popleft()
                running[place] = job, self._given(place, job)
            for place, (job, handle) in list(running.items()):
                if not handle.done():
                    continue
                del running[place]
                name = " ".join(o for o in filter_overrides(job.overrides) if o not in common)
                try:
                    outcome = handle.result()
                except Exception as error:  # of the engine, not of the job
                    why = str(error) if isinstance(error, JobDied) else f"{type(error).__name__}: {error}"
                    retries[job.number] -= 1
                    if retries[job.number] >= 0:
                        waiting.append(job)
                        print(f"again: {name}: {why}", flush=True)
                        continue
                    outcome = job.lost(f"its process died ({why})")
                outcomes[job.number] = outcome
                said = f"FAILED, {outcome.why}" if outcome.code == 1 else "ended"
                print(f"[{len(outcomes)}/{len(jobs)}] {said}: {name}", flush=True)
            time.sleep(PAUSE)
        return [outcomes[job.number] for job in jobs]

    def _given(self, place: int, job: Job) -> Handle:
        try:
            return self.start(place, job)
        except Exception as error:  # a job that the engine does not take has died
            refused: Future[Outcome] = Future()
            refused.set_exception(error)
            return refused

    def _job(self, number: int, overrides: Sequence[str]) -> Job:
        return Job(
            number=number,
            overrides=tuple(overrides),
            threads=self.threads,
            minutes=self.minutes,
            folder=os.getcwd(),
            variables={name: value for name, value in os.environ.items() if name.startswith("LIPBENCH_")},
            config=self.config,
            context=self.context,
            task=self.task,
            singletons=Singleton.get_state(),
        )


def need(library: str) -> Any:
    """A library of an extra of the same name, or the way to install it.

    Raises:
        SystemExit: the library is not installed.
    """
    try:
        return importlib.import_module(library)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != library:
            raise
        raise SystemExit(f"{library} is not installed: pip install 'lipbench[{library}]'.") from None
