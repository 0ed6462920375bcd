"""MLflow runs of the synthetic experiment, written to the store by the hundred: nothing but their rows is real."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.synthetic_records import NAME, run_id_of
from harness.grid import Cell
from harness.plan import Plan
from harness.records import CellResult
from harness.store import read_record, write_text
from harness.tracking.connection import connect
from harness.tracking.experiment_run import open_parent_run
from harness.tracking.ownership import HEARTBEAT_TAG, HOST_TAG, PID_TAG, now_text, this_host

BATCH = 100
CURVE = ("loss", "grad_norm", "learning_rate", "num_tokens")
DEAD = "999999@1.00"
"""A process that is not there."""


def write_runs(made: Plan, steps: int) -> None:
    """A FINISHED run of every cell and reference, with settings, estimates and curves, and the run that holds the report."""
    experiment_id = connect(None, NAME)
    parent = open_parent_run(made.folder, experiment_id, NAME, {"description": "synthetic"})
    for cell in made.everything():
        write_text(made.folder.cell(cell.id).run_id, run_id_of(cell))
    results = [made.folder.cell(cell.id).result for cell in made.everything()]
    _insert(
        (_run(cell, experiment_id, parent, "FINISHED"), _values(cell, path, steps))
        for cell, path in zip(made.everything(), results, strict=True)
    )


def write_left_runs(name: str, count: int) -> None:
    """Runs of another experiment that are RUNNING though their process is dead, as a lost machine leaves them."""
    from mlflow.store.tracking.dbmodels import models

    experiment_id = connect(None, name)
    rows = []
    for number in range(count):
        run_id = f"{number:032x}"
        kinds = {"harness.kind": "cell", "harness.experiment": name, "harness.cell": f"{number:012x}"}
        run = models.SqlRun(
            run_uuid=run_id, name=f"left {number}", status="RUNNING", start_time=number, lifecycle_stage="active",
            experiment_id=int(experiment_id), artifact_uri=f"mlruns/{experiment_id}/{run_id}/artifacts",
            source_type="LOCAL", source_name="", entry_point_name="", user_id="", source_version="",
        )  # fmt: skip
        tags = {**kinds, HOST_TAG: this_host(), PID_TAG: DEAD, HEARTBEAT_TAG: now_text()}
        rows.append((run, [models.SqlTag(run_uuid=run_id, key=key, value=value) for key, value in tags.items()]))
    _insert(iter(rows))


def _insert(rows: Iterator[tuple[Any, Sequence[Any]]]) -> None:
    from mlflow.tracking._tracking_service.utils import _get_store

    store: Any = _get_store()
    for batch in _batches(rows):
        with store.ManagedSessionMaker() as session:
            session.bulk_save_objects([run for run, _ in batch])
            session.flush()
            session.bulk_save_objects([value for _, values in batch for value in values])


def _batches(rows: Iterator[tuple[Any, Sequence[Any]]]) -> Iterator[list[tuple[Any, Sequence[Any]]]]:
    batch: list[tuple[Any, Sequence[Any]]] = []
    for row in rows:
        batch.append(row)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _run(cell: Cell, experiment_id: str, parent: str, status: str) -> Any:
    from mlflow.store.tracking.dbmodels import models

    run_id = run_id_of(cell)
    kind = "reference" if cell.seed is None else "cell"
    tags = {
        "mlflow.runName": cell.name, "mlflow.parentRunId": parent, "harness.experiment": NAME, "harness.kind": kind,
        "harness.cell": cell.id, "harness.grid_key": cell.group, "harness.name": cell.name, HOST_TAG: this_host(),
        PID_TAG: DEAD, HEARTBEAT_TAG: now_text(),
    }  # fmt: skip
    return models.SqlRun(
        run_uuid=run_id, name=cell.name, status=status, start_time=1, end_time=2, lifecycle_stage="active",
        experiment_id=int(experiment_id), artifact_uri=str(Path(f"mlruns/{experiment_id}/{run_id}/artifacts").resolve()),
        source_type="LOCAL", source_name="", entry_point_name="", user_id="", source_version="",
        tags=[models.SqlTag(key=key, value=value) for key, value in tags.items()],
    )  # fmt: skip


def _values(cell: Cell, path: Path, steps: int) -> list[Any]:
    """150 settings, every estimate with its bounds, four curves."""
    from mlflow.store.tracking.dbmodels import models

    run_id, result = run_id_of(cell), read_record(path, CellResult)
    params = {f"training.field_{i}": str(i) for i in range(150)} | {f"sweep.{k}": str(v) for k, v in cell.overrides.items()}  # fmt: skip
    found = {**result.metrics(), **result.slice_metrics()}
    estimates: Mapping[str, float] = {
        f"{name}{part}": value for name, e in found.items() for part, value in (("", e.value), (".low", e.low), (".high", e.high))
    }  # fmt: skip
    rows: list[Any] = [models.SqlParam(run_uuid=run_id, key=key, value=value) for key, value in params.items()]
    curves = [(name, step, 1.0 / (step + 1)) for name in CURVE for step in range(steps)]
    for name, step, value in (*((name, 0, value) for name, value in estimates.items()), *curves):
        rows.append(models.SqlMetric(run_uuid=run_id, key=name, value=value, timestamp=1, step=step, is_nan=False))
    last = {**estimates, **dict.fromkeys(CURVE, 1.0 / steps)}
    for name, value in last.items():
        rows.append(
            models.SqlLatestMetric(run_uuid=run_id, key=name, value=value, timestamp=1, step=steps, is_nan=False)
        )
    return rows
