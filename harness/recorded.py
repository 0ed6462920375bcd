"""Experiments from their records alone: those in this folder, else those that a tracking server keeps."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.config import ExperimentConfig, TrackingConfig, tracking_uri
from harness.errors import HarnessError, StoreError
from harness.experiment_file import find_experiment, load_experiment
from harness.grid import Cell, plan
from harness.plan import Plan, plan_experiment
from harness.records import Record
from harness.secrets import redacted_tree, without_password
from harness.store import (
    SAFE_NAME,
    ExperimentFolder,
    experiment_folder,
    first_problem,
    read_record,
    restored_root,
    write_record,
    write_text,
)
from harness.tracking.foreign_run import local_stores
from harness.tracking.record_files import unpack
from harness.tracking.recorded_runs import RecordedRun, experiment_of_run, fetch, recorded_runs

logger = logging.getLogger(__name__)


class ExperimentRecord(Record):
    """What a folder was made by: its `experiment.json`."""

    config: dict[str, Any]
    """The experiment file with its overrides applied, without any password."""
    cells: tuple[Cell, ...]
    references: tuple[Cell, ...]


def write_plan(made: Plan) -> dict[str, Any]:
    """Keeps a plan in its folder, for those who have nothing else of it; returns the config as it may be shown."""
    public: dict[str, Any] = redacted_tree(json.loads(made.config.model_dump_json()))
    record = ExperimentRecord(config=public, cells=made.cells, references=made.references)
    write_record(made.folder.config, record)
    return public


def recorded_plan(folder: ExperimentFolder) -> Plan:
    """The plan that a folder was made by, which needs neither its data nor its model.

    Raises: StoreError: there is none, or it can't be read.
    """
    record = read_record(folder.config, ExperimentRecord)
    for cell in (*record.cells, *record.references):
        if not SAFE_NAME.fullmatch(cell.id):
            raise StoreError(f"{folder.config}: {cell.id!r} can't be the id of a cell")
    try:
        config = ExperimentConfig.model_validate(record.config)
    except ValidationError as error:
        why = first_problem(error)
        raise StoreError(f"{folder.config} isn't a readable experiment ({why}); another version wrote it") from error
    return Plan(config, record.cells, record.references, plan(record.cells), folder, is_recorded=True)


def find_plan(experiment: str, overrides: Sequence[str] = ()) -> Plan:
    """The plan of an experiment that has results: its file's, else that of its records here or at the tracking server.

    Args:
        experiment: its file, a bundled name, or the name under which it was run.
        overrides: of the file.

    Raises: HarnessError: the file is wrong, or there are no such experiment and no records of it.
    """
    made: Plan | None = None
    trouble: HarnessError | None = None
    try:
        made = plan_experiment(experiment, overrides)
    except HarnessError as error:
        # Its data or its model may be elsewhere.
        trouble = error
    if made is not None and (has_results(made) or made.config.is_predictions_alone):
        return made
    config = made.config if made else _config(experiment, overrides)
    name = config.name if config else experiment
    found = _recorded_here(name) or _recorded_there(name, config)
    if found is not None and config is None and overrides:
        raise StoreError(f"--set: {experiment} is known from its records alone; give its file, or use --by and --gate")
    if found is not None:
        # What decides the order is the file's to say wherever there is one.
        return _ranked_by(found, config)
    if made is None:
        assert trouble is not None, "there is a plan, or the reason why not"
        raise trouble
    return made


def has_results(made: Plan) -> bool:
    """Whether anything that could be ranked has a result."""
    rows = made.references if made.config.is_predictions_alone else made.cells
    return any(made.folder.cell(row.id).result.exists() for row in rows)


def _config(experiment: str, overrides: Sequence[str]) -> ExperimentConfig | None:
    """What the experiment's file says; None where there is no such file.

    Raises: ConfigError: the file is wrong.
    """
    try:
        path = find_experiment(experiment)
    except HarnessError:
        return None
    return load_experiment(path, overrides)


def _ranked_by(found: Plan, config: ExperimentConfig | None) -> Plan:
    if config is None:
        return found
    return found._replace(config=found.config.model_copy(update={"ranking": config.ranking}))


def _recorded_here(name: str) -> Plan | None:
    """The last run of this folder, whatever its file says by now."""
    if not SAFE_NAME.fullmatch(name) or not experiment_folder(name).config.exists():
        return None
    try:
        found = recorded_plan(experiment_folder(name))
    except StoreError as error:
        logger.warning("%s", error)
        return None
    if not has_results(found):
        return None
    logger.warning("%s: these are the records of its last run in this folder, %s", name, found.folder.path)
    return found


def _recorded_there(name: str, config: ExperimentConfig | None) -> Plan | None:
    """The records at the tracking server."""
    if not SAFE_NAME.fullmatch(name):
        return None
    uri = store_uri(config.tracking if config else TrackingConfig())
    try:
        folder = restore(name, uri) if uri else None
    except StoreError as error:
        logger.warning("%s", error)
        return None
    if folder is None or uri is None:
        return None
    logger.warning("%s: these are the records that %s keeps, now also in %s", name, without_password(uri), folder.path)
    return recorded_plan(folder)


def store_uri(config: TrackingConfig) -> str | None:
    """The tracking store to read from; None where none is named and none lies in the working folder."""
    return tracking_uri(config) or next(iter(local_stores()), None)


def restore(name: str, uri: str) -> ExperimentFolder | None:
    """Fetches an experiment's records into `mlruns/restored/NAME`, as far as they are not there yet.

    Nothing of it reaches `mlruns/harness`, where a later `harness run` would take it for its own.

    Returns: the folder; None where the store knows no such experiment.
    Raises: StoreError: the store can't be read, or what it keeps isn't records.
    """
    folder = experiment_folder(name, restored_root())
    runs = recorded_runs(name, uri)
    if not runs:
        return None

    def marker(run: RecordedRun) -> Path:
        """Written last, so that an interrupted download is begun anew."""
        return (folder.cell(run.cell).path if run.cell else folder.path) / "records.txt"

    def take(run: RecordedRun, archive: Path) -> None:
        unpack(archive, folder.path, run.digest, run.cell or None)
        write_text(marker(run), run.digest)

    def is_here(run: RecordedRun) -> bool:
        return marker(run).exists() and marker(run).read_text(encoding="utf-8") == run.digest

    parent, *others = runs
    fetch([run for run in [parent] if not is_here(run)], uri, take)
    made = recorded_plan(folder)
    ids = {cell.id for cell in made.everything()}
    fetch([run for run in others if run.cell in ids and not is_here(run)], uri, take)
    return folder


def restore_run(run_id: str) -> ExperimentFolder | None:
    """The restored experiment that an MLflow run belongs to; None where the tracking store knows no such run of ours.

    Raises: StoreError: the store can't be read, or what it keeps isn't records.
    """
    uri = store_uri(TrackingConfig())
    name = experiment_of_run(run_id, uri) if uri else None
    return restore(name, uri) if name and uri else None
