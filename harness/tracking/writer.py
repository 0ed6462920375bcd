"""The one thread of a process that sends metrics to MLflow, many at a time, so that training never waits."""

import logging
import queue
import re
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from harness.tracking.connection import note_answer
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
        self._queue: queue.SimpleQueue[Metric | None] = queue.SimpleQueue()
        self._queued: list[Metric] = []
        self._waiting: list[Metric] = []
        self._known = KnownPoints(client, run_id, is_new=is_new)
        self._last_beat = time.monotonic()
        self._has_warned = False
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
        from mlflow.entities import Metric

        when = int(time.time() * 1000) if timestamp is None else timestamp
        linked = {**link._asdict(), "run_id": self._run_id} if link else {}
        for name, value in values.items():
            self._queue.put(Metric(name, float(value), when, step, **linked))

    def close(self) -> int:
        """Delivers what is queued; returns how many metrics could not be sent, and says so."""
        self._queue.put(None)
        self._thread.join()
        left = len(self._queued) + len(self._waiting)
        if left:
            logger.warning("%d metrics could not be sent to MLflow; they are kept in trace.jsonl", left)
        return left

    def _work(self) -> None:
        is_open = True
        while is_open:
            deadline = time.monotonic() + FLUSH_SECONDS
            taken = 0
            while is_open and taken < BATCH_SIZE and (left := deadline - time.monotonic()) > 0:
                try:
                    metric = self._queue.get(timeout=left)
                except queue.Empty:
                    break
                if metric is None:
                    is_open = False
                else:
                    self._queued.append(metric)
                    taken += 1
            try:
                self._beat()
                self._admit()
                self._flush()
            except Exception as error:  # a tracking server that is away must not end a training
                note_answer(error)
                self._warn(error)

    def _beat(self) -> None:
        if time.monotonic() - self._last_beat >= HEARTBEAT_SECONDS:
            self._last_beat = time.monotonic()
            self._client.set_tag(self._run_id, HEARTBEAT_TAG, now_text())

    def _admit(self) -> None:
        """Leaves out what the run has already."""
        while self._queued:
            metric = self._known.missing(self._queued[0])
            del self._queued[0]
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
