"""What a Ray task does on its node: runs the worker of one pack, and has it save when the task is cancelled."""

import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import harness
from harness.launch.base import PackJob
from harness.launch.local import together

POLL_SECONDS = 0.2
LOG_TAIL = 1 << 20
"""Bytes of a worker's output that travel back from a node that doesn't share the folder."""
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
    tokens: tuple[str, ...]
    """Digests of the `cell.json` of its folders: a node that finds the same files there shares the folder."""
    working_folder: Path
    environment: Mapping[str, str]
    """May hold passwords: it travels as an argument, which no list of tasks shows."""
    version: str
    bundle: tuple[str, str] | None = None
    """MLflow run and digest of what a node fetches that doesn't share the folder."""


class Outcome(NamedTuple):
    """What became of a pack on a node."""

    node: str
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


def token(cell_file: Path) -> str:
    """Digest of a file; empty where there is none."""
    try:
        return hashlib.sha256(cell_file.read_bytes()).hexdigest()
    except OSError:
        return ""


def run_order(order: Order) -> Outcome:
    """Runs a pack to its end in the folder that the node shares, or in one of its own."""
    node = socket.gethostname()
    if harness.__version__ != order.version:
        return Outcome(node, 1, trouble=f"it has sft-harness {harness.__version__}, not {order.version}")
    if tuple(token(folder / "cell.json") for folder in order.job.folders) == order.tokens:
        return Outcome(node, _run_here(order.job, order.working_folder, order.environment))
    if order.bundle is None:
        return Outcome(node, 1, is_absent=True)
    return _run_there(order, node)


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


def _run_there(order: Order, node: str) -> Outcome:
    """In a folder of the node's own, with what was fetched from the tracking server; the records go back there."""
    assert order.bundle is not None, "there is something to fetch"
    cells = [folder.name for folder in order.job.folders]
    command = [sys.executable, "-m", "harness", "run-pack", "--fetch", *order.bundle, *cells]
    fetched = subprocess.run(command, env=os.environ | order.environment, capture_output=True, text=True, check=False)
    if fetched.returncode:
        return Outcome(node, 1, trouble=(fetched.stderr.strip().splitlines() or ["it could not fetch the bundle"])[-1])
    experiment = Path(fetched.stdout.strip().splitlines()[-1])
    folders = tuple(experiment / "cells" / folder.name for folder in order.job.folders)
    job = replace(order.job, folders=folders, log=folders[0] / order.job.log.name)
    exit_code = _run_here(job, experiment.parents[2], order.environment)
    if exit_code >= 0:
        deliver = [sys.executable, "-m", "harness", "run-pack", "--deliver", *map(str, folders)]
        _wait_for(deliver, job.log, experiment.parents[2], order.environment, gently=False)
    log = job.log.read_bytes()[-LOG_TAIL:].decode(errors="replace")
    return Outcome(node, exit_code, log=log, results=tuple(token(folder / "result.json") for folder in folders))


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
