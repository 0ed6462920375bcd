"""Finds the runs that carry records at a tracking server, and fetches these."""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from harness.errors import StoreError
from harness.tracking.connection import select_store
from harness.tracking.foreign_run import unreachable
from harness.tracking.record_files import ARTIFACT, DIGEST_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

PAGE = 1000
DOWNLOADS = 8


class RecordedRun(NamedTuple):
    """One run that carries records."""

    run_id: str
    artifacts: str
    """Where they lie."""
    cell: str
    """Id of the cell or reference; empty for the parent run."""
    parent: str
    digest: str


def experiment_of_run(run_id: str, uri: str) -> str | None:
    """Name of the experiment that a run with records belongs to; None where there is no such run.

    Raises: StoreError: the store can't be reached.
    """
    from mlflow.exceptions import MlflowException

    try:
        run = _reader(uri).get_run(run_id)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise StoreError(unreachable(uri, error)) from error
    except Exception as error:  # whatever the store's driver or HTTP library raises
        raise StoreError(unreachable(uri, error)) from error
    return run.data.tags.get("harness.experiment") if DIGEST_TAG in run.data.tags else None


def recorded_runs(experiment: str, uri: str) -> tuple[RecordedRun, ...]:
    """The last parent run of an experiment, then the runs of cells and references; none where there is no such experiment.

    A cell that was trained in several places has the run below that parent, else the newest one.

    Raises: StoreError: the store can't be reached.
    """
    try:
        runs = list(_search(_reader(uri), experiment))
    except Exception as error:  # whatever the store's driver or HTTP library raises
        raise StoreError(unreachable(uri, error)) from error
    parent = next((run for run in runs if not run.cell), None)
    if parent is None:
        return ()
    chosen: dict[str, RecordedRun] = {}
    for run in runs:
        if run.cell and (run.cell not in chosen or (run.parent == parent.run_id != chosen[run.cell].parent)):
            chosen[run.cell] = run
    return (parent, *chosen.values())


def _reader(uri: str) -> "MlflowClient":
    # A server that is away is told in seconds, not in minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    select_store(uri)
    from mlflow import MlflowClient

    return MlflowClient(uri)


def _search(client: "MlflowClient", name: str) -> Iterator[RecordedRun]:
    """Newest first."""
    experiment = client.get_experiment_by_name(name)
    token: str | None = None
    while experiment is not None:
        page = client.search_runs(
            [experiment.experiment_id], f"tags.`{DIGEST_TAG}` != ''", max_results=PAGE, order_by=["attributes.start_time DESC"],
            page_token=token,
        )  # fmt: skip
        yield from map(_recorded, page)
        token = page.token
        if not token:
            return


def _recorded(run: "Run") -> RecordedRun:
    tags = run.data.tags
    return RecordedRun(
        str(run.info.run_id), str(run.info.artifact_uri), tags.get("harness.cell", ""), tags.get("mlflow.parentRunId", ""),
        tags[DIGEST_TAG],
    )  # fmt: skip


def fetch(runs: Sequence[RecordedRun], uri: str, take: Callable[[RecordedRun, Path], None]) -> None:
    """Downloads the records of runs, several at a time, and hands each zip file over, one after the other.

    Raises: StoreError: one can't be had.
    """
    from mlflow.artifacts import download_artifacts

    _reader(uri)

    def download(run: RecordedRun, folder: str) -> Path:
        target = Path(folder) / run.run_id
        return Path(
            download_artifacts(artifact_uri=f"{run.artifacts}/{ARTIFACT}", dst_path=str(target), tracking_uri=uri)
        )

    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(DOWNLOADS) as pool:
        for run, waiting in [(run, pool.submit(download, run, scratch)) for run in runs]:
            try:
                archive = waiting.result()
            except Exception as error:  # as above
                pool.shutdown(cancel_futures=True)
                raise StoreError(unreachable(uri, error)) from error
            take(run, archive)
            archive.unlink()
