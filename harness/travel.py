"""Cells on nodes that don't see the experiment's folder: what they need, and what comes of them, goes through the tracking server."""

import logging
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar
from urllib.parse import urlsplit

from harness.delivery import deliver_cells
from harness.errors import LaunchError, StoreError
from harness.grid import CellSpec
from harness.records import CellResult
from harness.resources import file_digest
from harness.secrets import without_password
from harness.store import CellFolder, ExperimentFolder, read_record, write_bytes, write_text
from harness.tracking.cell_runs import artifact_root, find_cell_run, get_file, has_file, put_file
from harness.tracking.connection import current_uri, is_away, note_answer
from harness.tracking.foreign_run import unreachable
from harness.tracking.logged_models import is_on_this_disk
from harness.tracking.record_files import ARTIFACT, unpack
from harness.travel_bundle import MANIFEST, Manifest, make_bundle, missing_here, open_bundle

logger = logging.getLogger(__name__)
T = TypeVar("T")

BUNDLES = "harness/travel"
AWAY_SECONDS = 600.0
"""For a tracking server that is away when a cell starts or ends on a node that doesn't share the folder."""
PAUSE_SECONDS = 10.0
# What servers and proxies refuse for good: too large a file (413), say. Not 408 and 429, which ask for patience.
REFUSED = re.compile(r"\b4(?!08|29)\d\d Client Error|failed with error code 4(?!08|29)\d\d")


class Bundle(NamedTuple):
    """Names a bundle to those who fetch it."""

    run_id: str
    """The parent run, whose artifact it is."""
    digest: str

    @property
    def artifact(self) -> str:
        """Its name among the artifacts of its run."""
        return f"{BUNDLES}/{self.digest}.zip"


def send(folder: ExperimentFolder, cells: Sequence[CellFolder], node: str) -> Bundle:
    """Gives the parent run what the cells need, once.

    Args:
        folder: of the experiment.
        cells: those that are launched.
        node: that doesn't see the folder.

    Raises: LaunchError: that node can't reach the store, or it is too much to travel. StoreError: the store is away.
    """
    run_id = read_record(cells[0].spec, CellSpec).parent_run_id
    _check_reachable(run_id, f"node {node} doesn't share the folder {folder.path}")
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / "bundle.zip"
        bundle = Bundle(run_id, make_bundle(folder, cells, made))
        named = made.rename(made.with_name(Path(bundle.artifact).name))
        try:
            patiently(lambda: _put_once(bundle, named))
        except Exception as error:  # whatever the store's driver or HTTP library raises
            raise StoreError(unreachable(current_uri(), error)) from error
    return bundle


def _put_once(bundle: Bundle, file: Path) -> None:
    if not has_file(bundle.run_id, bundle.artifact):
        logger.info("%.1f MiB go to MLflow for nodes that don't share the folder", file.stat().st_size / (1 << 20))
        put_file(bundle.run_id, file, BUNDLES)


def patiently(call: Callable[[], T]) -> T:
    """What a call gives, made again while the store is away: it may be back in a minute, and a grid takes days.

    Raises: Exception: the store refuses it, or was away for too long.
    """
    deadline = time.monotonic() + AWAY_SECONDS
    while True:
        try:
            return call()
        except Exception as error:
            if not is_away(error) or REFUSED.search(str(error)) or time.monotonic() >= deadline:
                raise
            logger.warning("%s; it is tried again", unreachable(current_uri(), error))
            time.sleep(PAUSE_SECONDS)


def _check_reachable(run_id: str, where: str) -> None:
    """Raises: LaunchError: the store, or its artifacts, lie on one machine alone."""
    if is_on_this_disk():
        raise LaunchError(
            f"{where} and can't reach the MLflow store {without_password(current_uri())}, a file of this machine: set tracking.uri to an "
            "MLflow server, or run in a folder that all nodes share"
        )
    try:
        root = patiently(lambda: artifact_root(run_id))
    except Exception as error:  # whatever the store's driver or HTTP library raises
        raise StoreError(unreachable(current_uri(), error)) from error
    if urlsplit(root).scheme in ("", "file"):
        raise LaunchError(
            f"{where} and can't reach MLflow's artifacts in {root}, a folder of one machine: have an `mlflow server` serve them "
            "(--artifacts-destination) and rename the experiment, for one that exists keeps its place"
        )


def fetch(bundle: Bundle, cells: Sequence[Path]) -> ExperimentFolder:
    """On a node: the experiment's folder as far as its cells need it, below a folder of the node's own.

    What an earlier worker left there is kept, so that a cell goes on where it stopped.

    Args:
        bundle: what `send` gave.
        cells: their folders where the experiment lies.

    Raises: StoreError: the bundle can't be had, isn't what was sent, or names what isn't on this node.
    """
    target = _own_folder() / bundle.digest[:16]
    try:
        if not target.is_dir():
            patiently(lambda: _download(bundle, target))
        runs = patiently(lambda: {cell.name: find_cell_run(bundle.run_id, cell.name) for cell in cells})
    except StoreError:
        raise
    except Exception as error:  # whatever the store's driver or HTTP library raises
        raise StoreError(unreachable(current_uri(), error)) from error
    manifest = read_record(target / MANIFEST, Manifest)
    if absent := missing_here(manifest):
        raise StoreError(
            f"{absent} is not there, or not the same: put it under that path on every node, or below the experiment's working "
            "folder under a relative path, so that it is sent"
        )
    experiment = ExperimentFolder(target / manifest.experiment)
    for cell, run in runs.items():
        folder = experiment.cell(cell)
        if folder.result.exists() and read_record(folder.result, CellResult).status != "finished":
            # Else it would pass for what becomes of the cell now.
            folder.result.unlink()
        if run is not None and not folder.run_id.exists():
            # The run of a worker whose node died goes on; what it has isn't logged twice.
            write_text(folder.run_id, run.run_id)
    return experiment


def _own_folder() -> Path:
    """This user's folder for what is fetched, below TMPDIR, where nobody else can lay anything.

    Raises: StoreError: somebody else has made it.
    """
    folder = Path(tempfile.gettempdir()) / f"sft-harness-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise StoreError(f"{folder} is not a folder of this user's alone; remove it, or set TMPDIR")
    return folder


def _download(bundle: Bundle, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        archive = get_file(bundle.run_id, bundle.artifact, Path(scratch))
        open_bundle(archive, bundle.digest, Path(scratch) / "opened")
        try:
            (Path(scratch) / "opened").rename(target)
        except OSError:
            # Another worker of this node was faster, with the same files.
            if not target.is_dir():
                raise


def deliver(folders: Sequence[Path]) -> None:
    """On a node, once its worker has ended: sends what MLflow lacks, then frees the disk of what nobody needs here."""
    cells = [CellFolder(path) for path in folders]
    deadline = time.monotonic() + AWAY_SECONDS
    while deliver_cells(cells).left and time.monotonic() < deadline:
        time.sleep(PAUSE_SECONDS)
        note_answer(None)
    for cell in cells:
        if cell.undelivered.exists() or not cell.result.exists():
            logger.warning("%s: its records stay here, for MLflow lacks them", cell.path)
        elif read_record(cell.result, CellResult).status == "finished":
            # The run has them as artifacts.
            shutil.rmtree(cell.checkpoints, ignore_errors=True)


def bring_back(cells: Sequence[CellFolder], digests: Sequence[str], *, is_patient: bool = True) -> str:
    """Restores the records of cells that ended on a node into their folders here; returns what is missing, in a few words.

    Args:
        cells: their folders, each with its `cell.json`.
        digests: SHA-256 of the result that each has on the node; empty where it has none.
        is_patient: whether to wait for a store that is away.
    """
    for cell, digest in zip(cells, digests, strict=True):
        try:
            bring = partial(_bring_cell_back, cell, digest)
            missing = patiently(bring) if is_patient else bring()
        except Exception as error:  # whatever the store's driver or HTTP library raises
            logger.warning("%s", unreachable(current_uri(), error))
            missing = "the records"
        if missing:
            return f"{missing} of {cell.path.name}"
    return ""


def _bring_cell_back(cell: CellFolder, digest: str) -> str:
    parent = read_record(cell.spec, CellSpec).parent_run_id
    run = find_cell_run(parent, cell.path.name)
    if run is not None:
        write_text(cell.run_id, run.run_id)
    if not digest:
        return ""
    if run is None or not run.records_digest:
        return "the records"
    with tempfile.TemporaryDirectory() as scratch:
        archive = get_file(run.run_id, ARTIFACT, Path(scratch))
        unpack(archive, Path(scratch) / "records", run.records_digest, cell.path.name)
        return "" if _lay(Path(scratch) / "records", cell, digest) else "the last records"


def _lay(records: Path, cell: CellFolder, digest: str) -> bool:
    """Copies records into the experiment's folder, the result last; False where the result is another one."""
    root = cell.path.parent.parent
    result = records / cell.result.relative_to(root)
    if file_digest(result) != digest:
        return False
    kept = {records / cell.spec.relative_to(root), result}
    for path in sorted(records.rglob("*")):
        if path.is_file() and path not in kept:
            write_bytes(root / path.relative_to(records), path.read_bytes())
    write_bytes(cell.result, result.read_bytes())
    return True
