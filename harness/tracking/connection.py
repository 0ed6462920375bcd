"""The MLflow store of an experiment: chosen once by the parent, patient with what it can't take at once."""

import getpass
import logging
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from harness.errors import StoreError

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

TRACKING_VARIABLE = "MLFLOW_TRACKING_URI"
RETRY_SECONDS = (0.2, 1.0, 3.0)
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


def client() -> "MlflowClient":
    """A client of the chosen store."""
    _quiet()
    from mlflow import MlflowClient

    return MlflowClient()


def run_exists(run_id: str) -> bool:
    """Whether a run is there and not deleted."""
    try:
        return bool(client().get_run(run_id).info.lifecycle_stage == "active")
    except Exception:  # MLflow raises store-specific errors for an unknown run
        return False


def source_tags(experiment: str) -> dict[str, str]:
    """Who ran what, as MLflow's own `start_run` states it."""
    return {
        "mlflow.user": getpass.getuser(),
        "mlflow.source.name": f"harness run {experiment}",
        "mlflow.source.type": "LOCAL",
    }


def experiment_id_of(run_id: str) -> str:
    """The MLflow experiment that a run belongs to."""
    return str(client().get_run(run_id).info.experiment_id)


def deliver(what: str, call: Callable[[], object]) -> None:
    """Calls MLflow, again where that fails, and at last goes on with a warning: a tracker must never end a training."""
    for seconds in RETRY_SECONDS:
        try:
            call()
        except Exception as error:  # whatever the store raises: locked, gone, or a race between two workers
            logger.info("MLflow didn't take the %s (%s); trying again", what, type(error).__name__)
            # Workers that collided must not collide again.
            time.sleep(seconds * (0.5 + random.random()))
        else:
            return
    try:
        call()
    except Exception as error:  # as above
        logger.warning("the %s could not be sent to MLflow: %s; they are kept in the cell's folder", what, error)
