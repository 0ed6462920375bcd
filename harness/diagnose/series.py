"""Epochs and levels of a run's curves."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from harness.diagnose.evidence import Evidence, Point
from harness.diagnose.numbers import Array, finite, steps, values
from harness.diagnose.settings import number


def epochs_at(evidence: Evidence, points: Sequence[Point]) -> Array | None:
    """How many times the rows had been seen at each point; None where nobody knows.

    Without logged epochs the plan tells: planned steps over `training.num_train_epochs`.
    """
    known = finite(evidence.epochs)
    if len(known) > 1:
        return np.interp(steps(points), steps(known), values(known))
    planned = number(evidence, "training.num_train_epochs")
    by_steps = (number(evidence, "training.max_steps") or -1) > 0
    if not planned or not evidence.planned_steps or by_steps:
        return None
    return steps(points) * planned / evidence.planned_steps


def passes(epochs: Array) -> NDArray[np.int64]:
    """Which pass over the rows each value belongs to, from 0: what is logged at epoch 1.0 still belongs to the first."""
    return np.maximum(np.ceil(epochs - 1e-6).astype(np.int64) - 1, 0)


def level_at(points: Sequence[Point], step: int) -> float | None:
    """Median of the values logged around a step: within a tenth of the run, at least three of them."""
    points = finite(points)
    if not points:
        return None
    at, level = steps(points), values(points)
    distance = np.abs(at - step)
    near = distance <= (at[-1] - at[0]) / 10
    if near.sum() < 3:
        near = np.argsort(distance, kind="stable")[:3]
    return float(np.median(level[near]))
