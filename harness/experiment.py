"""From an experiment file to a report: plan, preflight, launch, collect, rank."""

import json
import logging
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from harness.cell_checks import CellCheck
from harness.checkpoints import tidy
from harness.collect import Collected, collect, no_garbage_collection, rank_experiment
from harness.config import tracking_uri
from harness.delivery import Delivery, deliver_cells
from harness.errors import StoreError
from harness.follow import Following, Progress, Show, forget_end
from harness.grid import Cell, CellSpec
from harness.launch.base import Launcher
from harness.launch.choose import choose_launcher
from harness.locks import holder, holding, is_held, only_run
from harness.plan import Plan, check_plan, check_tests, check_weights, is_done
from harness.predicted import score_and_log
from harness.ranking import Ranking
from harness.recorded import write_plan
from harness.records import CellResult
from harness.refused import keep_checks, refused_cells, some
from harness.reports.write import write_reports
from harness.store import (
    ExperimentFolder,
    experiment_folder,
    read_record,
    write_record,
)
from harness.tracking import connection, experiment_run, outcomes, record_files
from harness.tracking.base import RunStatus
from harness.tracking.left_running import close_left, left_running
from harness.tracking.undelivered import note_untold

logger = logging.getLogger(__name__)


def run_experiment(
    made: Plan, show: Show, warn: Callable[[str], None], *, strict: bool = False,
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
    launcher = choose_launcher(made.config.launch, made.folder) if todo else None
    checks: Mapping[str, CellCheck] = {}
    check_weights(made, todo)
    if todo:
        checks = check_plan(made._replace(cells=tuple(c for c in made.cells if c in todo) or made.cells[:1]), deep=True)
        check_tests(made.cells)
    refused = refused_cells(checks, len(made.cells), warn, strict=strict)
    with only_run(made.folder):
        # Another run may have been at work while this one was checking.
        todo = [cell for cell in todo if not is_done(made, cell)]
        _tidy(made, [cell for cell in allowed if cell not in todo])
        if todo and launcher is not None:
            keep_checks(made, todo, checks, refused)
            _start(made, [cell for cell in todo if cell.id not in refused], launcher, show)
        with ending_truthfully(made):
            try:
                deliver_rest(made)
            except StoreError as error:  # runs of another store, say; what is done is ranked all the same
                logger.warning("%s", error)
            return finish(made, changed=bool(todo))


def _tidy(made: Plan, done: Sequence[Cell]) -> None:
    """Deletes what the policy for checkpoints lets go: whoever finished a cell may have been killed just then."""
    for cell in done:
        tidy(made.folder.cell(cell.id), made.config.checkpoints.keep)


@contextmanager
def ending_truthfully(made: Plan) -> Iterator[None]:
    """Ends the experiment's run where this ends too early: it is open, and nobody else will."""
    try:
        yield
    except BaseException as error:
        if made.folder.undelivered.exists():
            is_stop = isinstance(error, KeyboardInterrupt | SystemExit)
            reason = "stopped by a signal" if is_stop else str(error) or type(error).__name__
            status: RunStatus = "KILLED" if is_stop else "FAILED"
            connection.deliver("status", lambda: experiment_run.end_run(_parent_run(made), status, reason))
            with suppress(StoreError):  # the disk may be full, and what ended it counts
                note_untold(made.folder, status, reason)
        raise


def _parent_run(made: Plan) -> str:
    """Id of the experiment's run; chooses the store, which nobody did yet where there was nothing to train."""
    connection.connect(tracking_uri(made.config.tracking), made.config.name)
    return made.folder.parent_run_id.read_text().strip()


def _start(made: Plan, todo: Sequence[Cell], launcher: Launcher, show: Show) -> None:
    config, folder = made.config, made.folder
    experiment_id = connection.connect(tracking_uri(config.tracking), config.name)
    for left in left_running([experiment_id], None):
        close_left(left)
    parent = experiment_run.open_parent_run(folder, experiment_id, config.name, write_plan(made))
    note_untold(folder)
    with ending_truthfully(made), experiment_run.beating(parent):
        _hand_out(made, todo, parent, launcher.threads)
        record_files.log_experiment(parent, folder, [cell.id for cell in made.everything()])
        if config.is_predictions_alone:
            _score_here(made, todo, show)
        else:
            Following(made, todo, show).run(todo, launcher)


def _hand_out(made: Plan, todo: Sequence[Cell], parent: str, num_threads: int) -> None:
    """Writes what a worker needs to know of each cell."""
    config, folder = made.config, made.folder
    for cell in todo:
        spec = CellSpec(
            cell=cell, experiment=config.name, evals=config.evals, parent_run_id=parent,
            system_metrics=config.tracking.system_metrics, num_threads=num_threads,
            criterion=config.ranking.by, failing_traces=config.tracking.failing_traces,
            keep=config.checkpoints.keep,
        )  # fmt: skip
        forget_end(made, cell)
        write_record(folder.cell(cell.id).spec, spec)


def join_experiment(made: Plan, show: Show) -> bool:
    """Helps a `harness run` that is at work elsewhere on the same folder; whether all cells that it took here finished.

    Raises: StoreError: nobody is at work, or on something else than this plan.
    """
    folder, kind = made.folder, made.config.launch.kind
    if kind != "local":
        raise StoreError(f"launch.kind is {kind}, where there is one queue for all; help on this machine with --set launch.kind=local --join")  # fmt: skip
    if not is_held(folder.lock):
        raise StoreError(f"{folder.path}: no `harness run` of this experiment is at work; start it without --join")
    strange = [cell.name for cell in made.everything() if not folder.cell(cell.id).spec.exists()]
    if strange:
        raise StoreError(
            f"{folder.path}: {holder(folder.lock)} doesn't know of {some(strange)}; it may have just begun, or run "
            "another version of the file"
        )
    connection.connect(tracking_uri(made.config.tracking), made.config.name)
    # From the other end: whoever began takes the first ones.
    rows = [folder.cell(cell.id) for cell in made.everything()]
    free = {row.path.name for row in rows if not row.result.exists() and not is_held(row.lock)}
    todo = [cell for cell in reversed(made.everything()) if cell.id in free]
    Following(made, todo, show).run(todo, choose_launcher(made.config.launch, folder), waits=False)
    results = [folder.cell(cell.id).result for cell in todo]
    return all(read_record(path, CellResult).status == "finished" for path in results if path.exists())


def _score_here(made: Plan, todo: Sequence[Cell], show: Show) -> None:
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


def report_experiment(made: Plan) -> None:
    """Writes the report from records, and tells MLflow of it unless a `harness run` is at work, which does so at its end.

    Raises: ConfigError: nothing was run yet.
    """
    if not made.folder.parent_run_id.exists():
        finish(made)
        return
    with holding(made.folder.lock) as is_mine:
        if is_mine:
            with ending_truthfully(made):
                finish(made)
        else:
            logger.warning("%s is at work on this experiment: its own report goes to MLflow at its end", holder(made.folder.lock))  # fmt: skip
            finish(made, tells=False)


@no_garbage_collection()
def finish(made: Plan, *, changed: bool = True, tells: bool = True) -> tuple[Ranking, bool]:
    """Diagnoses, ranks, writes the report, and logs all of it to MLflow where something changed.

    The caller holds the experiment's lock, or doesn't have it tell MLflow.
    """
    collected = collect(made)
    ranking = rank_experiment(made, collected)
    cells, references, findings = collected
    no_failure = all(result.status == "finished" and not result.suite_errors for result in (*cells, *references))
    is_told = not made.folder.undelivered.exists()
    if not changed and is_told and made.folder.report("html").exists() and _is_known(made.folder, ranking):
        return ranking, no_failure
    if tells and not is_told and made.folder.parent_run_id.exists():
        # This process works on the run from here on; else one that is killed would leave it as an earlier one ended it.
        note_untold(made.folder)
        connection.deliver("status", lambda: connection.reopen(_parent_run(made)))
    write_record(made.folder.ranking, ranking)
    files = write_reports(made.config, made.folder, ranking, cells, references, findings)
    if tells:
        _log(made, ranking, collected, files, failed=not no_failure)
    return ranking, no_failure


def _is_known(folder: ExperimentFolder, ranking: Ranking) -> bool:
    """Whether the report on disk already says the same."""
    return folder.ranking.exists() and folder.ranking.read_text(encoding="utf-8") == ranking.model_dump_json()


def _log(made: Plan, ranking: Ranking, collected: Collected, files: Sequence[Path], *, failed: bool) -> None:
    """Tells MLflow; where it is away the note in the folder stays, and `harness sync` does it later."""
    if not made.folder.parent_run_id.exists():
        return
    # The report is on disk, so that is how it ended, whoever tells MLflow.
    note_untold(made.folder, "FAILED" if failed else "FINISHED")
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

    The caller holds the experiment's lock.

    Raises: StoreError: the runs belong to another store.
    """
    folders = [made.folder.cell(cell.id) for cell in made.everything()]
    if not any(folder.undelivered.exists() and folder.result.exists() for folder in folders):
        return Delivery((), ())
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
