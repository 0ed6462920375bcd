"""The points that a run's curves have: none is sent twice, whoever sent it and however often."""

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

# SQL stores keep infinity as the largest double.
LARGEST = 1.7e308


class Point(NamedTuple):
    """One point of a curve, at a step."""

    timestamp: int
    """Milliseconds."""
    value: float

    def says(self, value: float) -> bool:
        """Whether it has this value, as far as a store can tell."""
        if math.isnan(value) or math.isnan(self.value):
            return math.isnan(value) and math.isnan(self.value)
        if min(abs(value), abs(self.value)) > LARGEST:
            return (value > 0) == (self.value > 0)
        return value == self.value


class KnownPoints:
    """What is known of the curves of a run; those that an earlier process left are asked for once they are needed."""

    def __init__(self, client: "MlflowClient", run_id: str, *, is_new: bool) -> None:
        self._client = client
        self._run_id = run_id
        self._stored: set[str] | None = set() if is_new else None
        """Metrics that the run had before this process; None: not asked yet."""
        self._curves: dict[str, dict[int, Point]] = {}

    def missing(self, metric: "Metric") -> "Metric | None":
        """The metric as it has to be sent; None where its curve has that step.

        A measurement that belongs to a logged model too is sent as the point that the curve has, which the store takes for the
        same one; a training that began again with a smaller batch measures it by a hair differently. Estimates, at step 0,
        change where an evaluation does.

        Raises: Exception: the store can't be asked.
        """
        curve = self._curve(metric.key)
        known = curve.get(metric.step)
        if known is not None and (_is_of_training(metric) or known.says(metric.value)):
            if not metric.model_id:
                return None
            metric = _as(metric, known)
        curve[metric.step] = Point(metric.timestamp, metric.value)
        return metric

    def _curve(self, key: str) -> dict[int, Point]:
        if key not in self._curves:
            if self._stored is None:
                self._stored = set(self._client.get_run(self._run_id).data.metrics)
            stored = self._client.get_metric_history(self._run_id, key) if key in self._stored else ()
            ordered = sorted(stored, key=lambda metric: metric.timestamp)
            self._curves[key] = {metric.step: Point(metric.timestamp, metric.value) for metric in ordered}
        return self._curves[key]


def _is_of_training(metric: "Metric") -> bool:
    """Whether it is a point of a training's curve; what is measured before the first step is logged at step 0, as estimates are."""
    return bool(metric.step > 0 or metric.key.startswith(("eval_", "train_probe_")))


def _as(metric: "Metric", known: Point) -> "Metric":
    from mlflow.entities import Metric

    return Metric(
        metric.key, known.value, known.timestamp, metric.step, model_id=metric.model_id, dataset_name=metric.dataset_name,
        dataset_digest=metric.dataset_digest, run_id=metric.run_id,
    )  # fmt: skip
