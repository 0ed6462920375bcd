"""Runs packs as one Slurm job array, which lives on when `harness run` dies and is found again by the next one."""

import contextlib
import logging
import math
import os
import signal
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import Any

from harness.errors import LaunchError
from harness.launch.base import SIGNALLED, PackJob, PackState
from harness.launch.slurm_queue import HELD, LIVING, WAITING, cancel, job_states
from harness.launch.slurm_task import PackTask, stop_file
from harness.launch_config import LaunchConfig
from harness.store import CellFolder, ExperimentFolder, write_text

logger = logging.getLogger(__name__)

POLL_SECONDS = (2.0, 15.0)
RESULT_SECONDS = 30.0
"""How long a file may take to show on this machine after the job that wrote it has ended."""
# A job of 12 hours may go on for 25 days; then somebody should look at it.
MAX_TIMEOUTS = 50
NO_RECORD = 70
"""Exit code of a pack whose job broke outside of the worker (EX_SOFTWARE of sysexits.h)."""
STOPPED = SIGNALLED + signal.SIGTERM
ENDS = {
    "CANCELLED": (STOPPED, "cancelled (scancel)"),
    "PREEMPTED": (STOPPED, "preempted, on a partition that doesn't start jobs again"),
    "TIMEOUT": (STOPPED, "its time ended before it had saved; raise launch.time or launch.signal_delay_s"),
    "DEADLINE": (STOPPED, "its deadline came"),
    "OUT_OF_MEMORY": (-signal.SIGKILL, "out of memory (Slurm); raise launch.mem"),
    "NODE_FAIL": (-signal.SIGKILL, "its node failed"),
    "BOOT_FAIL": (-signal.SIGKILL, "its node failed"),
}
"""Exit code and reason by the state that Slurm gives."""


class SlurmLauncher:
    """A Slurm cluster whose nodes see the working folder and the same Python."""

    def __init__(self, config: LaunchConfig, folder: ExperimentFolder) -> None:
        """Looks for what it needs, before anything is started.

        Raises: LaunchError: submitit or Slurm's commands are missing.
        """
        if find_spec("submitit") is None:
            raise LaunchError("launch.kind slurm needs submitit; pip install 'sft-harness[slurm]'")
        for program in ("sbatch", "srun", "squeue", "scancel"):
            if which(program) is None:
                raise LaunchError(f"{program} wasn't found; start `harness run` on a machine that has Slurm's commands")
        self._config = config
        self._folder = folder.slurm
        self._name = folder.path.name

    @property
    def threads(self) -> int:
        """CPU threads of each process."""
        return max(1, self._config.cpus_per_task // self._config.processes_per_cell)

    def launch(self, packs: Sequence[PackJob], environment: Mapping[str, str]) -> Generator[PackState]:
        """Submits one array with every pack that no living job works on already; the environment lies in a folder of mode 0700."""
        jobs = _jobs_at_work(packs)
        for index, job in jobs.items():
            logger.info("%s: Slurm job %s works on it already", packs[index].folders[0].name, job)
        rest = [index for index in range(len(packs)) if index not in jobs]
        if rest:
            jobs |= dict(zip(rest, self._submit([packs[i] for i in rest], environment), strict=True))
            logger.info("submitted %d Slurm jobs: %s", len(rest), jobs[rest[0]].split("_")[0])
        open_jobs = dict(jobs)
        try:
            yield from self._follow(open_jobs)
        finally:
            self._stop(list(open_jobs.values()))

    def _submit(self, packs: Sequence[PackJob], environment: Mapping[str, str]) -> list[str]:
        from submitit import SlurmExecutor
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder.chmod(0o700)
        executor = SlurmExecutor(self._folder, max_num_timeout=MAX_TIMEOUTS)
        processes = max(pack.processes for pack in packs)
        executor.update_parameters(**_sbatch_options(self._config, self._name, len(packs), processes))
        tasks = [PackTask(pack, Path.cwd(), dict(environment)) for pack in packs]
        try:
            with _outside_of_jobs():
                jobs = executor.submit_array(tasks)
        except (FailedJobError, FailedSubmissionError, OSError) as error:
            reason = (str(error).strip().splitlines() or ["no reason given"])[-1]
            raise LaunchError(f"sbatch refused the jobs: {reason}; check the section launch:") from error
        ids = [str(job.job_id) for job in jobs]
        try:
            for pack, job in zip(packs, ids, strict=True):
                for folder in pack.folders:
                    write_text(CellFolder(folder).slurm_job, job)
        except BaseException:
            # Nobody would know of them.
            cancel(ids)
            raise
        return ids

    def _follow(self, jobs: dict[int, str]) -> Iterator[PackState]:
        """Takes jobs away as they end; a job that Slurm starts again hasn't ended."""
        running: set[int] = set()
        held: set[int] = set()
        pause = POLL_SECONDS[0]
        while jobs:
            states = job_states(list(jobs.values()))
            if states is None:
                time.sleep(POLL_SECONDS[1])
                continue
            before = (len(jobs), len(running))
            for index, job in list(jobs.items()):
                state = states.get(job)
                if state == HELD and index not in held:
                    held.add(index)
                    logger.warning("Slurm job %s is held; `scontrol release %s` lets it start", job, job)
                if state in WAITING and index in running:
                    logger.warning("Slurm job %s was stopped and waits to go on", job)
                    running.discard(index)
                elif state in ("RUNNING", "COMPLETING") and index not in running:
                    running.add(index)
                    yield PackState(index, None)
                elif state not in LIVING:
                    # Slurm keeps no record of a task that was cancelled before it was ever started.
                    never_started = state is None and index not in running
                    exit_code, why = self._outcome(job, "CANCELLED" if never_started else state)
                    del jobs[index]
                    running.discard(index)
                    yield PackState(index, exit_code, why)
            pause = POLL_SECONDS[0] if before != (len(jobs), len(running)) else min(pause * 1.3, POLL_SECONDS[1])
            if jobs:
                time.sleep(pause)

    def _outcome(self, job: str, state: str | None) -> tuple[int, str]:
        """The exit code of a job that has ended, and what Slurm says of it."""
        told = self._result(job, patient=state not in ENDS)
        if told == ("success", 0):
            return 0, ""
        if state in ENDS:
            return ENDS[state]
        if told is None:
            return (
                NO_RECORD,
                f"Slurm job {job} ended ({state or 'unknown to Slurm'}) before its worker did; see {self._folder}/{job}_0_log.err",
            )
        kind, value = told
        if kind == "success":
            return int(value), ""
        reason = str(value).strip().splitlines()[-1]
        if "timed-out too many times" in reason:
            return SIGNALLED + signal.SIGUSR1, f"its time ended {MAX_TIMEOUTS + 1} times"
        return NO_RECORD, f"Slurm job {job}: {reason}"

    def _result(self, job: str, *, patient: bool) -> tuple[str, Any] | None:
        """What submitit kept of a job: ("success", exit code) or ("error", traceback); None where there is nothing."""
        from submitit.core.utils import JobPaths, pickle_load

        path = JobPaths(self._folder, job_id=job).result_pickle
        deadline = time.monotonic() + (RESULT_SECONDS if patient else 0)
        while not path.exists():
            if time.monotonic() >= deadline:
                return None
            time.sleep(POLL_SECONDS[0])
        kind, value = pickle_load(path)
        return kind, value

    def _stop(self, jobs: Sequence[str]) -> None:
        """Cancels what waits, and lets the others finish their step and save; a second Ctrl-C cancels them now."""
        alive = list(jobs)
        if not alive:
            return
        for job in alive:
            # A signal doesn't reach one that is still starting.
            with contextlib.suppress(OSError):
                stop_file(self._folder, job).touch()
        cancel(alive, "--state=PENDING")
        # Plain scancel would kill them after the cluster's KillWait, often 30 seconds.
        cancel(alive, "--signal=TERM")
        logger.warning("Slurm jobs finish their step and save; Ctrl-C again cancels them now")
        try:
            while alive:
                states = job_states(alive)
                alive = alive if states is None else [job for job in alive if states.get(job) in LIVING]
                # One that was about to start again must not.
                cancel(alive, "--state=PENDING")
                if alive:
                    time.sleep(POLL_SECONDS[0])
        except BaseException:
            cancel(alive)
            raise


@contextlib.contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Hides the job that this process may itself run in (`salloc`, say): its size would mix with that of the new ones."""
    from submitit.helpers import clean_env

    if "SLURM_JOB_ID" not in os.environ:
        yield
        return
    own = {key: value for key, value in os.environ.items() if key == "SLURM_CONF" or key.startswith("SBATCH_")}
    with clean_env():
        os.environ.update(own)
        yield


def _sbatch_options(config: LaunchConfig, name: str, num_packs: int, processes: int) -> dict[str, Any]:
    """Parameters of submitit's executor."""
    gpus = config.gpus_per_task if config.gpus_per_task is not None else (processes if processes > 1 else None)
    assert config.time is not None, "every config of this kind has one"
    given = {
        "partition": config.partition, "account": config.account, "qos": config.qos, "gpus_per_node": gpus,
        "setup": list(config.setup) or None,
    }  # fmt: skip
    own = {"requeue": True, **({"mem": config.mem} if config.mem else {})}
    return {
        "job_name": f"harness-{name}",
        "time": minutes(config.time),
        "cpus_per_task": config.cpus_per_task,
        # Since Slurm 22.05 the step doesn't inherit it, and all threads of a worker would share one core.
        "srun_args": [f"--cpus-per-task={config.cpus_per_task}"],
        "signal_delay_s": config.signal_delay_s,
        "array_parallelism": num_packs if config.workers == "auto" else config.workers,
        "additional_parameters": own | {key.replace("_", "-"): v for key, v in config.additional_parameters.items()},
        **{key: value for key, value in given.items() if value is not None},
    }


def minutes(limit: str) -> int:
    """Slurm's `MM:SS`, `HH:MM:SS`, `D-HH:MM` or `D-HH:MM:SS` in minutes, rounded up."""
    days, dash, rest = limit.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    units = (60.0, 1.0, 1 / 60) if dash or len(parts) == 3 else (1.0, 1 / 60)
    return math.ceil(int(days or 0) * 24 * 60 + sum(part * unit for part, unit in zip(parts, units, strict=False)))


def _jobs_at_work(packs: Sequence[PackJob]) -> dict[int, str]:
    """Pack -> job that an earlier `harness run` submitted for one of its cells and that hasn't ended."""
    recorded: dict[int, str] = {}
    for index, pack in enumerate(packs):
        for folder in pack.folders:
            with contextlib.suppress(FileNotFoundError):
                recorded[index] = CellFolder(folder).slurm_job.read_text(encoding="utf-8").strip()
    if not recorded:
        return {}
    states = job_states(list(recorded.values()))
    if states is None:
        raise LaunchError(
            "squeue doesn't answer, so nobody knows whether jobs of this experiment still run; try again later"
        )
    return {index: job for index, job in recorded.items() if states.get(job) in LIVING}
