"""What Slurm says of jobs: from `squeue`, which every cluster has, and `sacct` where there is accounting."""

import os
import subprocess
from collections.abc import Collection, Sequence

from harness.errors import LaunchError

HELD = "HELD"
"""Not one of Slurm's, which calls such a job PENDING: it waits for somebody to release it."""
LIVING = frozenset(
    (HELD, "PENDING", "CONFIGURING", "RUNNING", "SUSPENDED", "COMPLETING", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING",
     "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD")
)  # fmt: skip
WAITING = frozenset(
    (HELD, "PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD")
)
COMMAND_SECONDS = 120


def job_states(jobs: Collection[str]) -> dict[str, str] | None:
    """The state of each job that Slurm still knows; None where it doesn't answer now."""
    # By user, not by job: an id that it has forgotten is an error to squeue.
    queue = _ask(["squeue", "--noheader", "--array", "--states=all", f"--user={os.getuid()}", "--format=%i|%T|%r"])
    if queue is None:
        return None
    found = _parsed(queue, jobs)
    if forgotten := [job for job in jobs if job not in found]:
        arrays = ",".join(sorted({job.split("_")[0] for job in forgotten}))
        past = _ask(
            [
                "sacct",
                "--noheader",
                "--parsable2",
                "--allocations",
                "--array",
                f"--jobs={arrays}",
                "--format=JobID,State",
            ]
        )
        found |= _parsed(past or "", forgotten)
    return found


def cancel(jobs: Sequence[str], *options: str) -> None:
    """Calls `scancel`; jobs that have ended already are no mistake."""
    if jobs:
        _ask(["scancel", "--quiet", *options, *jobs])


def _parsed(text: str, jobs: Collection[str]) -> dict[str, str]:
    found = {}
    for line in text.splitlines():
        job, _, rest = line.strip().partition("|")
        state, _, reason = rest.partition("|")
        if job in jobs and state:
            is_held = (
                state in ("REQUEUE_HOLD", "SPECIAL_EXIT") or reason.startswith("JobHeld") or reason.endswith(" held")
            )
            # "CANCELLED by 1000" is sacct's way of saying who did it.
            found[job] = HELD if is_held else state.split()[0]
    return found


def _ask(command: Sequence[str]) -> str | None:
    """What a command printed; None where it failed, as all of them do while slurmctld restarts."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=COMMAND_SECONDS)
    except FileNotFoundError as error:
        if command[0] == "sacct":
            return None
        raise LaunchError(
            f"{command[0]} wasn't found; start `harness run` on a machine that has Slurm's commands"
        ) from error
    except subprocess.TimeoutExpired:
        return None
    return done.stdout if done.returncode == 0 else None
