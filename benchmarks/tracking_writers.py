"""Eight trainings that write to one store at once: is anything lost or there twice, and what does it cost a training?

    python -m benchmarks.tracking_writers [--store sqlite|postgres|both] [--writers 8] [--steps 5000] [--step-ms 50] [--json]

Every writer is a process with a run of its own, and logs some metrics a step through the harness's own writer. A step computes
for a few milliseconds in Python, which holds the interpreter's lock, and sleeps for the rest: so many processes as this would
starve one another on a few cores if all of them computed. The same loop without tracking, before and after, is the measure.
`--step-ms 0` neither computes nor sleeps: as fast as it goes. PostgreSQL is started for the purpose.
"""

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.synchronize import Barrier
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import psutil

from benchmarks.clusters.postgres_database import postgres_database
from harness.tracking import connection
from harness.tracking.writer import MetricWriter

METRICS = ("loss", "grad_norm", "learning_rate", "mean_token_accuracy")
COMPUTED_SHARE = 0.04
"""Of a step, in Python; the rest sleeps."""
BASELINE_SHARE = 0.1
"""Steps without tracking, before and again after, for every step with it."""


class Written(NamedTuple):
    """What one writer did."""

    run_id: str
    left: int
    """Metrics that the writer could not send."""
    steps_seconds: float
    call_seconds: float
    """Of the training thread, a step, in calls of the writer."""
    longest_call_seconds: float
    computed_seconds: float
    """Wall time of a step's computation, beside the writer's thread."""
    baseline_seconds: float
    """The same without tracking."""
    thread_seconds: float
    """CPU time of the writer's thread, a step."""
    close_seconds: float


class Measured(NamedTuple):
    """One store."""

    store: str
    writers: int
    steps: int
    step_ms: float
    points: int
    """Of all curves, as they have to be."""
    lost: int
    twice: int
    wrong: int
    """Points with another value."""
    seconds: float
    """From the first step to the last writer's end."""
    call_percent: float
    """Of the step: calls of the training thread."""
    slowdown_percent: float
    """Of the step: what its computation took longer than without tracking; negative: noise."""
    thread_percent: float
    """Of the step: CPU time of the writer's thread, the most that a training could lose which never lets go of the lock."""
    longest_call_ms: float
    close_seconds: float
    """The slowest writer's, to send what was still waiting."""


def value_of(writer: int, metric: int, step: int) -> float:
    """What a writer logs; no two are the same."""
    return writer + metric / 10 + 1.0 / step


def _compute(units: int) -> None:
    total = 0
    for unit in range(units):
        total += unit & 7


def _units(seconds: float) -> int:
    """Rounds of `_compute` that take so long when nobody else computes."""
    started = time.perf_counter()
    _compute(1_000_000)
    return int(1_000_000 * seconds / (time.perf_counter() - started))


def _loop(
    steps: int, step_seconds: float, units: int, writer: MetricWriter | None, number: int
) -> tuple[float, float, float]:
    """Seconds of computation and of calls, a step, and of the longest call."""
    computed = called = longest = 0.0
    for step in range(1, steps + 1):
        started = time.perf_counter()
        _compute(units)
        now = time.perf_counter()
        computed += now - started
        if writer is not None:
            writer.put({name: value_of(number, place, step) for place, name in enumerate(METRICS)}, step)
            taken = time.perf_counter() - now
            called, longest = called + taken, max(longest, taken)
        if step_seconds:
            time.sleep(max(0.0, step_seconds - (time.perf_counter() - started)))
    return computed / max(1, steps), called / max(1, steps), longest


def _writer_cpu_seconds() -> float:
    [thread] = [thread for thread in threading.enumerate() if thread.name == "mlflow-writer"]
    return sum(row.user_time + row.system_time for row in psutil.Process().threads() if row.id == thread.native_id)


class _Task(NamedTuple):
    """What all writers do."""

    uri: str
    experiment_id: str
    steps: int
    step_seconds: float
    units: int
    to: Path


def _write(number: int, task: _Task, barrier: Barrier) -> None:
    steps, step_seconds, units = task.steps, task.step_seconds, task.units
    connection.select_store(task.uri)
    client = connection.client()
    run_id = client.create_run(task.experiment_id, run_name=f"writer {number}").info.run_id
    baseline_steps = int(steps * BASELINE_SHARE) if step_seconds else 0
    barrier.wait()
    before, _, _ = _loop(baseline_steps, step_seconds, units, None, number)
    barrier.wait()
    writer, started = MetricWriter(client, run_id), time.perf_counter()
    computed, called, longest = _loop(steps, step_seconds, units, writer, number)
    stepped = time.perf_counter() - started
    busy = _writer_cpu_seconds()
    left = writer.close()
    closed = time.perf_counter() - started - stepped
    barrier.wait()
    after, _, _ = _loop(baseline_steps, step_seconds, units, None, number)
    written = Written(run_id, left, stepped, called, longest, computed, (before + after) / 2, busy / steps, closed)  # fmt: skip
    (task.to / f"{number}.json").write_text(json.dumps(written))


def measure(store: str, uri: str, writers: int, steps: int, step_ms: float) -> Measured:
    """Lets the writers write, and reads back all that they wrote."""
    experiment_id = connection.connect(uri, f"writers-{time.time():.0f}")
    context = multiprocessing.get_context("spawn")
    barrier, step_seconds = context.Barrier(writers), step_ms / 1000
    units = _units(COMPUTED_SHARE * step_seconds)
    with tempfile.TemporaryDirectory() as scratch:
        task = _Task(uri, experiment_id, steps, step_seconds, units, Path(scratch))
        processes = [context.Process(target=_write, args=(number, task, barrier)) for number in range(writers)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        assert all(process.exitcode == 0 for process in processes), "a writer died"
        done = [Written(*json.loads((Path(scratch) / f"{n}.json").read_text())) for n in range(writers)]
    lost, twice, wrong = (sum(counts) for counts in zip(*_compared(done, steps), strict=True))
    share = 100 / step_seconds if step_seconds else 100 / fmean(row.steps_seconds / steps for row in done)
    return Measured(
        store, writers, steps, step_ms, points=writers * steps * len(METRICS), lost=lost, twice=twice, wrong=wrong,
        seconds=max(row.steps_seconds + row.close_seconds for row in done),
        call_percent=share * fmean(row.call_seconds for row in done),
        slowdown_percent=share * fmean(row.computed_seconds - row.baseline_seconds for row in done),
        thread_percent=share * fmean(row.thread_seconds for row in done),
        longest_call_ms=1000 * max(row.longest_call_seconds for row in done),
        close_seconds=max(row.close_seconds for row in done),
    )  # fmt: skip


def _compared(done: Sequence[Written], steps: int) -> Iterator[tuple[int, int, int]]:
    """Points of every curve that are missing, there again, and of another value."""
    client = connection.client()
    for number, row in enumerate(done):
        for place, name in enumerate(METRICS):
            stored = [(point.step, point.value) for point in client.get_metric_history(row.run_id, name)]
            values = dict(stored)
            wrong = sum(value != value_of(number, place, step) for step, value in values.items())
            yield steps - len(values), len(stored) - len(values), wrong


@contextmanager
def _stores(wanted: str) -> Iterator[list[tuple[str, str]]]:
    with tempfile.TemporaryDirectory() as scratch:
        sqlite = ("SQLite", f"sqlite:///{scratch}/mlflow.db")
        if wanted == "sqlite":
            yield [sqlite]
            return
        with postgres_database() as database:
            postgres = (f"PostgreSQL {database.version}", database.uri)
            yield [sqlite, postgres] if wanted == "both" else [postgres]


def table(rows: Sequence[Measured]) -> str:
    """For people, and for the published page."""
    lines = [
        "| store | writers x steps | step | points | lost | twice | wrong | calls | slowdown | writer's thread | longest call | close |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.store} | {row.writers} x {row.steps:,} | {row.step_ms:g} ms | {row.points:,} | {row.lost} | {row.twice} | {row.wrong} "
        f"| {row.call_percent:.3f} % | {row.slowdown_percent:+.3f} % | {row.thread_percent:.2f} % | {row.longest_call_ms:.1f} ms | {row.close_seconds:.1f} s |"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> int:
    """Prints what was measured; 1 where a point is lost, there twice or wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", choices=("sqlite", "postgres", "both"), default="both")
    parser.add_argument("--writers", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--step-ms", type=float, default=50.0)
    parser.add_argument("--json", action="store_true")
    given: Any = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with _stores(given.store) as stores:
        rows = [measure(name, uri, given.writers, given.steps, given.step_ms) for name, uri in stores]
    print(json.dumps([row._asdict() for row in rows]) if given.json else table(rows))
    return int(any(row.lost or row.twice or row.wrong for row in rows))


if __name__ == "__main__":
    sys.exit(main())
