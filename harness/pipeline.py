"""The spine: what one worker does for one cell."""

import json
import logging
import traceback
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from harness.asked import AskedSuite, asked_suites
from harness.benchmarks_suite import lm_eval_result
from harness.cell_checks import CellCheck
from harness.checkpoints import drop_unfinished, forget_broken_training, needs_training, tidy
from harness.config import local_rank, process_rank
from harness.data.contamination import contamination, sample_answers
from harness.data.splits import Splits, load_splits
from harness.delivery import conclude
from harness.disk import disk_trouble
from harness.errors import EvalError, HarnessError, StoreError
from harness.evaluate import evaluate
from harness.grid import CellSpec
from harness.launch.base import FAILED, FINISHED, TAKEN
from harness.locks import holder, holding
from harness.models.extraction import extract
from harness.models.ifd import shared_ifd_scores
from harness.models.load import LoadedModel
from harness.models.local import LocalModel
from harness.models.prepared import prepare
from harness.models.respondent import Respondent
from harness.models.verify import NUM_ROWS as VERIFIED_ROWS
from harness.models.verify import verify_saved
from harness.records import CellResult, Contamination, Generation, Probe, SuiteResult, TrainedAnswers, TrainResult
from harness.respondents import respondent_of
from harness.stopping import Stopped, stop_if_asked
from harness.store import CellFolder, once, overlap_key, read_lines, read_record, write_lines, write_record, write_text
from harness.tracking.base import STATUS_OF, NullTracker, Tracker
from harness.tracking.mlflow_tracker import open_tracker
from harness.train.rows import probe_rows
from harness.train.sft import train

logger = logging.getLogger(__name__)


def run_pack(folders: Sequence[Path]) -> int:
    """Trains and evaluates the cells of a pack; gives the exit code of its worker.

    A cell that fails leaves a record of where and why; the others go on, also past one that another process has.

    Raises: Stopped: a signal ended it; the cell's record says so.
    """
    codes = [run_cell(CellFolder(path)) for path in folders]
    return TAKEN if TAKEN in codes else max(codes)


def run_cell(folder: CellFolder) -> int:
    """One cell from its `cell.json` to its `result.json`; FINISHED, FAILED or TAKEN."""
    spec = read_record(folder.spec, CellSpec)
    import torch

    torch.set_num_threads(spec.num_threads)
    if torch.cuda.is_available():
        # Before anything is loaded: quantized weights go to the current device.
        torch.cuda.set_device(local_rank())
    if process_rank() > 0:
        return _assist(spec, folder)
    with holding(folder.lock) as is_mine:
        if not is_mine:
            logger.info("%s: %s works on it", spec.cell.name, holder(folder.lock))
            return TAKEN
        if folder.result.exists() and read_record(folder.result, CellResult).status == "finished":
            # Its launcher took the old ones away, so another worker was here meanwhile.
            return FINISHED
        # What an earlier start left would pass for what becomes of this one.
        folder.result.unlink(missing_ok=True)
        return _run(spec, folder)


def _run(spec: CellSpec, folder: CellFolder) -> int:
    stage = _Stage(folder)
    tracker: Tracker | None = None
    try:
        stage.enter("opening the MLflow run")
        tracker = open_tracker(spec, folder)
        result = _work(spec, folder, tracker, stage)
        conclude(tracker, folder, result)
        write_record(folder.result, result)
    except BaseException as error:
        result = _ended(spec, folder, tracker.run_id if tracker else "", stage.name, error)
        _record_end(folder, tracker, result)
        if result.status == "killed":
            raise
        logger.error("%s failed while %s: %s", spec.cell.name, stage.name, result.error)
        return FAILED
    tracker.close("FINISHED")
    if not result.suite_errors:
        # What couldn't be asked is asked by the next `harness run`.
        tidy(folder, spec.keep)
    return FINISHED


def _record_end(folder: CellFolder, tracker: Tracker | None, result: CellResult) -> None:
    """Says why a cell ended, on disk and in MLflow, each as far as it can be written to."""
    try:
        write_record(folder.result, result)
    except StoreError as error:
        logger.error("%s", error)
    if tracker is not None:
        try:
            conclude(tracker, folder, result)
        finally:
            tracker.close(STATUS_OF[result.status])


def _assist(spec: CellSpec, folder: CellFolder) -> int:
    """Another process of a cell that several train together: the first one records and evaluates."""
    logging.getLogger().setLevel(logging.ERROR)
    if spec.cell.seed is not None and needs_training(folder):
        train(spec.cell, folder, NullTracker(), _splits(spec, folder), keep=spec.keep)
    return FINISHED


class _Stage:
    """Names the stage that a worker is in, on disk for the progress display."""

    def __init__(self, folder: CellFolder) -> None:
        self._path = folder.state
        self.name = "starting"

    def enter(self, name: str, planned_steps: int = 0) -> None:
        self.name = name
        write_text(self._path, json.dumps({"stage": name, "planned_steps": planned_steps}))


def _work(spec: CellSpec, folder: CellFolder, tracker: Tracker, stage: _Stage) -> CellResult:
    stage.enter("loading data")
    if folder.check.exists():
        check = read_record(folder.check, CellCheck)
        tracker.log_check(check, folder.data_report(check.data_report))
    splits = _splits(spec, folder)
    trained: TrainResult | None = None
    if spec.cell.seed is not None:
        stage.enter("training", spec.cell.config.planned_steps(len(splits.train)))
        forget_broken_training(folder)
        is_new = not (folder.path / "train.json").exists()
        if is_new:
            folder.forget_evaluations()
        trained = folder.once("train", TrainResult, lambda: train(spec.cell, folder, tracker, splits, keep=spec.keep))
        if is_new:
            tracker.log_train(trained, folder.path)
        stop_if_asked()
    stage.enter("evaluating")
    suites, errors = _evaluate_all(spec, folder, tracker, splits, trained)
    if trained is not None:
        tracker.log_failing(folder, suites)
    return CellResult(
        **_identity(spec), status="finished", mlflow_run_id=tracker.run_id, suites=suites, suite_errors=errors, train=trained
    )  # fmt: skip


def _splits(spec: CellSpec, folder: CellFolder) -> Splits:
    """The rows of a cell; the base model is asked where a filter wants to know how much instructions help it."""
    config = spec.cell.config
    if spec.cell.seed is None or all(item.score != "ifd" for item in config.data.filter):
        return load_splits(config.data)
    return load_splits(config.data, ifd=lambda rows: shared_ifd_scores(config, rows, folder.tokenized))


def _identity(spec: CellSpec) -> dict[str, object]:
    cell = spec.cell
    return {
        "cell": cell.id,
        "name": cell.name,
        "group": cell.group,
        "seed": cell.seed,
        "base": cell.base,
        "overrides": cell.overrides,
        "reference": cell.reference.kind if cell.reference else None,
    }


def _ended(spec: CellSpec, folder: CellFolder, run_id: str, stage: str, error: BaseException) -> CellResult:
    is_stop = isinstance(error, Stopped | KeyboardInterrupt)
    text = str(error) or type(error).__name__
    if isinstance(error, SystemExit) and not is_stop:
        text = f"something called sys.exit({error.code!r})"
    if trouble := disk_trouble(error, folder.path):
        drop_unfinished(folder)
        text = trouble
    trace = "".join(traceback.format_exception(error))
    return CellResult(
        **_identity(spec), status="killed" if is_stop else "failed", stage=stage, error=text, traceback=trace, mlflow_run_id=run_id
    )  # fmt: skip


def _evaluate_all(
    spec: CellSpec, folder: CellFolder, tracker: Tracker, splits: Splits, trained: TrainResult | None
) -> tuple[tuple[SuiteResult, ...], dict[str, str]]:
    """Runs the suites that have no record yet, and says why where one can't be asked; a model is loaded only if there are any."""
    respondent = respondent_of(spec.cell, folder, splits, trained, keep=spec.keep)
    if trained is not None and not folder.extraction.exists():
        assert isinstance(respondent, LocalModel), "a trained cell is asked in this process"
        _probe_memory(spec, folder, splits, respondent.loaded, trained)
    results, errors = [], {}
    for asked in asked_suites(spec.cell, spec.evals, [row.example() for row in splits.test]):
        label = asked.options.label
        path = folder.suite_result(label, asked.digest)
        is_new = not path.exists()
        try:
            result = once(path, SuiteResult, partial(_evaluate_one, asked, respondent, folder))
        except HarnessError as error:
            # A suite of the user's, or one that a server can't answer: the others are none the worse.
            logger.error("%s: %s", label, error)
            errors[label] = f"{label}: {error}"
            continue
        if is_new:
            tracker.log_suite(result, list(read_lines(folder.generations(label, asked.digest), Generation)))
        if trained is not None and asked.suite is not None:
            _note_overlap(asked, folder, splits, trained.splits["train"].digest)
        results.append(result)
    if errors and not results:
        raise EvalError("; ".join(errors.values()))
    return tuple(results), errors


def _evaluate_one(asked: AskedSuite, respondent: Respondent, folder: CellFolder) -> SuiteResult:
    if asked.suite is None:
        assert isinstance(respondent, LocalModel), "benchmarks are asked in this process"
        return lm_eval_result(respondent.loaded, asked.options, folder)
    return evaluate(asked.suite, asked.options, asked.examples, respondent, folder)


def _note_overlap(asked: AskedSuite, folder: CellFolder, splits: Splits, train_digest: str) -> None:
    """What was asked, and what of it the training rows hold: for the checks, once for all cells that share both."""
    key = overlap_key(asked.digest, train_digest)
    questions = folder.asked(asked.options.label, asked.digest)
    if not questions.exists():
        write_lines(questions, asked.examples)
    once(
        folder.contamination(asked.options.label, key),
        Contamination,
        lambda: contamination(asked.examples, splits.train),
    )
    once(folder.trained_answers(train_digest), TrainedAnswers, lambda: sample_answers(splits.train))


def _probe_memory(
    spec: CellSpec, folder: CellFolder, splits: Splits, loaded: LoadedModel, trained: TrainResult
) -> None:
    """Is the loaded checkpoint the trained one? Extraction on the training rows that were probed for their loss."""
    config = spec.cell.config
    train = prepare(config, "train", splits.train, loaded, folder.tokenized)
    validation = prepare(config, "validation", splits.validation, loaded, folder.tokenized)
    probed = probe_rows(config, train, validation)
    step = trained.evaluated_step
    probes = [p for p in read_lines(folder.probes, Probe) if p.split == "train_probe" and p.step == step]
    nll = [float(value) for value in probes[-1].nll[:VERIFIED_ROWS]] if probes else []
    examples = [row.example() for row in splits.test[:VERIFIED_ROWS]]
    write_record(folder.verification, verify_saved(config, loaded, probed[:VERIFIED_ROWS], nll, examples))
    write_lines(folder.extraction, extract(loaded, probed, validation.spread(len(probed))))
