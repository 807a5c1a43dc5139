"""A job of a sweep as a value that any process can call, and how many of them run side by side whatever becomes of one.

What Hydra's launchers do in one process (compose the configuration of a job, run it, keep its answer) a `Job` does in
any other one, on any machine that sees the same folders.
"""

import os
import pickle
import sys
import threading
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, env_override, filter_overrides, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

# Libraries of linear algebra read their number of threads from these when they are imported.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
# Seconds between two looks at the jobs that run.
PAUSE = 0.2


class JobDied(RuntimeError):
    """The process of a job ended without an answer."""


@dataclass(frozen=True)
class Job:
    """One job of a sweep. Called in any process, it runs there and returns Hydra's answer; an error of the job is part
    of the answer.

    Attributes:
        number: in the sweep.
        overrides: of the command line, those of this job.
        threads: of the CPU, where the configuration does not say.
        minutes: after which the process ends itself; None: never.
        folder: the working directory of the command.
        variables: of the environment of the command: where data lie.
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

    def __call__(self) -> JobReturn:
        """
        Raises:
            JobDied: this machine does not see the working directory of the command.
        """
        if not Path(self.folder).is_dir():
            raise JobDied(f"{self.folder} is not on this machine ({os.uname().nodename}): machines must share it.")
        os.chdir(self.folder)
        os.environ.update(self.variables)
        Singleton.set_state(self.singletons)
        setup_globals()
        config = self.context.config_loader.load_sweep_config(self.config, list(self.overrides))
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = self.number
            config.threads = config.get("threads") or self.threads
            config.progress = False  # the bars of several jobs would write over each other
        HydraConfig.instance().set_config(config)
        end = None if self.minutes is None else threading.Timer(60 * self.minutes, self._end)
        if end is not None:
            end.daemon = True
            end.start()
        try:
            answer = run_job(
                hydra_context=self.context,
                task_function=self.task,
                config=config,
                job_dir_key="hydra.sweep.dir",
                job_subdir_key="hydra.sweep.subdir",
            )
        finally:
            if end is not None:
                end.cancel()
        value = answer._return_value
        if answer.status == JobStatus.FAILED:
            value = _sendable(value)
        return JobReturn(overrides=list(self.overrides), status=answer.status, _return_value=value)

    def checkpoint(self) -> Any:
        """What submitit puts into the queue again when the time of the job is over: the same job, which goes on."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _end(self) -> None:
        print(f"{self.minutes:g} minutes are over: {' '.join(self.overrides)}", file=sys.stderr, flush=True)
        os._exit(1)


class Handle(Protocol):
    """A job that was given to an engine. `result` raises where its process died."""

    def done(self) -> bool: ...

    def result(self) -> JobReturn: ...


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

    # Whether `start` is given all waiting jobs in one call, or one in each.
    TOGETHER = False

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
    def start(self, jobs: Mapping[int, Job]) -> Mapping[int, Handle]:
        """Gives jobs to the engine. Keys are places, from 0 up to what `begin` returned; each has one job at a time."""

    @abstractmethod
    def end(self, running: Sequence[Handle]) -> None:
        """Lets go of the engine. Where jobs are still running the sweep was interrupted."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs all jobs: -> their answers in the same order. Those that failed raise when they are asked for it."""
        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        with env_override({name: str(self.threads) for name in THREADS}):  # new processes inherit it
            setup_globals()
            jobs = [self._job(number, o) for number, o in enumerate(job_overrides, initial_job_idx)]
            if self.jobs is not None and not (isinstance(self.jobs, int) and self.jobs >= 1):
                raise SystemExit(
                    f"hydra.launcher.jobs={self.jobs}: how many at once, 1 or more; null: all that have room."
                )
            places = self.begin(len(jobs))
            print(f"{len(jobs)} jobs, {min(places, len(jobs))} at once, threads of each: {self.threads}", flush=True)
            running: dict[int, tuple[int, Handle]] = {}
            try:
                answers = self._run(jobs, places, running)
            finally:
                self.end([handle for _, handle in running.values()])
        return [answers[position] for position in range(len(jobs))]

    def _run(self, jobs: Sequence[Job], places: int, running: dict[int, tuple[int, Handle]]) -> dict[int, JobReturn]:
        """Position of each job -> its answer. `running` is what runs at any moment: place -> (position, handle)."""
        waiting, lives, answers = deque(range(len(jobs))), [1 + self.retries] * len(jobs), {}
        names = _names([job.overrides for job in jobs])
        while waiting or running:
            for position, place, handle in self._start(jobs, waiting, [p for p in range(places) if p not in running]):
                running[place] = position, handle
            for place, (position, handle) in list(running.items()):
                if not handle.done():
                    continue
                del running[place]
                lives[position] -= 1
                answer, error = _answer(jobs[position], handle)
                if isinstance(error, JobDied) and lives[position] > 0:
                    waiting.append(position)
                    print(f"again: {names[position]}: {error}", flush=True)
                    continue
                answers[position] = answer
                what = "ended" if error is None else f"FAILED, {error}"
                print(f"[{len(answers)}/{len(jobs)}] {what}: {names[position]}", flush=True)
            time.sleep(PAUSE)
        return answers

    def _start(self, jobs: Sequence[Job], waiting: deque[int], free: Sequence[int]) -> list[tuple[int, int, Handle]]:
        """Gives waiting jobs to free places: (position, place, handle) of each. What the engine refuses has died."""
        given = {place: waiting.popleft() for place in free[: len(waiting)]}
        handles: dict[int, Handle] = {}
        for places in [list(given)] if self.TOGETHER and given else [[place] for place in given]:
            try:
                handles |= self.start({place: jobs[given[place]] for place in places})
            except Exception as error:
                handles |= dict.fromkeys(places, Refused(error))
        return [(position, place, handles[place]) for place, position in given.items()]

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


@dataclass(frozen=True)
class Refused:
    """The handle of a job that the engine did not take."""

    error: Exception

    def done(self) -> bool:
        return True

    def result(self) -> JobReturn:
        raise self.error


def need(module: str, extra: str, imported: Callable[[], Any]) -> Any:
    """What `imported` imports, or the way to install it."""
    try:
        return imported()
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module:
            raise
        raise SystemExit(f"{module} is not installed: pip install 'lipbench[{extra}]'.") from None


def _answer(job: Job, handle: Handle) -> tuple[JobReturn, Exception | None]:
    try:
        answer = handle.result()
    except Exception as error:  # of the engine, not of the job
        died = JobDied(f"{type(error).__name__}: {error}" if not isinstance(error, JobDied) else str(error))
        return JobReturn(overrides=list(job.overrides), status=JobStatus.FAILED, _return_value=died), died
    return answer, answer._return_value if answer.status == JobStatus.FAILED else None


def _names(jobs: Sequence[Sequence[str]]) -> list[str]:
    """Of each job the overrides that not all of them have."""
    common = set(jobs[0]).intersection(*jobs) if len(jobs) > 1 else set()
    return [" ".join(o for o in filter_overrides(job) if o not in common) for job in jobs]


def _sendable(error: Exception) -> Exception:
    """The error itself where it survives the way to another process; else one that says the same."""
    try:
        copy = pickle.loads(pickle.dumps(error))
        return error if type(copy) is type(error) else RuntimeError(str(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
