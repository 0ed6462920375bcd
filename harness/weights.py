"""Weights of cells that were trained where this folder isn't: fetched from their MLflow run when somebody wants them."""

import json
import logging
import re
import tempfile
from pathlib import Path

from harness.config import TrackingConfig, tracking_uri
from harness.errors import StoreError
from harness.records import CellResult
from harness.store import CellFolder, ExperimentFolder
from harness.tracking.cell_runs import get_file, has_file
from harness.tracking.connection import current_uri, select_store
from harness.tracking.foreign_run import unreachable

logger = logging.getLogger(__name__)

CHECKPOINT = re.compile(r"checkpoints/checkpoint-\d{1,12}")


def fetch_weights(cell: CellFolder, result: CellResult) -> None:
    """Downloads the evaluated checkpoint of a cell that isn't here, where its run has it.

    Raises: StoreError: the tracking store can't be read.
    """
    trained = result.train
    # Records may come from elsewhere, and no name in them leads out of the folder.
    if trained is None or not result.mlflow_run_id or not CHECKPOINT.fullmatch(trained.evaluated_checkpoint):
        return
    path = cell.path / trained.evaluated_checkpoint
    if path.exists():
        return
    uri = _store_of(ExperimentFolder(cell.path.parent.parent))
    if uri is None:
        return
    select_store(uri)
    there = f"checkpoints/{trained.evaluated}"
    try:
        if not has_file(result.mlflow_run_id, there):
            return
        logger.info("%s: fetching its weights from MLflow", result.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            get_file(result.mlflow_run_id, there, Path(scratch)).rename(path)
    except Exception as error:  # whatever the store's driver or HTTP library raises
        raise StoreError(unreachable(current_uri(), error)) from error


def _store_of(folder: ExperimentFolder) -> str | None:
    """What the experiment's file says, else the environment; None where it is a file, next to which the weights would be."""
    said = json.loads(folder.config.read_text(encoding="utf-8")) if folder.config.exists() else None
    stated = TrackingConfig(uri=said["config"]["tracking"]["uri"] if said else None)
    # A password is never kept; the environment has the whole address.
    uri = tracking_uri(stated if stated.uri and "***@" not in stated.uri else TrackingConfig())
    return uri if uri and not uri.startswith(("sqlite:", "file:")) else None
