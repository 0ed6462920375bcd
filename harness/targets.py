"""What a name on the command line stands for: a cell, an MLflow run, or files of any training."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from harness.config import TrackingConfig, tracking_uri
from harness.diagnose.advice import with_advice
from harness.diagnose.cell import diagnose, diagnose_cell
from harness.diagnose.cell_reader import cell_evidence
from harness.diagnose.evidence import Evidence, Sibling
from harness.diagnose.readers import file_evidence
from harness.diagnose.recording import Recording, choose, evidence_of, known_as, whole_step
from harness.diagnose.siblings import siblings
from harness.errors import ConfigError
from harness.records import CellResult, Finding, untouched_bases
from harness.store import CellFolder, ExperimentFolder, experiment_folder, known_experiments, read_record
from harness.tracking.foreign_run import ForeignRun, read_foreign_run

FILE_SUFFIXES = (".json", ".jsonl", ".csv", ".tsv", ".log", ".txt")
MLFLOW_ID = re.compile(r"(?:runs:/)?([0-9a-f]{32})/?")


class FoundCell(NamedTuple):
    """A cell with its folder and findings."""

    result: CellResult
    folder: CellFolder
    findings: tuple[Finding, ...]


class Diagnosis(NamedTuple):
    """What is known of a training, and what the checks say of it."""

    evidence: Evidence
    findings: tuple[Finding, ...]


def find_cell(target: str) -> FoundCell:
    """The cell with this id (or the start of it), name or MLflow run id, among the experiments of the working folder.

    Raises: ConfigError: there is none, or several.
    """
    folder, result = _the_cell(target)
    known = _in_context(folder, result)
    return FoundCell(result, known.folder, diagnose_cell(known.folder, result, known.base, known.siblings))


class _Context(NamedTuple):
    """What a cell is read against."""

    folder: CellFolder
    base: CellResult | None
    siblings: Sequence[Sibling]


def _in_context(folder: ExperimentFolder, result: CellResult) -> _Context:
    results = [read_record(path, CellResult) for path in folder.path.glob("cells/*/result.json")]
    related = siblings(folder, results).get(result.cell, ())
    return _Context(folder.cell(result.cell), untouched_bases(results).get(result.base), related)


def _the_cell(target: str) -> tuple[ExperimentFolder, CellResult]:
    found = _cells_called(target)
    if not found:
        raise ConfigError(
            f"{target}: there is no such cell, run or file in this folder; `harness list` and `harness plan EXPERIMENT` name them"
        )
    if len(found) > 1:
        listed = ", ".join(f"{folder.path.name}/{r.cell} ({r.name})" for folder, r in found)
        raise ConfigError(f"{target}: several cells have this name: {listed}; give one of these")
    return found[0]


def _cells_called(target: str) -> list[tuple[ExperimentFolder, CellResult]]:
    found: list[tuple[ExperimentFolder, CellResult]] = []
    experiment, _, wanted = target.rpartition("/")
    for name in known_experiments():
        if experiment and name != experiment:
            continue
        folder = experiment_folder(name)
        results = [read_record(path, CellResult) for path in folder.path.glob("cells/*/result.json")]
        found += [
            (folder, r)
            for r in results
            if wanted in (r.name, r.mlflow_run_id) or (len(wanted) >= 4 and r.cell.startswith(wanted))
        ]
    return found


def diagnose_target(target: str) -> Diagnosis:
    """Evidence and findings of a cell, of an MLflow run, or of what any training left in a file or folder.

    Raises: HarnessError: there is no such thing, or it holds no curve.
    """
    evidence = _evidence_of(target)
    return Diagnosis(evidence, with_advice(diagnose(evidence), evidence))


def _evidence_of(target: str) -> Evidence:
    path = Path(target)
    if path.is_dir() and (path / "result.json").is_file():
        return _cell_evidence(
            ExperimentFolder(path.resolve().parent.parent), read_record(path / "result.json", CellResult)
        )
    if path.is_file() or path.suffix in FILE_SUFFIXES:
        return file_evidence(path)
    run_id = MLFLOW_ID.fullmatch(target)
    if run_id and not _cells_called(run_id[1]):
        run = read_foreign_run(run_id[1], tracking_uri(TrackingConfig()), _is_read)
        if run is not None:
            return _foreign_evidence(run)
    if path.is_dir() and not _cells_called(target):
        return file_evidence(path)
    return _cell_evidence(*_the_cell(run_id[1] if run_id else target))


def _cell_evidence(folder: ExperimentFolder, result: CellResult) -> Evidence:
    known = _in_context(folder, result)
    return cell_evidence(known.folder, result, known.base, known.siblings)


def _is_read(metric: str) -> bool:
    return known_as(metric) is not None


def _foreign_evidence(run: ForeignRun) -> Evidence:
    planned = whole_step(run.params.get("max_steps"))
    is_over = run.status == "FINISHED"
    return evidence_of(
        Recording(
            curves=choose(run.metrics, f"MLflow run {run.name}"),
            settings={f"training.{name.removeprefix('training.')}": value for name, value in run.params.items()},
            name=run.name,
            planned_steps=planned or None,
            is_finished=is_over,
            idle_seconds=None if is_over else run.idle_seconds,
        )
    )
