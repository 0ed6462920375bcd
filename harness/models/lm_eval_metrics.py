"""What lm-evaluation-harness's own results say: metrics with intervals, and what was answered to every document."""

import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from harness.records import Estimate
from harness.stats import CONFIDENCE, Interval, estimate

logger = logging.getLogger(__name__)

RESAMPLES = 200
NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.-]+")


class BenchmarkMetric(NamedTuple):
    """One metric of one task, or of a group of tasks."""

    name: str
    """`task.metric`, or `task.metric.filter` where a filter says which part of an answer counts."""
    estimate: Estimate
    values: Mapping[str, float | None]
    """Document id -> value, where the metric is their mean; empty where documents have no value of their own."""


class BenchmarkDocument(NamedTuple):
    """One document of a task, and what the model answered."""

    id: str
    """`task/number`."""
    prompt: str
    completions: tuple[str, ...]
    """What was generated, or the likeliest of the continuations that were compared; none where only a text was weighed."""


def task_metrics(
    results: Mapping[str, Any], aggregations: Mapping[str, Mapping[str, Callable[[list[Any]], Any]]]
) -> Iterator[BenchmarkMetric]:
    """The metrics of every task.

    Args:
        results: of `simple_evaluate` with its samples.
        aggregations: task -> metric -> how values of documents become one.
    """
    for name, samples in results["samples"].items():
        raw: dict[tuple[str, str], dict[str, Any]] = {}
        for sample in samples:
            for metric in sample["metrics"]:
                raw.setdefault((metric, sample["filter"]), {})[_document_id(name, sample)] = sample[metric]
        for (metric, part), items in raw.items():
            value = results["results"][name].get(f"{metric},{part}")
            aggregate = aggregations[name].get(metric, np.mean)
            yield from _measured(_metric_name(name, metric, part), value, items, aggregate)


def group_metrics(
    results: Mapping[str, Any], groups: Mapping[str, Sequence[str]], of_tasks: Sequence[BenchmarkMetric]
) -> Iterator[BenchmarkMetric]:
    """The metrics of groups such as mmlu.

    Args:
        results: of `simple_evaluate`.
        groups: group -> all tasks inside it.
        of_tasks: what `task_metrics` gave.
    """
    known = {metric.name: metric for metric in of_tasks}
    for group, values in results.get("groups", {}).items():
        for key, value in values.items():
            metric, comma, part = key.partition(",")
            if comma and not metric.endswith("_stderr"):
                names = [_metric_name(task, metric, part) for task in groups[group]]
                parts = [known[name] for name in names if name in known]
                yield from _pooled(_metric_name(group, metric, part), _number(value), parts)


def answered_documents(results: Mapping[str, Any]) -> Iterator[BenchmarkDocument]:
    """Every document once, whatever filters look at it."""
    for name, samples in results["samples"].items():
        first = {_document_id(name, sample): sample for sample in reversed(samples)}
        yield from (_document(document, sample) for document, sample in reversed(first.items()))


def _document_id(task: str, sample: Mapping[str, Any]) -> str:
    return f"{task}/{sample['doc_id']}"


def _metric_name(task: str, metric: str, part: str) -> str:
    """In characters that MLflow and gates take."""
    return NOT_IN_NAMES.sub("_", ".".join([task, metric] + ([part] if part != "none" else [])))


def _measured(
    name: str, value: Any, items: Mapping[str, Any], aggregate: Callable[[list[Any]], Any]
) -> Iterator[BenchmarkMetric]:
    """A metric with its interval; none where the task gives no number."""
    total = _number(value)
    if total is None:
        logger.warning("%s is left out: lm_eval gives %s for it", name, value)
    elif all(_is_number(item) for item in items.values()) and _is_mean(total, items.values()):
        yield _mean(name, {document: _number(item) for document, item in items.items()})
    else:
        low, high = _bootstrapped(aggregate, list(items.values()))
        yield BenchmarkMetric(name, Estimate(value=total, low=low, high=high, n=len(items)), {})


def _pooled(name: str, value: float | None, parts: Sequence[BenchmarkMetric]) -> Iterator[BenchmarkMetric]:
    """A group's metric: the mean over all documents, else over its tasks, whose errors are independent."""
    if value is None or not parts:
        return
    values = {document: number for part in parts for document, number in part.values.items()}
    if all(part.values for part in parts) and _is_mean(value, values.values()):
        yield _mean(name, values)
        return
    half = math.sqrt(sum((part.estimate.high - part.estimate.low) ** 2 for part in parts)) / 2 / len(parts)
    n = sum(part.estimate.n for part in parts)
    yield BenchmarkMetric(name, Estimate(value=value, low=value - half, high=value + half, n=n), {})


def _mean(name: str, values: Mapping[str, float | None]) -> BenchmarkMetric:
    scored = [value for value in values.values() if value is not None]
    return BenchmarkMetric(name, estimate(scored, len(values) - len(scored)), values)


def _is_mean(value: float, items: Any) -> bool:
    """Whether the value is the mean of those of the items that have a number."""
    numbers = [number for item in items if (number := _number(item)) is not None]
    return bool(numbers) and math.isclose(float(np.mean(numbers)), value, rel_tol=1e-6, abs_tol=1e-9)


def _is_number(value: Any) -> bool:
    return isinstance(value, bool | int | float | np.number | np.bool_)


def _number(value: Any) -> float | None:
    """A finite number, else None."""
    return float(value) if _is_number(value) and math.isfinite(float(value)) else None


def _bootstrapped(aggregate: Callable[[list[Any]], Any], items: Sequence[Any]) -> Interval:
    """Percentile interval of a task's own aggregation over resampled documents."""
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(RESAMPLES):
        chosen = rng.integers(len(items), size=len(items))
        draws.append(float(aggregate([items[index] for index in chosen])))
    low, high = np.nanquantile(draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(low), float(high))


def _document(document: str, sample: Mapping[str, Any]) -> BenchmarkDocument:
    requests, responses = sample["arguments"], sample["resps"]
    if isinstance(responses[0][0], str):
        return BenchmarkDocument(document, requests[0][0], tuple(responses[0]))
    if not isinstance(responses[0][0], tuple):
        return BenchmarkDocument(document, "", ())
    # Some metrics also weigh the continuations alone, without any prompt.
    prompted = [place for place, request in enumerate(requests) if request[0]] or list(range(len(requests)))
    best = max(prompted, key=lambda place: responses[place][0][0])
    return BenchmarkDocument(document, requests[best][0], (requests[best][1],))
