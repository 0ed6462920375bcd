"""What a Ray task does on its node: runs the worker of one pack, and has it save when the task is cancelled."""

import hashlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from harness.launch.base import PackJob, was_stopped
from harness.launch.local import together
from harness.resources import is_there

POLL_SECONDS = 0.2
LOG_TAIL = 1 << 20
"""Bytes of a worker's output that travel back from a node that doesn't share the folder."""
NAMES_PATH = re.compile(r"_(HOME|CACHE|PATH|FILE|DIR|CREDENTIALS)$")
# Asked before the worker is what it is: the kernel forgets nothing of it then.
TIED = """\
import ctypes, os, sys
signum, parent, *command = sys.argv[1:]
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, int(signum))
if os.getppid() != int(parent):
    sys.exit(1)
os.execv(command[0], command)
"""


class Order(NamedTuple):
    """All that a node is told of a pack."""

    job: PackJob
    names: str
    """Of its cells, as people know them."""
    mark: Path
    """Made for this launch alone: a node that finds it shares the folder, and has no copy of it."""
    working_folder: Path
    environment: Mapping[str, str]
    """May hold passwords: it travels as an argument, which no list of tasks shows."""
    bundle: tuple[str, str] | None = None
    """MLflow run and digest of what a node fetches that doesn't share the folder."""


class Outcome(NamedTuple):
    """What became of a pack on a node."""

    node: str
    node_id: str
    """Ray's: several nodes may be on one machine."""
    exit_code: int
    """Negative: the signal that killed the worker."""
    is_absent: bool = False
    """Whether the node doesn't share the folder and was told of no bundle: nothing was run."""
    trouble: str = ""
    """Why the worker can't run on this node at all."""
    log: str | None = None
    """The worker's output, where the node doesn't share the folder."""
    results: tuple[str, ...] = ()
    """Digests of the results that its cells have there; empty where one has none."""


def token(file: Path) -> str:
    """Digest of a file; empty where there is none."""
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return ""


def run_order(order: Order, node_id: str) -> Outcome:
    """Runs a pack to its end in the folder that the node shares, or in one of its own."""
    nowhere = Outcome(socket.gethostname(), node_id, 1)
    order = order._replace(environment=_known_here(order.environment))
    if is_there(order.mark):
        return nowhere._replace(exit_code=_run_here(order.job, order.working_folder, order.environment))
    if order.bundle is None:
        return nowhere._replace(is_absent=True)
    return _run_there(order, order.bundle, nowhere)


def _known_here(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables without those that name a folder or file (`HF_HOME`, say) which this node has not."""
    return {
        name: value
        for name, value in environment.items()
        if not (NAMES_PATH.search(name) and value.startswith("/") and not is_there(Path(value)))
    }


def _place() -> str:
    """This node, as logs name it; several may be on one machine."""
    import ray

    return f"{socket.gethostname()}, node {ray.get_runtime_context().get_node_id()}"


def _run_here(job: PackJob, working_folder: Path, environment: Mapping[str, str]) -> int:
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("a", encoding="utf-8") as file:
        print(f"Ray task on {_place()}", file=file)
    worker = [sys.executable, "-m", "harness", "run-pack", *map(str, job.folders)]
    is_several = job.processes > 1
    return _wait_for(together(job) if is_several else worker, job.log, working_folder, environment, gently=is_several)


def _run_there(order: Order, bundle: tuple[str, str], nowhere: Outcome) -> Outcome:
    """In a folder of the node's own, with what was fetched from the tracking server; the records go back there."""
    cells = [folder.name for folder in order.job.folders]
    command = [sys.executable, "-m", "harness", "run-pack", "--fetch", *bundle, *cells]
    exit_code, out, err = _answer(command, order.environment)
    if was_stopped(exit_code):
        return nowhere._replace(exit_code=exit_code)
    if exit_code:
        return nowhere._replace(trouble=(err.strip().splitlines() or ["it could not fetch the bundle"])[-1])
    experiment = Path(out.strip().splitlines()[-1])
    folders = tuple(experiment / "cells" / folder.name for folder in order.job.folders)
    job = replace(order.job, folders=folders, log=folders[0] / order.job.log.name)
    exit_code = _run_here(job, experiment.parents[2], order.environment)
    if exit_code >= 0:
        deliver = [sys.executable, "-m", "harness", "run-pack", "--deliver", *map(str, folders)]
        _wait_for(deliver, job.log, experiment.parents[2], order.environment, gently=False)
    log = job.log.read_bytes()[-LOG_TAIL:].decode(errors="replace")
    results = tuple(token(folder / "result.json") for folder in folders)
    return nowhere._replace(exit_code=exit_code, log=log, results=results)


def _answer(command: Sequence[str], environment: Mapping[str, str]) -> tuple[int, str, str]:
    """Exit code, output and errors of a command; a cancelled task ends it."""
    asked = subprocess.Popen(
        command, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while True:
        try:
            out, err = asked.communicate(timeout=POLL_SECONDS)
            return asked.returncode, out, err
        except subprocess.TimeoutExpired:
            continue
        except KeyboardInterrupt:
            asked.terminate()


def _wait_for(command: Sequence[str], log: Path, cwd: Path, environment: Mapping[str, str], *, gently: bool) -> int:
    """Runs a command to its end; a cancelled task passes on SIGTERM, as often as it is cancelled, and goes on waiting.

    Args:
        command: of a worker.
        log: its output is added there.
        cwd: its working folder.
        environment: beside this process's own, in which Ray says which GPUs are the task's.
        gently: whether it is to end its own processes when the task's process is killed, as the node dies, say.
    """
    dying = signal.SIGTERM if gently else signal.SIGKILL
    tied = [sys.executable, "-S", "-c", TIED, str(int(dying)), str(os.getpid()), *command]
    with log.open("a", encoding="utf-8") as file:
        worker = subprocess.Popen(
            tied, cwd=cwd, env=os.environ | environment, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
        )  # fmt: skip
        while True:
            try:
                # Ray interrupts Python, not the system call: a plain wait would never hear of it.
                while worker.poll() is None:
                    time.sleep(POLL_SECONDS)
                return worker.returncode
            except KeyboardInterrupt:
                worker.send_signal(signal.SIGTERM)
