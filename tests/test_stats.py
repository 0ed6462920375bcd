"""Intervals and comparisons against known values."""

import numpy as np
import pytest

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
