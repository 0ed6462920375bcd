"""Intervals and comparisons against known values."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import xlogy

from harness import stats


def test_wilson_matches_newcombe_1998() -> None:
    # Newcombe 1998, table I, method 3: 81 of 263 gives 0.2553 to 0.3662; 0 of 20 gives 0 to 0.1611.
    assert stats.wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert stats.wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)


def test_estimate_of_a_continuous_score_is_students_t() -> None:
    result = stats.estimate([1.0, 2.0, 3.0, 4.0, 5.5], unscored=2)
    # mean 3.1, sd 1.7464, standard error 0.7810, t(4) = 2.7764
    assert result.value == pytest.approx(3.1)
    assert result.low == pytest.approx(3.1 - 2.7764 * 0.78102, abs=1e-3)
    assert (result.n, result.unscored) == (5, 2)


def test_clustered_values_are_as_many_as_their_clusters() -> None:
    """Every value twice: mean and interval are those of the single values."""
    once, clusters = [1.0, 2.0, 3.0, 4.0, 5.5], [str(i) for i in range(5)]
    twice = stats.estimate([v for v in once for _ in range(2)], clusters=[c for c in clusters for _ in range(2)])
    alone = stats.estimate(once)
    assert (twice.value, twice.low, twice.high) == pytest.approx((alone.value, alone.low, alone.high))
    assert twice.n == 10


def test_rates_of_clusters_stay_between_0_and_1() -> None:
    clusters = [str(i // 10) for i in range(200)]
    full = stats.estimate([1.0] * 200, clusters=clusters)
    assert (full.low, full.high) == pytest.approx((stats.wilson(20, 20).low, 1.0))
    rates = stats.estimate([1.0] * 190 + [0.0] * 10, clusters=clusters)
    assert 0.6 < rates.low < 0.85 and 0.95 < rates.high < 1


def test_known_variance_of_a_rate_gives_wilsons_interval() -> None:
    rate, n = 0.3, 100
    found = stats.wilson_of_rate(rate, rate * (1 - rate) / n, n, n, 1.959964)
    assert found == pytest.approx(stats.wilson(30, 100), abs=1e-6)


def test_paired_rates_that_never_change_prove_little() -> None:
    found = stats.paired_rates(0, 0, 40)
    assert (found.mean, found.p_value) == (0.0, 1.0)
    assert found.low == pytest.approx(-(1.959964**2) / (40 + 1.959964**2), abs=1e-5)


def test_holm_of_a_worked_example() -> None:
    # p = .01, .04, .03: times 3, 2, 1 in ascending order, made monotone: .03, .06, .06.
    adjusted = stats.holm({(0, 1): 0.01, (0, 2): 0.04, (1, 2): 0.03})
    assert adjusted == pytest.approx({(0, 1): 0.03, (1, 2): 0.06, (0, 2): 0.06})


def test_rank_intervals_count_sure_wins_and_losses() -> None:
    assert stats.rank_intervals(3, [(0, 2), (1, 2)]) == [(1, 2), (1, 2), (3, 3)]


def test_paired_difference_covers_and_tells() -> None:
    rng = np.random.default_rng(1)
    b = rng.random(200)
    difference = stats.paired_difference(
        b + 0.2 + 0.01 * rng.standard_normal(200), b, [str(i) for i in range(200)], resamples=2000
    )
    assert difference.low < 0.2 < difference.high
    assert difference.p_value < 0.01


@pytest.mark.parametrize(("gained", "lost", "n"), [(12, 2, 50), (1, 20, 100), (0, 3, 44), (7, 7, 60)])
def test_tangos_bounds_are_where_the_score_test_turns(gained: int, lost: int, n: int) -> None:
    """Statistic of the restricted maximum likelihood, found numerically: Tango 1998, formula 2.4 to 2.8."""
    low, high = stats.tango(gained, lost, n)
    for difference, wanted in ((low, 1.6449), (high, -1.6449)):

        def negative(rate: float, difference: float = difference) -> float:
            rest = 1 - 2 * rate - difference
            return -(xlogy(gained, rate + difference) + xlogy(lost, rate) + xlogy(n - gained - lost, rest))

        bounds = (max(0.0, -difference), (1 - difference) / 2)
        rate = minimize_scalar(negative, bounds=bounds, method="bounded", options={"xatol": 1e-10}).x
        variance = n * (2 * rate + difference * (1 - difference))
        assert (gained - lost - n * difference) / np.sqrt(variance) == pytest.approx(wanted, abs=1e-3)


def test_tangos_bound_without_any_change_is_wilsons_of_no_success() -> None:
    assert stats.tango(0, 0, 200).low == pytest.approx(-(1.644854**2) / (200 + 1.644854**2), abs=1e-6)


def test_retained_forgot_and_inconclusive() -> None:
    base, clusters = [1.0] * 180 + [0.0] * 20, [str(i) for i in range(200)]

    def verdict(num_lost: int) -> str:
        return stats.non_inferiority([0.0] * num_lost + base[num_lost:], base, clusters, 0.05).verdict

    assert [verdict(n) for n in (0, 3, 10, 30)] == ["retained", "retained", "inconclusive", "forgot"]


def test_few_unchanged_examples_prove_nothing() -> None:
    def unchanged(n: int) -> stats.NonInferiority:
        return stats.non_inferiority([1.0] * n, [1.0] * n, [str(i) for i in range(n)], 0.02)

    assert unchanged(5) == ("inconclusive", 0.0, -np.inf, np.inf, 0.02)
    assert [unchanged(n).verdict for n in (20, 100, 200)] == ["inconclusive", "inconclusive", "retained"]


def test_clusters_that_change_together_prove_less() -> None:
    ours = [1.0] * 190 + [0.0] * 10
    alone = stats.non_inferiority(ours, [1.0] * 200, [str(i) for i in range(200)], 0.05)
    together = stats.non_inferiority(ours, [1.0] * 200, [str(i // 10) for i in range(200)], 0.05)
    assert together.low < alone.low < alone.high <= together.high


def test_verdict_is_the_same_every_time() -> None:
    rng = np.random.default_rng(5)
    ours, theirs, clusters = rng.random(60), rng.random(60), [str(i // 3) for i in range(60)]
    first = stats.non_inferiority(ours, theirs, clusters, 0.02)
    assert stats.non_inferiority(ours, theirs, clusters, 0.02) == first


@pytest.mark.parametrize("n", [40, 200])
def test_model_that_lost_just_the_margin_is_seldom_retained(n: int) -> None:
    """300 draws at a true difference of -0.05 (12 % lost, 7 % gained): the nominal error is 5 %."""
    rng = np.random.default_rng(6)
    clusters, retained = [str(i) for i in range(n)], 0
    for _ in range(300):
        change = rng.choice([-1.0, 1.0, 0.0], size=n, p=[0.12, 0.07, 0.81])
        theirs = np.where(change == 0, rng.integers(0, 2, n), (1 - change) / 2)
        found = stats.non_inferiority(theirs + change, theirs, clusters, 0.05, resamples=200)
        retained += found.verdict == "retained"
    assert retained / 300 <= 0.08


def test_clusters_widen_the_interval() -> None:
    values = np.repeat(np.random.default_rng(2).standard_normal(20), 10)
    zero = np.zeros(200)
    alone = stats.paired_difference(values, zero, [str(i) for i in range(200)], resamples=2000)
    together = stats.paired_difference(values, zero, [str(i // 10) for i in range(200)], resamples=2000)
    assert together.high - together.low > 2 * (alone.high - alone.low)


def test_paired_bootstrap_keeps_its_error_rate() -> None:
    rng = np.random.default_rng(3)
    clusters = [str(i) for i in range(100)]
    rejected = 0
    for trial in range(200):
        p = rng.random(100)
        a, b = (rng.random(100) < p).astype(float), (rng.random(100) < p).astype(float)
        rejected += stats.paired_difference(a, b, clusters, resamples=400, seed=trial).p_value < 0.05
    assert rejected / 200 <= 0.09
