"""Signs that a training is breaking: non-finite values, and a loss that leaves where it began."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from harness.diagnose.evidence import (
    CONVENTION,
    HUGE,
    Evidence,
    Measure,
    Point,
    as_float,
    before_after,
    finding,
    probe_mean,
)
from harness.diagnose.numbers import MEDIAN_ERROR, SMOOTHING, ends, finite, relative_noise, smooth, steps, values
from harness.diagnose.settings import calmer, fewer_epochs
from harness.records import Finding, Probe, Severity
from harness.stats import paired_difference

MIN_LOSSES = 10
START = 3
RISE = 1.1
FAR_RISE = 1.25
RELAPSE = 2.0
HUMP = 1.5
LOST_NATS = 1.0
"""Above its start by this much, a model gives its rows e times less probability a token than before it was trained."""
EVALUATION_RISE = 1.2
WORSE_THAN_BASE = 0.02
STILL_HIGH = 0.5
NOT_RECOVERED = 0.8
WRECKED_NATS = 3.0
NEAR_BEST = 1.01
SURE_SIGMAS = 4.0
"""The check runs many times on one training, so that the usual 2 would be passed by chance."""
HUMP_SIGMAS = 5.0
"""More than SURE_SIGMAS, since the highest of many places is looked at."""
LOST_GRADIENTS = 5
DEAD_AFTER = 0.1
MIN_DEAD = 3
OTHER_CAUSES = (
    "It could also be a batch of broken rows, rows sorted from easy to hard, or half precision that overflows."
)

SHUFFLE = "Shuffle the training rows, unless their order is meant: what comes last is remembered best."


def non_finite(evidence: Evidence) -> Finding:
    """NaN or infinity anywhere: fatal in a loss, a passing event in the gradient norm if training goes on."""
    name = "non_finite"
    if not evidence.loss and not evidence.eval_loss:
        return finding(name, "insufficient", "No loss was logged.")
    for label, points in (
        ("training loss", evidence.loss),
        ("eval loss", evidence.eval_loss),
        ("gradient norm", evidence.grad_norm),
    ):
        bad = [point for point in points if not abs(point.value) <= HUGE]
        if not bad:
            continue
        last = points[-LOST_GRADIENTS:]
        is_passing = label == "gradient norm" and (len(last) < LOST_GRADIENTS or bool(finite(last)))
        where = f"at step {bad[0].step}" + (f" ({len(bad)} of {len(points)} logged values)" if len(points) > 1 else "")
        effect = "; the loss stayed finite" if is_passing else ""
        return finding(
            name, "fired", f"The {label} was {bad[0].value} {where}{effect}.", "warning" if is_passing else "error",
            advice=_non_finite_advice(evidence, label), measure=Measure(len(bad), 0, "any value that is no number"),
            evidence=[f"step {point.step}: {point.value}" for point in bad[:10]],
        )  # fmt: skip
    dead = dead_from(evidence.loss)
    if dead is not None:
        return finding(
            name, "fired", f"The training loss is exactly 0.0 from step {dead.step} to the end, at once after values far above it: numbers that "
            "overflowed, not learning.", "error", advice=_non_finite_advice(evidence, "training loss"),
            measure=Measure(0.0, DEAD_AFTER, CONVENTION), evidence=[f"step {dead.step}: 0.0"],
        )  # fmt: skip
    return finding(
        name, "clear", f"All {len(evidence.loss)} training losses and {len(evidence.eval_loss)} evaluations are finite."
    )


def dead_from(losses: Sequence[Point]) -> Point | None:
    """Where the loss drops to exactly zero, from well above it, and stays there; some trainers log NaN like that."""
    nonzero = [i for i, point in enumerate(losses) if point.value != 0]
    if not nonzero or len(losses) - nonzero[-1] <= MIN_DEAD or nonzero[-1] + 1 < MIN_DEAD:
        return None
    before = values(losses[: nonzero[-1] + 1])[-SMOOTHING:]
    return losses[nonzero[-1] + 1] if float(np.median(before)) > DEAD_AFTER else None


def _non_finite_advice(evidence: Evidence, label: str) -> str:
    steady = f"{calmer(evidence)} Prefer bf16 to fp16."
    if label == "eval loss" and len(finite(evidence.loss)) == len(evidence.loss):
        return (
            "The training loss is finite, so an eval row probably has no supervised token after truncation: raise max_length or drop "
            f"it. Otherwise: {steady}"
        )
    if label == "gradient norm":
        return f"{steady} With fp16, a few infinite norms are only the loss scaler finding its scale."
    return f"{steady} It could also be a row without any supervised token, or broken weights in the base."


def diverged(evidence: Evidence) -> Finding:
    """The model got worse than it was before training, or went far through the worse on its way."""
    name = "diverged"
    confirmed = _worse_than_base(evidence) or _evaluation_peak(evidence) or _evaluations_blown_up(evidence)
    if confirmed is not None:
        learned = _was_learning(evidence, evidence.validation[-1].step) if evidence.validation else False
        advice = (
            f"The training loss fell all the while, so it is overfitting that went too far: {fewer_epochs(evidence)}."
            if learned
            else ""
        )
        return finding(
            name, "fired", confirmed.sentence, confirmed.severity, advice=advice or f"{calmer(evidence)} {OTHER_CAUSES}",
            measure=confirmed.measure, evidence=confirmed.steps,
        )  # fmt: skip
    losses = evidence.finite_loss
    if len(losses) < MIN_LOSSES:
        return finding(name, "insufficient", f"Only {len(losses)} finite training losses; {MIN_LOSSES} are needed.")
    found = _ends_above(evidence) or _hump(evidence) or _blown_up_at_once(losses)
    curve = ends(values(losses))
    if found is None:
        return finding(
            name, "clear", f"The training loss went from {curve.head:.3g} to {curve.tail:.3g} without a lasting rise.",
            measure=Measure(curve.tail / curve.head if curve.head else None, RISE, CONVENTION),
        )  # fmt: skip
    return finding(
        name, "fired", found.sentence, found.severity, measure=found.measure, evidence=found.steps,
        advice=SHUFFLE if found.severity == "info" else f"{calmer(evidence)} {OTHER_CAUSES}",
    )  # fmt: skip


class Sign(NamedTuple):
    """One way in which a training went wrong."""

    sentence: str
    severity: Severity
    measure: Measure
    steps: tuple[str, ...] = ()


def _worse_than_base(evidence: Evidence) -> Sign | None:
    """The last validation NLL is surely and clearly above that of step 0, over the same rows."""
    pair = before_after(evidence.validation)
    if pair is None:
        return None
    before, after = ([as_float(value) for value in probe.nll] for probe in pair)
    difference = paired_difference(after, before, [str(i) for i in range(len(before))], resamples=2000)
    needed = EVALUATION_RISE if _has_just_begun(evidence, pair.after) else 1 + WORSE_THAN_BASE
    if difference.low <= 0 or pair.ratio < needed:
        return None
    return Sign(
        f"Validation NLL ended {difference.mean:.2f} nats per token [{difference.low:.2f}, {difference.high:.2f}] above the untouched "
        f"base ({probe_mean(pair.after):.2f} after {probe_mean(pair.before):.2f}).",
        "error", Measure(pair.ratio, needed, f"paired bootstrap over rows; {CONVENTION}"),
    )  # fmt: skip


def _has_just_begun(evidence: Evidence, probe: Probe) -> bool:
    """Whether most of the training is still to come: a warm-up may cost a little at first."""
    return evidence.planned_steps is not None and probe.step < evidence.planned_steps / 2


def _evaluation_peak(evidence: Evidence) -> Sign | None:
    """Evaluations rose clearly above that of step 0 on the same rows, and not because training rows were learned."""
    points = finite(evidence.eval_loss)
    if len(points) < 2 or points[0].step != 0 or points[0].value <= 0:
        return None
    start, last = points[0].value, points[-1].value
    highest = max(points, key=lambda point: point.value)
    if highest.value < EVALUATION_RISE * start or _was_learning(evidence, highest.step):
        return None
    severity: Severity = "error" if last >= start else "warning"
    return Sign(
        f"Eval loss rose from {start:.3g} before training to {highest.value:.3g} at step {highest.step}, and ended at {last:.3g}: what "
        "the base knew may be lost.", severity, Measure(highest.value / start, EVALUATION_RISE, CONVENTION),
        (f"step {highest.step}: eval loss {highest.value:.4g}",),
    )  # fmt: skip


def _was_learning(evidence: Evidence, step: int) -> bool:
    """Whether the training loss was falling well until a step: then a high eval loss is overfitting, not divergence."""
    before = values([point for point in evidence.finite_loss if point.step <= step])
    return len(before) >= MIN_LOSSES and ends(before).tail < 0.7 * ends(before).head


def _evaluations_blown_up(evidence: Evidence) -> Sign | None:
    """The last two evaluations lie far above the first, where no training loss was logged that could say more."""
    level = [point.value for point in finite(evidence.eval_loss)]
    if evidence.loss or len(level) < 3 or level[0] <= 0 or min(level[-2:]) <= _far_above(level[0]):
        return None
    return Sign(
        f"Eval loss went from {level[0]:.3g} at the first evaluation to {level[-2]:.3g} and {level[-1]:.3g} at the last two; no "
        "training loss was logged to compare with.", "warning", Measure(level[-1] / level[0], FAR_RISE, CONVENTION),
    )  # fmt: skip


def _far_above(start: float) -> float:
    """A level that is 25 % and a nat above another."""
    return max(FAR_RISE * start, start + LOST_NATS)


def _blown_up_at_once(losses: Sequence[Point]) -> Sign | None:
    """A first logged loss far below all others: where every value is the mean of many steps, the rise lies between two logs."""
    at, level = steps(losses), values(losses)
    if float(np.median(np.diff(at))) <= 1:
        return None
    first, tail = float(level[0]), ends(level).tail
    if first <= 0 or tail <= _far_above(first) or math.log(tail / first) < SURE_SIGMAS * relative_noise(level):
        return None
    return Sign(
        f"The training loss was {first:.3g} when it was first logged (step {losses[0].step}) and ended at {tail:.3g} (median of the last "
        "fifth).", "warning", Measure(tail / first, FAR_RISE, CONVENTION),
    )  # fmt: skip


def _rows_changed(evidence: Evidence) -> bool:
    """Whether an evaluation beside the last training losses is the best (or within 1 % of it) and below the first one."""
    points, losses = finite(evidence.eval_loss), evidence.finite_loss
    if len(points) < 2 or points[-1].step < losses[-max(1, len(losses) // 10)].step:
        return False
    return points[-1].value <= min(NEAR_BEST * min(point.value for point in points), points[0].value / NEAR_BEST)


def _ends_above(evidence: Evidence) -> Sign | None:
    """The training loss ends above its first fifth, or has lost again most of what it had learned.

    Where evaluations fell all the while, only the rows changed, as where parts of the data come one after the other.
    """
    found = _rise_of_training_loss(evidence.finite_loss)
    if found is None or not _rows_changed(evidence):
        return found
    return found._replace(
        sentence=f"{found.sentence} The eval loss is at its best, so the training rows changed, not the model for the worse.",
        severity="info",
    )


def _rise_of_training_loss(losses: Sequence[Point]) -> Sign | None:
    curve = ends(values(losses))
    if curve.head <= 0:
        return None
    level = values(losses)
    lowest, start = float(smooth(level).min()), float(np.median(level[:START]))
    if curve.tail > RISE * max(curve.head, start) and curve.sigmas > SURE_SIGMAS:
        is_far = curve.tail > max(FAR_RISE * curve.head, _far_above(start))
        return Sign(
            f"The training loss ended at {curve.tail:.3g} (median of the last fifth), after {curve.head:.3g} in the first fifth and "
            f"{lowest:.3g} at its lowest" + (": worse than before training." if is_far else "."),
            "error" if is_far else "warning", Measure(curve.tail / curve.head, FAR_RISE if is_far else RISE, CONVENTION),
        )  # fmt: skip
    lost = (curve.tail - lowest) / curve.error if curve.error else math.inf
    middle = float(np.median(level))
    if curve.tail > max(RELAPSE * lowest, lowest + LOST_NATS, RISE * middle) and lost > SURE_SIGMAS:
        return Sign(
            f"The training loss had come down to {lowest:.3g} and ended at {curve.tail:.3g}: what it had learned is lost again.",
            "warning", Measure(curve.tail / lowest, RELAPSE, CONVENTION),
        )  # fmt: skip
    return None


class Hump(NamedTuple):
    """The training loss far above its start, for several logged steps."""

    start: float
    top: float
    step: int


def hump(evidence: Evidence) -> Hump | None:
    """A lasting rise of the training loss to 1.5 times its start and a nat above it, wherever it went later."""
    losses = evidence.finite_loss
    if len(losses) < MIN_LOSSES or not evidence.batches_are_alike:
        return None
    level = values(losses)
    start = float(np.median(level[:START]))
    running = smooth(level)
    top = int(np.argmax(running))
    rise = float(running[top]) / start - 1 if start > 0 else 0.0
    error = MEDIAN_ERROR * relative_noise(level) * math.sqrt(1 / START + 1 / SMOOTHING)
    if rise < HUMP - 1 or rise * start < LOST_NATS or math.log1p(rise) < HUMP_SIGMAS * error:
        return None
    return Hump(start, float(running[top]), losses[top + SMOOTHING // 2].step)


def _hump(evidence: Evidence) -> Sign | None:
    """A hump of the training loss, unless evaluations came to less than half of the base's.

    An error where four fifths are left, or where the hump cost three nats: then each token of the rows was 20 times less
    probable than before, and little of the base can have come through.
    """
    found = hump(evidence)
    if found is None:
        return None
    kept = _kept_of_base(evidence)
    if kept is not None and kept < STILL_HIGH:
        return None
    tail = ends(values(evidence.finite_loss)).tail
    confirmed = "" if kept is None else f", and the eval loss is still {kept:.0%} of the untouched base's"
    is_wreck = kept is not None and (kept >= NOT_RECOVERED or found.top - found.start >= WRECKED_NATS)
    return Sign(
        f"The training loss rose from {found.start:.3g} to {found.top:.3g} around step {found.step} before it came to {tail:.3g}"
        f"{confirmed}: what the base knew may be lost.", "error" if is_wreck else "warning",
        Measure(found.top / found.start, HUMP, CONVENTION), (f"step {found.step}: training loss {found.top:.4g}",),
    )  # fmt: skip


def _kept_of_base(evidence: Evidence) -> float | None:
    """The last evaluation as a share of the one at step 0; None where there was none before training."""
    points = finite(evidence.eval_loss)
    if len(points) < 2 or points[0].step != 0 or points[0].value <= 0:
        return None
    return points[-1].value / points[0].value
