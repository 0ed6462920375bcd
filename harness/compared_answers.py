"""The examples on which two runs disagree most, with both answers."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from harness.compared import Answer, Disagreement
from harness.compared_runs import Part, Side
from harness.gates import per_example, sign_of
from harness.records import Example


class Disagreements(NamedTuple):
    """Where two runs scored differently."""

    shown: tuple[Disagreement, ...]
    total: int
    """All of them, shown or not."""


class _Scored(NamedTuple):
    """One metric of one side."""

    side: Side
    runs: Sequence[Mapping[str, float]]
    """Of each part, example id -> score."""

    @classmethod
    def of(cls, side: Side, metric: str) -> "_Scored":
        return cls(side, [per_example(part.result, metric) for part in side.parts])

    def means(self) -> dict[str, float]:
        """Example id -> mean over the seeds, where all scored it."""
        shared = set.intersection(*(set(run) for run in self.runs))
        # Means that are equal on paper may differ in their last bits.
        return {example: round(float(np.mean([run[example] for run in self.runs])), 12) for example in shared}


def disagreements(a: Side, b: Side, metrics: Sequence[str], criterion: str, limit: int) -> Disagreements:
    """Examples that the two scored differently on: the criterion's suite first, in it the largest difference first.

    Every suite is told by one metric: the criterion, else its first.

    Args:
        a: the one.
        b: the other.
        metrics: `suite.metric` that both were measured by.
        criterion: which of them, or of their slices, decides.
        limit: how many are shown.
    """
    by_suite = {criterion.partition(".")[0]: criterion}
    for metric in metrics:
        by_suite.setdefault(metric.partition(".")[0], metric)
    shown: list[Disagreement] = []
    total = 0
    for suite, metric in by_suite.items():
        scored = _Scored.of(a, metric), _Scored.of(b, metric)
        divided = _divided(scored, suite, [name for name in metrics if name.startswith(f"{suite}.")])
        total += len(divided)
        shown += [_told(scored, suite, metric, example) for example in divided[: limit - len(shown)]]
    return Disagreements(tuple(shown), total)


def _divided(scored: tuple[_Scored, _Scored], suite: str, others: Sequence[str]) -> list[str]:
    """Ids of examples with two answers of different score, the largest difference first.

    Where one is simply right and the other wrong, the other metrics tell how far they are apart.
    """
    ours, theirs = (side.means() for side in scored)
    # An NLL has no upper end, and would drown the others.
    bounded = [name for name in others if sign_of(name) > 0]
    seconds = [tuple(_Scored.of(one.side, name).means() for one in scored) for name in bounded]

    def order(example: str) -> tuple[float, float, str]:
        apart = sum(abs(x[example] - y[example]) for x, y in seconds if example in x and example in y)
        return -abs(ours[example] - theirs[example]), -round(apart, 12), example

    divided = [i for i in ours.keys() & theirs.keys() if ours[i] != theirs[i]]
    # Benchmarks of another library leave scores and no answers.
    answered = [i for i in divided if all(any(i in p.generations.get(suite, {}) for p in s.side.parts) for s in scored)]
    return sorted(answered, key=order)


def _told(scored: tuple[_Scored, _Scored], suite: str, metric: str, example: str) -> Disagreement:
    a, b = (_answer(side, suite, example) for side in scored)
    assert a.score is not None and b.score is not None, "only scored examples are chosen"
    parts = [part for one in scored for part in one.side.parts]
    asked = next((part.examples[suite][example] for part in parts if example in part.examples.get(suite, {})), None)
    given = next(part.generations[suite][example] for part in parts if example in part.generations.get(suite, {}))
    return Disagreement(
        suite=suite,
        metric=metric,
        example_id=example,
        prompt=asked_text(asked) if asked else given.prompt,
        reference=asked.reference if asked else None,
        difference=a.score - b.score,
        a=a,
        b=b,
    )


def asked_text(asked: Example) -> str:
    """What was asked, turn by turn where there are several."""
    if len(asked.turns) == 1:
        return asked.turns[0].content
    return "\n".join(f"{turn.role}: {turn.content}" for turn in asked.turns)


def _answer(scored: _Scored, suite: str, example: str) -> Answer:
    """The answer of the seed whose score is nearest to the mean."""
    mean = round(float(np.mean([run[example] for run in scored.runs])), 12)
    having = [
        (abs(run[example] - mean), position)
        for position, (part, run) in enumerate(zip(scored.side.parts, scored.runs, strict=True))
        if example in part.generations.get(suite, {})
    ]
    part = scored.side.parts[min(having)[1]]
    given = part.generations[suite][example]
    return Answer(
        text=given.text,
        stop_reason=given.stop_reason,
        score=mean,
        scores=_scores_of(part, suite, example),
        seed=part.result.seed if len(scored.side.parts) > 1 else None,
    )


def _scores_of(part: Part, suite: str, example: str) -> dict[str, float | None]:
    scores = next(found.scores for found in part.result.suites if found.suite == suite)
    return {score.metric: score.value for score in scores if score.example_id == example}
