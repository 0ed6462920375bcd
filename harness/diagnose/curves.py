"""Warning signs in the curves: non-finite values, divergence, underfitting, overfitting."""

import math
from collections.abc import Sequence

import numpy as np

from harness.diagnose.evidence import CONVENTION, Evidence, Measure, Point, as_float, finding, probe_mean
from harness.records import Finding, Probe
from harness.stats import paired_difference

MIN_LOSSES = 10
MIN_EVALUATIONS = 4
RISE = 1.1
EARLY_RISE = 1.2
CLEAR_RISE = 1.5
EARLY_RISE_NATS = 0.5
WEAK_FALL = 0.10
NO_FALL = 0.03
STILL_HIGH = 0.5
GENERALIZATION_LOSS = 5.0
OVERFIT_NATS = 0.01


def fifths(points: Sequence[Point]) -> tuple[float, float]:
    """Medians of the first and of the last fifth."""
    size = max(1, len(points) // 5)
    values = [point.value for point in points]
    return float(np.median(values[:size])), float(np.median(values[-size:]))


def non_finite(evidence: Evidence) -> Finding:
    """NaN or infinity anywhere: fatal in the loss, a passing event in the gradient norm if the loss goes on."""
    name = "non_finite"
    if not evidence.loss and not evidence.eval_loss:
        return finding(name, "insufficient", "No loss was logged.")
    for label, points in (
        ("training loss", evidence.loss),
        ("eval loss", evidence.eval_loss),
        ("gradient norm", evidence.grad_norm),
    ):
        bad = [point for point in points if not math.isfinite(point.value)]
        if not bad:
            continue
        passing = label == "gradient norm" and bad[-1] is not points[-1]
        advice = "Lower learning_rate to a third, warm up longer, keep max_grad_norm at 1.0, prefer bf16 to fp16."
        if label == "eval loss":
            advice = "An eval row may have no supervised token after truncation: raise max_length or drop it. " + advice
        return finding(
            name, "fired", f"The {label} was {bad[0].value} at step {bad[0].step} ({len(bad)} of {len(points)} logged values).",
            "warning" if passing else "error", advice=advice, measure=Measure(len(bad), 0),
            evidence=[f"step {point.step}: {point.value}" for point in bad[:10]],
        )  # fmt: skip
    return finding(name, "clear", f"All {len(evidence.loss)} training losses are finite.")


def diverged(evidence: Evidence) -> Finding:
    """The loss ended above where it began, or shot up on the way."""
    name = "diverged"
    losses = evidence.finite_loss
    worse = _worse_than_base(evidence.validation)
    advice = "Lower learning_rate (a third to a tenth), warm up longer, keep max_grad_norm at 1.0."
    if worse is not None:
        return finding(name, "fired", worse, "error", advice=advice)
    peak = _evaluation_peak(evidence.eval_loss)
    if peak is not None:
        step_zero = evidence.eval_loss[0].value
        return finding(
            name, "fired", f"Eval loss rose from {step_zero:.3g} before training to {peak.value:.3g} at step {peak.step}, and ended at "
            f"{evidence.eval_loss[-1].value:.3g}: what the base knew may be lost.", "error", advice=advice,
            measure=Measure(peak.value / step_zero, EARLY_RISE, CONVENTION),
        )  # fmt: skip
    if len(losses) < MIN_LOSSES:
        return finding(name, "insufficient", f"Only {len(losses)} finite training losses; {MIN_LOSSES} are needed.")
    head, tail = fifths(losses)
    lowest = min(point.value for point in losses)
    if tail > RISE * head or (
        tail > max(2 * lowest, lowest + 1.0) and tail > RISE * float(np.median([p.value for p in losses]))
    ):
        return finding(
            name, "fired", f"The training loss ended at {tail:.3g} (median of the last fifth), after {head:.3g} in the first fifth "
            f"and {lowest:.3g} at its lowest.", "error", advice=advice, measure=Measure(tail / head if head else None, RISE, CONVENTION),
        )  # fmt: skip
    start = float(np.median([point.value for point in losses[:3]]))
    smooth = [float(np.median([p.value for p in losses[i : i + 5]])) for i in range(len(losses) - 4)]
    top = int(np.argmax(smooth))
    # Batches differ in difficulty; evaluations of the same rows, where they begin at step 0, are the better witness.
    has_step_zero = bool(evidence.eval_loss) and evidence.eval_loss[0].step == 0
    needed = CLEAR_RISE if has_step_zero else EARLY_RISE
    if evidence.batches_are_alike and smooth[top] >= needed * start and smooth[top] - start >= EARLY_RISE_NATS:
        return finding(
            name, "fired", f"The training loss rose from {start:.3g} to {smooth[top]:.3g} around step {losses[top + 2].step} before it "
            f"fell to {tail:.3g}: what the base knew may be lost.", "error", advice=advice, measure=Measure(smooth[top] / start, needed, CONVENTION),
        )  # fmt: skip
    return finding(name, "clear", f"The training loss went from {head:.3g} to {tail:.3g} without a lasting rise.")


def _evaluation_peak(points: Sequence[Point]) -> Point | None:
    """The highest evaluation, where it lies clearly above the untouched base's on the same rows."""
    finite = [point for point in points if math.isfinite(point.value)]
    if not finite or finite[0].step != 0 or finite[0].value <= 0:
        return None
    highest = max(finite, key=lambda point: point.value)
    return highest if highest.value >= EARLY_RISE * finite[0].value else None


def _worse_than_base(probes: Sequence[Probe]) -> str | None:
    """A sentence where the last validation NLL is surely above that of step 0."""
    if len(probes) < 2 or probes[0].step != 0:
        return None
    before, after = ([as_float(value) for value in probe.nll] for probe in (probes[0], probes[-1]))
    if not np.isfinite(after).all():
        return None
    difference = paired_difference(after, before, [str(i) for i in range(len(before))], resamples=2000)
    if difference.low <= 0:
        return None
    return (
        f"Validation NLL ended {difference.mean:.2f} nats per token [{difference.low:.2f}, {difference.high:.2f}] above the "
        f"untouched base ({probe_mean(probes[-1]):.2f} after {probe_mean(probes[0]):.2f})."
    )


def underfitting(evidence: Evidence) -> Finding:
    """The loss hardly fell, or the answers are no better than the base's while the loss is still high."""
    name = "underfitting"
    if not evidence.loss_is_nll:
        return finding(name, "not_applicable", "The training loss is not an NLL (loss_type or label smoothing).")
    if diverged(evidence).outcome == "fired":
        return finding(name, "not_applicable", "The run diverged; whether it would fit can't be told.")
    losses = evidence.finite_loss
    if len(losses) < MIN_LOSSES:
        return finding(name, "insufficient", f"Only {len(losses)} finite training losses; {MIN_LOSSES} are needed.")
    head, tail = fifths(losses)
    if head < 1e-4:
        return finding(name, "not_applicable", "The training loss was zero from the start; see no_supervised_tokens.")
    fall = (head - tail) / head
    advice = (
        "Raise learning_rate (times 3 to 10) or num_train_epochs; if that doesn't help, check that labels reach the loss, "
        "the adapter's r and target_modules, and the data."
    )
    behaviour = _no_better_than_base(evidence)
    if behaviour:
        return finding(
            name, "fired", behaviour, "warning", advice=advice, measure=Measure(fall, STILL_HIGH, CONVENTION)
        )
    message = f"The training loss fell by {fall:.0%} only, from {head:.3g} to {tail:.3g}."
    if fall < NO_FALL:
        return finding(name, "fired", message, "warning", advice=advice, measure=Measure(fall, NO_FALL, CONVENTION))
    if fall < WEAK_FALL and not _already_low(evidence):
        message += " That is little, but normal for a base that knows the task."
        return finding(name, "fired", message, "info", advice=advice, measure=Measure(fall, WEAK_FALL, CONVENTION))
    return finding(
        name,
        "clear",
        f"The training loss fell by {fall:.0%}, from {head:.3g} to {tail:.3g}.",
        measure=Measure(fall, WEAK_FALL),
    )


def _already_low(evidence: Evidence) -> bool:
    """Whether the loss was near nothing to be learned already in the first fifth."""
    return fifths(evidence.finite_loss)[0] < 0.5


def _no_better_than_base(evidence: Evidence) -> str:
    """A sentence where validation NLL kept more than half of its start and no suite's answers beat the base's."""
    if len(evidence.validation) < 2 or not evidence.base or evidence.validation[0].step != 0:
        return ""
    before, after = probe_mean(evidence.validation[0]), probe_mean(evidence.validation[-1])
    if after < STILL_HIGH * before:
        return ""
    for suite, metric in (("held_out", "exact_match"), ("template_adherence", "all")):
        ours, theirs = evidence.suites.get(suite), evidence.base.get(suite)
        if ours is None or theirs is None or metric not in ours.metrics or metric not in theirs.metrics:
            return ""
        if ours.metrics[metric].low > theirs.metrics[metric].high:
            return ""
    return (
        f"Validation NLL is still {after:.2f} nats per token ({after / before:.0%} of the base's {before:.2f}), and neither exact "
        "match nor template adherence is above the base's."
    )


def overfitting(evidence: Evidence) -> Finding:
    """Validation loss rose again after its best while the training rows were learned further (Prechelt's GL)."""
    name = "overfitting"
    points = [point for point in evidence.eval_loss if math.isfinite(point.value) and point.step > 0]
    if len(points) < MIN_EVALUATIONS:
        return finding(name, "insufficient", f"Only {len(points)} evaluations; {MIN_EVALUATIONS} are needed.")
    best = min(points, key=lambda point: point.value)
    last = points[-1]
    loss_over_best = 100 * (last.value / best.value - 1) if best.value > 0 else 0.0
    measure = Measure(loss_over_best, GENERALIZATION_LOSS, "Prechelt 1998, GL")
    if loss_over_best < GENERALIZATION_LOSS or last.value - best.value < OVERFIT_NATS:
        return finding(
            name,
            "clear",
            f"Eval loss ends at {last.value:.3g}, {loss_over_best:.1f} % above its best ({best.value:.3g}).",
            measure=measure,
        )
    if not _learned_on(evidence, best.step):
        return finding(
            name,
            "clear",
            f"Eval loss is {loss_over_best:.1f} % above its best, but the training rows were not learned further either.",
            measure=measure,
        )
    surely, interval = _surely_worse(evidence.validation, best.step)
    message = (
        f"Eval loss was best at step {best.step} ({best.value:.3g}) and ended at {last.value:.3g}, {loss_over_best:.0f} % higher"
        f"{interval}, while the loss on training rows kept falling."
    )
    if not surely:
        return finding(name, "insufficient", message + " The rise is within the noise of the rows.", measure=measure)
    return finding(
        name, "fired", message, "warning",
        advice=f"Use the checkpoint of step {best.step}, train fewer epochs, add data or dropout. InstructGPT and LIMA saw better "
        "answers in spite of a rising loss: compare the generations before you decide.",
        measure=measure,
    )  # fmt: skip


def _learned_on(evidence: Evidence, since: int) -> bool:
    """Whether training rows were predicted at least 2 % better at the end than at a step."""
    if evidence.train_probe:
        at = next((probe for probe in evidence.train_probe if probe.step >= since), evidence.train_probe[-1])
        return probe_mean(evidence.train_probe[-1]) < 0.98 * probe_mean(at)
    near = [p.value for p in evidence.finite_loss if abs(p.step - since) <= max(1, evidence.finite_loss[-1].step // 20)]
    if not near:
        return True
    return fifths(evidence.finite_loss)[1] < 0.98 * float(np.median(near))


def _surely_worse(probes: Sequence[Probe], best_step: int) -> tuple[bool, str]:
    at_best = next((probe for probe in probes if probe.step == best_step), None)
    if at_best is None:
        return True, ""
    difference = paired_difference(
        [as_float(v) for v in probes[-1].nll], [as_float(v) for v in at_best.nll], [str(i) for i in range(len(at_best.nll))],
        resamples=2000,
    )  # fmt: skip
    return difference.low > 0, f" (per row {difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}])"
