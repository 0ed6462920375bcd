"""Faults from outside: with this folder on PYTHONPATH, every Python process breaks where the file in CHAOS_PLAN says.

The plan is JSON: `{"faults": [{"name", "cell", "stage", "kind", "whom", "step"}], "database", "outage", "ballast"}`. Python imports
this module when it starts, so it reaches `harness run`, its fork server and its workers, and the product holds no code for tests. A
fault happens once: it leaves a file of its name beside the plan before it strikes.
"""

import ctypes
import errno
import importlib.abc
import importlib.machinery
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

PLAN, PARENT = "CHAOS_PLAN", "CHAOS_PARENT"
# At most: whoever gets a signal may be slow to pass it on.
ARRIVAL_SECONDS = 60.0
OUTAGE_SECONDS = 1.0
LOCK_SECONDS = 6.0
LOCKER = """
import sqlite3, sys, time
database = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
database.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
time.sleep(float(sys.argv[2]))
database.execute("ROLLBACK")
"""


class Now:
    """What this process works on."""

    cell = ""
    folder: Path | None = None


def strike(stage: str, step: int = 0) -> None:
    """Does what the plan has for this moment."""
    path = Path(os.environ[PLAN])
    plan = json.loads(path.read_text())
    for fault in plan["faults"]:
        is_here = fault["stage"] == stage and fault["cell"] in ("*", Now.cell) and step >= fault.get("step", 0)
        if is_here and _is_first(path.parent / "fired" / fault["name"]):
            KINDS[fault["kind"]](fault, plan)


def _is_first(marker: Path) -> bool:
    marker.parent.mkdir(exist_ok=True)
    try:
        with marker.open("x") as file:
            file.write(str(os.getpid()))
    except FileExistsError:
        return False
    return True


def _raise(fault: dict[str, Any], plan: dict[str, Any]) -> None:
    raise RuntimeError(f"chaos: {fault['name']}")


def _exit(fault: dict[str, Any], plan: dict[str, Any]) -> None:
    sys.exit(3)


def _out_of_memory(fault: dict[str, Any], plan: dict[str, Any]) -> None:
    if "torch" not in sys.modules:
        raise MemoryError(f"chaos: {fault['name']}")
    raise sys.modules["torch"].OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8.00 GiB of which 1.00 GiB is free."
    )


def _disk_full(fault: dict[str, Any], plan: dict[str, Any]) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(Now.folder or Path.cwd()))


def _segmentation_fault(fault: dict[str, Any], plan: dict[str, Any]) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.string_at(0)


def _signal(fault: dict[str, Any], plan: dict[str, Any]) -> None:
    """To this process, to `harness run`, or to the whole process group, as a terminal does; waits until it arrives here too."""
    number = signal.Signals[fault["kind"]]
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer)
    try:
        if fault["whom"] == "group":
            os.killpg(os.getpgid(0), number)
        else:
            os.kill(int(os.environ[PARENT]) if fault["whom"] == "parent" else os.getpid(), number)
        select.select([reader], [], [], ARRIVAL_SECONDS)
    finally:
        signal.set_wakeup_fd(before)
        os.close(reader)
        os.close(writer)


def _corrupt(fault: dict[str, Any], plan: dict[str, Any]) -> None:
    """Cuts every file of the newest checkpoint in half, and dies."""
    folders = [Now.folder] if Now.folder else sorted((Path.cwd() / "mlruns/harness").glob("*/cells/*"))
    checkpoints = [path for folder in folders for path in folder.glob("checkpoints/checkpoint-*")]
    newest = max(checkpoints, key=lambda path: path.stat().st_mtime)
    for path in newest.iterdir():
        os.truncate(path, path.stat().st_size // 2)
    os.kill(os.getpid(), signal.SIGKILL)


def _lock_database(fault: dict[str, Any], plan: dict[str, Any]) -> None:
    """Another process holds SQLite's exclusive lock for some seconds."""
    quiet = {name: value for name, value in os.environ.items() if name != PLAN}
    command = [sys.executable, "-c", LOCKER, plan["database"], str(LOCK_SECONDS)]
    locker = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=quiet)
    assert locker.stdout is not None
    locker.stdout.readline()


def _outage(fault: dict[str, Any], plan: dict[str, Any]) -> None:
    """Whoever serves the tracking server's port closes it when this file appears."""
    Path(plan["outage"]).touch()
    time.sleep(OUTAGE_SECONDS)


def _fill_disk(fault: dict[str, Any], plan: dict[str, Any]) -> None:
    """Leaves no byte of the file system; for one of the test's own."""
    with Path(plan["ballast"]).open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise


KINDS: dict[str, Callable[[dict[str, Any], dict[str, Any]], None]] = {
    "exception": _raise, "sys.exit": _exit, "OOM": _out_of_memory, "full disk": _disk_full, "SIGSEGV": _segmentation_fault,
    "SIGINT": _signal, "SIGTERM": _signal, "SIGKILL": _signal, "corrupt checkpoint": _corrupt,
    "database locked": _lock_database, "server down": _outage, "disk fills up": _fill_disk,
}  # fmt: skip


def _before(owner: Any, name: str, hook: Callable[..., None]) -> None:
    """Calls the hook with the arguments of a function, then the function."""
    wrapped = getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        hook(*args, **kwargs)
        return wrapped(*args, **kwargs)

    setattr(owner, name, call)


def _after(owner: Any, name: str, hook: Callable[..., None]) -> None:
    wrapped = getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        result = wrapped(*args, **kwargs)
        hook(*args, **kwargs)
        return result

    setattr(owner, name, call)


def _enter_cell(folder: Any, *_: Any, **__: Any) -> None:
    spec = json.loads(folder.spec.read_text())["cell"]
    Now.cell, Now.folder = spec["name"], folder.path


def _in_the_middle_of(path: Path, record: Any) -> None:
    """Of the result: half of it is in the file that would have been renamed."""
    if path.name == "result.json":
        path.with_name(f".{path.name}.{os.getpid()}.part").write_text(record.model_dump_json()[:99])
        strike("result write")


def _patch_pipeline(module: ModuleType) -> None:
    _before(module, "run_cell", _enter_cell)
    _before(module, "load_splits", lambda *_, **__: strike("splits"))
    _before(module, "write_record", _in_the_middle_of)


def _patch_trainer(module: ModuleType) -> None:
    kind = module.ProbingTrainer
    _before(kind, "training_step", lambda self, *_, **__: strike("training", self.state.global_step + 1))


def _patch_transformers(module: ModuleType) -> None:
    kind = module.Trainer
    # By then the weights are written and the trainer's state isn't.
    _before(kind, "_save_optimizer_and_scheduler", lambda self, *_: strike("checkpoint save", self.state.global_step))
    _after(kind, "_save_checkpoint", lambda self, *_, **__: strike("checkpoint saved", self.state.global_step))


def _patch_answers(module: ModuleType) -> None:
    # Some answers are on disk, and the suite's record is not.
    _after(module.AnswerCache, "add_completions", lambda *_: strike("evaluation"))


def _patch_experiment(module: ModuleType) -> None:
    # The ranking is written, and the report is not.
    _before(module, "write_reports", lambda *_, **__: strike("report"))


def _patch_tracker(module: ModuleType) -> None:
    _before(module.MlflowTracker, "_log_table", lambda *_: strike("logging"))


def _note_parent(_: ModuleType) -> None:
    os.environ[PARENT] = str(os.getpid())


PATCHES: dict[str, Callable[[ModuleType], None]] = {
    "harness.cli.run": _note_parent, "harness.experiment": _patch_experiment, "harness.pipeline": _patch_pipeline,
    "harness.train.trainer": _patch_trainer, "transformers.trainer": _patch_transformers,
    "harness.models.answer_cache": _patch_answers, "harness.tracking.mlflow_tracker": _patch_tracker,
}  # fmt: skip


class _Finder(importlib.abc.MetaPathFinder):
    """Patches a module right after its code ran, whoever imports it first."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in PATCHES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        assert spec is not None and spec.loader is not None, f"{name} is not where the faults expect it"
        _after(spec.loader, "exec_module", PATCHES[name])
        return spec


if PLAN in os.environ:
    sys.meta_path.insert(0, _Finder())
