"""Runs packs on this machine: one process a pack, forked from one that has already imported the libraries."""

import contextlib
import logging
import multiprocessing
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from harness.errors import LaunchError
from harness.hardware import visible_gpus
from harness.launch.base import PackJob, PackState
from harness.launch_config import LaunchConfig
from harness.secrets import redact_output
from harness.stopping import SAME_SECONDS, catch_stop_signals, end_with

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5
# Time to end an MLflow run truthfully, and for torch's elastic agent to stop its processes.
STOP_SECONDS = 40.0
# A large process takes a while to be gone.
KILL_SECONDS = 10.0
LIBRARIES = ("harness.pipeline",)
GROUP_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
# torch's elastic agent kills its processes 30 seconds after SIGTERM, in the midst of saving a large checkpoint.
PATIENT_AGENT = ("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "3600")


class LocalLauncher:
    """Worker processes on this machine: one a GPU, or one a share of its CPU cores."""

    def __init__(self, config: LaunchConfig) -> None:
        """Counts what the machine has.

        Raises: LaunchError: a cell wants more GPUs than there are.
        """
        self._devices, self._threads = slots(
            None if config.workers == "auto" else config.workers, config.processes_per_cell
        )

    @property
    def threads(self) -> int:
        """CPU threads of each process."""
        return self._threads

    def launch(self, packs: Sequence[PackJob], environment: Mapping[str, str]) -> Generator[PackState]:
        """Runs every pack once a device is free; the environment is handed over in memory."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(LIBRARIES))
        free = list(self._devices)
        waiting = list(range(len(packs)))
        running: dict[int, tuple[int, str, ForkServerProcess]] = {}
        try:
            while waiting or running:
                while waiting and free:
                    index, device = waiting.pop(0), free.pop(0)
                    process = context.Process(
                        target=_work, args=(packs[index], device, dict(environment)), name=f"pack-{index}"
                    )
                    with _thread_limit(), _signals_held_back():
                        process.start()
                        running[process.sentinel] = (index, device, process)
                    yield PackState(index, None)
                for sentinel in wait(list(running), timeout=POLL_SECONDS):
                    assert isinstance(sentinel, int)
                    index, device, process = running.pop(sentinel)
                    process.join()
                    # Last in the queue: a pack that a device made crash is tried again on another one.
                    free.append(device)
                    yield PackState(index, process.exitcode)
        finally:
            _stop([process for _, _, process in running.values()])


def slots(workers: int | None, processes: int = 1) -> tuple[list[str], int]:
    """GPU ids (or empty strings) that packs may run on, and the CPU threads of each process.

    Raises: LaunchError: a cell wants more GPUs than there are.
    """
    gpus = visible_gpus()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if gpus:
        if processes > len(gpus):
            raise LaunchError(f"launch.processes_per_cell is {processes}, but there are {len(gpus)} GPUs; lower it")
        groups = [",".join(gpus[i : i + processes]) for i in range(0, len(gpus) - processes + 1, processes)]
        if workers and workers > len(groups):
            logger.warning(
                "launch.workers is %d, but the %d GPUs hold %d cells at a time", workers, len(gpus), len(groups)
            )
        chosen = groups[: workers or len(groups)]
        return chosen, max(1, cores // (len(chosen) * processes))
    # One thread a process: two processes with several threads each slow one another down many times.
    count = workers or max(1, cores // processes)
    return [""] * count, max(1, cores // (count * processes))


@contextlib.contextmanager
def _signals_held_back() -> Iterator[None]:
    """For the fork server, which inherits it: killed with the group (`timeout`, a closed terminal), it would take its workers for ended.

    A worker lets them through once it can answer them. Those that come meanwhile count afterwards, also where another thread takes
    them: a worker that is just being started would be known to nobody.
    """
    # It would be started meanwhile, and lets them through.
    multiprocessing.resource_tracker.ensure_running()
    came: list[int] = []
    handlers = {}
    if threading.current_thread() is threading.main_thread():
        handlers = {number: signal.signal(number, lambda signum, _: came.append(signum)) for number in GROUP_SIGNALS}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, GROUP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for number, handler in handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        for signum in came:
            signal.raise_signal(signum)


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
    """Lets workers finish their step and save, however long that takes; a second Ctrl-C ends them now."""
    asked = time.monotonic()
    for process in processes:
        process.terminate()
    if any(process.is_alive() for process in processes):
        logger.warning("workers finish their step and save; Ctrl-C again stops them now")
    try:
        for process in processes:
            process.join()
    except BaseException:
        time.sleep(max(0.0, SAME_SECONDS - (time.monotonic() - asked)))
        _stop_now(processes)
        raise


def _stop_now(processes: Sequence[ForkServerProcess]) -> None:
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
            # Its lock dies with it, and says whether its end was recorded.
            process.join(KILL_SECONDS)


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
    # A closed terminal is the business of `harness run`.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    catch_stop_signals()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, GROUP_SIGNALS)
    _end_with_parent()
    redact_output()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True)
    warnings.simplefilter("ignore")
    if pack.processes > 1:
        os.environ.setdefault(*PATIENT_AGENT)
        os.execv(sys.executable, together(pack))
    run_pack = _pack_runner()
    sys.exit(run_pack(pack.folders))


def together(pack: PackJob) -> list[str]:
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
    holds it open, it never does. So the server can't have died before that.
    """
    end_with(os.getppid(), signal.SIGTERM)
    server = getattr(multiprocessing.forkserver, "_forkserver", None)
    alive = getattr(server, "_forkserver_alive_fd", None)
    if isinstance(alive, int):
        with contextlib.suppress(OSError):
            os.close(alive)


def _pack_runner() -> Callable[[Sequence[Path]], int]:
    """Looked up by name: a launcher knows nothing of training."""
    import importlib

    run_pack: Callable[[Sequence[Path]], int] = importlib.import_module(LIBRARIES[0]).run_pack
    return run_pack
