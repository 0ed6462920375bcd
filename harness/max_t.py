"""All comparisons at once: step-down max-T, simultaneous intervals, and what choosing the best does to its score."""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from harness.crossed import Spread, Uncertainty, chi_squares
from harness.forked import each
from harness.stats import Array, adjusted_by_holm, num_independent

Indices = NDArray[np.intp]

MANY_PAIRS = 50_000
"""Pairs from which two processes go through them faster than one."""
CHUNK = 1000
"""Draws made at a time."""
MAX_NUMBERS = 10_000_000
"""Of all draws or of all pairs that are in memory at a time; 1,000 configurations have 499,500 pairs."""


class Comparisons(NamedTuple):
    """All pairs of configurations."""

    first: Indices
    second: Indices
    adjusted: Array
    """(num_pairs,): family-wise p-values of the step-down max-T test."""
    adjusted_by_holm: Array
    """(num_pairs,): the same by Holm's correction, as a cross-check."""
    critical: float
    """Standard errors that a simultaneous interval reaches from each mean."""

    def better(self, means: Array, alpha: float, by_holm: bool = False) -> list[tuple[int, int]]:
        """Pairs (i, j) in which i is better than j."""
        is_sure = (self.adjusted_by_holm if by_holm else self.adjusted) < alpha
        first, second = self.first[is_sure], self.second[is_sure]
        is_first = means[first] > means[second]
        winners, losers = np.where(is_first, first, second), np.where(is_first, second, first)
        return list(zip(winners.tolist(), losers.tolist(), strict=True))


def compare_all(
    spread: Spread, scores: Sequence[Array], clusters: Sequence[str], *, alpha: float, resamples: int, seed: int = 0
) -> Comparisons:
    """Step-down max-T over all pairs of means (Westfall and Young 1993, algorithm 2.8; Romano and Wolf 2005).

    The draws carry the covariance over items, the plausible seed variances and both degrees of freedom.

    Args:
        spread: of the configurations.
        scores: what it was made of; single runs of independent 0 and 1 are never told apart surer than by McNemar's test.
        clusters: one name an item.
        alpha: of the simultaneous intervals.
        resamples: draws.
        seed: of the draws.
    """
    first, second = np.triu_indices(len(spread.means), k=1)
    observed, errors, p_values = _pairs(spread, first, second, num_independent(clusters))
    if len(set(clusters)) == len(clusters):
        exact = _mcnemar(scores, first, second)
        p_values = np.maximum(p_values, exact)
        observed = np.minimum(observed, stats.t.isf(exact / 2, spread.freedom_of_items))
    order = np.argsort(-observed)
    inverse = np.divide(1.0, errors, out=np.zeros_like(errors), where=errors > 0)
    own = np.sqrt(np.diag(spread.covariance))
    own_inverse = np.divide(1.0, own, out=np.zeros_like(own), where=own > 0)
    ordered = _Ordered(first[order], second[order], observed[order], inverse[order])
    exceeded, largest = np.zeros(len(order), dtype=np.intp), []
    constant, rng = np.flatnonzero(own == 0), np.random.default_rng([seed, 1])
    draws, at_a_time = _draws(spread, resamples, seed), max(1, MAX_NUMBERS // (CHUNK * len(own)))
    while chunks := list(itertools.islice(draws, at_a_time)):
        for drawn in chunks:  # (CHUNK, num_configs)
            standardized = drawn * own_inverse
            # Rows without any spread still take part in "all rows together": their Wilson intervals reach as far.
            standardized[:, constant] = rng.standard_normal((len(drawn), len(constant)))
            largest.append(np.abs(standardized).max(axis=1))
        exceeded += ordered.exceeded_in_parts(np.concatenate(chunks).T)
    adjusted = np.empty(len(order))
    adjusted[order] = np.maximum.accumulate((exceeded + 1) / (resamples + 1))
    by_holm = adjusted_by_holm(p_values)
    # Draws say nothing of a pair that no draw moves.
    adjusted = np.where(errors > 0, adjusted, np.maximum(adjusted, by_holm))
    critical = float(np.quantile(np.concatenate(largest), 1 - alpha))
    return Comparisons(first, second, adjusted, by_holm, critical)


class _Ordered(NamedTuple):
    """All pairs, the most different ones first."""

    first: Indices
    second: Indices
    observed: Array
    """Their statistics."""
    inverse: Array
    """One by their standard errors."""

    def exceeded_in_parts(self, drawn: Array) -> Indices:
        """The same as `exceeded`, for half a million pairs on two cores."""
        parts = np.array_split(drawn, 2 if len(self.observed) >= MANY_PAIRS else 1, axis=1)
        counts: Indices = np.sum(list(each(lambda k: self.exceeded(parts[k].copy()), len(parts), worth_it=2)), axis=0)
        return counts

    def exceeded(self, drawn: Array) -> Indices:
        """How many draws have, among each pair and those after it, a statistic that reaches the pair's own.

        Pair by pair over all draws at once, from the last one on: what lies in memory doesn't grow with the number of pairs.

        Args:
            drawn: (num_configs, num_draws).
        """
        counts = np.zeros(len(self.observed), dtype=np.intp)
        largest, t = np.zeros(drawn.shape[1]), np.empty(drawn.shape[1])
        reaches = np.empty(drawn.shape[1], dtype=bool)
        pairs = zip(
            self.first.tolist(), self.second.tolist(), self.observed.tolist(), self.inverse.tolist(), strict=True
        )
        for place, (i, j, observed, inverse) in zip(range(len(counts) - 1, -1, -1), reversed(list(pairs)), strict=True):
            np.subtract(drawn[i], drawn[j], out=t)
            np.abs(t, out=t)
            np.multiply(t, inverse, out=t)
            np.maximum(largest, t, out=largest)
            np.greater_equal(largest, observed, out=reaches)
            counts[place] = np.count_nonzero(reaches)
        return counts


def _pairs(spread: Spread, first: Indices, second: Indices, independent: float) -> tuple[Array, Array, Array]:
    """Statistic, standard error and unadjusted p-value of every pair; where all items say the same, a sign test's."""
    items = np.diag(spread.items)
    variance = items[first] + items[second] - 2 * spread.items[first, second]  # (num_pairs,)
    # What rounding leaves between two rows of the same scores would be divided by.
    variance[variance < 1e-12 * (items[first] + items[second])] = 0.0
    weights = spread.seed_weights[first] + spread.seed_weights[second]
    noise = spread.noise
    errors = np.sqrt(variance + weights * (noise.variance if noise else 0.0))
    gaps = np.abs(spread.means[first] - spread.means[second])
    gaps[gaps < 1e-12] = 0.0
    observed = np.divide(gaps, errors, out=np.where(gaps > 0, np.inf, 0.0), where=errors > 0)
    plausible = noise.plausible(chi_squares(noise.freedom)) if noise else np.zeros(1)
    p_values = np.empty(len(gaps))
    size = max(1, MAX_NUMBERS // len(plausible))
    for some in (slice(start, start + size) for start in range(0, len(gaps), size)):
        scales = np.sqrt(variance[some, None] + weights[some, None] * plausible)  # (num_pairs, num_plausible)
        ratios = np.divide(gaps[some, None], scales, out=np.full_like(scales, np.inf), where=scales > 0)
        ratios[gaps[some] == 0] = 0.0
        p_values[some] = 2 * special.stdtr(spread.freedom_of_items, -ratios).mean(axis=1)
    return observed, errors, np.where(variance > 0, p_values, np.maximum(p_values, 2 * 0.5 ** int(independent)))


def _mcnemar(scores: Sequence[Array], first: Indices, second: Indices) -> Array:
    """Exact McNemar p-value of each pair of single runs of 0 and 1; 0, which limits nothing, for every other pair."""
    single = np.array([len(s) == 1 and bool(np.isin(np.abs(s), (0.0, 1.0)).all()) for s in scores])
    right = np.abs(np.stack([s[0] for s in scores]))  # (num_configs, num_items)
    gained = right @ (1 - right).T
    wins, losses = gained[first, second], gained[second, first]
    exact = np.minimum(1.0, 2 * stats.binom.cdf(np.minimum(wins, losses), wins + losses, 0.5))
    return np.where(single[first] & single[second], exact, 0.0)


def _draws(spread: Spread, resamples: int, seed: int) -> Iterator[Array]:
    """Deviations of the means from the truth that the scores are compatible with, (at most CHUNK, num_configs) at a time."""
    rng = np.random.default_rng(seed)
    root, freedom = _root(spread.items), spread.freedom_of_items
    for start in range(0, resamples, CHUNK):
        size = min(CHUNK, resamples - start)
        drawn = rng.standard_normal((size, len(root))) @ root.T
        drawn *= np.sqrt(freedom / rng.chisquare(freedom, size))[:, None]
        if spread.noise:
            plausible = spread.noise.plausible(rng.chisquare(spread.noise.freedom, size))  # (size,)
            drawn += rng.standard_normal(drawn.shape) * np.sqrt(plausible[:, None] * spread.seed_weights)
        yield drawn


def _root(covariance: Array) -> Array:
    """A matrix whose product with its transpose is the covariance, be it singular."""
    values, vectors = np.linalg.eigh(covariance)
    root: Array = vectors * np.sqrt(np.maximum(values, 0.0))
    return root


class Selection(NamedTuple):
    """What choosing the best does."""

    probability_best: Array
    """(num_configs,): share of the draws around the means in which each comes first."""
    optimism: float
    """By how much the best of the candidates looks better than it is, if they are equal."""
    optimism_of_seeds: float
    """The part of it that fresh examples leave: the luck of its training seeds."""


def selection(spread: Spread, candidates: Sequence[int], *, resamples: int, seed: int = 0) -> Selection:
    """Luck of the winner, by draws with the estimated covariance.

    Args:
        spread: of the configurations.
        candidates: those that could have been the best; rows that are surely worse had no chance.
        resamples: draws.
        seed: of the draws.
    """
    weights, chosen_from = spread.seed_weights, np.asarray(candidates)
    deviation = np.sqrt(weights * (spread.noise.variance if spread.noise else 0.0))
    root, num_configs = _root(spread.items), len(spread.means)
    for_items, for_seeds = np.random.default_rng(seed), np.random.default_rng(seed)
    size = max(1, MAX_NUMBERS // num_configs)
    sizes = [min(size, resamples - start) for start in range(0, resamples, size)]
    for count in sizes:  # the seeds' draws follow on all draws of the items
        for_seeds.standard_normal((count, num_configs))
    wins, luck = np.zeros(num_configs, dtype=np.intp), np.zeros(2)
    for count in sizes:
        items = for_items.standard_normal((count, num_configs)) @ root.T
        seeds = for_seeds.standard_normal((count, num_configs)) * deviation
        total = items + seeds  # (count, num_configs)
        wins += np.bincount((total + spread.means).argmax(axis=1), minlength=num_configs)
        chosen, rows = chosen_from[total[:, chosen_from].argmax(axis=1)], np.arange(count)
        gained = (drawn[rows, chosen].mean() - drawn[:, chosen_from].mean() for drawn in (total, seeds))
        luck += np.fromiter(gained, dtype=float) * (count / resamples)
    return Selection(wins / resamples, *luck.tolist())


def minimum_detectable(spread: Spread, i: int, j: int) -> float | None:
    """Smallest true difference of two configurations that is found with 80 % power at the 5 % level, tested alone.

    What the test must exceed, with the seed variances that are plausible, and 0.84 standard errors on top: of many seeds and
    items, 2.8 standard errors. None where the two don't vary, so that nothing tells.
    """
    c, items, weight = spread.covariance, spread.items, float(spread.seed_weights[i] + spread.seed_weights[j])
    error = np.sqrt(max(c[i, i] + c[j, j] - 2 * c[i, j], 0.0))
    variance = max(float(items[i, i] + items[j, j] - 2 * items[i, j]), 0.0)
    margin = Uncertainty(variance, spread.freedom_of_items, spread.noise, weight).margin()
    least = float(margin + stats.norm.ppf(0.8) * error)
    return least if least > 1e-9 else None
