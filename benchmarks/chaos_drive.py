"""Starts `harness run` in a folder of its own, with faults or without, and waits until nobody of it is left."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil

ROOT = Path(__file__).parent.parent
FAULTS = ROOT / "tests" / "faults"
NAME = "chaos"
RUN_SECONDS = 1800.0
ORPHAN_SECONDS = 240.0
YAML = """\
name: chaos
description: Does a grid survive?
model: {name: embedded:base}
template: {name: chatml}
data: {train: data/train.jsonl, validation: data/validation.jsonl, test: data/test.jsonl}
training:
  max_steps: 4
  eval_steps: 2
  per_device_train_batch_size: 4
  max_length: 64
  gradient_checkpointing: false
  lr_scheduler_type: linear
evals: [{suite: held_out, max_new_tokens: 6}]
ranking: {by: held_out.nll, gates: []}
tracking: {system_metrics: false}
"""
SPLITS = {"train": 16, "validation": 6, "test": 8}


class Life(NamedTuple):
    """One `harness run`, from its start to its end."""

    exit_code: int
    """Negative: the signal that killed it."""
    seconds: float
    output: str
    left: tuple[str, ...]
    """Commands of processes that did not end after it."""


def write_grid(folder: Path, cells: Sequence[str], *, workers: int) -> Path:
    """A folder with an experiment of tiny cells of these names, each with a learning rate of its own."""
    (folder / "data").mkdir(parents=True)
    first = 0
    for split, count in SPLITS.items():
        rows = [_row(number) for number in range(first, first + count)]
        (folder / "data" / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        first += count
    variants = {name: {"training.learning_rate": 1e-3 * (1 + index / 64)} for index, name in enumerate(cells)}
    text = f"{YAML}launch: {{workers: {workers}}}\nvariants: {json.dumps(variants)}\n"
    (folder / "chaos.yaml").write_text(text)
    return folder


def _row(number: int) -> dict[str, Any]:
    roses = ("red", "white", "yellow")[number % 3]
    return {
        "messages": [
            {"role": "user", "content": f"I want {number} {roses} roses."},
            {"role": "assistant", "content": f"{number} roses, {roses}, are noted."},
        ]
    }


def environment(plan: Path | None = None, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Of a `harness` of this checkout, with the faults of a plan."""
    path = [str(ROOT), *([str(FAULTS)] if plan else []), os.environ.get("PYTHONPATH", "")]
    kept = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    chosen = {
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "HF_HUB_OFFLINE": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    return kept | chosen | ({"CHAOS_PLAN": str(plan)} if plan else {}) | dict(more or {})


def start(folder: Path, *arguments: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """`harness ARGUMENTS` in a session of its own, as from a terminal; its output goes to `out.txt` of the folder."""
    with (folder / "out.txt").open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "harness", *arguments], cwd=folder, env=dict(env or environment()), stdout=out, stderr=out,
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip


def live(folder: Path, *arguments: str, env: Mapping[str, str] | None = None) -> Life:
    """The same to its end, and until its last process has gone."""
    started, before = time.monotonic(), size(folder / "out.txt")
    process = start(folder, *arguments, env=env)
    try:
        code = process.wait(RUN_SECONDS)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    left = wait_for_orphans(process.pid)
    output = (folder / "out.txt").read_bytes()[before:].decode(errors="replace")
    return Life(code, time.monotonic() - started, output, left)


def size(path: Path) -> int:
    """Bytes of a file; 0 where there is none."""
    return path.stat().st_size if path.exists() else 0


def members(session: int) -> list[psutil.Process]:
    """Living processes of a session."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def wait_for_orphans(session: int) -> tuple[str, ...]:
    """Until nobody of a session is left: workers end by themselves after their parent's death. Gives the commands of those that don't."""
    deadline = time.monotonic() + ORPHAN_SECONDS
    while left := members(session):
        if time.monotonic() > deadline:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(session, signal.SIGKILL)
            return tuple(_command(process) for process in left)
        time.sleep(0.1)
    return ()


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())[:100]
    except psutil.NoSuchProcess:
        return "a process that ended just now"


def reference_run(folder: Path, name: str = "chaos.yaml") -> float:
    """Runs an experiment without any fault; gives the seconds that it takes.

    Raises: AssertionError: it doesn't finish even so.
    """
    life = live(folder, "run", name)
    assert life.exit_code == 0, life.output[-3000:]
    return life.seconds
