"""The MLflow run of one cell or reference."""

import json
import logging
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from harness.cell_checks import CellCheck
from harness.comparability import BATCH_AFTER_OUT_OF_MEMORY
from harness.errors import StoreError
from harness.grid import CellSpec
from harness.records import CellResult, Generation, SplitSummary, SuiteResult, TracePoint, TrainResult
from harness.secrets import redacted_settings
from harness.store import CellFolder, write_text
from harness.tracking.base import NullTracker, RunStatus, Tracker
from harness.tracking.connection import client, deliver, experiment_id_of, reopen, run_status, source_tags
from harness.tracking.logged_datasets import DatasetLink, split_inputs, split_link, suite_input, suite_link
from harness.tracking.logged_models import checkpoint_step, evaluated_model, log_checkpoint
from harness.tracking.ownership import ERROR_TAG, MAX_TAG_LENGTH, owner_tags
from harness.tracking.record_files import log_cell
from harness.tracking.system_metrics import SystemMetrics, send_again
from harness.tracking.traces import failing_answers, log_traces
from harness.tracking.undelivered import note_undelivered
from harness.tracking.writer import UNSAFE_NAME, MetricLink, MetricWriter

logger = logging.getLogger(__name__)

MAX_PARAM_LENGTH = 6000
MAX_BATCH = 100
TABLE_ROWS = 1000
COMMIT = re.compile(r"[0-9a-f]{7,40}")


class MlflowTracker:
    """The MLflow run of one cell; the same run again when an interrupted cell resumes."""

    def __init__(self, spec: CellSpec, folder: CellFolder, experiment_id: str) -> None:
        self._client = client()
        self._spec = spec
        self._folder = folder
        self._missed: list[str] = []
        self._experiment_id = experiment_id
        self._has_new_answers = False
        earlier = folder.run_id.read_text().strip() if folder.run_id.exists() else ""
        status = run_status(earlier) if earlier else None
        is_new = not earlier
        # One that was stopped may lack what was recorded just then, one that somebody deleted lacks all.
        self.owes = folder.undelivered.exists() or (not is_new and status != "FINISHED")
        if status:
            reopen(earlier)
        self.run_id = earlier if status else self._made(spec, folder, experiment_id)
        # Until `close` knows better; a process may be killed at any moment.
        note_undelivered(folder, ["everything since it was opened"])
        self._writer = MetricWriter(self._client, self.run_id, is_new=is_new)
        # Before all others: they head the list of params.
        self._log_swept()
        self._monitor = self._watch_machine() if spec.system_metrics else None

    def _made(self, spec: CellSpec, folder: CellFolder, experiment_id: str) -> str:
        cell = spec.cell
        tags = {
            **source_tags(spec.experiment),
            **owner_tags(),
            "mlflow.parentRunId": spec.parent_run_id,
            "harness.experiment": spec.experiment,
            "harness.kind": "reference" if cell.seed is None else "cell",
            "harness.cell": cell.id,
            "harness.grid_key": cell.group,
            "harness.name": cell.name,
        }
        if cell.seed is None:
            # What a reference is; the UI opens the parent of such a run, so that all its cells are seen at once.
            tags["mlflow.runType"] = "evaluation"
        run_id = str(self._client.create_run(experiment_id, tags=tags, run_name=cell.name).info.run_id)
        write_text(folder.run_id, run_id)
        return run_id

    def _watch_machine(self) -> SystemMetrics | None:
        """Measures CPU, GPU and memory from here on; a spoilt file of what was measured before must not cost the run."""
        try:
            return SystemMetrics(self._folder.path, self._writer)
        except (StoreError, OSError) as error:
            logger.warning("system metrics are not measured: %s", error)
            return None

    def _deliver(self, what: str, call: Callable[[], object]) -> None:
        if not deliver(what, call):
            self._missed.append(what)

    def start_over(self) -> None:
        self._missed.clear()
        self.owes = False
        self._log_swept()
        try:
            send_again(self._folder.path, self._writer)
        except (StoreError, OSError) as error:
            logger.warning("system metrics are not sent: %s", error)

    def _log_swept(self) -> None:
        swept = self._spec.cell.overrides
        self.log_params({f"sweep.{key}": str(value) for key, value in swept.items()})
        # MLflow sorts params as text; as metrics they sort as numbers.
        self.log_metrics({f"sweep/{key}": value for key, value in numbers(swept).items()}, 0)

    def log_params(self, params: Mapping[str, str]) -> None:
        self._deliver("params", lambda: self._log_params(redacted_settings(params)))

    def _log_params(self, params: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        known = self._client.get_run(self.run_id).data.params
        fresh = [Param(UNSAFE_NAME.sub("_", k), v[:MAX_PARAM_LENGTH]) for k, v in params.items() if k not in known]
        for start in range(0, len(fresh), MAX_BATCH):
            self._client.log_batch(self.run_id, params=fresh[start : start + MAX_BATCH])

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        self._writer.put({UNSAFE_NAME.sub("_", name): value for name, value in values.items()}, step)

    def log_trace(self, points: Iterable[TracePoint], ended: float) -> None:
        """The curves as they were recorded; what the run has of them isn't sent again.

        Args:
            points: of the whole training.
            ended: when the last of them was recorded, in seconds since the epoch.
        """
        recorded = list(points)
        for point in recorded:
            when = int(1000 * (ended - (recorded[-1].seconds - point.seconds)))
            values = {UNSAFE_NAME.sub("_", name): float(value) for name, value in point.values.items()}
            self._writer.put(values, point.step, timestamp=when)

    def log_check(self, check: CellCheck, data_report: Path) -> None:
        warned = check.messages("warning")
        verdict = "; ".join(warned)[:MAX_TAG_LENGTH] or "ok"
        self._deliver("preflight", lambda: self._client.set_tag(self.run_id, "harness.preflight", verdict))
        self._deliver(
            "preflight", lambda: self._client.log_dict(self.run_id, check.model_dump(mode="json"), "preflight.json")
        )
        if data_report.exists():
            content = json.loads(data_report.read_text(encoding="utf-8"))
            self._deliver("data report", lambda: self._client.log_dict(self.run_id, content, "data_report.json"))

    def log_splits(self, splits: Mapping[str, SplitSummary]) -> None:
        # Two processes that log the same dataset at once collide in MLflow's store; the second attempt finds it there.
        self._deliver("datasets", lambda: self._client.log_inputs(self.run_id, split_inputs(splits)))

    def log_train(self, result: TrainResult, folder: Path) -> None:
        totals = {
            "train_seconds": result.seconds,
            "train_steps": float(result.steps),
            "num_trainable_parameters": float(result.num_trainable_parameters),
        }
        if result.peak_memory_gib is not None:
            totals["peak_memory_gib"] = result.peak_memory_gib
        self.log_metrics(totals, 0)
        self.log_params({f"environment.{name}": value for name, value in result.environment.items()})
        commit = result.environment.get("git_commit", "")
        if COMMIT.fullmatch(commit):
            self._deliver("commit", lambda: self._client.set_tag(self.run_id, "mlflow.source.git.commit", commit))
        if result.stopped_on:
            why = result.stopped_on[:MAX_TAG_LENGTH]
            self._deliver("reason to stop", lambda: self._client.set_tag(self.run_id, "harness.stopped_on", why))
        if batch := result.facts.get(BATCH_AFTER_OUT_OF_MEMORY):
            self._deliver("batch", lambda: self._client.set_tag(self.run_id, "harness.out_of_memory", batch))
        # Those that will be deleted are no models of the run.
        for kind, relative in result.checkpoints.items() if self._spec.keep != "none" else ():
            self._deliver("checkpoints", partial(self._log_checkpoint, kind, folder / relative, result))

    def _log_checkpoint(self, kind: str, path: Path, result: TrainResult) -> None:
        if not path.is_dir():
            # Another policy has deleted it meanwhile.
            return
        model_id = log_checkpoint(self.run_id, self._experiment_id, self._spec, result, kind, path)
        loss = result.best_eval_loss if kind == "best" else result.eval_loss
        validation = result.splits.get("validation")
        if isinstance(loss, float) and validation is not None:
            link = MetricLink(model_id, *split_link(validation))
            self._writer.put({"eval_loss": loss}, checkpoint_step(result, kind), link)

    def log_suite(self, result: SuiteResult, generations: Sequence[Generation]) -> None:
        self._has_new_answers = True
        self._deliver("dataset", lambda: self._client.log_inputs(self.run_id, [suite_input(result)]))
        values: dict[str, float] = {}
        for name, metric in result.metrics.items():
            key = f"{result.suite}.{name}"
            values |= {key: metric.value, f"{key}.low": metric.low, f"{key}.high": metric.high}
        self._deliver("estimates", lambda: self._put_linked(values, suite_link(result)))
        # A section of their own in the UI, folded away from the metrics of whole suites.
        self.log_metrics(
            {f"slices/{result.suite}.{name}": metric.value for name, metric in result.slice_metrics.items()}, 0
        )
        self._deliver("generations", lambda: self._log_table(result, _table(result, generations)))

    def _put_linked(self, values: Mapping[str, float], dataset: DatasetLink) -> None:
        """At step 0 whatever the checkpoint's step: the UI draws bars of those, and lines of anything later."""
        model_id = evaluated_model(self.run_id, self._experiment_id)
        link = MetricLink(model_id, *dataset) if model_id else None
        self._writer.put({UNSAFE_NAME.sub("_", name): value for name, value in values.items()}, 0, link)

    def log_failing(self, folder: CellFolder, results: Sequence[SuiteResult]) -> None:
        if not self._has_new_answers or not self._spec.failing_traces:
            return
        answers = failing_answers(folder, results, self._spec.criterion, self._spec.failing_traces)
        run_id, experiment_id = self.run_id, self._experiment_id
        self._deliver(
            "traces", lambda: log_traces(run_id, experiment_id, evaluated_model(run_id, experiment_id), answers)
        )

    def _log_table(self, result: SuiteResult, table: Mapping[str, Any]) -> None:
        path = f"generations/{result.suite}.json"
        known = [file.path for file in self._client.list_artifacts(self.run_id, "generations")]
        if path in known:
            if self._is_there(path, table):
                return
            # log_table appends; another version of the suite gets a table of its own.
            path = f"generations/{result.suite}-{result.digest}.json"
        if path not in known:
            self._client.log_table(self.run_id, dict(table), path)

    def _is_there(self, path: str, table: Mapping[str, Any]) -> bool:
        """Whether the run has these answers in a table."""
        with tempfile.TemporaryDirectory() as scratch:
            content = json.loads(Path(self._client.download_artifacts(self.run_id, path, scratch)).read_text("utf-8"))
        stored = [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]
        named = zip(table["example_id"], table["text"], strict=True)
        return [(row["example_id"], row["text"]) for row in stored] == list(named)

    def log_failure(self, result: CellResult) -> None:
        error = f"{result.stage}: {result.error}"[:MAX_TAG_LENGTH]
        self._deliver("failure", lambda: self._client.set_tag(self.run_id, ERROR_TAG, error))
        if result.traceback:
            self._deliver("traceback", lambda: self._client.log_text(self.run_id, result.traceback, "traceback.txt"))

    def log_records(self, folder: CellFolder, result: CellResult) -> None:
        if not log_cell(self.run_id, folder, result):
            self._missed.append("records")

    def close(self, status: RunStatus, ended: float | None = None) -> None:
        if self._monitor is not None:
            self._monitor.finish()
        when = None if ended is None else int(1000 * ended)
        if self._writer.close():
            self._missed.append("metrics")
        self._deliver("status", lambda: self._client.set_terminated(self.run_id, status, when))
        if self._missed or self.owes:
            note_undelivered(self._folder, self._missed)
        else:
            self._folder.undelivered.unlink(missing_ok=True)


def open_tracker(spec: CellSpec, folder: CellFolder) -> Tracker:
    """The run of a cell; where the store is away one that keeps nothing, and a note in the folder that says so."""
    opened: list[Tracker] = []
    deliver("run", lambda: opened.append(MlflowTracker(spec, folder, experiment_id_of(spec.parent_run_id))))
    if opened:
        return opened[0]
    if not folder.undelivered.exists():
        note_undelivered(folder, ["the whole run"])
    return NullTracker(folder.run_id.read_text().strip() if folder.run_id.exists() else "")


def _table(result: SuiteResult, generations: Sequence[Generation]) -> dict[str, Any]:
    """Columns of answers with their scores."""
    scores: dict[str, dict[str, float | None]] = {}
    failures: dict[str, str] = {}
    for score in result.scores:
        scores.setdefault(score.example_id, {})[score.metric] = score.value
        if score.failure:
            failures[score.example_id] = score.failure
    rows = generations[:TABLE_ROWS]
    table: dict[str, Any] = {field: [getattr(row, field) for row in rows] for field in Generation.model_fields}
    for column in sorted({name for row in scores.values() for name in row}):
        table[column] = [scores.get(row.example_id, {}).get(column) for row in rows]
    table["failure"] = [failures.get(row.example_id, "") for row in rows]
    return table


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Those of the values that are numbers."""
    return {key: float(v) for key, v in values.items() if isinstance(v, int | float) and not isinstance(v, bool)}
