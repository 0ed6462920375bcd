"""How the loss on validation rows goes along with the loss on training rows."""

import math
from typing import NamedTuple

from harness.diagnose.curves import diverged
from harness.diagnose.evidence import CONVENTION, Evidence, Measure, comparable, finding, probe_mean
from harness.diagnose.fit import CAVEAT, GENERALIZATION_LOSS, MIN_EVALUATIONS, OVERFIT_NATS, WATCH, is_beyond_noise
from harness.diagnose.numbers import MEDIAN_ERROR, finite, relative_noise, values
from harness.diagnose.progress import scale_mismatch
from harness.diagnose.series import level_at
from harness.diagnose.settings import fewer_epochs
from harness.records import Finding

LEARNED = 0.10
SLOW_SHARE = 1 / 3
MUCH_LEARNED = 0.26
NEXT_TO_NOTHING = 0.02
GROWN_GAP = 0.1
WIDE_GAP = 3.0
WIDENED = 2.0
"""Rows that are harder from the start keep their ratio."""
GAP_NATS = 0.1
MIN_LEVEL = 1e-12
"""Nats. Of a smaller training loss a ratio says nothing."""


def slow_validation(evidence: Evidence) -> Finding:
    """Validation loss still falls, but less than a third as much as the training loss over the same steps."""
    name = "slow_validation"
    points = [point for point in finite(evidence.eval_loss) if point.step > 0 and point.value > 0]
    if len(points) < MIN_EVALUATIONS:
        return finding(name, "insufficient", f"Only {len(points)} evaluations; {MIN_EVALUATIONS} are needed.")
    first, last = points[0], points[-1]
    before, after = _training_level(evidence, first.step), _training_level(evidence, last.step)
    if before is None or after is None or min(before, after) <= 0:
        return finding(name, "insufficient", "No training loss was logged beside the evaluations.")
    lowest = min(point.value for point in points)
    if last.value > (1 + WATCH / 100) * lowest:
        return finding(name, "not_applicable", "Eval loss has risen from its best; see overfitting.")
    trained, validated = math.log(before / after), math.log(first.value / last.value)
    numbers = (
        f"From step {first.step} to {last.step} the training loss went from {before:.3g} to {after:.3g} ({after / before - 1:+.0%}) and the "
        f"eval loss from {first.value:.3g} to {last.value:.3g} ({last.value / first.value - 1:+.0%})"
    )
    share = validated / trained if trained > 0 else math.nan
    measure = Measure(share, SLOW_SHARE, f"ratio of the falls of both log-losses: {CONVENTION}")
    if trained < -math.log(1 - LEARNED) or share >= SLOW_SHARE or before - after < GAP_NATS / 2:
        return finding(name, "clear", f"{numbers}.", measure=measure)
    is_much = trained - _doubt(evidence) >= -math.log(1 - MUCH_LEARNED) and validated < NEXT_TO_NOTHING
    return finding(
        name, "fired", f"{numbers}: what is still learned helps held-out rows little.", "warning" if is_much else "info",
        advice=f"Stop around the step where the eval loss flattens, {fewer_epochs(evidence)}, or add and vary rows. It could also be "
        f"validation rows of another kind than the training rows, or a base that already did well on them. {CAVEAT}",
        measure=measure,
    )  # fmt: skip


def _training_level(evidence: Evidence, step: int) -> float | None:
    """Loss on training rows at a step: of the probed rows where that step was probed, else of the curve around it."""
    probed = next((probe for probe in evidence.train_probe if probe.step == step), None)
    level = probe_mean(probed) if probed else math.nan
    return level if math.isfinite(level) else level_at(evidence.finite_loss, step)


def _doubt(evidence: Evidence) -> float:
    """Two standard errors of the fall of the training log-loss; probed rows are the same at both ends."""
    if evidence.train_probe:
        return 0.0
    level = values(evidence.finite_loss)
    return 2 * MEDIAN_ERROR * relative_noise(level) * math.sqrt(2 / max(3, len(level) / 10))


class Gap(NamedTuple):
    """How far validation rows lie above training rows, at the start and at the end, in nats."""

    train_start: float | None
    start: float | None
    train_end: float
    validation_end: float

    @property
    def end(self) -> float:
        """Distance at the end."""
        return self.validation_end - self.train_end

    @property
    def ratio_at_start(self) -> float:
        """Validation over training loss; 1 where the start isn't known."""
        if not self.train_start or self.start is None:
            return 1.0
        return 1 + self.start / self.train_start

    @property
    def growth(self) -> float | None:
        """How much it grew, as a share of the training loss at the start; None where the start isn't known."""
        if not self.train_start or self.start is None:
            return None
        return (self.end - self.start) / self.train_start


def gap_growth(evidence: Evidence) -> Finding:
    """The distance between validation and training loss grew, or is wide where only its end is known."""
    name = "gap_growth"
    gap = _probed_gap(evidence) or _curve_gap(evidence)
    if gap is None or gap.train_end < MIN_LEVEL or not math.isfinite(gap.validation_end):
        return finding(name, "insufficient", "No training and eval loss to compare at the end.")
    if scale_mismatch(evidence).is_warning:
        return finding(name, "not_applicable", "Training and eval loss are on different scales; see scale_mismatch.")
    if diverged(evidence).is_warning:
        return finding(name, "not_applicable", "The run diverged; what it knows of its training rows can't be told.")
    ratio = gap.validation_end / gap.train_end
    numbers = f"At the end, loss is {gap.validation_end:.3g} on validation and {gap.train_end:.3g} on training rows ({ratio:.3g} times)"
    advice = (
        f"Compare answers to training and to held-out prompts; {fewer_epochs(evidence)}, deduplicate or add rows. It could also be "
        "validation rows of another kind, or a training that went on from an earlier one over the same rows."
    )
    if ratio >= max(WIDE_GAP, WIDENED * gap.ratio_at_start) and gap.end >= GAP_NATS:
        measure = Measure(ratio, WIDE_GAP, f"ratio of validation to training loss: {CONVENTION}")
        return finding(
            name, "fired", f"{numbers}: training rows are known far better.", "warning", advice=advice, measure=measure
        )
    if gap.growth is None:
        measure = Measure(ratio, WIDE_GAP, f"ratio of validation to training loss: {CONVENTION}")
        return finding(name, "clear", f"{numbers}.", measure=measure)
    measure = Measure(gap.growth, GROWN_GAP, "SageMaker Debugger's ratio for overfit, less the gap at the start")
    message = f"{numbers}; the gap changed by {gap.growth:+.0%} of the training loss at the start"
    if gap.growth > GROWN_GAP and gap.end > 0:
        risen = _has_risen(evidence)
        also = ", and the eval loss rose" if risen else ""
        return finding(
            name, "fired", f"{message}{also}.", "warning" if risen else "info", advice=advice, measure=measure
        )
    return finding(name, "clear", f"{message}.", measure=measure)


def _has_risen(evidence: Evidence) -> bool:
    """Whether the last evaluation is clearly above an earlier one, however few there are."""
    level = [point.value for point in finite(evidence.eval_loss) if point.step > 0]
    return (
        len(level) > 1
        and level[-1] > (1 + GENERALIZATION_LOSS / 100) * min(level)
        and level[-1] - min(level) > OVERFIT_NATS
        and is_beyond_noise(level)
    )


def _probed_gap(evidence: Evidence) -> Gap | None:
    """From the same rows in eval mode, before training and at its end."""
    train, validation = comparable(evidence.train_probe), comparable(evidence.validation)
    if not train or not validation:
        return None
    has_start = train[0].step == 0 and validation[0].step == 0
    has_start = has_start and math.isfinite(probe_mean(train[0])) and math.isfinite(probe_mean(validation[0]))
    return Gap(
        probe_mean(train[0]) if has_start else None,
        probe_mean(validation[0]) - probe_mean(train[0]) if has_start else None,
        probe_mean(train[-1]),
        probe_mean(validation[-1]),
    )


def _curve_gap(evidence: Evidence) -> Gap | None:
    """From the curves, at the first and at the last evaluation."""
    points, losses = finite(evidence.eval_loss), evidence.finite_loss
    if not points or len(losses) < 3:
        return None
    after = [point for point in points if point.step > 0] or points
    first, last = after[0], after[-1]
    train_end = level_at(losses, last.step)
    train_start = level_at(losses, first.step) if first is not last else None
    assert train_end is not None
    return Gap(train_start, first.value - train_start if train_start is not None else None, train_end, last.value)
