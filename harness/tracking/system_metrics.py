"""What a machine does while a run is worked on: processor, memory, disk, network and GPUs, as MLflow measures them.

MLflow's own thread ends for good the first time that its server doesn't answer, and keeps nothing.
"""

import logging
import threading
import time
from pathlib import Path
from typing import Any

from harness.records import Record
from harness.store import append_lines, read_lines, whole_lines
from harness.tracking.writer import UNSAFE_NAME, MetricWriter

logger = logging.getLogger(__name__)

FILE = "system.jsonl"
"""In the folder of a cell or reference."""


class SystemPoint(Record):
    """One measurement."""

    step: int
    """Counts the measurements of a run."""
    timestamp: int
    """Milliseconds since the epoch."""
    values: dict[str, float]
    """By metric."""


class SystemMetrics:
    """Measures every ten seconds, or as MLflow's own settings say: on disk first, then at the writer."""

    def __init__(self, folder: Path, writer: MetricWriter) -> None:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        self._path = folder / FILE
        self._writer = writer
        self._step = len(whole_lines(self._path, SystemPoint))
        # It only measures; its thread is never started.
        self._monitor: Any = SystemMetricsMonitor("")
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._work, name="system-metrics", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Stops measuring."""
        self._ending.set()
        self._thread.join()

    def _work(self) -> None:
        try:
            while self._measured():
                prefix = f"system/{self._monitor.node_id}/" if self._monitor.node_id else "system/"
                values = {UNSAFE_NAME.sub("_", prefix + name): float(value)
                          for name, value in self._monitor.aggregate_metrics().items()}  # fmt: skip
                for source in self._monitor.monitors:
                    source.clear_metrics()
                point = SystemPoint(step=self._step, timestamp=int(1000 * time.time()), values=values)
                append_lines(self._path, [point])
                self._step += 1
                self._writer.put(point.values, point.step, timestamp=point.timestamp)
        except Exception as error:  # a full disk, or a driver that went away: no reason to end a training
            logger.warning("the machine is measured no more: %s", error)

    def _measured(self) -> bool:
        """Takes the samples of one measurement; False once no more are wanted."""
        for _ in range(self._monitor.samples_before_logging):
            self._monitor.collect_metrics()
            if self._ending.wait(self._monitor.sampling_interval):
                return False
        return True


def send_again(folder: Path, writer: MetricWriter) -> None:
    """Gives a writer all that was measured; it leaves out what the run has."""
    for point in read_lines(folder / FILE, SystemPoint):
        writer.put(point.values, point.step, timestamp=point.timestamp)
