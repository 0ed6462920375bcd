"""How sure means and differences are: variance crossed over training seeds and test items."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize, special, stats

from harness.records import Estimate
from harness.stats import (
    CONFIDENCE,
    MIN_PAIRS,
    Array,
    PairedDifference,
    cluster_errors,
    num_alike,
    num_independent,
    paired_difference,
    paired_rates,
    t_quantile,
    wilson_of_rate,
)

LENT_FREEDOM = 3
"""Degrees of freedom (four seeds) from which one configuration alone lends its seed noise to single ones."""
GRID = (np.arange(400) + 0.5) / 400


class SeedNoise(NamedTuple):
    """What training seeds do to the mean score of one run, pooled over configurations."""

    between: float
    """Variance of the runs' means within configurations."""
    residual: float
    """The part of it that the choice of items explains."""
    freedom: float
    """Runs beyond the first of each configuration."""

    @property
    def variance(self) -> float:
        """Of one run's mean, from its seed alone."""
        return max(self.between - self.residual, 0.0)

    def plausible(self, chi_square: Array) -> Array:
        """Variances that the runs are compatible with, given draws or quantiles of chi-square with `freedom`.

        The estimate alone would be zero by luck too often: Tsui and Weerahandi 1989, generalized p-values.
        """
        return np.maximum(self.between * self.freedom / chi_square - self.residual, 0.0)


class Spread(NamedTuple):
    """Means of configurations over their seeds and items, and how sure they are."""

    means: Array
    """(num_configs,)"""
    items: Array
    """(num_configs, num_configs): covariance of the means that comes from the choice of test items."""
    freedom_of_items: float
    """Clusters less one, as far as they are of equal size."""
    noise: SeedNoise | None
    """None: no configuration tells."""
    seed_weights: Array
    """(num_configs,): share of a run's seed variance in each mean; 1 / num_seeds, 0 for what was not trained."""

    @property
    def covariance(self) -> Array:
        """(num_configs, num_configs), of the means."""
        return self.items + np.diag(self.seed_weights * (self.noise.variance if self.noise else 0.0))


def spread(scores: Sequence[Array], clusters: Sequence[str], has_seeds: Sequence[bool] | None = None) -> Spread:
    """Variance of the means of configurations over items (clusters of them) and over training seeds.

    Items: sample covariance over cluster sums of the seed-averaged scores, factor G / (G - 1) where they are of equal
    size. Seeds: variance of the runs' means within configurations, pooled over configurations, less the part that items
    explain, as in the expected mean squares of a two-way random layout. Unknown with one seed everywhere, or where a
    single configuration with too few replicates would have to lend it to those with one.

    Args:
        scores: one array (num_seeds, num_items) a configuration, the same items in all.
        clusters: one name an item; items of one cluster are not independent of each other.
        has_seeds: whether a configuration was trained, so that another seed would have given another result.
    """
    trained = list(has_seeds) if has_seeds is not None else [True] * len(scores)
    averaged = np.stack([s.mean(axis=0) for s in scores])  # (num_configs, num_items)
    means = averaged.mean(axis=1)
    errors = cluster_errors(averaged - means[:, None], clusters)  # (num_configs, num_clusters)
    weights = np.array([1 / len(s) if is_trained else 0.0 for s, is_trained in zip(scores, trained, strict=True)])
    repeated = [s for s, is_trained in zip(scores, trained, strict=True) if is_trained and len(s) > 1]
    freedom = float(sum(len(s) - 1 for s in repeated))
    noise = None
    if freedom >= (LENT_FREEDOM if len(repeated) == 1 and (weights == 1).any() else 1):
        between = sum(float(((s.mean(axis=1) - s.mean()) ** 2).sum()) for s in repeated) / freedom
        rests = [s - s.mean(axis=0) - s.mean(axis=1, keepdims=True) + s.mean() for s in repeated]
        residual = sum(float((cluster_errors(rest, clusters) ** 2).sum()) for rest in rests) / freedom
        noise = SeedNoise(between, residual, freedom)
    return Spread(means, errors @ errors.T, max(num_independent(clusters) - 1, 1.0), noise, weights)


class Uncertainty(NamedTuple):
    """Variance of one number, a mean or a difference of means."""

    items: float
    """From the choice of test items."""
    freedom_of_items: float
    noise: SeedNoise | None
    seed_weight: float
    """Share of a run's seed variance."""

    def _scales(self) -> Array:
        """Standard deviations that are plausible alike."""
        seeds = self.noise.plausible(chi_squares(self.noise.freedom)) if self.noise else np.zeros(1)
        scales: Array = np.sqrt(self.items + self.seed_weight * seeds)
        return scales

    def p_value(self, difference: float) -> float:
        """Two-sided, averaged over the plausible seed variances; without any spread a difference is sure or nil."""
        return _two_sided(difference, self._scales(), self.freedom_of_items)

    def margin(self, confidence: float = CONFIDENCE) -> float:
        """Half the width of the interval."""
        scales = self._scales()
        quantile = t_quantile((1 + confidence) / 2, self.freedom_of_items)
        low, high = float(scales.min()) * quantile, float(scales.max()) * quantile
        if high - low <= 1e-12:
            return high
        wanted, freedom, least = 1 - confidence, self.freedom_of_items, max(low, 1e-12)
        if _two_sided(least, scales, freedom) <= wanted:
            return least
        return float(optimize.brentq(lambda x: _two_sided(x, scales, freedom) - wanted, least, high))


def _two_sided(difference: float, scales: Array, freedom: float) -> float:
    if not difference:
        return 1.0
    with np.errstate(divide="ignore"):
        return float(2 * special.stdtr(freedom, -abs(difference) / scales).mean())


@functools.cache
def chi_squares(freedom: float) -> Array:
    """Quantiles of chi-square, as many below as above each."""
    quantiles: Array = stats.chi2.ppf(GRID, freedom)
    return quantiles


def mean_estimate(values: Array, clusters: Sequence[str], noise: SeedNoise | None, unscored: int = 0) -> Estimate:
    """Mean over seeds and items with its 95 % interval: Wilson with an effective n where every score is 0 or 1.

    Args:
        values: (num_seeds, num_items).
        clusters: one name an item.
        noise: of training seeds; None where it is unknown or there are none.
        unscored: items without a score.
    """
    found = spread([values], clusters)
    known = Uncertainty(float(found.items[0, 0]), found.freedom_of_items, noise, 1 / len(values))
    value, margin, n = float(values.mean()), known.margin(), values.shape[1]
    low, high = value - margin, value + margin
    if np.isin(values, (0.0, 1.0)).all():
        z = t_quantile((1 + CONFIDENCE) / 2, np.inf)
        low, high = wilson_of_rate(value, (margin / z) ** 2, n, num_alike(clusters), z)
    return Estimate(value=value, low=low, high=high, n=n, unscored=unscored)


def compare_two(
    a: Array, b: Array, clusters: Sequence[str], *, resamples: int = 10_000, seed: int = 0,
    has_seeds: tuple[bool, bool] = (True, True),
) -> PairedDifference | None:  # fmt: skip
    """Mean of a - b with its 95 % interval and two-sided p-value; None with fewer than 6 independent items.

    With more than one seed the variance is crossed over seeds and items, as far as the seeds tell. With one seed each:
    exact McNemar test and Tango's interval for independent scores of 0 and 1, else a paired bootstrap over clusters,
    never surer than Student's t.

    Args:
        a: scores of the one, (num_seeds, num_items).
        b: scores of the other on the same items.
        clusters: one name an item.
        resamples: bootstrap draws.
        seed: of the draws.
        has_seeds: whether each was trained; False for an untouched base or imported predictions.
    """
    noise = spread([a, b], clusters, has_seeds).noise
    return difference(a, b, clusters, noise, resamples=resamples, seed=seed, has_seeds=has_seeds)


def difference(
    a: Array, b: Array, clusters: Sequence[str], noise: SeedNoise | None, *, resamples: int = 10_000, seed: int = 0,
    has_seeds: tuple[bool, bool] = (True, True),
) -> PairedDifference | None:  # fmt: skip
    """`compare_two`, with the seeds' noise known from elsewhere, such as from more configurations than the two."""
    independent = num_independent(clusters)
    if independent < MIN_PAIRS:
        return None
    is_single = noise is None and len(a) == len(b) == 1
    gaps = a.mean(axis=0) - b.mean(axis=0)  # (num_items,)
    # Where every item changes alike there is no variance to go by, and a cluster counts as one item.
    is_alike = bool(np.ptp(gaps) == 0) and gaps[0] in (-1.0, 0.0, 1.0)
    counted = gaps if independent == len(clusters) else gaps[: int(num_alike(clusters))] if is_alike else None
    rates = None
    if counted is not None and np.isin(np.concatenate([a, b]), (0.0, 1.0)).all():
        rates = paired_rates(int((counted > 0).sum()), int((counted < 0).sum()), len(counted))
    if is_single and rates:
        return rates
    found = spread([a, b], clusters, has_seeds)
    variance = float(found.items[0, 0] + found.items[1, 1] - 2 * found.items[0, 1])
    known = Uncertainty(max(variance, 0.0), found.freedom_of_items, noise, float(found.seed_weights.sum()))
    mean, margin = float(found.means[0] - found.means[1]), known.margin()
    by_t = PairedDifference(mean, mean - margin, mean + margin, known.p_value(mean))
    if is_single:
        return _widest(by_t, paired_difference(a[0], b[0], clusters, resamples=resamples, seed=seed))
    return _widest(by_t, rates) if rates and is_alike else by_t


def _widest(a: PairedDifference, b: PairedDifference) -> PairedDifference:
    return PairedDifference(a.mean, min(a.low, b.low), max(a.high, b.high), max(a.p_value, b.p_value))
