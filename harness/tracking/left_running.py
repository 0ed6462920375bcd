"""Runs of ours that are RUNNING though nobody works on them any more."""

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from harness.errors import StoreError
from harness.records import CellResult
from harness.store import SAFE_NAME, CellFolder, ExperimentFolder, experiment_folder, read_record
from harness.tracking.base import STATUS_OF, RunStatus
from harness.tracking.connection import client, select_store
from harness.tracking.foreign_run import unreachable
from harness.tracking.ownership import ERROR_TAG, HOST_TAG, MAX_TAG_LENGTH, PID_TAG, owner_life, silent_seconds
from harness.tracking.undelivered import Untold

if TYPE_CHECKING:
    from mlflow.entities import Run

PAGE = 1000
OURS = "attributes.status = 'RUNNING' and tags.`harness.kind` != '' and tags.`harness.pid` != ''"


class LeftRun(NamedTuple):
    """One run whose process is dead, or hasn't been heard of for too long."""

    run_id: str
    name: str
    experiment: str
    cell: str
    """Its id; empty for the run of the whole experiment."""
    owner: str
    """As the run states it: another one has taken it over where this has changed."""
    why: str


def left_running(ids: Sequence[str], stale_seconds: float | None) -> list[LeftRun]:
    """The runs of some MLflow experiments that are RUNNING without their process, oldest first.

    Args:
        ids: of the experiments at MLflow.
        stale_seconds: silence after which a run of another machine is taken for dead; None: those aren't judged.
    """
    found = []
    for run in _running(ids):
        why = _why(run.data.tags, stale_seconds)
        if why:
            tags = run.data.tags
            found.append(
                LeftRun(
                    str(run.info.run_id), str(run.info.run_name), tags.get("harness.experiment", ""),
                    tags.get("harness.cell", ""), tags[PID_TAG], why,
                )
            )  # fmt: skip
    return found


def experiment_ids(uri: str | None, name: str | None) -> list[str]:
    """Chooses a store; gives the ids of the experiment of that name, or of all.

    Raises: StoreError: the store can't be reached, or knows no such experiment.
    """
    target = select_store(uri)
    try:
        if name is None:
            return [str(found.experiment_id) for found in client().search_experiments()]
        experiment = client().get_experiment_by_name(name)
    except Exception as error:  # whatever the store's driver or HTTP library raises
        raise StoreError(unreachable(target, error)) from error
    return [str(experiment.experiment_id)] if experiment else []


def _running(ids: Sequence[str]) -> "Iterator[Run]":
    token: str | None = None
    while ids:
        page: Any = client().search_runs(
            list(ids), OURS, max_results=PAGE, order_by=["attributes.start_time ASC"], page_token=token
        )
        yield from page
        token = page.token
        if not token:
            return


def _why(tags: dict[str, str], stale_seconds: float | None) -> str:
    """Why nobody can be working on a run; empty where somebody may be."""
    life = owner_life(tags)
    process = f"process {tags[PID_TAG].partition('@')[0]} on {tags.get(HOST_TAG, 'an unknown machine')}"
    if life == "dead":
        return f"{process} is gone"
    silence = silent_seconds(tags)
    if life == "elsewhere" and stale_seconds is not None and silence is not None and silence > stale_seconds:
        return f"{process} was last heard of {silence / 60:.0f} minutes ago"
    return ""


def close_left(run: LeftRun, *, dry_run: bool = False) -> RunStatus | None:
    """Ends a run with the status that is true, at its last heartbeat.

    Returns: the status; None where another process has taken the run over or ended it meanwhile.
    """
    status, error = _true_end(run)
    if dry_run:
        return status
    store = client()
    now = store.get_run(run.run_id)
    if now.info.status != "RUNNING" or now.data.tags.get(PID_TAG) != run.owner:
        return None
    if error:
        store.set_tag(run.run_id, ERROR_TAG, error)
    last_heard = int(1000 * (time.time() - (silent_seconds(now.data.tags) or 0.0)))
    store.set_terminated(run.run_id, status, end_time=max(last_heard, now.info.start_time))
    return status


def _true_end(run: LeftRun) -> tuple[RunStatus, str]:
    """How a run ended, as far as this folder says, and what went wrong."""
    killed: tuple[RunStatus, str] = ("KILLED", f"{run.why}; it was killed, or its machine died")
    if not SAFE_NAME.fullmatch(run.experiment) or (run.cell and not SAFE_NAME.fullmatch(run.cell)):
        return killed
    folder = experiment_folder(run.experiment)
    try:
        return (_end_of_cell(folder.cell(run.cell), run) if run.cell else _end_of_experiment(folder, run)) or killed
    except StoreError:  # half of a record, or another version's
        return killed


def _end_of_cell(folder: CellFolder, run: LeftRun) -> tuple[RunStatus, str] | None:
    result = read_record(folder.result, CellResult) if folder.result.exists() else None
    if result is None or result.mlflow_run_id != run.run_id:
        return None
    error = "" if result.status == "finished" else f"{result.stage}: {result.error}"
    return STATUS_OF[result.status], error[:MAX_TAG_LENGTH]


def _end_of_experiment(folder: ExperimentFolder, run: LeftRun) -> tuple[RunStatus, str] | None:
    untold = read_record(folder.undelivered, Untold) if folder.undelivered.exists() else None
    if untold is None or untold.status is None or untold.run_id != run.run_id:
        return None
    return untold.status, untold.error[:MAX_TAG_LENGTH]
