"""How far a training came: still falling, cut off, hardly begun, or logged on another scale than its evaluations."""

from typing import NamedTuple

import numpy as np

from harness.diagnose.evidence import CONVENTION, Evidence, Measure, finding
from harness.diagnose.numbers import finite, steps, trend, values
from harness.diagnose.series import epochs_at, level_at
from harness.diagnose.settings import more_epochs, now, number
from harness.records import Finding, Severity

MIN_LOSSES = 20
MIN_TAIL = 6
TAIL = 0.2
STILL_FALLING = 0.05
PASSED_BEST = 1.01
IDLE_SECONDS = 1800.0
FEW_STEPS = 20
BEGINNING = 0.05
FEW_VALUES = 4
SCALE = 1.6
"""Between the 1.1 of a training loss with dropout and the 2 of two accumulated batches."""
SAME_RATIO = 1.25
SAME_AS_ACCUMULATION = 0.05
BOTH_FELL = 0.7
IMPOSSIBLE_NATS = 15.0
"""More than an even guess among a million tokens costs (ln 1,000,000 = 13.8)."""


def moved(fall: float, digits: int = 0) -> str:
    """`fell by 3%`, or `rose by 3%` where the fall is negative."""
    return f"{'fell' if fall >= 0 else 'rose'} by {abs(fall):.{digits}%}"


def still_improving(evidence: Evidence) -> Finding:
    """The training loss was still falling when training ended, by more than 5 % over its last fifth."""
    name = "still_improving"
    losses = evidence.finite_loss
    last = losses[-1].step if losses else 0
    first = losses[0].step if losses else 0
    tail = [point for point in losses if point.step >= last - TAIL * (last - first)]
    if len(losses) < MIN_LOSSES or len(tail) < MIN_TAIL:
        return finding(
            name, "insufficient", f"Only {len(tail)} training losses in the last fifth; {MIN_TAIL} are needed."
        )
    line = trend(tail)
    measure = Measure(line.fall, STILL_FALLING, f"Theil-Sen over the last fifth, 95 % interval; {CONVENTION}")
    interval = sorted((line.fall_low, line.fall_high) if line.fall >= 0 else (-line.fall_low, -line.fall_high))
    numbers = f"Over the last fifth (from step {tail[0].step}) the training loss {moved(line.fall, 1)} [{interval[0]:.1%}, {interval[1]:.1%}]"
    if line.fall < STILL_FALLING:
        rest = "it has come to rest" if line.fall > -STILL_FALLING else "it was not falling"
        return finding(name, "clear", f"{numbers}: {rest}.", measure=measure)
    if line.fall_low <= 0:
        return finding(name, "insufficient", f"{numbers}: within the noise of single steps.", measure=measure)
    evaluations = [point for point in finite(evidence.eval_loss) if point.step > 0]
    if len(evaluations) > 1 and evaluations[-1].value > PASSED_BEST * min(point.value for point in evaluations):
        return finding(name, "clear", f"{numbers}, but the eval loss has passed its best.", measure=measure)
    return finding(
        name, "fired", f"{numbers}: it was still falling.", "info",
        advice=f"If the eval loss falls too, {more_epochs(evidence)} or raise learning_rate{now(evidence, 'training.learning_rate')} up to "
        "threefold. If rows came back many times, the fall may be memorization.",
        measure=measure,
    )  # fmt: skip


def stalled(evidence: Evidence) -> Finding:
    """Training ended, or stopped logging, before the planned steps."""
    name = "stalled"
    done = max((point.step for point in (*evidence.loss[-1:], *evidence.eval_loss[-1:])), default=0)
    planned = evidence.planned_steps
    if planned is None and evidence.is_finished is None:
        return finding(name, "insufficient", "The number of planned steps isn't known.")
    numbers = f"{done} of {planned} planned steps are logged" if planned else f"{done} steps are logged"
    measure = Measure(float(done), float(planned) if planned else None, "planned steps")
    if (
        evidence.is_finished
        or evidence.stopped_on
        or (planned is not None and done > planned - _log_interval(evidence))
    ):
        ended = f"; it was ended early: {evidence.stopped_on}" if evidence.stopped_on else ""
        return finding(name, "clear", f"Training came to its end: {numbers}{ended}.", measure=measure)
    advice = (
        "Run the same command again: training goes on from its last checkpoint (`resume_from_checkpoint` in other trainers). Look at "
        "the end of the log for what ended it."
    )
    if evidence.idle_seconds is not None and evidence.idle_seconds > IDLE_SECONDS:
        return finding(
            name, "fired", f"{numbers}, and nothing was logged for {evidence.idle_seconds / 60:.0f} minutes.", "error", advice=advice,
            measure=Measure(evidence.idle_seconds, IDLE_SECONDS, "SageMaker Debugger's StalledTrainingRule"),
        )  # fmt: skip
    if evidence.idle_seconds is not None:
        return finding(
            name, "clear", f"{numbers}; the last log is {evidence.idle_seconds:.0f} seconds old.", measure=measure
        )
    if evidence.is_finished is False:
        return finding(
            name,
            "fired",
            f"{numbers}, and training did not come to its end.",
            "warning",
            advice=advice,
            measure=measure,
        )
    return finding(
        name, "fired", f"{numbers}: a checkpoint of a training that went on, or one that was cut off.", "info", advice=advice,
        measure=measure,
    )  # fmt: skip


def _log_interval(evidence: Evidence) -> float:
    """Steps from one logged value to the next: the last ones of a finished training need not be logged."""
    points = max(evidence.loss, evidence.eval_loss, key=len)
    return float(np.median(np.diff(steps(points)))) if len(points) > 1 else 1.0


def too_short(evidence: Evidence) -> Finding:
    """Too few steps to have learned anything, or only the beginning of what was planned."""
    name = "too_short"
    if not evidence.loss and not evidence.eval_loss:
        return finding(name, "insufficient", "No loss was logged.")
    done = max(point.step for point in (*evidence.loss[-1:], *evidence.eval_loss[-1:]))
    logged = f"{len(evidence.loss)} training losses and {len(evidence.eval_loss)} evaluations are logged"
    advice = f"Don't judge the recipe by it: {more_epochs(evidence)}, and log every step (logging_steps: 1)."
    planned = evidence.planned_steps
    if planned and done < BEGINNING * planned:
        return finding(
            name, "fired", f"{done} of {planned} planned steps ({done / planned:.1%}): most schedules are still warming up. {logged}.",
            "info" if evidence.is_finished is None else "warning", advice=advice, measure=Measure(done / planned, BEGINNING, CONVENTION),
        )  # fmt: skip
    if done < FEW_STEPS:
        epochs = epochs_at(evidence, evidence.loss[-1:])
        passed = f" ({epochs[-1]:.2g} epochs)" if epochs is not None and len(epochs) else ""
        return finding(
            name, "fired", f"Only {done} optimizer steps{passed}: hardly more than a warm-up. {logged}.", "warning",
            advice=f"{advice} Smaller batches (gradient_accumulation_steps{now(evidence, 'training.gradient_accumulation_steps')}) make "
            "more steps of the same rows.",
            measure=Measure(done, FEW_STEPS, CONVENTION),
        )  # fmt: skip
    if max(len(evidence.loss), len(evidence.eval_loss)) < FEW_VALUES:
        return finding(
            name, "fired", f"{done} steps, but only {logged}: a curve can't be read from that.", "info", advice="Set logging_steps: 1.",
            measure=Measure(max(len(evidence.loss), len(evidence.eval_loss)), FEW_VALUES, CONVENTION),
        )  # fmt: skip
    return finding(name, "clear", f"{done} steps; {logged}.", measure=Measure(done, FEW_STEPS, CONVENTION))


def scale_mismatch(evidence: Evidence) -> Finding:
    """The training loss is a constant multiple of the eval loss, as where it is summed over accumulated batches."""
    name = "scale_mismatch"
    losses = evidence.finite_loss
    if not losses:
        return finding(name, "insufficient", "No training loss was logged.")
    factor = _factor(evidence)
    accumulation = number(evidence, "training.gradient_accumulation_steps")
    advice = (
        "Multiply one of them by this factor before you compare both; update transformers (gradient accumulation has changed the logged loss "
        "in several releases). It could also be strong dropout or noise (NEFTune), which evaluations don't have, or validation rows that are"
        " easier or harder throughout."
    )
    if factor is not None and factor.is_constant and not 1 / SCALE < factor.value < SCALE:
        also = f"; gradient_accumulation_steps is {accumulation:g}" if accumulation else ""
        return finding(
            name, "fired", f"The training loss is {factor.value:.3g} times the eval loss at every late evaluation{also}: they are not on one "
            "scale, as where one is summed and the other averaged.", _scale_severity(factor.value, accumulation), advice=advice,
            measure=Measure(factor.value, SCALE if factor.value > 1 else 1 / SCALE, CONVENTION),
        )  # fmt: skip
    start = float(np.median(values(losses[:3])))
    if start > IMPOSSIBLE_NATS and start >= float(values(losses).max()) / 2:
        return finding(
            name, "fired", f"The training loss starts at {start:.3g}, more than any mean over tokens can cost at first: it is summed, "
            "not averaged.", "warning", advice=advice, measure=Measure(start, IMPOSSIBLE_NATS, "ln 1,000,000 = 13.8 nats"),
        )  # fmt: skip
    if factor is None:
        return finding(name, "insufficient", "Too few evaluations beside the training loss to compare their scales.")
    return finding(
        name,
        "clear",
        f"The training loss is {factor.value:.2f} times the eval loss at late evaluations.",
        measure=Measure(factor.value, SCALE, CONVENTION),
    )


def _scale_severity(factor: float, accumulation: float | None) -> Severity:
    """A training loss below the eval loss is only harder validation rows, unless it was divided by the accumulated batches."""
    is_divided = accumulation is not None and abs(1 / factor / accumulation - 1) <= SAME_AS_ACCUMULATION
    return "warning" if factor > 1 or is_divided else "info"


class Factor(NamedTuple):
    """Training loss over eval loss."""

    value: float
    is_constant: bool
    """Much the same at every later evaluation; below 1, which overfitting brings too, at every single one while both fell."""


def _factor(evidence: Evidence) -> Factor | None:
    """Median ratio of the training loss to the later evaluations; None with fewer than two of them."""
    losses, points = evidence.finite_loss, [p for p in finite(evidence.eval_loss) if p.value > 0 and p.step > 0]
    half = len(points) // 2
    if len(points) - half < 2 or len(losses) < 3:
        return None
    width = float(np.median(np.diff(steps(points))))
    ratios = []
    for point in points:
        near = [p.value for p in losses if point.step - width / 2 <= p.step <= point.step]
        level = float(np.median(near)) if near else level_at(losses, point.step)
        ratios.append((level or 0.0) / point.value)
    value = float(np.median(ratios[half:]))
    seen = ratios[half:] if value >= 1 else ratios
    fell = value >= 1 or points[-1].value < BOTH_FELL * points[0].value
    return Factor(value, min(seen) > 0 and max(seen) <= SAME_RATIO * min(seen) and len(ratios) > 2 and fell)
