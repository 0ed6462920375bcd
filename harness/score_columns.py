"""Scores of a suite in columns: those of a thousand runs fit in memory, where an object for each would not."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any, NamedTuple, cast, overload

import numpy as np
from numpy.typing import NDArray

from harness.records import CellResult, Score, SuiteResult


class Asked(NamedTuple):
    """What the scores of all runs that answered the same suite have in common."""

    ids: tuple[str, ...]
    """Of the examples."""
    metrics: tuple[str, ...]
    example: NDArray[np.int32]
    """Place of each score's example."""
    metric: NDArray[np.int16]
    """Place of each score's metric."""

    def is_as(self, other: "Asked") -> bool:
        """Whether both are equal."""
        same = self.ids == other.ids and self.metrics == other.metrics
        return same and np.array_equal(self.example, other.example) and np.array_equal(self.metric, other.metric)


@dataclass(frozen=True, slots=True, eq=False)
class ScoreColumns(Sequence[Score]):
    """A sequence of scores that makes each as it is asked for it."""

    asked: Asked
    value: NDArray[np.float64]
    """NaN where it could not be scored, which no score is else."""
    failures: tuple[str, ...]
    """Kinds, the empty one first."""
    failure: NDArray[np.int16]
    """Place of each score's failure."""

    def __len__(self) -> int:
        return len(self.value)

    @overload
    def __getitem__(self, place: int) -> Score: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Score]: ...
    def __getitem__(self, place: int | slice) -> Score | Sequence[Score]:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        value, asked = float(self.value[place]), self.asked
        return Score(
            example_id=asked.ids[asked.example[place]], metric=asked.metrics[asked.metric[place]],
            value=None if np.isnan(value) else value, failure=self.failures[self.failure[place]],
        )  # fmt: skip

    def __iter__(self) -> Iterator[Score]:
        rows = zip(self.asked.example.tolist(), self.asked.metric.tolist(), self.value.tolist(), self.failure.tolist(), strict=True)  # fmt: skip
        ids, metrics = self.asked.ids, self.asked.metrics
        for example, metric, value, failure in rows:
            known = None if isnan(value) else value
            yield Score.model_construct(
                example_id=ids[example], metric=metrics[metric], value=known, failure=self.failures[failure]
            )

    def of(self, metric: str) -> dict[str, float]:
        """Example id -> score of one metric, without the unscored."""
        places, ids = self._places(metric), self.asked.ids
        return {
            ids[i]: v for i, v in zip(self.asked.example[places].tolist(), self.value[places].tolist(), strict=True)
        }

    def scored(self, metric: str) -> list[Score]:
        """The scores of one metric, without the unscored."""
        return [self[int(place)] for place in self._places(metric)]

    def _places(self, metric: str) -> NDArray[np.intp]:
        number = self.asked.metrics.index(metric) if metric in self.asked.metrics else -1
        return np.flatnonzero((self.asked.metric == number) & ~np.isnan(self.value))

    def failed(self) -> Iterator[tuple[str, str]]:
        """Example and kind of every failure."""
        for place in np.flatnonzero(self.failure):
            yield self.asked.ids[self.asked.example[place]], self.failures[self.failure[place]]

    def fingerprint(self) -> str:
        """Digest of the content."""
        found = hashlib.sha256(repr((self.asked.ids, self.asked.metrics, self.failures)).encode())
        for column in (self.asked.example, self.asked.metric, self.value, self.failure):
            found.update(column.tobytes())
        return found.hexdigest()


def values_of(suite: SuiteResult, metric: str) -> dict[str, float]:
    """Example id -> score of one metric of a suite, without the unscored."""
    scores: Sequence[Score] = suite.scores
    if isinstance(scores, ScoreColumns):
        return scores.of(metric)
    return {s.example_id: s.value for s in scores if s.metric == metric and s.value is not None}


def scored(suite: SuiteResult, metric: str) -> list[Score]:
    """The scores of one metric of a suite, without the unscored."""
    scores: Sequence[Score] = suite.scores
    if isinstance(scores, ScoreColumns):
        return scores.scored(metric)
    return [score for score in scores if score.metric == metric and score.value is not None]


def failures_of(suite: SuiteResult) -> Iterator[tuple[str, str]]:
    """Example and kind of every failure in a suite."""
    scores: Sequence[Score] = suite.scores
    if isinstance(scores, ScoreColumns):
        return scores.failed()
    return ((score.example_id, score.failure) for score in scores if score.failure)


def compact(result: CellResult) -> CellResult:
    """The same result, its scores in columns."""
    return result.model_copy(update={"suites": tuple(_compact(suite) for suite in result.suites)})


def _compact(suite: SuiteResult) -> SuiteResult:
    scores: Sequence[Score] = suite.scores
    if isinstance(scores, ScoreColumns):
        return suite
    ids, metrics, failures = dict[str, int](), dict[str, int](), {"": 0}
    example = [ids.setdefault(score.example_id, len(ids)) for score in scores]
    metric = [metrics.setdefault(score.metric, len(metrics)) for score in scores]
    failure = [failures.setdefault(score.failure, len(failures)) for score in scores]
    value = [np.nan if score.value is None else score.value for score in scores]
    asked = Asked(tuple(ids), tuple(metrics), np.array(example, np.int32), np.array(metric, np.int16))
    columns = ScoreColumns(asked, np.array(value, np.float64), tuple(failures), np.array(failure, np.int16))
    # Whoever reads scores goes through them, and a sequence of another kind than a tuple is gone through alike.
    return suite.model_copy(update={"scores": cast(tuple[Score, ...], columns)})


def fingerprint(result: CellResult) -> str:
    """Digest of all that a result says, whether its scores are in columns or not."""
    whole = compact(result)
    apart = {"suites": {"__all__": {"scores"}}}
    found = hashlib.sha256(whole.model_dump_json(exclude=cast(Any, apart)).encode("utf-8", "surrogatepass"))
    for suite in whole.suites:
        found.update(cast(ScoreColumns, suite.scores).fingerprint().encode())
    return found.hexdigest()


class Sharing:
    """Lets results hold one copy of what they have in common: what a suite asked, and of which kind each example is."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], SuiteResult] = {}

    def shared(self, result: CellResult) -> CellResult:
        """The result, with what an earlier one had in the earlier one's copy; its scores are in columns."""
        return result.model_copy(update={"suites": tuple(self._shared(suite) for suite in result.suites)})

    def _shared(self, suite: SuiteResult) -> SuiteResult:
        known = self._known.setdefault((suite.suite, suite.digest), suite)
        ours, theirs = cast(ScoreColumns, suite.scores), cast(ScoreColumns, known.scores)
        update: dict[str, Any] = {}
        if ours is not theirs and ours.asked.is_as(theirs.asked):
            update["scores"] = ScoreColumns(theirs.asked, ours.value, ours.failures, ours.failure)
        parts: Mapping[str, object] = {"clusters": known.clusters, "slices": known.slices}
        update |= {name: part for name, part in parts.items() if getattr(suite, name) == part}
        return suite.model_copy(update=update)
