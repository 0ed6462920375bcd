"""The run of a cell, found by its tags, and single artifacts of any run."""

import os
from pathlib import Path
from typing import NamedTuple

from harness.tracking.connection import client, experiment_id_of
from harness.tracking.record_files import DIGEST_TAG

# What libraries read that reach the store and the Hub: a worker elsewhere needs the same.
TRAVELLING = ("MLFLOW_", "AWS_", "AZURE_STORAGE_", "GOOGLE_", "HF_", "HUGGING")


class CellRun(NamedTuple):
    """The run of a cell or reference."""

    run_id: str
    records_digest: str
    """Empty where it carries no records."""


def store_environment() -> dict[str, str]:
    """The variables of this process that MLflow, its artifact stores and the Hub are reached with."""
    return {name: value for name, value in os.environ.items() if name.startswith(TRAVELLING)}


def find_cell_run(parent_run_id: str, cell: str) -> CellRun | None:
    """The newest run of a cell below a parent run."""
    found = client().search_runs(
        [experiment_id_of(parent_run_id)],
        f"tags.`mlflow.parentRunId` = '{parent_run_id}' and tags.`harness.cell` = '{cell}'",
        max_results=1, order_by=["attributes.start_time DESC"],
    )  # fmt: skip
    return CellRun(str(found[0].info.run_id), found[0].data.tags.get(DIGEST_TAG, "")) if found else None


def artifact_root(run_id: str) -> str:
    """Where the artifacts of a run lie."""
    return str(client().get_run(run_id).info.artifact_uri)


def has_file(run_id: str, path: str) -> bool:
    """Whether a run has an artifact."""
    return path in {file.path for file in client().list_artifacts(run_id, str(Path(path).parent))}


def put_file(run_id: str, file: Path, folder: str) -> None:
    """Makes a file an artifact of a run, in a folder of its artifacts."""
    client().log_artifact(run_id, str(file), folder)


def get_file(run_id: str, path: str, to: Path) -> Path:
    """Downloads an artifact, or a folder of them, into a folder; returns where it lies."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    return Path(client().download_artifacts(run_id, path, str(to)))
