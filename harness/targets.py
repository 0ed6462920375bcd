"""What a name on the command line stands for: a cell, an MLflow run, or files of any training."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from harness.config import TrackingConfig, tracking_uri
from harness.configurations import configuration_name
from harness.diagnose.advice import as_untrained, with_advice
from harness.diagnose.cell import diagnose
from harness.diagnose.cell_reader import cell_evidence
from harness.diagnose.evidence import Evidence, Sibling
from harness.diagnose.kept import recorded_findings
from harness.diagnose.readers import file_evidence
from harness.diagnose.recording import Recording, choose, evidence_of, known_as, whole_step
from harness.diagnose.siblings import siblings
from harness.errors import ConfigError
from harness.predicted import answers_findings
from harness.recorded import restore, restore_run, store_uri
from harness.records import CellResult, Finding, TrainResult
from harness.results import untouched_bases
from harness.store import (
    SAFE_NAME,
    CellFolder,
    ExperimentFolder,
    experiment_folder,
    known_experiments,
    read_record,
    restored_root,
)
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


def training_of(result: CellResult) -> TrainResult:
    """How a cell came to its model.

    Raises: ConfigError: it has none, as it is a reference or wasn't trained to its end.
    """
    if result.reference is not None:
        raise ConfigError(f"{result.name}: a reference is not trained here, so it has no model of its own; name a cell")
    if result.train is None:
        raise ConfigError(
            f"{result.name}: the cell was not trained to its end, so it has no model; `harness run` goes on with it"
        )
    return result.train


def find_cell(target: str) -> FoundCell:
    """The cell with this id (or the start of it), name or MLflow run id.

    It is looked for among the experiments of the working folder, then among those that were fetched from a tracking server;
    an MLflow run, or a cell named as EXPERIMENT/CELL, is fetched where it isn't here.

    Raises: HarnessError: there is none, or several; or its records can't be fetched.
    """
    folder, result = _the_cell(target)
    return open_cell(folder, result, _results(folder))


def open_cell(folder: ExperimentFolder, result: CellResult, results: Sequence[CellResult]) -> FoundCell:
    """A cell whose result was read already, with its findings; `results` are all of its experiment."""
    if result.reference == "predictions":
        return _open_predictions(folder, result)
    known = _in_context(folder, result, results)
    bases = {result.base: known.base} if known.base else {}
    findings = recorded_findings(folder, [result], bases, {result.cell: known.siblings})[result.cell]
    return FoundCell(result, known.folder, as_untrained(findings) if result.reference else findings)


def _open_predictions(folder: ExperimentFolder, result: CellResult) -> FoundCell:
    own = folder.holding(result)
    return FoundCell(result, own, answers_findings(result.name, own, result.suites))


def find_row(target: str) -> FoundCell:
    """The same, and beside the cells predictions that were scored with `harness score --experiment`.

    Raises: HarnessError: there is none, or several.
    """
    rows = [] if _cells_called(target) else _called_below(target, None, "imported")
    if len(rows) == 1:
        return _open_predictions(*rows[0])
    if rows:
        raise _several(target, rows)
    return find_cell(target)


class _Context(NamedTuple):
    """What a cell is read against."""

    folder: CellFolder
    base: CellResult | None
    siblings: Sequence[Sibling]


def _results(folder: ExperimentFolder, kind: str = "cells") -> list[CellResult]:
    return [read_record(path, CellResult) for path in folder.path.glob(f"{kind}/*/result.json")]


def _in_context(folder: ExperimentFolder, result: CellResult, results: Sequence[CellResult]) -> _Context:
    related = siblings(folder, results).get(result.cell, ())
    return _Context(folder.cell(result.cell), untouched_bases(results).get(result.base), related)


def _the_cell(target: str) -> tuple[ExperimentFolder, CellResult]:
    found = _cells_called(target) or _cells_restored(target)
    if not found:
        if seeds := _seeds_of(target):
            raise ConfigError(
                f"{target}: a configuration with several seeds; name one of its cells: {', '.join(seeds)}"
            )
        raise ConfigError(
            f"{target}: there is no such cell, run or file in this folder; `harness list` and `harness plan EXPERIMENT` name them"
        )
    if len(found) > 1:
        raise _several(target, found)
    return found[0]


def _seeds_of(target: str) -> list[str]:
    """Names of the cells here that are one seed each of the configuration."""
    experiment, _, wanted = target.rpartition("/")
    return sorted({
        result.name
        for name in known_experiments()
        if experiment in ("", name)
        for result in _results(experiment_folder(name), "cells")
        if configuration_name(result) == wanted != result.name
    })  # fmt: skip


def _several(target: str, found: Sequence[tuple[ExperimentFolder, CellResult]]) -> ConfigError:
    listed = ", ".join(f"{folder.path.name}/{result.cell} ({result.name})" for folder, result in found)
    return ConfigError(f"{target}: several cells have this name: {listed}; give one of these")


def _cells_restored(target: str) -> list[tuple[ExperimentFolder, CellResult]]:
    """Those that are fetched for it from the tracking server."""
    run_id = MLFLOW_ID.fullmatch(target)
    if run_id:
        return _cells_called(run_id[1]) if restore_run(run_id[1]) else []
    experiment, uri = target.rpartition("/")[0], store_uri(TrackingConfig())
    is_there = uri and SAFE_NAME.fullmatch(experiment) and restore(experiment, uri)
    return _cells_called(target) if is_there else []


def _cells_called(target: str) -> list[tuple[ExperimentFolder, CellResult]]:
    """Those of the trainings in this folder, else of what was fetched before."""
    return _called_below(target, None) or _called_below(target, restored_root())


def _called_below(target: str, root: Path | None, kind: str = "cells") -> list[tuple[ExperimentFolder, CellResult]]:
    found: list[tuple[ExperimentFolder, CellResult]] = []
    experiment, _, wanted = target.rpartition("/")
    for name in known_experiments(root):
        if experiment and name != experiment:
            continue
        folder = experiment_folder(name, root)
        found += [
            (folder, r)
            for r in _results(folder, kind)
            if wanted in (r.name, r.mlflow_run_id) or (len(wanted) >= 4 and r.cell.startswith(wanted))
        ]
    return found


def diagnose_target(target: str) -> Diagnosis:
    """Evidence and findings of a cell, of an MLflow run, or of what any training left in a file or folder.

    Raises: HarnessError: there is no such thing, or it holds no curve.
    """
    evidence = _evidence_of(target)
    findings = diagnose(evidence)
    # References have answers, and neither rows nor losses.
    is_untrained = evidence.generations and not evidence.splits and not evidence.loss
    return Diagnosis(evidence, with_advice(as_untrained(findings) if is_untrained else findings, evidence))


def _evidence_of(target: str) -> Evidence:
    path = Path(target)
    if path.is_dir() and (path / "result.json").is_file():
        return _cell_evidence(
            ExperimentFolder(path.resolve().parent.parent), read_record(path / "result.json", CellResult)
        )
    if path.is_file() or path.suffix in FILE_SUFFIXES:
        return file_evidence(path)
    run_id = MLFLOW_ID.fullmatch(target)
    if run_id and not _cells_called(run_id[1]) and not _cells_restored(run_id[1]):
        run = read_foreign_run(run_id[1], tracking_uri(TrackingConfig()), _is_read)
        if run is not None:
            return _foreign_evidence(run)
    if path.is_dir() and not _cells_called(target):
        return file_evidence(path)
    return _cell_evidence(*_the_cell(run_id[1] if run_id else target))


def _cell_evidence(folder: ExperimentFolder, result: CellResult) -> Evidence:
    known = _in_context(folder, result, _results(folder))
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
