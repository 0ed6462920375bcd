"""Signs of memorized rows that the training loss alone shows: a level that repetition reached, steps at the epochs."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy import stats

from harness.diagnose.evidence import Evidence
from harness.diagnose.numbers import Array, finite, values
from harness.diagnose.series import epochs_at, passes

LOW_LEVEL = 0.2
"""Unsloth's LoRA guide: "If your training loss drops below 0.2, your model is likely overfitting"."""
OF_FIRST_PASS = 0.5
VERY_LOW = 0.05
"""Where nobody knows what the first pass over the rows was like."""
STEP_DROP = 0.10
STEP_OVER_TREND = 2.0
STEP_P = 0.01
MIN_LOSSES = 10
MIN_IN_PASS = 8
MAX_WINDOW = 50


class LowLevel(NamedTuple):
    """How low the training loss ended, and how low it was while every row was still new."""

    level: float
    """Median of the last fifth, in nats."""
    first_pass: float | None
    """Median of the second half of the first epoch: the loss on rows not seen before. None where epochs aren't known."""
    epochs: float | None
    is_suspect: bool
    """Below 0.2, and repetition brought it there: at most half of the first pass's level. Below 0.05 where that isn't known."""


class StairSteps(NamedTuple):
    """What happens to the training loss where an epoch begins, against what happens inside epochs."""

    boundaries: tuple[int, ...]
    """Steps at which a new epoch begins."""
    drop: float
    """Relative drop of the median across a boundary; the median over the boundaries."""
    in_epoch_drop: float
    """The same inside epochs, over windows of the same length."""
    p_value: float
    """One-sided Mann-Whitney test of the values before the boundaries against those after them."""
    is_suspect: bool
    """A drop above 10 %, above twice that inside epochs, with p < 0.01."""


def low_level(evidence: Evidence) -> LowLevel | None:
    """Level of the training loss at the end, against the first pass over the rows; None with too few values.

    A low level alone says little: on an easy set the loss is low before any row comes back. The first pass is on unseen
    rows, so what the loss lost after it came from repetition.
    """
    points = finite(evidence.loss)
    if len(points) < MIN_LOSSES or not evidence.loss_is_nll:
        return None
    losses = values(points)
    level = float(np.median(losses[-max(1, len(losses) // 5) :]))
    epochs = epochs_at(evidence, points)
    first = losses[(epochs > 0.5) & (epochs <= 1.0 + 1e-6)] if epochs is not None else losses[:0]
    first_pass = float(np.median(first)) if len(first) else None
    started_high = float(np.median(losses[:3])) > LOW_LEVEL
    limit = min(LOW_LEVEL, OF_FIRST_PASS * first_pass) if first_pass is not None else VERY_LOW if started_high else 0.0
    is_repeated = epochs is None or float(epochs[-1]) > 1
    return LowLevel(level, first_pass, float(epochs[-1]) if epochs is not None else None, is_repeated and level < limit)


def stair_steps(evidence: Evidence) -> StairSteps | None:
    """Sudden drops of the training loss where epochs begin; None without an epoch boundary between enough values."""
    points = [point for point in finite(evidence.loss) if point.value > 0]
    epochs = epochs_at(evidence, points) if len(points) >= MIN_LOSSES else None
    if epochs is None:
        return None
    in_pass = passes(epochs)
    starts = [int(i) + 1 for i in np.flatnonzero(np.diff(in_pass) > 0)]
    per_pass = int(np.median(np.diff(starts, prepend=0))) if starts else 0
    window = min(MAX_WINDOW, per_pass // 4)
    logs = np.log(values(points))
    usable = [i for i in starts if i >= window and len(logs) - i >= window]
    if per_pass < MIN_IN_PASS or not usable:
        return None
    before = [logs[i - window : i] for i in usable]
    after = [logs[i : i + window] for i in usable]
    drops = [float(np.median(b) - np.median(a)) for b, a in zip(before, after, strict=True)]
    drop = 1 - float(np.exp(-np.median(drops)))
    in_epoch_drop = 1 - float(np.exp(-_trend_inside(logs, starts, window)))
    middles = [(np.median(b) + np.median(a)) / 2 for b, a in zip(before, after, strict=True)]
    p_value = float(
        stats.mannwhitneyu(
            np.concatenate([b - m for b, m in zip(before, middles, strict=True)]),
            np.concatenate([a - m for a, m in zip(after, middles, strict=True)]),
            alternative="greater",
        ).pvalue
    )
    is_suspect = drop > STEP_DROP and drop > STEP_OVER_TREND * in_epoch_drop and p_value < STEP_P
    return StairSteps(tuple(points[i].step for i in usable), drop, in_epoch_drop, p_value, is_suspect)


def _trend_inside(logs: Array, starts: Sequence[int], window: int) -> float:
    """Median fall of log-loss from one window to the next inside epochs; never below zero."""
    edges = [0, *starts, len(logs)]
    falls = [
        float(np.median(logs[i - window : i]) - np.median(logs[i : i + window]))
        for first, last in pairwise(edges)
        for i in range(first + window, last - window + 1, window)
    ]
    return max(0.0, float(np.median(falls))) if falls else 0.0
