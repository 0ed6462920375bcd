"""The one thread of a process that sends metrics to MLflow, many at a time, so that training never waits."""

import logging
import queue
import re
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

logger = logging.getLogger(__name__)

# MLflow allows alphanumerics, `_ - . space : /` in names.
UNSAFE_NAME = re.compile(r"[^\w\-. :/]")
BATCH_SIZE = 1000
FLUSH_SECONDS = 2.0


class MetricLink(NamedTuple):
    """What a metric was measured of, and on what."""

    model_id: str
    """Of the logged model."""
    dataset_name: str
    dataset_digest: str


class MetricWriter:
    """Queues metrics and delivers them with `log_batch`; what can't be delivered stays in `trace.jsonl` on disk."""

    def __init__(self, client: "MlflowClient", run_id: str) -> None:
        self._client = client
        self._run_id = run_id
        self._queue: queue.SimpleQueue[Metric | None] = queue.SimpleQueue()
        self._waiting: list[Metric] = []
        self._has_warned = False
        self._refused: set[str] = set()
        self._thread = threading.Thread(target=self._work, name="mlflow-writer", daemon=True)
        self._thread.start()

    def put(self, values: Mapping[str, float], step: int, link: MetricLink | None = None) -> None:
        """Queues values at one step; with a link they are the logged model's too."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        linked = {**link._asdict(), "run_id": self._run_id} if link else {}
        for name, value in values.items():
            self._queue.put(Metric(name, float(value), now, step, **linked))

    def close(self) -> None:
        """Delivers what is queued; says so where that fails."""
        self._queue.put(None)
        self._thread.join()
        if self._waiting:
            logger.warning("%d metrics could not be sent to MLflow; they are kept in trace.jsonl", len(self._waiting))

    def _work(self) -> None:
        is_open = True
        while is_open:
            deadline = time.monotonic() + FLUSH_SECONDS
            while is_open and len(self._waiting) < BATCH_SIZE and (left := deadline - time.monotonic()) > 0:
                try:
                    metric = self._queue.get(timeout=left)
                except queue.Empty:
                    break
                if metric is None:
                    is_open = False
                else:
                    self._waiting.append(metric)
            self._flush()

    def _flush(self) -> None:
        size = BATCH_SIZE
        self._drop_refused()
        while self._waiting:
            batch = self._waiting[:size]
            try:
                self._client.log_batch(self._run_id, metrics=batch)
            except Exception as error:  # a tracking server that is away must not end a training
                if not _is_refusal(error):
                    self._warn(error)
                    return
                # One bad metric makes MLflow refuse its whole batch: halves find it.
                size = len(batch) // 2
                if size:
                    continue
                name = batch[0].key
                logger.warning("MLflow refuses the metric %r (%s); it is kept in trace.jsonl alone", name, error)
                self._refused.add(name)
                self._drop_refused()
            else:
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
