"""The spine: what one worker does for one cell."""

import json
import logging
import traceback
from collections.abc import Sequence
from pathlib import Path

from harness.data.splits import Splits, load_splits
from harness.data.tokenize import tokenize
from harness.evaluate import AskedModel, evaluate, extract
from harness.grid import CellSpec
from harness.models.load import LoadedModel, load_base, load_checkpoint
from harness.records import CellResult, Generation, SuiteResult, TrainResult
from harness.store import CellFolder, once, read_lines, read_record, write_lines, write_record, write_text
from harness.suite import load_suite, suite_digest, suite_examples
from harness.tracking.base import Tracker
from harness.tracking.mlflow_tracker import MlflowTracker, experiment_id_of
from harness.train.arguments import planned_steps, trains_on_answers_only
from harness.train.sft import MAX_PROBE_ROWS, train

logger = logging.getLogger(__name__)


def run_pack(folders: Sequence[Path]) -> bool:
    """Trains and evaluates the cells of a pack; whether all of them finished.

    A cell that fails leaves a record of where and why; the others go on.
    """
    return all([run_cell(CellFolder(path)) for path in folders])


def run_cell(folder: CellFolder) -> bool:
    """One cell from its `cell.json` to its `result.json`; whether it finished."""
    spec = read_record(folder.spec, CellSpec)
    import torch

    torch.set_num_threads(spec.num_threads)
    tracker = MlflowTracker(spec, folder, experiment_id_of(spec.parent_run_id))
    stage = _Stage(folder)
    try:
        result = _work(spec, folder, tracker, stage)
    except BaseException as error:
        result = _failed(spec, tracker.run_id, stage.name, error)
        tracker.log_failure(result)
        tracker.close("FAILED" if isinstance(error, Exception) else "KILLED")
        if not isinstance(error, Exception):
            raise
        logger.error("%s failed while %s: %s", spec.cell.name, stage.name, error)
    else:
        tracker.close("FINISHED")
    write_record(folder.result, result)
    return result.status == "finished"


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
    splits = load_splits(spec.cell.config.data)
    trained: TrainResult | None = None
    if spec.cell.seed is not None:
        stage.enter("training", planned_steps(spec.cell.config.training, len(splits.train)))
        is_new = not (folder.path / "train.json").exists()
        trained = folder.once("train", TrainResult, lambda: train(spec.cell, folder, tracker, splits))
        if is_new:
            tracker.log_train(trained, folder.path)
    stage.enter("evaluating")
    suites = _evaluate_all(spec, folder, tracker, splits, trained)
    return CellResult(**_identity(spec), status="finished", mlflow_run_id=tracker.run_id, suites=suites, train=trained)


def _identity(spec: CellSpec) -> dict[str, object]:
    cell = spec.cell
    return {"cell": cell.id, "name": cell.name, "group": cell.group, "seed": cell.seed, "overrides": cell.overrides}


def _failed(spec: CellSpec, run_id: str, stage: str, error: BaseException) -> CellResult:
    text = str(error) or type(error).__name__
    trace = "".join(traceback.format_exception(error))
    return CellResult(
        **_identity(spec), status="failed", stage=stage, error=text, traceback=trace, mlflow_run_id=run_id
    )  # fmt: skip


def _load(spec: CellSpec, folder: CellFolder, splits: Splits, trained: TrainResult | None) -> LoadedModel:
    """The model as it was saved: what is evaluated is what a user would load."""
    plain = splits.train[0].is_plain
    if trained is None:
        return load_base(spec.cell.config, plain_rows=plain)
    return load_checkpoint(spec.cell.config, folder.path / trained.checkpoints["last"], plain_rows=plain)


def _evaluate_all(
    spec: CellSpec, folder: CellFolder, tracker: Tracker, splits: Splits, trained: TrainResult | None
) -> tuple[SuiteResult, ...]:
    asked: AskedModel | None = None
    results = []
    test = [row.example() for row in splits.test]
    if trained is not None and not folder.extraction.exists():
        asked = AskedModel(_load(spec, folder, splits, trained))
        _probe_memory(spec, folder, splits, asked.loaded)
    for options in spec.evals:
        suite = load_suite(options.suite)
        examples = suite_examples(suite, options, test)
        path = folder.suite_result(suite.name, suite_digest(suite, options, examples))
        if not path.exists():
            asked = asked or AskedModel(_load(spec, folder, splits, trained))
            model = asked
            result = once(path, SuiteResult, lambda: evaluate(suite, options, examples, model, folder))  # noqa: B023
            tracker.log_suite(result, list(read_lines(folder.generations(suite.name), Generation)))
        results.append(once(path, SuiteResult, _unreachable))
    return tuple(results)


def _unreachable() -> SuiteResult:
    raise AssertionError("the suite's record was written above")


def _probe_memory(spec: CellSpec, folder: CellFolder, splits: Splits, loaded: LoadedModel) -> None:
    """Extraction on training and validation rows, always on the same rows."""
    only = trains_on_answers_only(spec.cell.config)
    max_length = int(spec.cell.config.training.get("max_length") or loaded.context)

    def tokenized(rows: list) -> list:  # type: ignore[type-arg]
        stride = max(1, len(rows) // MAX_PROBE_ROWS)
        return [
            (tokenize(row, loaded.tokenizer, end_of_turn_id=loaded.tokens.end_of_turn_id, assistant_only=only,
                      max_length=max_length), row)
            for row in rows[::stride][:MAX_PROBE_ROWS]
        ]  # fmt: skip

    write_lines(folder.extraction, extract(loaded, tokenized(splits.train), tokenized(splits.validation)))
