"""Sends a tracking run what it lacks, from the records of its cell: nothing is lost, and nothing is there twice."""

from collections.abc import Sequence
from typing import NamedTuple

from harness.cell_checks import CellCheck
from harness.cell_files import recorded_training
from harness.grid import CellSpec
from harness.locks import is_held
from harness.records import CellResult, Generation, TracePoint
from harness.store import CellFolder, read_lines, read_record, write_record
from harness.tracking.base import STATUS_OF, Tracker
from harness.tracking.mlflow_tracker import open_tracker
from harness.tracking.undelivered import read_undelivered


class Delivery(NamedTuple):
    """What became of the runs that lacked something."""

    delivered: tuple[str, ...]
    """Names of cells and references."""
    left: tuple[str, ...]
    """The same, with what their runs may still lack."""


def conclude(tracker: Tracker, folder: CellFolder, result: CellResult) -> None:
    """The last that a run is told of its cell, and all of it again where an earlier process may have left out something."""
    if tracker.owes:
        _send_everything(tracker, folder, result)
        return
    if result.status != "finished":
        tracker.log_failure(result)
    tracker.log_records(folder, result)


def _send_everything(tracker: Tracker, folder: CellFolder, result: CellResult) -> None:
    tracker.start_over()
    if folder.check.exists():
        check = read_record(folder.check, CellCheck)
        tracker.log_check(check, folder.data_report(check.data_report))
    if folder.trace.exists():
        tracker.log_trace(read_lines(folder.trace, TracePoint), folder.trace.stat().st_mtime)
    trained = recorded_training(folder, result)
    if trained is not None:
        tracker.log_params(trained.settings)
        tracker.log_splits(trained.splits)
        tracker.log_train(trained, folder.path)
    for suite in result.suites:
        tracker.log_suite(suite, list(read_lines(folder.generations(suite.suite, suite.digest), Generation)))
    if trained is not None and result.status == "finished":
        tracker.log_failing(folder, result.suites)
    if result.status != "finished":
        tracker.log_failure(result)
    tracker.log_records(folder, result)


def deliver_cells(folders: Sequence[CellFolder]) -> Delivery:
    """Sends the runs of cells and references that ended what they lack; the first that can't be reached ends it.

    Those that a worker has are left to it: it records the end first, and sends it then.

    Raises: StoreError: a run belongs to another store than the chosen one, or its record can't be read.
    """
    waiting = [
        folder
        for folder in folders
        if folder.undelivered.exists() and folder.result.exists() and not is_held(folder.lock)
    ]
    delivered, left = [], []
    for place, folder in enumerate(waiting):
        result = read_record(folder.result, CellResult)
        # Refuses a run of another store.
        read_undelivered(folder)
        _deliver_cell(folder, result)
        still = read_undelivered(folder)
        if still is None:
            delivered.append(result.name)
            continue
        left.append(f"{result.name} ({', '.join(still.what)})")
        left += [read_record(other.result, CellResult).name for other in waiting[place + 1 :]]
        break
    return Delivery(tuple(delivered), tuple(left))


def _deliver_cell(folder: CellFolder, result: CellResult) -> None:
    # What a machine does while it sends is not what it did while it trained.
    spec = read_record(folder.spec, CellSpec).model_copy(update={"system_metrics": False})
    ended = folder.result.stat().st_mtime
    tracker = open_tracker(spec, folder)
    if tracker.owes:
        if result.mlflow_run_id != tracker.run_id:
            # The run was made just now.
            result = result.model_copy(update={"mlflow_run_id": tracker.run_id})
            write_record(folder.result, result)
        conclude(tracker, folder, result)
        tracker.close(STATUS_OF[result.status], ended)
