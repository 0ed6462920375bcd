"""What a Slurm job does on its node: runs the worker of one pack, and has it save when Slurm wants the node back."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.launch.base import SIGNALLED, PackJob
from harness.launch.local import PATIENT_AGENT, together

if TYPE_CHECKING:
    from submitit.core.utils import DelayedSubmission

PREEMPTED = re.compile(r"\bPreemptTime=(?!None\b)\S")
SCONTROL_SECONDS = 60


@dataclass(slots=True)
class PackTask:
    """A pack, as submitit pickles it and calls it on the node."""

    pack: PackJob
    working_folder: Path
    environment: Mapping[str, str]
    """May hold passwords: it travels in the pickle, whose folder is the user's alone."""
    _worker: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    def __call__(self) -> int:
        """Runs the worker to its end; returns its exit code, negative where a signal killed it.

        Raises: SystemExit: the job starts again elsewhere, where the worker goes on.
        """
        _forget_last_result()
        if stop_file(_submitit_folder(), _job_id()).exists():
            return SIGNALLED + signal.SIGTERM
        with self.pack.log.open("a", encoding="utf-8") as log:
            restarts = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
            again = f", started again {restarts} times" if restarts else ""
            print(f"Slurm job {_job_id()} on {socket.gethostname()}{again}", file=log, flush=True)
            # Slurm sends SIGUSR2 to every process of the job; it is for this one, and would kill the worker.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
            self._worker = subprocess.Popen(
                _worker_command(self.pack), cwd=self.working_folder, env={**dict([PATIENT_AGENT]), **os.environ, **self.environment},
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})
            exit_code = self._worker.wait()
        # `accelerate launch` has one exit code for everything.
        was_told = exit_code == SIGNALLED + signal.SIGTERM or (self.pack.processes > 1 and exit_code != 0)
        if was_told and _is_preempted():
            # Where that is refused, Slurm has begun to do it. No result is left: that of the next start counts.
            subprocess.run(["scontrol", "requeue", _job_id()], check=False, timeout=SCONTROL_SECONDS)
            sys.exit(exit_code)
        return exit_code

    def checkpoint(self) -> "DelayedSubmission":
        """Has the worker save; submitit calls it in its handler of SIGUSR2, then requeues the job to call what this returns."""
        from submitit.core.utils import DelayedSubmission

        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        if self._worker is not None:
            # torch's elastic agent passes on SIGTERM alone.
            self._worker.send_signal(signal.SIGUSR1 if self.pack.processes == 1 else signal.SIGTERM)
            with contextlib.suppress(ChildProcessError):
                # Not Popen.wait, in the midst of which the signal has come: its lock is held.
                os.waitid(os.P_PID, self._worker.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(replace(self, _worker=None))


def _worker_command(pack: PackJob) -> list[str]:
    if pack.processes > 1:
        return together(pack)
    return [sys.executable, "-m", "harness", "run-pack", *map(str, pack.folders)]


def _forget_last_result() -> None:
    """Deletes what an earlier start of the same job left, which would pass for the result of this one."""
    from submitit import JobEnvironment

    result = JobEnvironment().paths.result_pickle
    for path in result.parent.glob(f"{result.name}*"):
        path.unlink()


def stop_file(folder: Path, job: str) -> Path:
    """Where `harness run` says that a job which is still starting shall not work."""
    return folder / f"{job}.stop"


def _submitit_folder() -> Path:
    from submitit import JobEnvironment

    return Path(JobEnvironment().paths.folder)


def _job_id() -> str:
    from submitit import JobEnvironment

    return str(JobEnvironment().job_id)


def _is_preempted() -> bool:
    """Whether Slurm gave this job a time of grace; it starts it again only if the job hasn't ended by itself before."""
    command = ["scontrol", "show", "job", "--oneliner", _job_id()]
    asked = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SCONTROL_SECONDS)
    return PREEMPTED.search(asked.stdout) is not None
