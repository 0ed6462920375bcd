"""Numerics that the checks on curves share: medians, noise, outliers, trends."""

import math
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy import stats

from harness.diagnose.evidence import HUGE, Point

Array = NDArray[np.float64]
MAD_TO_SD = 1.4826
UPPER_DECILE = 1.6449
"""Of the absolute value of a standard normal."""
MEDIAN_ERROR = 1.2533
"""Standard error of a median over that of a mean, for normal noise."""
CENTER = 16
SMOOTHING = 5
EARLY = 5
"""Values on each side that tell what a value of the beginning should have been."""
EARLY_START = 3
EARLY_DOUBT = 7 / 6
"""How much wider the noise of the beginning is taken: it is known from few values."""
MIN_SPIKE_LOGS = 12
SIGMAS = 6.0
MAX_BLOCKS = 100
FEW = 12


def finite(points: Sequence[Point]) -> list[Point]:
    """Points whose value is a number of any use."""
    return [point for point in points if abs(point.value) <= HUGE]


def values(points: Sequence[Point]) -> Array:
    """Their values, one after the other."""
    return np.array([point.value for point in points], dtype=float)


def steps(points: Sequence[Point]) -> Array:
    """Their optimizer steps."""
    return np.array([point.step for point in points], dtype=float)


def noise(series: Array) -> float:
    """Standard deviation from one value to the next, whatever the trend.

    From the MAD of the differences, or from their upper decile where it says more, as where rows of two kinds take turns.
    """
    return max(usual_noise(series), _quantile_of_changes(series, 0.9) / UPPER_DECILE / math.sqrt(2))


def usual_noise(series: Array) -> float:
    """The same from the MAD alone: a few large changes do not count, as those of the swings that are looked for."""
    return MAD_TO_SD * _quantile_of_changes(series, 0.5) / math.sqrt(2)


def _quantile_of_changes(series: Array, share: float) -> float:
    changes = np.diff(series)
    return float(np.quantile(np.abs(changes - np.median(changes)), share)) if len(changes) else 0.0


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


NO_OUTLIERS = Outliers(np.array([], dtype=np.int64), np.array([]), np.array([]), 0.0)


def outliers(series: Array, *, ratio: float, rise: float) -> Outliers:
    """Positive values above `ratio` times and `rise` more than expected, and 6 standard deviations out on a log scale.

    Expected is the median of the 16 values before. The deviation from it is held against the same deviations of the
    W = min(128, max(16, n / 4)) values before, so that a falling curve hides nothing. The first 32 values have too few
    before them: they are held against both of their sides.
    """
    if len(series) < MIN_SPIKE_LOGS:
        return NO_OUTLIERS
    early, late = _early_outliers(series, ratio, rise), _late_outliers(series, ratio, rise)
    return Outliers(
        np.concatenate([early.indices, late.indices]),
        np.concatenate([early.expected, late.expected]),
        np.concatenate([early.sigmas, late.sigmas]),
        max(early.highest, late.highest),
    )


def _early_outliers(series: Array, ratio: float, rise: float) -> Outliers:
    """Those of the first 32 values, from the fourth on, that stand out from the five before and from the five after."""
    logs = np.log(series[: 2 * CENTER + EARLY + EARLY_START])
    indices = np.arange(EARLY_START, min(2 * CENTER, len(logs) - EARLY))
    near: list[float] = logs.tolist()
    # Of five values each, where NumPy's own median takes most of its time to begin.
    around = np.array(
        [max(median(near[max(0, i - EARLY) : i]), median(near[i + 1 : i + 1 + EARLY])) for i in map(int, indices)]
    )
    scale = max(EARLY_DOUBT * float(spread(np.diff(logs)[None])[0]) / math.sqrt(2), 1e-9)
    excess, expected = logs[indices] - around, np.exp(around)
    is_high = (excess > math.log(ratio)) & (series[indices] - expected > rise)
    sigmas = excess[is_high] / scale
    far = sigmas > SIGMAS
    return Outliers(indices[is_high][far], expected[is_high][far], sigmas[far], float(sigmas.max(initial=0.0)))


def _late_outliers(series: Array, ratio: float, rise: float) -> Outliers:
    window = min(128, max(CENTER, len(series) // 4))
    if len(series) < 2 * CENTER + 1:
        return NO_OUTLIERS
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
    whole = len(points) - len(points) % size
    at_steps, at_values = steps(points), values(points)
    at = at_steps[:whole].reshape(-1, size).mean(axis=1)  # (num_blocks,)
    level = np.median(at_values[:whole].reshape(-1, size), axis=1)
    if whole < len(points):
        at, level = np.append(at, at_steps[whole:].mean()), np.append(level, np.median(at_values[whole:]))
    at, places = np.unique(at, return_inverse=True)
    if len(at) < len(level):
        level = np.array([float(np.median(level[places == place])) for place in range(len(at))])
    else:
        level = level[np.argsort(places)]
    if len(at) < 2 or np.ptp(level) == 0:
        return Trend(0.0, 0.0, 0.0, 1.0)
    slope = stats.theilslopes(level, at, 0.95)
    share = (at[-1] - at[0]) / max(abs(float(np.median(level))), 1e-12)
    p_value = float(stats.kendalltau(at, level, alternative="less").pvalue)
    return Trend(
        -float(slope.slope) * share, -float(slope.high_slope) * share, -float(slope.low_slope) * share,
        1.0 if math.isnan(p_value) else p_value,
    )  # fmt: skip
