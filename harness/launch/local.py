"""Runs packs on this machine: one process a pack, forked from one that has already imported the libraries."""

import contextlib
import ctypes
import logging
import multiprocessing
import multiprocessing.forkserver
import os
import signal
import socket
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from harness.errors import LaunchError
from harness.hardware import visible_gpus
from harness.secrets import redact_output

POLL_SECONDS = 0.5
# Longer than torch's elastic agent takes to stop its processes.
STOP_SECONDS = 40.0
LIBRARIES = ("harness.pipeline",)
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class PackJob:
    """Cell folders that one process trains, and where its output goes."""

    folders: tuple[Path, ...]
    log: Path
    processes: int = 1
    """More than one: they train each cell together, under `accelerate launch`."""
    accelerate_config: str | None = None


@dataclass(frozen=True, slots=True)
class PackState:
    """What became of one pack."""

    index: int
    exit_code: int | None
    """None while it runs; 0 when every cell finished; negative: the signal that killed it."""


def slots(max_workers: int | None, processes: int = 1) -> tuple[list[str], int]:
    """GPU ids (or empty strings) that packs may run on, and the CPU threads of each process.

    Raises: LaunchError: a cell wants more GPUs than there are.
    """
    gpus = visible_gpus()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if gpus:
        if processes > len(gpus):
            raise LaunchError(f"launch.processes_per_cell is {processes}, but there are {len(gpus)} GPUs; lower it")
        groups = [",".join(gpus[i : i + processes]) for i in range(0, len(gpus) - processes + 1, processes)]
        chosen = groups[: max_workers or len(groups)]
        return chosen, max(1, cores // (len(chosen) * processes))
    # One thread a process: two processes with several threads each slow one another down many times.
    count = max_workers or max(1, cores // processes)
    return [""] * count, max(1, cores // (count * processes))


def launch(packs: Sequence[PackJob], devices: Sequence[str], environment: Mapping[str, str]) -> Iterator[PackState]:
    """Runs every pack once a device is free; yields a state whenever one starts (exit code None) or ends.

    Args:
        packs: what to run, first things first.
        devices: GPU ids, or empty strings for the CPU; one pack at a time on each.
        environment: variables of the workers, handed over in memory: they may hold passwords.

    On Ctrl-C the workers are asked to stop, so that they end their MLflow runs truthfully.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(LIBRARIES))
    free = list(devices)
    waiting = list(range(len(packs)))
    running: dict[int, tuple[int, str, ForkServerProcess]] = {}
    try:
        while waiting or running:
            while waiting and free:
                index, device = waiting.pop(0), free.pop(0)
                process = context.Process(
                    target=_work, args=(packs[index], device, dict(environment)), name=f"pack-{index}"
                )
                with _thread_limit():
                    process.start()
                running[process.sentinel] = (index, device, process)
                yield PackState(index, None)
            for sentinel in wait(list(running), timeout=POLL_SECONDS):
                assert isinstance(sentinel, int)
                index, device, process = running.pop(sentinel)
                process.join()
                free.append(device)
                yield PackState(index, process.exitcode)
    finally:
        _stop([process for _, _, process in running.values()])


@contextlib.contextmanager
def _thread_limit() -> Iterator[None]:
    """OpenMP reads its limit when it is loaded, in the fork server; each worker raises it again through torch."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("OMP_NUM_THREADS", None)


def _stop(processes: Sequence[ForkServerProcess]) -> None:
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()


def _work(pack: PackJob, device: str, environment: dict[str, str]) -> None:
    """The worker: prints to its log file only, sees its GPU only, ends on SIGTERM as on an exception."""
    pack.log.parent.mkdir(parents=True, exist_ok=True)
    with pack.log.open("a", buffering=1, encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.update(environment)
    if device:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _raise_exit)
    _end_with_parent()
    redact_output()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True)
    warnings.simplefilter("ignore")
    if pack.processes > 1:
        os.execv(sys.executable, _together(pack))
    run_pack = _pack_runner()
    sys.exit(0 if run_pack(pack.folders) else 1)


def _together(pack: PackJob) -> list[str]:
    """The command that trains a pack's cells with several processes each; on a CPU, Accelerate takes gloo by itself."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = (
        ["--config_file", pack.accelerate_config]
        if pack.accelerate_config
        else ["--multi_gpu", "--mixed_precision", "no", "--dynamo_backend", "no"]
    )
    return [
        sys.executable, "-m", "accelerate.commands.launch", *settings, "--num_processes", str(pack.processes),
        "--num_machines", "1", "--main_process_port", str(port), "-m", "harness", "run-pack", *map(str, pack.folders),
    ]  # fmt: skip


def _end_with_parent() -> None:
    """Linux: SIGTERM for this worker when the fork server dies, as it does once `harness run` was killed.

    CPython hands every worker the pipe by whose end the fork server notices that its parent is gone; as long as one worker
    holds it open, it never does.
    """
    server = getattr(multiprocessing.forkserver, "_forkserver", None)
    alive = getattr(server, "_forkserver_alive_fd", None)
    if isinstance(alive, int):
        with contextlib.suppress(OSError):
            os.close(alive)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _raise_exit(signum: int, _: object) -> None:
    sys.exit(128 + signum)


def _pack_runner() -> Callable[[Sequence[Path]], bool]:
    """Looked up by name: a launcher knows nothing of training."""
    import importlib

    run_pack: Callable[[Sequence[Path]], bool] = importlib.import_module(LIBRARIES[0]).run_pack
    return run_pack
