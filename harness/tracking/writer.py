"""The one thread of a process that sends metrics to MLflow, many at a time, so that training never waits."""

import logging
import re
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from harness.tracking.connection import PATIENCE_SECONDS, RETRY_SECONDS, is_away, note_answer
from harness.tracking.ownership import HEARTBEAT_TAG, now_text
from harness.tracking.points import KnownPoints

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

logger = logging.getLogger(__name__)

# MLflow allows alphanumerics, `_ - . space : /` in names.
UNSAFE_NAME = re.compile(r"[^\w\-. :/]")
BATCH_SIZE = 1000
FLUSH_SECONDS = 2.0
HEARTBEAT_SECONDS = 30.0


class MetricLink(NamedTuple):
    """What a metric was measured of, and on what."""

    model_id: str
    """Of the logged model."""
    dataset_name: str
    dataset_digest: str


class _Logged(NamedTuple):
    """One call of a training."""

    values: dict[str, float]
    step: int
    timestamp: int
    link: MetricLink | None


class MetricWriter:
    """Queues metrics and delivers them with `log_batch`; says every half minute that its process lives."""

    def __init__(self, client: "MlflowClient", run_id: str, *, is_new: bool = True) -> None:
        """Starts the thread.

        Args:
            client: of the store.
            run_id: of the run.
            is_new: whether no other process has written to it.
        """
        self._client = client
        self._run_id = run_id
        # Nobody waits for it: a thread that is woken by every step would take the interpreter's lock from the next one.
        self._logged: deque[_Logged] = deque()
        self._closing = threading.Event()
        self._queued: deque[Metric] = deque()
        self._waiting: list[Metric] = []
        self._known = KnownPoints(client, run_id, is_new=is_new)
        self._last_beat = time.monotonic()
        self._has_warned = False
        self._holds_up = False
        self._refused: set[str] = set()
        self._thread = threading.Thread(target=self._work, name="mlflow-writer", daemon=True)
        self._thread.start()

    def put(
        self, values: Mapping[str, float], step: int, link: MetricLink | None = None, timestamp: int | None = None
    ) -> None:
        """Queues values at one step; with a link they are the logged model's too.

        Args:
            values: by name.
            step: of the training.
            link: to a logged model.
            timestamp: in milliseconds; None: now.
        """
        when = int(time.time() * 1000) if timestamp is None else timestamp
        self._logged.append(_Logged(dict(values), step, when, link))

    def close(self) -> int:
        """Delivers what is queued; returns how many metrics could not be sent, and says so."""
        self._closing.set()
        self._thread.join()
        left = len(self._queued) + len(self._waiting)
        if left:
            logger.warning("%d metrics could not be sent to MLflow; they are kept in the cell's folder", left)
        return left

    def _work(self) -> None:
        while not self._closing.wait(FLUSH_SECONDS):
            self._send()
        if self._holds_up:
            # It took its time to fail a moment ago, and would again.
            self._take()
            return
        for seconds in (*RETRY_SECONDS, None):
            error = self._send()
            if seconds is None or error is None or is_away(error):
                return
            # Another process has locked the database, say.
            time.sleep(seconds)

    def _send(self) -> Exception | None:
        """Sends all that was put so far; what went wrong."""
        started = time.monotonic()
        try:
            self._take()
            self._beat()
            self._admit()
            self._flush()
        except Exception as error:  # a tracking server that is away must not end a training
            self._holds_up = time.monotonic() - started > PATIENCE_SECONDS
            note_answer(error, time.monotonic() - started)
            self._warn(error)
            return error
        self._holds_up = False
        return None

    def _take(self) -> None:
        from mlflow.entities import Metric

        while self._logged:
            logged = self._logged.popleft()
            linked = {**logged.link._asdict(), "run_id": self._run_id} if logged.link else {}
            self._queued += [
                Metric(name, float(value), logged.timestamp, logged.step, **linked)
                for name, value in logged.values.items()
            ]

    def _beat(self) -> None:
        if time.monotonic() - self._last_beat >= HEARTBEAT_SECONDS:
            self._last_beat = time.monotonic()
            self._client.set_tag(self._run_id, HEARTBEAT_TAG, now_text())
            note_answer(None)

    def _admit(self) -> None:
        """Leaves out what the run has already."""
        while self._queued:
            metric = self._known.missing(self._queued[0])
            self._queued.popleft()
            if metric is not None:
                self._waiting.append(metric)

    def _flush(self) -> None:
        size = BATCH_SIZE
        self._drop_refused()
        while self._waiting:
            batch = self._waiting[:size]
            try:
                self._client.log_batch(self._run_id, metrics=batch)
            except Exception as error:  # whatever the store raises
                if not _is_refusal(error):
                    raise
                # One bad metric makes MLflow refuse its whole batch: halves find it.
                size = len(batch) // 2
                if size:
                    continue
                name = batch[0].key
                logger.warning("MLflow refuses the metric %r (%s); it is kept in trace.jsonl alone", name, error)
                self._refused.add(name)
                self._drop_refused()
            else:
                note_answer(None)
                del self._waiting[: len(batch)]
            size = BATCH_SIZE

    def _drop_refused(self) -> None:
        self._waiting = [metric for metric in self._waiting if metric.key not in self._refused]

    def _warn(self, error: Exception) -> None:
        if not self._has_warned:
            logger.warning("MLflow can't be reached (%s); metrics wait and are sent again", type(error).__name__)
            self._has_warned = True


def _is_refusal(error: Exception) -> bool:
    """Whether MLflow was reached and takes something that it was sent for invalid."""
    from mlflow.exceptions import MlflowException

    return isinstance(error, MlflowException) and error.error_code == "INVALID_PARAMETER_VALUE"
