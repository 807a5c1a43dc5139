"""Launchers of Hydra: where the jobs of a sweep run. `hydra/launcher=joblib`, and so on; see `conf/hydra/launcher/`."""

import math
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn

from hydra_plugins.lipbench_sweeps._jobs import Handle, Job, JobDied, SideBySide, need

# Seconds between two questions to Slurm for all jobs.
QUEUE_PAUSE = 10.0
# Seconds for which the answer of a job that has left the queue may be on its way through a shared folder.
GRACE = 30.0
# A limit where there is none: submitit wants one.
TEN_YEARS = 10 * 365 * 24 * 60


class _OnThisMachine(SideBySide):
    """A share of the cores and of the GPUs of this machine for each place."""

    def begin(self, count: int) -> int:
        import joblib
        import torch

        places = max(1, joblib.cpu_count(only_physical_cores=True) // self.threads)
        self.devices = _visible(torch.cuda.device_count())
        if self.gpus is None:
            self.gpus = 1 if self.devices else 0
        if self.gpus:
            room = math.floor(len(self.devices) / self.gpus)
            if not room:
                raise SystemExit(f"hydra.launcher.gpus={self.gpus:g}: torch sees {len(self.devices)} GPUs here.")
            places = min(places, room)
        return min(self.jobs or places, count)

    def gpus_of(self, place: int) -> list[str]:
        """The GPUs of a place. Where there are more places than GPUs (`jobs`), they are shared."""
        assert self.gpus is not None
        if not self.gpus:
            return []
        if self.gpus < 1:
            return [self.devices[int(place * self.gpus) % len(self.devices)]]
        first = place * math.ceil(self.gpus)
        return [self.devices[(first + k) % len(self.devices)] for k in range(math.ceil(self.gpus))]


class JoblibLauncher(_OnThisMachine):
    """Processes of this machine, by loky, the engine of joblib: one for each place, kept from job to job, so that
    libraries are imported once. One that dies is replaced, and the others do not notice: `joblib.Parallel` would end
    all of them.
    """

    def begin(self, count: int) -> int:
        self.workers: dict[int, Any] = {}
        return super().begin(count)

    def start(self, jobs: Mapping[int, Job]) -> Mapping[int, Handle]:
        return {place: self._submit(place, job) for place, job in jobs.items()}

    def _submit(self, place: int, job: Job) -> Any:
        from joblib.externals.loky import ProcessPoolExecutor

        if place in self.workers:
            try:
                return self.workers[place].submit(job)
            except RuntimeError:  # its process died during the job before
                self.workers.pop(place).shutdown(wait=False)
        environment = {"CUDA_VISIBLE_DEVICES": ",".join(self.gpus_of(place))} if self.devices else {}
        self.workers[place] = ProcessPoolExecutor(max_workers=1, env=environment)
        return self.workers[place].submit(job)

    def end(self, running: Sequence[Handle]) -> None:
        for worker in self.workers.values():
            worker.shutdown(wait=True, kill_workers=bool(running))


class _Submitit(SideBySide):
    """What both engines of submitit need.

    Args:
        folder: of the logs and answers of the jobs.
    """

    def __init__(self, *, folder: str, **options: Any) -> None:
        super().__init__(**options)
        self.folder = Path(folder).absolute()

    def _job(self, number: int, overrides: Sequence[str]) -> Job:
        from dataclasses import replace

        return replace(super()._job(number, overrides), minutes=None)  # submitit watches the time


class SubmititLocalLauncher(_Submitit, _OnThisMachine):
    """A process of this machine for each job, as Slurm would have it: logs in files, a signal before the time is over.
    For trying out what `SubmititSlurmLauncher` will do.
    """

    def begin(self, count: int) -> int:
        self.submitit = _submitit()
        return super().begin(count)

    def start(self, jobs: Mapping[int, Job]) -> Mapping[int, Handle]:
        handles = {}
        for place, job in jobs.items():
            executor = self.submitit.LocalExecutor(self.folder / "%j", max_num_timeout=0)
            gpus = [int(gpu) for gpu in self.gpus_of(place)]
            options = {"gpus_per_node": len(gpus), "visible_gpus": gpus}
            executor.update_parameters(timeout_min=self.minutes or TEN_YEARS, **options)
            handles[place] = executor.submit(job)
        return handles

    def end(self, running: Sequence[Any]) -> None:
        for handle in running:
            handle.cancel()


class SubmititSlurmLauncher(_Submitit):
    """A job of Slurm for each job, in one array. The command waits for them; they go on if it does not.

    Args:
        memory: of a job, in GB.
        partition: of the cluster; None: its own choice.
        parameters: further ones of `submitit.SlurmExecutor.update_parameters`, such as `account`, `qos`, `setup`.
    """

    TOGETHER = True

    def __init__(
        self, *, memory: float, partition: str | None, parameters: Mapping[str, Any] | None, **options: Any
    ) -> None:
        super().__init__(**options)
        self.parameters = {"mem": f"{round(1024 * memory)}MB", "partition": partition, **(parameters or {})}

    def begin(self, count: int) -> int:
        self.submitit = _submitit()
        self.queue = _Queue()
        return count

    def start(self, jobs: Mapping[int, Job]) -> Mapping[int, Handle]:
        # A job whose time is over, or that makes room for another, is put into the queue again by submitit, there.
        executor = self.submitit.SlurmExecutor(self.folder / "%j", max_num_timeout=self.retries)
        options = {"gpus_per_node": self.gpus or None, "array_parallelism": self.jobs, **self.parameters}
        executor.update_parameters(
            job_name="lipbench",
            time=math.ceil(self.minutes or TEN_YEARS),
            cpus_per_task=self.threads,
            **{key: value for key, value in options.items() if value is not None},
        )
        with executor.batch():
            submitted = {place: executor.submit(job) for place, job in jobs.items()}
        return {place: _InQueue(handle, self.queue) for place, handle in submitted.items()}

    def end(self, running: Sequence[Any]) -> None:
        if running:
            numbers = sorted({str(handle.job.job_id).split("_")[0] for handle in running})
            print(f"{len(running)} jobs stay in the queue. To end them: scancel {' '.join(numbers)}", flush=True)


class _Queue:
    """Which jobs are in the queue of Slurm. submitit would ask `sacct`, which has no answer on a cluster without
    accounting: it then waits for ever for a job that was killed.
    """

    def __init__(self) -> None:
        self.asked, self.held = -math.inf, set[str]()

    def holds(self, job_id: str) -> bool:
        if time.monotonic() - self.asked > QUEUE_PAUSE:
            command = ["squeue", "--noheader", "--array", "--format=%i", f"--user={os.getuid()}"]
            found = subprocess.run(command, capture_output=True, text=True, check=False, encoding="utf-8")
            if found.returncode:  # Slurm is busy: nothing is known, so nothing has gone
                return True
            self.asked, self.held = time.monotonic(), set(found.stdout.split())
        return job_id in self.held


@dataclass
class _InQueue:
    """A job of Slurm: done once its answer is there, or once it has left the queue without one."""

    job: Any
    queue: _Queue
    gone: float | None = None

    def done(self) -> bool:
        answer = self.job.paths.result_pickle
        # A look into the folder: clients of NFS may remember for a while that a file was not there.
        if any(path.name == answer.name for path in answer.parent.glob("*")):
            return True
        if self.queue.holds(self.job.job_id):
            self.gone = None
            return False
        self.gone = self.gone or time.monotonic()
        return time.monotonic() - self.gone > GRACE

    def result(self) -> JobReturn:
        """
        Raises:
            JobDied: there is no answer.
        """
        if not self.job.paths.result_pickle.exists():
            raise JobDied(f"job {self.job.job_id} left the queue without an answer. Its log: {self.job.paths.stderr}")
        answer: JobReturn = self.job.result()
        return answer


class RayLauncher(SideBySide):
    """Tasks of Ray, on this machine or on a cluster.

    Args:
        address: of a running cluster: "auto" or host:port; None: a Ray of its own on this machine, for this sweep.
    """

    def __init__(self, *, address: str | None, **options: Any) -> None:
        super().__init__(**options)
        self.address = address

    def begin(self, count: int) -> int:
        def imported() -> Any:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            import ray

            return ray

        self.ray = need("ray", "ray", imported)
        ours = signal.getsignal(signal.SIGTERM)
        if self.address is None:
            import joblib

            cores = max(joblib.cpu_count(only_physical_cores=True), self.threads)
            # "local": else it looks for one that is running here, or has died.
            self.ray.init(address="local", num_cpus=cores, include_dashboard=False, logging_level="warning")
        else:
            try:
                self.ray.init(address=self.address, logging_level="warning")
            except ConnectionError as error:
                raise SystemExit(f"hydra.launcher.address={self.address}: no Ray answers there: {error}") from None
        if ours is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, ours)  # Ray puts its own there
        if self.gpus is None:
            self.gpus = 1 if self.ray.cluster_resources().get("GPU", 0) else 0
        return min(self.jobs or count, count)

    def start(self, jobs: Mapping[int, Job]) -> Mapping[int, Handle]:
        task = self.ray.remote(num_cpus=self.threads, num_gpus=self.gpus, max_retries=0)(_call)
        return {place: task.remote(job).future() for place, job in jobs.items()}

    def end(self, running: Sequence[Handle]) -> None:
        self.ray.shutdown()


def _call(job: Job) -> JobReturn:
    return job()


def _submitit() -> Any:
    def imported() -> Any:
        import submitit

        return submitit

    return need("submitit", "submitit", imported)


def _visible(count: int) -> list[str]:
    """What CUDA_VISIBLE_DEVICES calls the GPUs that torch counts here."""
    value = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = value.split(",") if value else [str(number) for number in range(count)]
    return names[:count]
