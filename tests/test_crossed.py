"""Variance crossed over seeds and items, and all comparisons at once, against other libraries and by hand."""

import numpy as np
import pytest
from scipy import stats

from harness.crossed import SeedNoise, Spread, Uncertainty, compare_two, mean_estimate, spread
from harness.max_t import compare_all, minimum_detectable, selection
from harness.stats import Array, rank_intervals

RNG = np.random.default_rng(0)
A, B = (RNG.random((1, 60)) < 0.8) * 1.0, (RNG.random((1, 60)) < 0.6) * 1.0
ALONE = [str(i) for i in range(60)]


def runs(means: list[float], num_items: int = 2000) -> Array:
    """One run a mean, the same score on every item: the seeds alone vary."""
    return np.repeat(np.array(means)[:, None], num_items, axis=1)


def names(n: int) -> list[str]:
    return [str(i) for i in range(n)]


def test_one_seed_of_rates_is_mcnemars_exact_test() -> None:
    # 12 gained, 3 lost of 100: statsmodels 0.15.0, mcnemar([[60, 12], [3, 25]], exact=True) gives p = 0.03515625.
    ours = np.array([[1.0] * 12 + [0.0] * 3 + [1.0] * 85])
    theirs = np.array([[0.0] * 12 + [1.0] * 3 + [1.0] * 85])
    found = compare_two(ours, theirs, names(100))
    assert found is not None
    assert found.p_value == pytest.approx(0.03515625)
    assert found.mean == pytest.approx(0.09)
    assert 0 < found.low < 0.09 < found.high


@pytest.mark.parametrize("gained", [5, 6])
def test_interval_of_rates_is_never_surer_than_the_test(gained: int) -> None:
    """5 gains and no loss: p = 2 / 32; 6: 2 / 64."""
    found = compare_two(np.array([[1.0] * gained + [0.0] * 94]), np.zeros((1, gained + 94)), names(gained + 94))
    assert found is not None
    assert (found.low > 0) == (found.p_value < 0.05) == (gained == 6)


def test_one_seed_of_continuous_scores_is_no_surer_than_the_paired_t_test() -> None:
    a, b = RNG.random((1, 40)) + 0.1, RNG.random((1, 40))
    by_scipy = stats.ttest_rel(a[0], b[0])
    interval = by_scipy.confidence_interval(0.95)
    found = compare_two(a, b, names(40))
    assert found is not None
    assert found.p_value >= by_scipy.pvalue
    assert found.low <= interval.low + 1e-12 and interval.high - 1e-12 <= found.high
    assert found.high - found.low == pytest.approx(interval.high - interval.low, rel=0.05)


def test_seeds_alone_are_students_t_test_of_the_runs() -> None:
    a, b = [0.70, 0.72, 0.74], [0.66, 0.69, 0.65]
    by_scipy = stats.ttest_ind(a, b)
    interval = by_scipy.confidence_interval(0.95)
    found = compare_two(runs(a), runs(b), names(2000))
    assert found is not None
    assert found.p_value == pytest.approx(by_scipy.pvalue, rel=0.01)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=2e-4)


def test_covariance_over_items_is_numpys_and_clusters_are_summed() -> None:
    found = spread([A, B], ALONE)
    assert found.items == pytest.approx(np.cov(np.vstack([A, B])) / 60)
    # Pairs of items: means of pairs are the independent values, 30 of them.
    paired = spread([A, B], [str(i // 2) for i in range(60)])
    assert paired.items == pytest.approx(np.cov(np.vstack([A, B]).reshape(2, 30, 2).mean(axis=2)) / 30)
    assert (found.freedom_of_items, paired.freedom_of_items) == (59, 29)


def test_seed_variance_is_that_of_a_two_way_layout() -> None:
    """Three runs of four items. Means 0.5, 0.75, 1: variance 0.0625. Residuals by hand: squares sum to 0.5, over 2 x 3, over 4 items."""
    scores = np.array([[1.0, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]])
    noise = spread([scores], names(4)).noise
    assert noise is not None
    residuals = scores - scores.mean(axis=0) - scores.mean(axis=1, keepdims=True) + scores.mean()
    assert noise.between == pytest.approx(0.0625)
    assert noise.residual == pytest.approx(float((residuals**2).sum()) / 6 / 4)
    assert noise.variance == pytest.approx(noise.between - noise.residual)


def test_seed_noise_is_unknown_with_one_seed_and_lent_by_four() -> None:
    def noise(*counts: int) -> SeedNoise | None:
        return spread([RNG.random((count, 50)) for count in counts], names(50)).noise

    assert noise(1, 1) is None
    assert noise(3, 1) is None
    assert [found.freedom for found in (noise(4, 1), noise(2, 2), noise(2, 2, 1)) if found] == [3, 2, 2]


def test_what_was_not_trained_has_no_seed_noise() -> None:
    trained, base = RNG.random((3, 80)) + np.array([[0.0], [0.3], [0.6]]), RNG.random((1, 80))
    found = spread([trained, base], names(80), [True, False])
    assert found.seed_weights == pytest.approx([1 / 3, 0])
    unsure = compare_two(trained, base, names(80))
    sure = compare_two(trained, base, names(80), has_seeds=(True, False))
    assert unsure is not None and sure is not None
    assert (
        sure.high - sure.low > unsure.high - unsure.low
    )  # lent to the base, the noise of three seeds is too few to know


def test_too_few_or_too_dependent_items_compare_nothing() -> None:
    assert compare_two(A[:, :5], B[:, :5], names(5)) is None
    assert compare_two(A, B, [str(i % 5) for i in range(60)]) is None
    assert compare_two(A[:, :6], B[:, :6], names(6)) is not None


def test_equal_scores_never_differ_and_constant_ones_surely_do() -> None:
    same = compare_two(np.vstack([A, A]), np.vstack([A, A]), ALONE)
    assert same is not None and same.p_value == 1.0
    sure = compare_two(np.ones((1, 60)), np.zeros((1, 60)), [str(i // 6) for i in range(60)])
    assert sure is not None
    assert sure.p_value == pytest.approx(2 / 2**10)  # ten clusters
    assert sure.low < 1.0


def test_plausible_seed_variances_widen_what_the_estimate_alone_would_not() -> None:
    """The estimate is zero by luck; with two degrees of freedom much more is plausible."""
    lucky = Uncertainty(1e-4, 499, SeedNoise(between=1e-4, residual=1.1e-4, freedom=2), 1.0)
    assert lucky.margin() > 1.5 * Uncertainty(1e-4, 499, None, 1.0).margin()


def test_mean_of_one_run_of_rates_is_wilsons_and_seeds_widen_it() -> None:
    alone = mean_estimate((RNG.random((1, 400)) < 0.7) * 1.0, names(400), None)
    low, high = stats.binomtest(round(alone.value * 400), 400).proportion_ci(method="wilson")
    assert (alone.low, alone.high) == pytest.approx((low, high), abs=1e-3)
    noisy = mean_estimate((RNG.random((2, 400)) < 0.7) * 1.0, names(400), SeedNoise(0.004, 0.0005, 8))
    assert noisy.high - noisy.low > 1.5 * (alone.high - alone.low)


MEANS = np.array([0.62, 0.60, 0.55, 0.53, 0.50, 0.41, 0.40, 0.30])
DEVIATIONS = np.array([2, 2, 1.5, 2, 2.5, 2, 1.5, 2]) / 100
COVARIANCE = 0.4 * np.outer(DEVIATIONS, DEVIATIONS) + 0.6 * np.diag(DEVIATIONS**2)


def known() -> Spread:
    return Spread(MEANS, COVARIANCE, 1e9, None, np.zeros(8))


def test_rank_intervals_and_best_set_are_those_of_multiple_inference() -> None:
    # multiple-inference 1.2.0, SimultaneousRanking(MEANS, COVARIANCE).fit(n_samples=200000): conf_int(0.05), and
    # compute_best_params() keeps x0 and x1; ConfidenceSet reaches 2.675 standard errors.
    compared = compare_all(known(), [np.full((1, 50), 0.5)] * 8, names(50), alpha=0.05, resamples=20_000)
    intervals = rank_intervals(8, compared.better(MEANS, 0.05))
    assert intervals == [(1, 2), (1, 3), (2, 5), (3, 5), (3, 5), (6, 7), (6, 7), (8, 8)]
    assert compared.critical == pytest.approx(2.675, abs=0.03)


def test_largest_difference_is_tukeys() -> None:
    # statsmodels 0.15.0, pairwise_tukeyhsd: p = 0.00094 for a against b, 0.00402 for b against c, where stepping down is no less.
    runs_of = {"a": [0.70, 0.72, 0.74, 0.71], "b": [0.60, 0.63, 0.62, 0.66], "c": [0.69, 0.67, 0.73, 0.71]}
    scores = [runs(means) for means in runs_of.values()]
    compared = compare_all(spread(scores, names(2000)), scores, names(2000), alpha=0.05, resamples=50_000)
    found = dict(zip(zip(compared.first, compared.second, strict=True), compared.adjusted, strict=True))
    assert found[0, 1] == pytest.approx(0.00094, abs=0.0005)
    assert found[1, 2] <= 0.00402 + 0.001
    assert found[0, 2] == pytest.approx(float(stats.t.sf(1.0877, 9) * 2), abs=0.02)


def test_step_down_p_values_of_few_rates_are_no_surer_than_mcnemar() -> None:
    """5 gains and no loss in 400: t alone would say 0.025."""
    better = np.array([[1.0] * 5 + [0.0] * 395])
    scores = [better, np.zeros((1, 400))]
    compared = compare_all(spread(scores, names(400)), scores, names(400), alpha=0.05, resamples=10_000)
    assert compared.adjusted[0] == pytest.approx(2 / 32, abs=0.01)
    assert compared.adjusted_by_holm[0] == pytest.approx(2 / 32)


def test_draws_are_the_same_every_time() -> None:
    scores = [RNG.random((2, 50)) for _ in range(4)]
    found = [compare_all(spread(scores, names(50)), scores, names(50), alpha=0.05, resamples=1500) for _ in range(2)]
    assert (found[0].adjusted == found[1].adjusted).all()


def test_optimism_of_equals_is_the_mean_of_the_largest_draw() -> None:
    """The largest of four independent standard normals is 1.0294 on average (David and Nagaraja 2003)."""
    equal = Spread(np.zeros(4), np.eye(4), 1e9, None, np.zeros(4))
    found = selection(equal, [0, 1, 2, 3], resamples=50_000)
    assert found.optimism == pytest.approx(1.0294, abs=0.02)
    assert found.optimism_of_seeds == 0
    assert found.probability_best == pytest.approx([0.25] * 4, abs=0.01)
    seeds = selection(
        Spread(np.zeros(4), np.zeros((4, 4)), 9, SeedNoise(2, 0, 8), np.full(4, 0.5)), [0, 1, 2, 3], resamples=50_000
    )
    assert seeds.optimism == pytest.approx(seeds.optimism_of_seeds) == pytest.approx(1.0294, abs=0.02)


def test_minimum_detectable_difference_by_hand() -> None:
    """(1.96 + 0.8416) x sqrt(2 x 0.0004 / 2 + (0.0009 + 0.0009 - 2 x 0.0005)), with many degrees of freedom."""
    found = Spread(
        np.zeros(2), np.array([[9e-4, 5e-4], [5e-4, 9e-4]]), 1e6, SeedNoise(5e-4, 1e-4, 1e6), np.full(2, 0.5)
    )
    assert minimum_detectable(found, 0, 1) == pytest.approx(2.80159 * np.sqrt(4e-4 + 8e-4), rel=1e-4)
