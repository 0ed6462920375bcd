"""The phases of a training loss: a sharp drop, stabilization, convergence."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, groupby, pairwise
from typing import Literal, NamedTuple

import numpy as np

from harness.diagnose.evidence import CONVENTION, Evidence, Measure, Point, finding
from harness.diagnose.numbers import Array, finite, relative_noise, steps, values
from harness.records import Finding

PhaseName = Literal["warm_up", "sharp_drop", "stabilization", "convergence", "rise"]
MIN_LOSSES = 12
MAX_BINS = 60
MAX_WEIGHT = 16
MIN_BINS = 2
"""In a phase."""
FLAT = 0.25
"""Of a whole run's length: 5 % over a fifth of it, as in still_improving."""
SHARP = 0.10
MIN_RISE = 0.10
STEEPER = 3.0
MAX_LOG = 50.0

MISSING: Mapping[PhaseName, str] = {
    "sharp_drop": "no sharp drop: the base already knew the format, or the learning rate is low",
    "stabilization": "no stabilization: the drop ended at once",
    "convergence": "no convergence: the loss was not flat at the end",
}


class Phase(NamedTuple):
    """A stretch of the training loss along one line on a log scale."""

    first_step: int
    last_step: int
    name: PhaseName
    slope: float
    """Change of log-loss per step; -0.001 is a fall of 0.1 % a step."""


class Bins(NamedTuple):
    """Medians of log-loss over stretches that get longer, so that the quick beginning is seen as well as the long end."""

    at: Array
    """Step, from 0 at the first to 1 at the last."""
    level: Array
    weight: Array


def loss_phases(points: Sequence[Point]) -> tuple[Phase, ...]:
    """One to three phases: a broken line with at most two breaks through the log-loss, chosen by BIC; () with too few values."""
    positive = [point for point in finite(points) if point.value > 0]
    if len(positive) < MIN_LOSSES or positive[-1].step <= positive[0].step:
        return ()
    first, last = positive[0].step, positive[-1].step
    bins = _bins(positive)
    breaks, slopes = _broken_line(bins)
    edges = [0.0, *breaks, 1.0]
    names = _names(slopes, [right - left for left, right in pairwise(edges)], relative_noise(values(positive)))
    return tuple(
        Phase(
            round(first + left * (last - first)),
            round(first + right * (last - first)),
            name,
            slope / (last - first),
        )
        for name, left, right, slope in _merged(names, edges, slopes)
    )


def _merged(
    names: Sequence[PhaseName], edges: Sequence[float], slopes: Sequence[float]
) -> Iterator[tuple[PhaseName, float, float, float]]:
    """Name, beginning, end and mean slope of the pieces, neighbours of one name in one."""
    pieces = zip(names, pairwise(edges), slopes, strict=True)
    for name, group in groupby(pieces, key=lambda piece: piece[0]):
        spans = [(left, right, slope) for _, (left, right), slope in group]
        left, right = spans[0][0], spans[-1][1]
        yield name, left, right, sum(slope * (b - a) for a, b, slope in spans) / (right - left)


def _bins(points: Sequence[Point]) -> Bins:
    at, logs = steps(points), np.log(values(points))
    edges = np.unique(np.geomspace(1, len(points) + 1, MAX_BINS + 1).round().astype(int)) - 1
    at = (at - at[0]) / (at[-1] - at[0])
    spans = list(pairwise(edges))
    weight = np.array([min(right - left, MAX_WEIGHT) for left, right in spans], dtype=float)
    return Bins(
        np.array([at[left:right].mean() for left, right in spans]),
        np.array([np.median(logs[left:right]) for left, right in spans]),
        weight / weight.mean(),
    )


def _broken_line(bins: Bins) -> tuple[list[float], list[float]]:
    """Breaks and slopes of the continuous broken line with the lowest BIC: two parameters a piece."""
    size = len(bins.at)
    inner = range(MIN_BINS, size - MIN_BINS)
    best = (np.inf, [0.0], [0.0])
    for count in range(3):
        places = [p for p in combinations(inner, count) if all(b - a >= MIN_BINS for a, b in pairwise(p))]
        if not places:
            continue
        knots = bins.at[np.array(places, dtype=int).reshape(len(places), count)]  # (candidates, count)
        hinges = np.maximum(bins.at[None, :, None] - knots[:, None, :], 0)  # (candidates, bins, count)
        base = np.stack([np.ones(size), bins.at], axis=1)  # (bins, 2)
        design = np.concatenate([np.broadcast_to(base, (len(places), size, 2)), hinges], axis=2)
        weighted = design * bins.weight[None, :, None]
        gram = np.einsum("cbi,cbj->cij", weighted, design) + 1e-12 * np.eye(2 + count)
        right = np.einsum("cbi,b->ci", weighted, bins.level)
        solution = np.linalg.solve(gram, right[..., None])[..., 0]  # (candidates, 2 + count)
        residual = np.einsum("cbi,ci->cb", design, solution) - bins.level
        squares = (bins.weight * residual**2).sum(axis=1)
        chosen = int(np.argmin(squares))
        bic = size * float(np.log(squares[chosen] / size + 1e-12)) + 2 * (1 + count) * float(np.log(size))
        if bic < best[0]:
            slopes = np.cumsum(solution[chosen, 1:])
            best = (bic, knots[chosen].tolist(), slopes.tolist())
    return best[1], best[2]


def _names(slopes: Sequence[float], lengths: Sequence[float], noise: float) -> list[PhaseName]:
    """Names of the pieces; a slope is the change of log-loss if it went on over the whole run, of length 1."""
    change = [slope * length for slope, length in zip(slopes, lengths, strict=True)]
    # The noise alone makes a line rise by as much.
    rises = [slope > FLAT and rise >= max(MIN_RISE, noise) for slope, rise in zip(slopes, change, strict=True)]
    names: list[PhaseName] = ["rise" if is_rise else "stabilization" for is_rise in rises]
    if slopes[-1] >= -FLAT and not rises[-1]:
        names[-1] = "convergence"
    steepest = int(np.argmin(slopes))
    later = sum(lengths[steepest + 1 :])
    if not later or -change[steepest] < SHARP:
        return names
    if -slopes[steepest] > STEEPER * abs(sum(change[steepest + 1 :])) / later:
        names[steepest] = "sharp_drop"
        names[:steepest] = ["warm_up" for _ in range(steepest)]
    return names


def phases(evidence: Evidence) -> Finding:
    """Which phases the training loss went through; one that is missing is named."""
    name = "loss_phases"
    found = loss_phases(evidence.finite_loss)
    if not found:
        return finding(
            name, "insufficient", f"Only {len(evidence.finite_loss)} finite training losses; {MIN_LOSSES} are needed."
        )
    names = {phase.name for phase in found}
    shown = [
        f"{p.name}: steps {p.first_step} to {p.last_step}, {np.expm1(np.clip(100 * p.slope, -MAX_LOG, MAX_LOG)):+.2%} per 100 steps"
        for p in found
    ]
    expected = [phase for phase in MISSING if phase != "stabilization" or "sharp_drop" in names]
    missing = [MISSING[phase] for phase in expected if phase not in names]
    message = "; ".join(
        [", then ".join(f"{p.name.replace('_', ' ')} (steps {p.first_step} to {p.last_step})" for p in found), *missing]
    )
    measure = Measure(float(len(found)), None, f"piecewise linear log-loss, breaks by BIC; {CONVENTION}")
    message = f"{message[0].upper()}{message[1:]}."
    if found[-1].name != "rise":
        return finding(name, "clear", message, measure=measure, evidence=shown)
    advice = "Look at the last phase: the loss rises. It could be a learning rate that is too high, or harder rows at the end; see diverged and overfitting."
    return finding(name, "fired", message, "info", advice=advice, measure=measure, evidence=shown)
