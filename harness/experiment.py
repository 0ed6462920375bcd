"""From an experiment file to a report: plan, preflight, launch, collect, rank."""

import json
import logging
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.cell_checks import CellCheck, cells_by_message
from harness.collect import Collected, collect, rank_experiment
from harness.config import tracking_uri
from harness.delivery import Delivery, deliver_cells
from harness.errors import ConfigError, StoreError
from harness.grid import Cell, CellSpec
from harness.launch import local
from harness.plan import Plan, check_plan, check_tests, is_done
from harness.predicted import score_and_log
from harness.ranking import Ranking
from harness.recorded import write_plan
from harness.records import CellResult
from harness.reports.write import write_reports
from harness.store import (
    CellFolder,
    ExperimentFolder,
    experiment_folder,
    read_record,
    write_record,
    write_text,
)
from harness.tracking import connection, experiment_run, outcomes, record_files
from harness.tracking.base import RunStatus
from harness.tracking.left_running import close_left, left_running

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Progress:
    """What a display needs to know while workers run."""

    plan: Plan
    states: Mapping[str, str]
    """Cell id -> waiting | running | finished | failed | reused."""


def run_experiment(
    made: Plan, show: Callable[[Progress], None], warn: Callable[[str], None], *, strict: bool = False,
    only: Container[str] | None = None,
) -> tuple[Ranking, bool]:  # fmt: skip
    """Trains and evaluates what is not done yet, ranks everything, writes the report; whether no cell failed.

    Args:
        made: the plan.
        show: is told whenever a worker starts or ends.
        warn: is told what preflight finds, one sentence each.
        strict: start nothing where preflight finds anything at all.
        only: ids of the cells and references that may be started; None: all.

    Raises: HarnessError: something is wrong with every cell before anything was started.
    """
    allowed = [cell for cell in made.everything() if only is None or cell.id in only]
    todo = [cell for cell in allowed if not is_done(made, cell)]
    if todo:
        checks = check_plan(made._replace(cells=tuple(c for c in made.cells if c in todo) or made.cells[:1]), deep=True)
        refused = _refused(checks, warn, strict=strict)
        check_tests(made.cells)
        with made.folder.lock():
            for cell in (cell for cell in todo if cell.id in refused):
                write_record(made.folder.cell(cell.id).result, _refusal(cell, checks[cell.id]))
            for cell_id, check in checks.items():
                write_record(made.folder.cell(cell_id).check, check)
            _start(made, [cell for cell in todo if cell.id not in refused], show)
    try:
        deliver_rest(made)
    except StoreError as error:  # runs of another store, say; what is done is ranked all the same
        logger.warning("%s", error)
    try:
        return finish(made, changed=bool(todo))
    except BaseException as error:
        # The parent run is open, and nobody else will end it.
        if todo:
            status: RunStatus = "FAILED" if isinstance(error, Exception) else "KILLED"
            parent = made.folder.parent_run_id.read_text().strip()
            connection.deliver("status", lambda: experiment_run.end_run(parent, status))
        raise


def _refused(checks: Mapping[str, CellCheck], warn: Callable[[str], None], *, strict: bool) -> set[str]:
    """Cells that can't work; their siblings go on.

    Raises: ConfigError: there are only such cells, or any problem at all where preflight is strict.
    """
    errors = {cell_id for cell_id, check in checks.items() if check.messages("error")}
    warned = problem_lines(checks, "warning")
    if errors and (strict or len(errors) == len(checks)):
        raise ConfigError("\n".join(problem_lines(checks, "error")))
    if strict and warned:
        raise ConfigError("\n".join(warned))
    for line in (*warned, *(f"{text} (not trained)" for text in problem_lines(checks, "error"))):
        warn(line)
    return errors


def problem_lines(checks: Mapping[str, CellCheck], severity: Literal["warning", "error"]) -> list[str]:
    """Every problem once, with the cells that have it where it isn't all of them."""
    cells = cells_by_message(checks.values(), severity)
    return [text if len(names) == len(checks) else f"{_some(names)}: {text}" for text, names in cells.items()]


def _some(names: Sequence[str]) -> str:
    return f"cell {names[0]}" if len(names) == 1 else f"{len(names)} cells ({names[0]}, ...)"


def _refusal(cell: Cell, check: CellCheck) -> CellResult:
    return CellResult(
        cell=cell.id, name=cell.name, group=cell.group, seed=cell.seed, base=cell.base, overrides=cell.overrides, status="failed",
        stage="checking the cell", error="; ".join(check.messages("error")),
    )  # fmt: skip


def _start(made: Plan, todo: Sequence[Cell], show: Callable[[Progress], None]) -> None:
    config, folder = made.config, made.folder
    experiment_id = connection.connect(tracking_uri(config.tracking), config.name)
    for left in left_running([experiment_id], None):
        close_left(left)
    parent = experiment_run.open_parent_run(folder, experiment_id, config.name, write_plan(made))
    write_text(folder.undelivered, parent)
    processes = config.launch.processes_per_cell
    devices, threads = local.slots(config.launch.max_workers, processes)
    for cell in todo:
        spec = CellSpec(
            cell=cell, experiment=config.name, evals=config.evals, parent_run_id=parent,
            system_metrics=config.tracking.system_metrics, num_threads=threads,
            criterion=config.ranking.by, failing_traces=config.tracking.failing_traces,
        )  # fmt: skip
        target = folder.cell(cell.id)
        target.result.unlink(missing_ok=True)
        write_record(target.spec, spec)
    record_files.log_experiment(parent, folder, [cell.id for cell in made.everything()])
    try:
        with experiment_run.beating(parent):
            if config.is_predictions_alone:
                _score_here(made, todo, show)
            else:
                _follow(made, todo, devices, show)
    except BaseException:
        connection.deliver("status", lambda: experiment_run.end_run(parent, "KILLED"))
        raise


def _score_here(made: Plan, todo: Sequence[Cell], show: Callable[[Progress], None]) -> None:
    """Predictions are scored in less time than a worker takes to start."""
    states = {row.id: "waiting" if row in todo else "reused" for row in made.everything()}
    for row in todo:
        folder = made.folder.cell(row.id)
        states[row.id] = "running"
        show(Progress(made, dict(states)))
        # Nothing to measure of a machine that only compares texts.
        spec = read_record(folder.spec, CellSpec).model_copy(update={"system_metrics": False})
        score_and_log(spec, folder)
        states[row.id] = "finished"
        show(Progress(made, dict(states)))


def _follow(made: Plan, todo: Sequence[Cell], devices: Sequence[str], show: Callable[[Progress], None]) -> None:
    """Launches the packs and tells the display what becomes of them."""
    folder = made.folder
    states = {cell.id: "waiting" if cell in todo else "reused" for cell in made.everything()}
    show(Progress(made, dict(states)))
    launched = made.config.launch
    packs = [
        local.PackJob(
            (folder.cell(cell.id).path,), folder.cell(cell.id).log,
            processes=launched.processes_per_cell if cell.seed is not None else 1, accelerate_config=launched.accelerate_config,
        )
        for cell in todo
    ]  # fmt: skip
    for state in local.launch(packs, devices, connection.worker_environment()):
        cell = todo[state.index]
        if state.exit_code is None:
            states[cell.id] = "running"
        else:
            states[cell.id] = "finished" if state.exit_code == 0 else "failed"
            _record_death(folder.cell(cell.id), cell, state.exit_code)
        show(Progress(made, dict(states)))


def _record_death(folder: CellFolder, cell: Cell, exit_code: int) -> None:
    """A worker that was killed leaves no result; its parent writes one."""
    if folder.result.exists():
        return
    cause = f"signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"
    tail = folder.log.read_text(encoding="utf-8", errors="replace")[-4000:] if folder.log.exists() else ""
    run_id = folder.run_id.read_text().strip() if folder.run_id.exists() else ""
    result = CellResult(
        cell=cell.id, name=cell.name, group=cell.group, seed=cell.seed, base=cell.base, overrides=cell.overrides, status="failed",
        stage="worker", error=f"the worker died ({cause}); see {folder.log}", traceback=tail, mlflow_run_id=run_id,
    )  # fmt: skip
    write_record(folder.result, result)
    if run_id:
        record_files.log_cell(run_id, folder, result)
        connection.deliver("status", lambda: experiment_run.end_run(run_id, "FAILED"))


def finish(made: Plan, *, changed: bool = True) -> tuple[Ranking, bool]:
    """Diagnoses, ranks, writes the report, and logs all of it to MLflow where something changed."""
    collected = collect(made)
    ranking = rank_experiment(made, collected)
    cells, references, findings = collected
    no_failure = all(result.status == "finished" and not result.suite_errors for result in (*cells, *references))
    is_told = not made.folder.undelivered.exists()
    if not changed and is_told and made.folder.report("html").exists() and _is_known(made.folder, ranking):
        return ranking, no_failure
    write_record(made.folder.ranking, ranking)
    files = write_reports(made.config, made.folder, ranking, cells, references, findings)
    _log(made, ranking, collected, files, failed=not no_failure)
    return ranking, no_failure


def _is_known(folder: ExperimentFolder, ranking: Ranking) -> bool:
    """Whether the report on disk already says the same."""
    return folder.ranking.exists() and folder.ranking.read_text(encoding="utf-8") == ranking.model_dump_json()


def _log(made: Plan, ranking: Ranking, collected: Collected, files: Sequence[Path], *, failed: bool) -> None:
    """Tells MLflow; where it is away the note in the folder stays, and `harness sync` does it later."""
    if not made.folder.parent_run_id.exists():
        return
    write_text(made.folder.undelivered, made.folder.parent_run_id.read_text())
    write_plan(made)
    try:
        with connection.noting() as missed:
            _tell(made, ranking, collected, files, failed=failed)
    except Exception as error:  # whatever the store raises: the report is on disk
        logger.warning("the report could not be sent to MLflow: %s; `harness sync` sends it later", error)
        return
    if not missed:
        made.folder.undelivered.unlink()


def _tell(made: Plan, ranking: Ranking, collected: Collected, files: Sequence[Path], *, failed: bool) -> None:
    experiment_id = connection.connect(tracking_uri(made.config.tracking), made.config.name)
    results = [*collected.cells, *collected.references]
    outcomes.log_outcomes(made.folder, ranking, results, collected.findings)
    parent = made.folder.parent_run_id.read_text().strip()
    note = experiment_run.describe_experiment(parent, experiment_id, ranking, results, made.config)
    best = ", ".join(row.name for row in ranking.rows if row.in_best_set) or "none"
    tags = {"harness.best_set": best, "harness.criterion": ranking.criterion, "mlflow.note.content": note}
    record_files.log_experiment(parent, made.folder, [cell.id for cell in made.everything()])
    experiment_run.close_parent_run(parent, [*files, made.folder.ranking], tags, failed=failed)


def deliver_rest(made: Plan) -> Delivery:
    """Sends what runs of cells that ended lack, as far as MLflow takes it now.

    Raises: StoreError: another `harness run` is at work, or the runs belong to another store.
    """
    folders = [made.folder.cell(cell.id) for cell in made.everything()]
    if not any(folder.undelivered.exists() and folder.result.exists() for folder in folders):
        return Delivery((), ())
    with made.folder.lock():
        try:
            connection.connect(tracking_uri(made.config.tracking), made.config.name)
        except StoreError as error:
            logger.warning("%s", error)
        rest = deliver_cells(folders)
    if rest.left:
        logger.warning("MLflow lacks something of %d runs: %s; `harness sync` sends it", len(rest.left), ", ".join(rest.left))  # fmt: skip
    return rest


def logged_to(name: str) -> str | None:
    """The tracking URI that an experiment's file stated when it ran here; None where it stated none, or one with a password."""
    folder = experiment_folder(name)
    if not folder.config.exists():
        return None
    uri = json.loads(folder.config.read_text(encoding="utf-8"))["config"]["tracking"]["uri"]
    return uri if uri and "***@" not in uri else None
