"""The MLflow store of an experiment: chosen once by the parent, patient with what it can't take at once."""

import getpass
import logging
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from harness.errors import StoreError
from harness.secrets import redacted, without_password
from harness.tracking.fresh_store import make_whole
from harness.tracking.ownership import ERROR_TAG, owner_tags

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

TRACKING_VARIABLE = "MLFLOW_TRACKING_URI"
RETRY_SECONDS = (0.2, 1.0, 3.0)
PATIENCE_SECONDS = 15.0
PAUSE_SECONDS = 60.0
# Whoever waited for a store that never answered leaves it alone for so many times as long: a twentieth of the time at most.
PAUSE_RATIO = 20.0
# MLflow's own patience (7 tries, 120 seconds each) would hold up a training for minutes.
HTTP_PATIENCE = {"MAX_RETRIES": "1", "BACKOFF_FACTOR": "1", "TIMEOUT": "30"}
DRIVERS = {
    "psycopg2": "`pip install 'sft-harness[postgres]'`",
    # What SQLAlchemy 2.1 takes where the address names no driver.
    "psycopg": "write postgresql+psycopg2://... and `pip install 'sft-harness[postgres]'`, or `pip install 'psycopg[binary]'`",
}
# The UI then opens the experiment as training runs, not as traces of an application.
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}


def select_store(uri: str | None) -> str:
    """Chooses the tracking store for this process; returns its URI."""
    _quiet()
    import mlflow

    # MLflow's own default, as an absolute path: workers and later commands may stand elsewhere.
    target = uri or f"sqlite:///{Path.cwd() / 'mlflow.db'}"
    is_in_environment = TRACKING_VARIABLE in os.environ
    mlflow.set_tracking_uri(target)
    note_answer(None)
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
        make_whole(target)
        found = mlflow.get_experiment_by_name(experiment)
        if found is not None and found.lifecycle_stage == "deleted":
            raise StoreError(
                f"the MLflow experiment {experiment!r} was deleted; restore it (`mlflow experiments restore`) or change `name`"
            )
        return str(found.experiment_id if found else mlflow.create_experiment(experiment, tags=EXPERIMENT_TAGS))
    except StoreError:
        raise
    except Exception as error:
        note_answer(error)
        raise StoreError(
            f"the MLflow store {without_password(target)} can't be used: {reason_of(error)}; check tracking.uri"
        ) from error


def _quiet() -> None:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    # It would stand between the lines of `--json`.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for name, value in HTTP_PATIENCE.items():
        os.environ.setdefault(f"MLFLOW_HTTP_REQUEST_{name}", value)
    for name in ("alembic", "mlflow.system_metrics", "mlflow.tracking"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # It shows the traceback of what it raises: a full disk's, say, which is told in one sentence.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    # It tells of every attempt; we tell what came of them.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)


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


def run_status(run_id: str) -> str | None:
    """RUNNING, FINISHED, FAILED or KILLED; None: the run isn't there, or is deleted.

    Raises: Exception: the store can't be asked.
    """
    from mlflow.exceptions import MlflowException

    try:
        info = client().get_run(run_id).info
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    return str(info.status) if info.lifecycle_stage == "active" else None


def reopen(run_id: str) -> None:
    """Makes a run that ended, or whose process died, this process's own."""
    from mlflow.entities import RunTag

    store = client()
    # The owner first: a run that is RUNNING under a dead one is closed by whoever sees it.
    store.log_batch(run_id, tags=[RunTag(key, value) for key, value in owner_tags().items()])
    if ERROR_TAG in store.get_run(run_id).data.tags:
        store.delete_tag(run_id, ERROR_TAG)
    store.update_run(run_id, status="RUNNING")


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


class _Silence:
    """Until when the store counts as away: as long as it does, nobody waits for it."""

    until = 0.0
    missed: ClassVar[list[str]] = []


@contextmanager
def noting() -> Iterator[list[str]]:
    """What `deliver` could not send as long as this lasts."""
    before = len(_Silence.missed)
    missed: list[str] = []
    try:
        yield missed
    finally:
        missed += _Silence.missed[before:]


def is_away(error: Exception) -> bool:
    """Whether an error says that the store can't be reached, not that it refuses something."""
    from mlflow.exceptions import MlflowException

    if not isinstance(error, MlflowException):
        library = type(error).__module__.partition(".")[0]
        return isinstance(error, ConnectionError | TimeoutError) or library in ("requests", "urllib3")
    # SQLite is there when another process writes to it, and takes the next attempt.
    is_locked = "database is locked" in str(error)
    return not is_locked and (error.error_code == "TEMPORARILY_UNAVAILABLE" or " failed with " in str(error))


def note_answer(error: Exception | None, waited: float = 0.0) -> None:
    """Tells those who deliver what the store said last, and after how many seconds; None: it answered."""
    if error is None:
        _Silence.until = 0.0
    elif is_away(error):
        _Silence.until = time.monotonic() + max(PAUSE_SECONDS, PAUSE_RATIO * waited)


def deliver(what: str, call: Callable[[], object]) -> bool:
    """Calls MLflow, again where that fails, and at last goes on with a warning: a tracker must never end a training.

    A store that was just found to be away isn't asked again for a while. Returns: whether MLflow took it.
    """
    if time.monotonic() < _Silence.until:
        logger.info("the %s are not sent to MLflow, which is away", what)
        _Silence.missed.append(what)
        return False
    started = time.monotonic()
    for seconds in (*RETRY_SECONDS, None):
        try:
            call()
        except Exception as error:  # whatever the store raises: locked, gone, or a race between two workers
            if seconds is None or time.monotonic() - started > PATIENCE_SECONDS:
                note_answer(error, time.monotonic() - started)
                _Silence.missed.append(what)
                logger.warning(
                    "the %s could not be sent to MLflow: %s; they are kept in the cell's folder", what, reason_of(error)
                )
                return False
            logger.info("MLflow didn't take the %s (%s); trying again", what, type(error).__name__)
            # Workers that collided must not collide again.
            time.sleep(seconds * (0.5 + random.random()))
        else:
            note_answer(None)
            return True
    return False


def reason_of(error: Exception) -> str:
    """What a store's driver or HTTP library says, in one line and without any password."""
    if isinstance(error, ModuleNotFoundError):
        advice = DRIVERS.get(error.name or "", f"`pip install {error.name}`")
        return f"the database's driver {error.name} isn't installed here ({advice})"
    return redacted((str(error).splitlines() or [type(error).__name__])[0])
