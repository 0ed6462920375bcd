"""How much a metric depends on the wording of its questions."""

import itertools
from typing import NamedTuple

from harness.records import SuiteResult
from harness.score_columns import values_of
from harness.stats import MIN_PAIRS, holm, paired_difference


class WordingSpread(NamedTuple):
    """The best and the worst of several wordings of the same questions."""

    best: str
    worst: str
    difference: float
    """Mean of best - worst, over the questions that were scored in both."""
    low: float
    """Of its 95 % interval."""
    high: float
    p_value: float
    """Two-sided, adjusted for all pairs of wordings (Holm 1979)."""
    n: int
    """Questions."""


def wording_spread(suite: SuiteResult, metric: str = "correct") -> WordingSpread | None:
    """Spread of a metric over the slices of a suite in which every cluster is one question.

    The best and worst of k wordings differ by chance alone, which the adjusted p-value heeds and the interval doesn't.
    None with fewer than two slices, or fewer than 6 questions in common.
    """
    scores: dict[str, dict[str, float]] = {}
    for example, value in values_of(suite, metric).items():
        for wording in suite.slices[example]:
            scores.setdefault(wording, {})[suite.clusters[example]] = value
    shared = sorted(set.intersection(*(set(values) for values in scores.values()))) if scores else []
    if len(scores) < 2 or len(shared) < MIN_PAIRS:
        return None
    # By their means, best first; of equals, by name, so that the same records give the same words.
    names = sorted(scores, key=lambda name: (-sum(scores[name][question] for question in shared), name))
    compared = {
        (a, b): paired_difference(
            [scores[names[a]][question] for question in shared], [scores[names[b]][question] for question in shared], shared
        )
        for a, b in itertools.combinations(range(len(names)), 2)
    }  # fmt: skip
    extreme = compared[0, len(names) - 1]
    adjusted = holm({pair: difference.p_value for pair, difference in compared.items()})
    return WordingSpread(
        names[0], names[-1], extreme.mean, extreme.low, extreme.high, adjusted[0, len(names) - 1], len(shared)
    )
