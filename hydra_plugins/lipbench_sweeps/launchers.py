"""Launchers of Hydra: where the jobs of a sweep run. `hydra/launcher=joblib`, and so on; see `conf/hydra/launcher/`."""

import math
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra_plugins.lipbench_sweeps._jobs import Handle, Job, JobDied, SideBySide, need

if TYPE_CHECKING:
    from lipbench.runs.outcome import Outcome

# Seconds between two questions to Slurm for all jobs.
QUEUE_PAUSE = 10.0
# Seconds for which the answer of a job that has left the queue may be on its way through a shared folder.
GRACE = 30.0
# A limit where there is none: submitit wants one.
TEN_YEARS = 10 * 365 * 24 * 60


class JoblibLauncher(SideBySide):
    """Processes of this machine, by loky, the engine of joblib: one for each place, kept from job to job, so that
    libraries are imported once. Each place has a share of the cores and of the GPUs. A process that dies is replaced,
    and the others go on: `joblib.Parallel` would end all of them.
    """

    def begin(self, count: int) -> int:
        import joblib
        import torch

        self.workers: dict[int, Any] = {}
        places = max(1, joblib.cpu_count(only_physical_cores=True) // self.threads)
        number, visible = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
        self.devices = (visible.split(",") if visible else [str(k) for k in range(number)])[:number]
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
        each = math.ceil(self.gpus)
        first = int(place * self.gpus) if self.gpus < 1 else place * each
        return [self.devices[(first + k) % len(self.devices)] for k in range(each)]

    def start(self, place: int, job: Job) -> Handle:
        from joblib.externals.loky import ProcessPoolExecutor

        if place in self.workers:
            try:
                handle: Handle = self.workers[place].submit(job)
                return handle
            except RuntimeError:  # its process died during the job before
                self.workers.pop(place).shutdown(wait=False)
        environment = {"CUDA_VISIBLE_DEVICES": ",".join(self.gpus_of(place))} if self.devices else {}
        self.workers[place] = ProcessPoolExecutor(max_workers=1, env=environment)
        handle = self.workers[place].submit(job)
        return handle

    def end(self, running: Sequence[Any]) -> None:
        for worker in self.workers.values():
            worker.shutdown(wait=True, kill_workers=bool(running))


class SubmititSlurmLauncher(SideBySide):
    """A job of Slurm for each job. The command waits for them; those in the queue go on if the command does not.

    Args:
        folder: of the logs and answers of the jobs.
        memory: of a job, in GB.
        partition: of the cluster; None: its own choice.
        parameters: further ones of `submitit.SlurmExecutor.update_parameters`, such as `account`, `qos`, `setup`.
    """

    def __init__(
        self,
        *,
        folder: str,
        memory: float,
        partition: str | None,
        parameters: Mapping[str, Any] | None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.folder = Path(folder).absolute()
        self.parameters = {"mem": f"{round(1024 * memory)}MB", "partition": partition, **(parameters or {})}

    def begin(self, count: int) -> int:
        # A job whose time is over, or that makes room for another, is put into the queue again by submitit, there.
        self.executor = need("submitit").SlurmExecutor(self.folder / "%j", max_num_timeout=self.retries)
        options = {"gpus_per_node": self.gpus or None, **self.parameters}
        self.executor.update_parameters(
            job_name="lipbench",
            time=math.ceil(self.minutes or TEN_YEARS),
            cpus_per_task=self.threads,
            **{key: value for key, value in options.items() if value is not None},
        )
        self.queue = Queue()
        return min(self.jobs or count, count)

    def start(self, place: int, job: Job) -> Handle:
        return InQueue(self.executor.submit(replace(job, minutes=None)), self.queue)  # submitit watches the time

    def end(self, running: Sequence[Any]) -> None:
        if running:
            numbers = sorted(str(handle.job.job_id) for handle in running)
            print(f"{len(running)} jobs stay in the queue. To end them: scancel {' '.join(numbers)}", flush=True)


class Queue:
    """Which jobs are in the queue of Slurm. submitit would ask `sacct`, which has no answer on a cluster without
    accounting: it then waits for ever for a job that was killed.
    """

    def __init__(self) -> None:
        self.asked, self.held = -math.inf, set[str]()

    def holds(self, job_id: str) -> bool:
        """Whether Slurm knows the job; True also where Slurm does not answer."""
        if time.monotonic() - self.asked > QUEUE_PAUSE:
            command = ["squeue", "--noheader", "--array", "--format=%i", f"--user={os.getuid()}"]
            found = subprocess.run(command, capture_output=True, text=True, check=False, encoding="utf-8")
            if found.returncode:
                return True
            self.asked, self.held = time.monotonic(), set(found.stdout.split())
        return job_id in self.held


class InQueue:
    """A job of Slurm: done once its answer is there, or once it has left the queue without one."""

    def __init__(self, job: Any, queue: Queue) -> None:
        self.job, self.queue, self.gone = job, queue, math.inf

    def done(self) -> bool:
        answer = self.job.paths.result_pickle
        # A look into the folder: clients of NFS may remember for a while that a file was not there.
        if any(path.name == answer.name for path in answer.parent.glob("*")):
            return True
        self.gone = math.inf if self.queue.holds(self.job.job_id) else min(self.gone, time.monotonic())
        return time.monotonic() - self.gone > GRACE

    def result(self) -> "Outcome":
        """
        Raises:
            JobDied: there is no answer.
        """
        if not self.job.paths.result_pickle.exists():
            raise JobDied(f"job {self.job.job_id} left the queue without an answer. Its log: {self.job.paths.stderr}")
        answer: Outcome = self.job.result()
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
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        self.ray = need("ray")
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

    def start(self, place: int, job: Job) -> Handle:
        task = self.ray.remote(num_cpus=self.threads, num_gpus=self.gpus, max_retries=0)(_call)
        handle: Handle = task.remote(job).future()
        return handle

    def end(self, running: Sequence[Any]) -> None:
        self.ray.shutdown()


def _call(job: Job) -> "Outcome":
    return job()
