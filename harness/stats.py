"""Intervals and paired comparisons."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

from harness.records import Estimate

CONFIDENCE = 0.95
MIN_PAIRS = 6
MAX_REMEMBERED = 4096
"""Results of functions of few whole numbers, which many rows ask for."""
MAX_KEPT_CLUSTERS = 64
"""The rows of an experiment share a few."""
MAX_KEPT_DRAWS = 10_000_000
"""Numbers; more are drawn anew every time, and not kept."""

Array = NDArray[np.float64]


class Interval(NamedTuple):
    """Bounds of a 95 % interval."""

    low: float
    high: float


# scipy tests a hypothesis first, which takes longer than the interval.
@lru_cache(maxsize=MAX_REMEMBERED)
def wilson(successes: int, n: int, confidence: float = CONFIDENCE) -> Interval:
    """Wilson score interval of a rate (Wilson 1927), as scipy computes it."""
    bounds = stats.binomtest(successes, n).proportion_ci(confidence, method="wilson")
    return Interval(float(bounds.low), float(bounds.high))


@lru_cache(maxsize=MAX_REMEMBERED)
def t_quantile(probability: float, freedom: float) -> float:
    """Quantile of Student's t; of the normal distribution where the degrees of freedom are infinite."""
    return float(stats.t.ppf(probability, freedom))


def wilson_of_rate(rate: float, variance: float, n: int, num_clusters: float, z: float) -> Interval:
    """Wilson interval of a rate whose variance is known: for as many independent examples as would have that variance.

    A rate of 0 or 1 shows no variance at all; then every cluster counts as one example. After Franco, Little, Louis and Slud 2019 (PMC6690503).
    """
    effective = float(num_clusters) if rate in (0.0, 1.0) else min(rate * (1 - rate) / max(variance, 1e-12), n)
    center = (rate + z**2 / (2 * effective)) / (1 + z**2 / effective)
    half = z * np.sqrt(rate * (1 - rate) / effective + z**2 / (4 * effective**2)) / (1 + z**2 / effective)
    low, high = max(0.0, float(center - half)), min(1.0, float(center + half))
    return Interval(0.0 if rate == 0 else low, 1.0 if rate == 1 else high)


def estimate(values: Sequence[float], unscored: int = 0, clusters: Sequence[str] = ()) -> Estimate:
    """Mean with its interval: Wilson where every value is 0 or 1, else Student's t.

    One value alone has no spread to learn from: its interval is the value itself, and n says so. Values of one cluster
    are not independent: the variance is that of the clusters' sums, and Wilson's interval takes the n that fits it.

    Args:
        values: one an example.
        unscored: examples without a value.
        clusters: one name a value; empty where all are independent.
    """
    array = np.asarray(values, dtype=float)
    mean, n = float(array.mean()), len(array)
    clusters = clusters or tuple(map(str, range(n)))
    is_rate, independent = bool(np.isin(array, (0.0, 1.0)).all()), num_independent(clusters)
    if is_rate and len(set(clusters)) == n:
        low, high = wilson(int(array.sum()), n)
        return Estimate(value=mean, low=low, high=high, n=n, unscored=unscored)
    variance = float((cluster_errors((array - mean)[None, :], clusters) ** 2).sum())
    margin = float(np.sqrt(variance)) * t_quantile(0.5 + CONFIDENCE / 2, max(independent - 1, 1))
    low, high = mean - margin, mean + margin
    if is_rate:
        z = t_quantile(0.5 + CONFIDENCE / 2, np.inf)
        low, high = wilson_of_rate(mean, (margin / z) ** 2, n, num_alike(clusters), z)
    return Estimate(value=mean, low=low, high=high, n=n, unscored=unscored)


def cluster_sums(values: Array, clusters: Sequence[str]) -> Array:
    """Sums over the items of each cluster: (num_rows, num_items) -> (num_rows, num_clusters)."""
    count, index = _places(tuple(clusters))
    if count == values.shape[1]:
        return values
    return np.stack([np.bincount(index, weights=row, minlength=count) for row in values])


@lru_cache(maxsize=MAX_KEPT_CLUSTERS)
def _places(clusters: tuple[str, ...]) -> tuple[int, NDArray[np.intp]]:
    """The number of clusters, and the place of each item's among their sorted names."""
    names, index = np.unique(np.asarray(clusters), return_inverse=True)
    return len(names), index


def num_independent(clusters: Sequence[str]) -> float:
    """How many clusters of equal size would tell as much as these (Kish 1965): one that holds most items tells little more than itself."""
    return _num_independent(tuple(clusters))


@lru_cache(maxsize=MAX_KEPT_CLUSTERS)
def _num_independent(clusters: tuple[str, ...]) -> float:
    sizes = np.array([*Counter(clusters).values()], dtype=float)
    return round(float(sizes.sum() ** 2 / (sizes**2).sum()), 9) if len(sizes) else 0.0


def num_alike(clusters: Sequence[str]) -> float:
    """Examples that clusters count for whose answers are all right or all wrong: one each, unless few hold nearly everything.

    Fewer, and 300 right answers of 300 would be surer to fail a gate than 299.
    """
    independent = num_independent(clusters)
    return float(len(set(clusters))) if independent >= MIN_PAIRS else independent


def cluster_errors(deviations: Array, clusters: Sequence[str]) -> Array:
    """What each cluster adds to the error of the means; its product with its transpose is their covariance.

    Clusters that hold a large share of the items pull the mean towards themselves and then deviate little from it; that is
    made up for as in Bell and McCaffrey 2002 (CR2). Of equal clusters it is the factor G / (G - 1).

    Args:
        deviations: of the items from the mean of their row, (num_rows, num_items).
        clusters: one name an item.

    Returns: shape (num_rows, num_clusters); of a single cluster, the spread of its items, as if it were one of them.
    """
    sums, num_items = cluster_sums(deviations, clusters), deviations.shape[1]
    shares = cluster_sums(np.ones((1, num_items)), clusters) / num_items
    if len(shares[0]) == 1:
        sums, shares = np.sqrt((deviations**2).mean(axis=1, keepdims=True)) * num_items, np.zeros(1)
    errors: Array = sums / (num_items * np.sqrt(1 - shares))
    return errors


def bootstrap_means(values: Array, clusters: Sequence[str], *, resamples: int, seed: int) -> Array:
    """Means of resampled rows, whole clusters at a time.

    Args:
        values: shape (num_rows, num_items).
        clusters: one name an item; items of one cluster are drawn together.
        resamples: number of bootstrap draws.
        seed: of the draws.

    Returns: shape (resamples, num_rows).
    """
    num_clusters, index = _places(tuple(clusters))
    sums = cluster_sums(values, clusters)
    sizes = np.bincount(index, minlength=num_clusters).astype(float)
    draw = _draws if num_clusters * resamples <= MAX_KEPT_DRAWS else _draws.__wrapped__
    draws = draw(num_clusters, resamples, seed)
    means: Array = (draws @ sums.T) / (draws @ sizes)[:, None]  # (resamples, num_rows)
    return means


@lru_cache(maxsize=3)
def _draws(num_clusters: int, resamples: int, seed: int) -> Array:
    """How often every cluster is drawn, the same for all that is compared over so many: (resamples, num_clusters)."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(num_clusters, np.full(num_clusters, 1 / num_clusters), resamples).astype(float)


class PairedDifference(NamedTuple):
    """Mean of a - b over the same items, its 95 % interval and two-sided p-value."""

    mean: float
    low: float
    high: float
    p_value: float


def paired_difference(
    a: Sequence[float] | Array,
    b: Sequence[float] | Array,
    clusters: Sequence[str],
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> PairedDifference:
    """Paired bootstrap over clusters of items (Efron and Tibshirani 1993, percentile interval)."""
    difference = np.asarray(a, dtype=float) - np.asarray(b, dtype=float)
    means = bootstrap_means(difference[None, :], clusters, resamples=resamples, seed=seed)[:, 0]
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    tail = min((means <= 0).sum() + 1, (means >= 0).sum() + 1) / (resamples + 1)
    return PairedDifference(float(difference.mean()), float(low), float(high), float(min(1.0, 2 * tail)))


@lru_cache(maxsize=MAX_REMEMBERED)
def paired_rates(gained: int, lost: int, n: int) -> PairedDifference:
    """Exact McNemar test of scores of 0 and 1, with an interval that is never surer than it.

    The interval is Tango's, widened to the exact one of the share of gains among the changes.

    Args:
        gained: pairs in which only the first is 1.
        lost: pairs in which only the second is 1.
        n: all pairs.
    """
    changed = gained + lost
    score = tango(gained, lost, n, confidence=(1 + CONFIDENCE) / 2)
    if not changed:
        return PairedDifference(0.0, score.low, score.high, 1.0)
    test = stats.binomtest(gained, changed)
    # The exact interval (Clopper and Pearson 1934); binomtest searches for it step by step, which is slow.
    tail = (1 - CONFIDENCE) / 2
    shares = (
        float(special.betaincinv(gained, lost + 1, tail)) if gained else 0.0,
        float(special.betaincinv(gained + 1, lost, 1 - tail)) if lost else 1.0,
    )
    low, high = ((2 * share - 1) * changed / n for share in shares)
    return PairedDifference((gained - lost) / n, min(score.low, low), max(score.high, high), float(test.pvalue))


class NonInferiority(NamedTuple):
    """Whether a model still does what another did, up to a margin."""

    verdict: Literal["retained", "forgot", "inconclusive"]
    difference: float
    """Mean of ours - theirs."""
    low: float
    """One-sided 95 % bound: surely not worse than this."""
    high: float
    """One-sided 95 % bound: surely not better than this."""
    margin: float


def non_inferiority(
    ours: Sequence[float],
    theirs: Sequence[float],
    clusters: Sequence[str],
    margin: float,
    *,
    resamples: int = 4000,
    seed: int = 0,
) -> NonInferiority:
    """Surely not worse by the margin: retained; surely worse by more: forgot; else, or with fewer than 6 independent pairs: inconclusive.

    The bounds are the widest of a paired bootstrap over clusters, of Tango's interval (for scores of 0 and 1) and of
    Student's over clusters: a bootstrap alone is sure of everything where a few examples happen not to change.

    Args:
        ours: score of every example, more is better.
        theirs: score of the same examples.
        clusters: one name an example.
        margin: the loss that matters, at least 0.
        resamples: bootstrap draws.
        seed: of the draws.
    """
    a, b = np.asarray(ours, dtype=float), np.asarray(theirs, dtype=float)
    if num_independent(clusters) < MIN_PAIRS:
        mean = float((a - b).mean()) if len(a) else float("nan")
        return NonInferiority("inconclusive", mean, -np.inf, np.inf, margin)
    means = bootstrap_means((a - b)[None, :], clusters, resamples=resamples, seed=seed)[:, 0]
    drawn = np.quantile(means, [1 - CONFIDENCE, CONFIDENCE])
    is_binary = bool(np.isin(np.concatenate([a, b]), (0.0, 1.0)).all())
    modelled = _student(a - b, clusters)
    if is_binary:
        alone = tango(int((a > b).sum()), int((a < b).sum()), len(a))
        is_alone = len(set(clusters)) == len(a)
        modelled = alone if is_alone else Interval(min(alone.low, modelled.low), max(alone.high, modelled.high))
    low, high = min(float(drawn[0]), modelled.low), max(float(drawn[1]), modelled.high)
    verdict: Literal["retained", "forgot", "inconclusive"] = (
        "retained" if low > -margin else "forgot" if high < -margin else "inconclusive"
    )
    return NonInferiority(verdict, float((a - b).mean()), low, high, margin)


def tango(gained: int, lost: int, n: int, confidence: float = CONFIDENCE) -> Interval:
    """One-sided bounds of a difference of paired rates, by the score test (Tango 1998).

    Args:
        gained: pairs in which only the first is 1.
        lost: pairs in which only the second is 1.
        n: all pairs.
        confidence: of each bound; 0.975 for a two-sided 95 % interval.
    """
    z = float(stats.norm.ppf(confidence))

    def score(difference: float) -> float:
        b = -gained - lost + (2 * n - gained + lost) * difference
        c = -lost * difference * (1 - difference)
        lost_rate = (np.sqrt(b**2 - 8 * n * c) - b) / (4 * n)
        variance = n * (2 * lost_rate + difference * (1 - difference))
        return float((gained - lost - n * difference) / np.sqrt(max(variance, 1e-12)))

    observed = (gained - lost) / n
    low = -1.0 if score(-1 + 1e-9) < z else optimize.brentq(lambda d: score(d) - z, -1 + 1e-9, observed)
    high = 1.0 if score(1 - 1e-9) > -z else optimize.brentq(lambda d: score(d) + z, observed, 1 - 1e-9)
    return Interval(float(low), float(high))


def _student(differences: Array, clusters: Sequence[str]) -> Interval:
    mean = float(differences.mean())
    error = float(np.sqrt((cluster_errors((differences - mean)[None, :], clusters) ** 2).sum()))
    margin = error * t_quantile(CONFIDENCE, num_independent(clusters) - 1)
    return Interval(mean - margin, mean + margin)


def holm(p_values: Mapping[tuple[int, int], float]) -> dict[tuple[int, int], float]:
    """Family-wise adjusted p-values (Holm 1979)."""
    adjusted = adjusted_by_holm(np.array([*p_values.values()], dtype=float))
    return dict(zip(p_values, adjusted.tolist(), strict=True))


def adjusted_by_holm(p_values: Array) -> Array:
    """The same of p-values in a row: (num_tests,)."""
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.maximum.accumulate(np.minimum(1.0, p_values[order] * np.arange(len(p_values), 0, -1)))
    return adjusted


def rank_intervals(num_rows: int, better: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """[1 + rows significantly better, K - rows significantly worse] of each row.

    Args:
        num_rows: K.
        better: pairs (i, j) in which row i is significantly better than row j.
    """
    above, below = Counter(loser for _, loser in better), Counter(winner for winner, _ in better)
    return [(1 + above[row], num_rows - below[row]) for row in range(num_rows)]
