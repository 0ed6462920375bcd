"""Numerics that the checks on curves share: medians, noise, outliers, trends."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy import stats

from harness.diagnose.evidence import Point

Array = NDArray[np.float64]
MAD_TO_SD = 1.4826
MEDIAN_ERROR = 1.2533
"""Standard error of a median over that of a mean, for normal noise."""
CENTER = 16
SMOOTHING = 5
SIGMAS = 6.0
MAX_BLOCKS = 100
FEW = 12


def finite(points: Sequence[Point]) -> list[Point]:
    """Points whose value is a number."""
    return [point for point in points if math.isfinite(point.value)]


def values(points: Sequence[Point]) -> Array:
    """Their values, one after the other."""
    return np.array([point.value for point in points], dtype=float)


def steps(points: Sequence[Point]) -> Array:
    """Their optimizer steps."""
    return np.array([point.step for point in points], dtype=float)


def noise(series: Array) -> float:
    """Standard deviation from one value to the next, whatever the trend: from the MAD of the differences."""
    differences = np.diff(series)
    if not len(differences):
        return 0.0
    return float(MAD_TO_SD * np.median(np.abs(differences - np.median(differences))) / math.sqrt(2))


def relative_noise(series: Array) -> float:
    """The same as a share of the level: the noise of a loss shrinks with the loss."""
    if not len(series):
        return 0.0
    if series.min() > 0:
        return noise(np.log(series))
    return noise(series) / max(abs(float(np.median(series))), 1e-12)


def smooth(series: Array, window: int = SMOOTHING) -> Array:
    """Running medians; shape (len(series) - window + 1,)."""
    medians: Array = np.median(sliding_window_view(series, window), axis=1)
    return medians


class Ends(NamedTuple):
    """Where a curve begins and ends."""

    head: float
    """Median of the first fifth."""
    tail: float
    """Median of the last fifth."""
    error: float
    """Standard error of their difference, from the noise between neighbours."""

    @property
    def fall(self) -> float:
        """Share of the head that was lost on the way; negative where the curve rose."""
        return 1 - self.tail / self.head if self.head else 0.0

    @property
    def sigmas(self) -> float:
        """How many standard errors the tail lies above the head."""
        if self.tail == self.head:
            return 0.0
        return (self.tail - self.head) / self.error if self.error else math.copysign(math.inf, self.tail - self.head)


def ends(series: Array) -> Ends:
    """Medians of the first and the last fifth, of at least five values each where there are ten."""
    size = max(1, min(len(series) // 2, 5), len(series) // 5)
    head, tail = float(np.median(series[:size])), float(np.median(series[-size:]))
    # The noise itself is known badly from a few differences, and mostly underestimated.
    doubt = 1 + FEW / max(1, len(series))
    return Ends(head, tail, doubt * MEDIAN_ERROR * relative_noise(series) * math.hypot(head, tail) / math.sqrt(size))


def spread(windows: Array) -> Array:
    """Scale of each row above its median: the MAD's, or the upper decile's where the values are skewed upwards.

    Losses and gradient norms of batches are skewed; with the MAD alone, a tenth to nearly all of healthy curves with
    log-normal noise show a "spike" somewhere in 500 steps.
    """
    medians = np.median(windows, axis=1)
    mad = MAD_TO_SD * np.median(np.abs(windows - medians[:, None]), axis=1)
    upper: Array = (np.quantile(windows, 0.9, axis=1) - medians) / float(stats.norm.ppf(0.9))
    return np.maximum(mad, upper)


class Outliers(NamedTuple):
    """Values far above those just before them."""

    indices: NDArray[np.int64]
    expected: Array
    """What the values before each outlier let expect."""
    sigmas: Array
    highest: float
    """The most standard deviations of any value that is high enough above what was expected, outlier or not."""


def outliers(series: Array, *, ratio: float, rise: float) -> Outliers:
    """Positive values above `ratio` times and `rise` more than expected, and 6 standard deviations out on a log scale.

    Expected is the median of the 16 values before. The deviation from it is held against the same deviations of the
    W = min(128, max(16, n / 4)) values before, so that a falling curve hides nothing.
    """
    window = min(128, max(CENTER, len(series) // 4))
    if len(series) < 2 * CENTER + 1:
        return Outliers(np.array([], dtype=np.int64), np.array([]), np.array([]), 0.0)
    logs = np.log(series)
    medians = np.median(sliding_window_view(logs, CENTER)[:-1], axis=1)
    excess = logs[CENTER:] - medians
    expected = np.exp(medians)
    suspects = np.flatnonzero((excess > math.log(ratio)) & (series[CENTER:] - expected > rise))
    suspects = suspects[suspects >= CENTER]
    sigmas = np.zeros(len(suspects))
    full = suspects >= window
    sigmas[full] = _deviation(excess[suspects[full]], sliding_window_view(excess, window)[suspects[full] - window])
    for i in np.flatnonzero(~full):  # the window is still growing
        sigmas[i] = _deviation(excess[suspects[i : i + 1]], excess[None, : suspects[i]])[0]
    far = sigmas > SIGMAS
    highest = float(sigmas.max(initial=0.0))
    return Outliers(suspects[far] + CENTER, expected[suspects[far]], sigmas[far], highest)


def _deviation(value: Array, before: Array) -> Array:
    """How many standard deviations each value lies above the row before it."""
    if not len(value):
        return np.array([])
    scale = np.maximum(spread(before), 1e-9)
    deviation: Array = (value - np.median(before, axis=1)) / scale
    return deviation


class Trend(NamedTuple):
    """A straight line through a noisy curve (Theil-Sen), and whether it surely falls (Mann-Kendall)."""

    fall: float
    """Share of the curve's level that it lost over its length."""
    fall_low: float
    """At least so much, with 97.5 % confidence."""
    fall_high: float
    p_value: float
    """One-sided, of the fall."""


def trend(points: Sequence[Point]) -> Trend:
    """Trend over medians of at most 100 blocks, which keeps it fast and the noise near normal."""
    size = math.ceil(len(points) / MAX_BLOCKS)
    blocks = [points[i : i + size] for i in range(0, len(points), size)]
    at = np.array([float(np.mean(steps(block))) for block in blocks])
    level = np.array([float(np.median(values(block))) for block in blocks])
    if at[0] == at[-1]:
        return Trend(0.0, 0.0, 0.0, 1.0)
    slope = stats.theilslopes(level, at, 0.95)
    share = (at[-1] - at[0]) / max(abs(float(np.median(level))), 1e-12)
    p_value = float(stats.kendalltau(at, level, alternative="less").pvalue)
    return Trend(
        -float(slope.slope) * share, -float(slope.high_slope) * share, -float(slope.low_slope) * share,
        1.0 if math.isnan(p_value) else p_value,
    )  # fmt: skip
