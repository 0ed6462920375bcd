"""An MLflow run that this harness did not make, as plain data."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from harness.errors import StoreError
from harness.secrets import without_password
from harness.tracking.connection import reason_of, select_store
from harness.tracking.points import LARGEST

if TYPE_CHECKING:
    from mlflow.entities import Metric


class ForeignRun(NamedTuple):
    """What somebody's training logged."""

    name: str
    status: str
    """As MLflow calls it: RUNNING, FINISHED, FAILED, KILLED, SCHEDULED."""
    params: Mapping[str, str]
    metrics: Mapping[str, Mapping[int, float]]
    """Name -> step -> last value at that step."""
    idle_seconds: float | None
    """Since the last value was logged; None where none was."""


def read_foreign_run(run_id: str, uri: str | None, is_wanted: Callable[[str], bool]) -> ForeignRun | None:
    """The run with this id, its metrics as far as they are wanted; None where there is no such run.

    Args:
        run_id: as the MLflow UI shows it.
        uri: of the tracking store; None: what lies in the working folder.
        is_wanted: says of a metric's name whether its history is to be fetched.

    Raises: StoreError: the store can't be reached.
    """
    for store in [uri] if uri else local_stores():
        found = _read(run_id, store, is_wanted)
        if found is not None:
            return found
    return None


def local_stores() -> list[str]:
    """MLflow's defaults, of today and of before; naming one that isn't there would make it."""
    database, folder = Path.cwd() / "mlflow.db", Path.cwd() / "mlruns"
    stores = [f"sqlite:///{database}"] if database.is_file() else []
    return [*stores, *([folder.as_uri()] if any(folder.glob("*/meta.yaml")) else [])]


def _read(run_id: str, store: str, is_wanted: Callable[[str], bool]) -> ForeignRun | None:
    select_store(store)
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client = MlflowClient(store)
    try:
        run = client.get_run(run_id)
        names = [name for name in run.data.metrics if is_wanted(name)]
        histories = {name: client.get_metric_history(run_id, name) for name in names}
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise StoreError(unreachable(store, error)) from error
    except Exception as error:  # whatever the store's driver or HTTP library raises
        raise StoreError(unreachable(store, error)) from error
    logged = [metric.timestamp for history in histories.values() for metric in history]
    return ForeignRun(
        name=str(run.info.run_name or run_id),
        status=str(run.info.status),
        params=dict(run.data.params),
        metrics={name: _by_step(history) for name, history in histories.items()},
        idle_seconds=max(0.0, time.time() - max(logged) / 1000) if logged else None,
    )


def _by_step(history: Sequence["Metric"]) -> dict[int, float]:
    """Values by step; those of a run that named no steps are counted from 1."""
    ordered = sorted(history, key=lambda metric: (metric.timestamp, metric.step))
    has_steps = any(metric.step for metric in ordered)
    steps = [metric.step if has_steps else count for count, metric in enumerate(ordered, 1)]
    return {step: _value(float(metric.value)) for step, metric in zip(steps, ordered, strict=True)}


def _value(value: float) -> float:
    return math.copysign(math.inf, value) if abs(value) > LARGEST else value


def unreachable(store: str, error: Exception) -> str:
    """Says that a store can't be read, and why, without any password."""
    return f"the MLflow store {without_password(store)} can't be read: {reason_of(error)}; check MLFLOW_TRACKING_URI"
