"""Runs in stock MLflow: one for every cell, below one that holds the report."""

import getpass
import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from harness.errors import StoreError
from harness.grid import CellSpec
from harness.records import CellResult, Finding, Generation, SplitSummary, SuiteResult, TrainResult
from harness.store import CellFolder, ExperimentFolder, write_text
from harness.tracking.base import RunStatus
from harness.tracking.writer import MetricWriter

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

# MLflow allows alphanumerics, `_ - . space : /` in names.
UNSAFE_NAME = re.compile(r"[^\w\-. :/]")
MAX_PARAM_LENGTH = 6000
MAX_BATCH = 100
TABLE_ROWS = 1000
TRACKING_VARIABLE = "MLFLOW_TRACKING_URI"
# The UI then opens the experiment as training runs, not as traces of an application.
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}


def without_password(uri: str) -> str:
    """The URI with user and password left out, fit to be shown."""
    parts = urlsplit(uri)
    if "@" not in parts.netloc:
        return uri
    return urlunsplit(parts._replace(netloc=f"***@{parts.netloc.rpartition('@')[2]}"))


def select_store(uri: str | None) -> str:
    """Chooses the tracking store for this process; returns its URI."""
    _quiet()
    import mlflow

    # MLflow's own default, as an absolute path: workers and later commands may stand elsewhere.
    target = uri or f"sqlite:///{Path.cwd() / 'mlflow.db'}"
    is_in_environment = TRACKING_VARIABLE in os.environ
    mlflow.set_tracking_uri(target)
    if not is_in_environment:
        # MLflow exports what it is told; a choice made for this experiment must not reach the next one.
        os.environ.pop(TRACKING_VARIABLE, None)
    return target


def connect(uri: str | None, experiment: str) -> str:
    """Chooses the tracking store and makes the experiment; returns its id.

    The parent calls this before any worker starts: a fresh SQLite file migrated by several processes at once breaks.

    Raises: StoreError: the store can't be reached.
    """
    target = select_store(uri)
    import mlflow

    try:
        found = mlflow.get_experiment_by_name(experiment)
        if found is not None and found.lifecycle_stage == "deleted":
            raise StoreError(
                f"the MLflow experiment {experiment!r} was deleted; restore it (`mlflow experiments restore`) or change `name`"
            )
        return str(found.experiment_id if found else mlflow.create_experiment(experiment, tags=EXPERIMENT_TAGS))
    except StoreError:
        raise
    except Exception as error:
        reason = str(error).splitlines()[0].replace(target, without_password(target))
        raise StoreError(
            f"the MLflow store {without_password(target)} can't be used: {reason}; check tracking.uri"
        ) from error


def _quiet() -> None:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    for name in ("alembic", "mlflow.store.db.utils", "mlflow.system_metrics", "mlflow.tracking"):
        logging.getLogger(name).setLevel(logging.WARNING)


def worker_environment() -> dict[str, str]:
    """What a worker must find in its environment to log to the same store."""
    return {TRACKING_VARIABLE: current_uri()}


def current_uri() -> str:
    """The store that `connect` chose."""
    import mlflow

    return str(mlflow.get_tracking_uri())


def _client() -> "MlflowClient":
    _quiet()
    from mlflow import MlflowClient

    return MlflowClient()


def open_parent_run(folder: ExperimentFolder, experiment_id: str, name: str, config: Mapping[str, Any]) -> str:
    """The run that holds the report: the one of an earlier `harness run` while it exists, else a new one."""
    client = _client()
    if folder.parent_run_id.exists():
        run_id = folder.parent_run_id.read_text().strip()
        if _exists(client, run_id):
            client.update_run(run_id, status="RUNNING")
            return run_id
    tags = {
        **_source_tags(name),
        "harness.experiment": name,
        "harness.kind": "experiment",
        "mlflow.note.content": str(config.get("description", "")),
    }
    run_id = client.create_run(experiment_id, tags=tags, run_name=f"{name} (report)").info.run_id
    client.log_dict(run_id, dict(config), "experiment.json")
    write_text(folder.parent_run_id, run_id)
    return str(run_id)


def _source_tags(experiment: str) -> dict[str, str]:
    """Who ran what, as MLflow's own `start_run` states it."""
    return {
        "mlflow.user": getpass.getuser(),
        "mlflow.source.name": f"harness run {experiment}",
        "mlflow.source.type": "LOCAL",
    }


def _exists(client: "MlflowClient", run_id: str) -> bool:
    try:
        return bool(client.get_run(run_id).info.lifecycle_stage == "active")
    except Exception:  # MLflow raises store-specific errors for an unknown run
        return False


def close_parent_run(run_id: str, files: Sequence[Path], params: Mapping[str, str], *, failed: bool) -> None:
    """Uploads the report and ends the parent run."""
    client = _client()
    for path in files:
        client.log_artifact(run_id, str(path))
    for key, value in params.items():
        client.set_tag(run_id, key, value)
    client.set_terminated(run_id, "FAILED" if failed else "FINISHED")


def log_findings(run_id: str, findings: Sequence[Finding]) -> None:
    """Findings as tags (`harness.finding.CHECK`) and as one JSON file."""
    from mlflow.entities import RunTag

    client = _client()
    tags = [
        RunTag(f"harness.finding.{f.check}", f"{f.severity}: {f.message}" if f.outcome == "fired" else f.outcome)
        for f in findings
    ]
    fired = [f.check for f in findings if f.outcome == "fired" and f.severity != "info"]
    client.log_batch(run_id, tags=[*tags, RunTag("harness.warnings", ", ".join(fired) or "none")])
    client.log_dict(run_id, {"findings": [f.model_dump(mode="json") for f in findings]}, "findings.json")


class MlflowTracker:
    """The MLflow run of one cell; the same run again when an interrupted cell resumes."""

    def __init__(self, spec: CellSpec, folder: CellFolder, experiment_id: str) -> None:
        self._client = _client()
        self._spec = spec
        self.run_id = self._open(spec, folder, experiment_id)
        # Swept fields first: they head the list of params.
        self.log_params({f"sweep.{key}": str(value) for key, value in spec.cell.overrides.items()})
        self._writer = MetricWriter(self._client, self.run_id)
        self._monitor = _system_monitor(self.run_id) if spec.system_metrics else None

    def _open(self, spec: CellSpec, folder: CellFolder, experiment_id: str) -> str:
        if folder.run_id.exists() and _exists(self._client, folder.run_id.read_text().strip()):
            run_id = folder.run_id.read_text().strip()
            self._client.update_run(run_id, status="RUNNING")
            return run_id
        cell = spec.cell
        tags = {
            **_source_tags(spec.experiment),
            "mlflow.parentRunId": spec.parent_run_id,
            "harness.experiment": spec.experiment,
            "harness.kind": "reference" if cell.seed is None else "cell",
            "harness.cell": cell.id,
            "harness.grid_key": cell.group,
            "harness.name": cell.name,
        }
        run_id = str(self._client.create_run(experiment_id, tags=tags, run_name=cell.name).info.run_id)
        write_text(folder.run_id, run_id)
        return run_id

    def log_params(self, params: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        known = self._client.get_run(self.run_id).data.params
        fresh = [Param(UNSAFE_NAME.sub("_", k), v[:MAX_PARAM_LENGTH]) for k, v in params.items() if k not in known]
        for start in range(0, len(fresh), MAX_BATCH):
            self._client.log_batch(self.run_id, params=fresh[start : start + MAX_BATCH])

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        self._writer.put({UNSAFE_NAME.sub("_", name): value for name, value in values.items()}, step)

    def log_splits(self, splits: Mapping[str, SplitSummary]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = []
        for name, split in splits.items():
            profile = split.model_dump_json(include={"rows_used", "tokens", "supervised_tokens", "truncated"})
            dataset = Dataset(
                name=f"{Path(split.source).stem}", digest=split.digest[:36], source_type="local",
                source=f'{{"uri": "{split.source}"}}', profile=profile,
            )  # fmt: skip
            inputs.append(DatasetInput(dataset, [InputTag("mlflow.data.context", name)]))
        self._client.log_inputs(self.run_id, inputs)

    def log_train(self, result: TrainResult, folder: Path) -> None:
        totals = {
            "train_seconds": result.seconds,
            "train_steps": float(result.steps),
            "num_trainable_parameters": float(result.num_trainable_parameters),
        }
        if result.peak_memory_gib is not None:
            totals["peak_memory_gib"] = result.peak_memory_gib
        self.log_metrics(totals, result.steps)
        for kind, relative in result.checkpoints.items():
            self._log_checkpoint(kind, folder / relative, result)

    def _log_checkpoint(self, kind: str, path: Path, result: TrainResult) -> None:
        """By reference where the store is on this disk, else as artifacts without the optimizer's state."""
        import mlflow
        from mlflow.entities import LoggedModelOutput

        if urlsplit(current_uri()).scheme in ("sqlite", "file", ""):
            step = result.best_step if kind == "best" else result.steps
            model = mlflow.create_external_model(
                name=f"{UNSAFE_NAME.sub('_', self._spec.cell.name).replace(':', '_').replace('/', '_').replace('.', '_')}-{kind}",
                source_run_id=self.run_id,
                params={"step": str(step), "checkpoint": str(path)},
                tags={"harness.cell": self._spec.cell.id, "harness.checkpoint": str(path)},
                model_type="adapter" if self._spec.cell.config.adapter is not None else "causal-lm",
                experiment_id=self._client.get_run(self.run_id).info.experiment_id,
            )
            self._client.log_outputs(self.run_id, [LoggedModelOutput(model.model_id, step or 0)])
            return
        for file in sorted(path.iterdir()):
            if file.name not in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
                self._client.log_artifact(self.run_id, str(file), f"checkpoints/{kind}")

    def log_suite(self, result: SuiteResult, generations: Sequence[Generation]) -> None:
        values: dict[str, float] = {}
        for name, metric in result.metrics.items():
            key = f"{result.suite}.{name}"
            values |= {key: metric.value, f"{key}.low": metric.low, f"{key}.high": metric.high}
        self.log_metrics(values, 0)
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
        self._client.log_table(self.run_id, table, f"generations/{result.suite}.json")

    def log_failure(self, result: CellResult) -> None:
        self._client.set_tag(self.run_id, "harness.error", f"{result.stage}: {result.error}"[:5000])
        self._client.log_text(self.run_id, result.traceback, "traceback.txt")

    def close(self, status: RunStatus) -> None:
        if self._monitor is not None:
            self._monitor.finish()
        self._writer.close()
        self._client.set_terminated(self.run_id, status)


def _system_monitor(run_id: str) -> Any:
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(run_id, resume_logging=True)
    monitor.start()
    return monitor


def experiment_id_of(run_id: str) -> str:
    """The MLflow experiment that a run belongs to."""
    return str(_client().get_run(run_id).info.experiment_id)


def end_run(run_id: str, status: RunStatus) -> None:
    """Ends a run whose process died."""
    _client().set_terminated(run_id, status)
