"""How well the rows were learned: hardly at all, or at the cost of rows that were held out."""

import math
from collections.abc import Sequence

import numpy as np

from harness.diagnose.curves import MIN_LOSSES, START, STILL_HIGH, diverged
from harness.diagnose.evidence import CONVENTION, Evidence, Measure, Point, as_float, finding, probe_mean
from harness.diagnose.memorized_curve import LOW_LEVEL
from harness.diagnose.numbers import MEDIAN_ERROR, ends, finite, relative_noise, trend, values
from harness.diagnose.series import level_at
from harness.diagnose.settings import fewer_epochs, higher_rate, more_epochs, now
from harness.records import Finding, Probe
from harness.stats import paired_difference

MIN_EVALUATIONS = 4
WEAK_FALL = 0.10
NO_FALL = 0.03
EARLY_SIGMAS = 3.0
SURE_P = 0.01
LITTLE = "That is little, but normal for a base that knows how to do it."
GENERALIZATION_LOSS = 5.0
WATCH = 1.0
OVERFIT_NATS = 0.01
LEARNED_ON = 0.02
CAVEAT = "InstructGPT and LIMA saw better answers in spite of a rising loss: compare the generations before you decide."


def underfitting(evidence: Evidence) -> Finding:
    """The loss hardly fell, or the answers are no better than the base's while the loss is still high."""
    name = "underfitting"
    if not evidence.loss_is_nll:
        return finding(name, "not_applicable", "The training loss is not an NLL (loss_type or label smoothing).")
    if diverged(evidence).is_warning:
        return finding(name, "not_applicable", "The run diverged; whether it would fit can't be told.")
    behaviour = _no_better_than_base(evidence)
    if behaviour is not None:
        message, kept = behaviour
        return finding(
            name, "fired", message, "warning", advice=_underfit_advice(evidence), measure=Measure(kept, STILL_HIGH, CONVENTION)
        )  # fmt: skip
    losses = evidence.finite_loss
    if len(losses) < MIN_LOSSES:
        return finding(name, "insufficient", f"Only {len(losses)} finite training losses; {MIN_LOSSES} are needed.")
    if ends(values(losses)).head < 1e-4:
        return finding(name, "not_applicable", "The training loss was zero from the start; see no_supervised_tokens.")
    return _validation_fall(evidence) or _training_fall(evidence, losses)


def _validation_fall(evidence: Evidence) -> Finding | None:
    """What the same validation rows say, before training and at its end; None where they weren't probed."""
    name, probes = "underfitting", evidence.validation
    if len(probes) < 2 or probes[0].step != 0 or len(probes[0].nll) != len(probes[-1].nll):
        return None
    before, after = ([as_float(value) for value in probe.nll] for probe in (probes[0], probes[-1]))
    if not np.isfinite([before, after]).all() or probe_mean(probes[0]) <= 0:
        return None
    difference = paired_difference(before, after, [str(i) for i in range(len(before))], resamples=2000)
    fall = 1 - probe_mean(probes[-1]) / probe_mean(probes[0])
    numbers = f"Validation NLL went from {probe_mean(probes[0]):.3g} to {probe_mean(probes[-1]):.3g} nats per token ({-fall:+.0%})"
    measure = Measure(fall, NO_FALL, f"paired bootstrap over rows; {CONVENTION}")
    if (difference.low <= 0 or fall < NO_FALL) and probe_mean(probes[0]) >= LOW_LEVEL:
        if _training_rows_were_learned(evidence):
            return finding(
                name, "clear", f"{numbers}, but the training rows were learned; see overfitting.", measure=measure
            )
        return finding(
            name, "fired", f"{numbers}: nothing, or next to nothing, was learned.", "warning", advice=_underfit_advice(evidence),
            measure=measure,
        )  # fmt: skip
    if fall < WEAK_FALL:
        return finding(name, "fired", f"{numbers}. {LITTLE}", "info", measure=measure)
    return finding(name, "clear", f"{numbers}.", measure=measure)


def _training_rows_were_learned(evidence: Evidence) -> bool:
    """Whether the loss on training rows fell by a tenth: then nothing was learned for other rows, which is no underfitting."""
    probes = evidence.train_probe
    if len(probes) > 1 and probes[0].step == 0:
        return probe_mean(probes[-1]) < (1 - WEAK_FALL) * probe_mean(probes[0])
    return ends(values(evidence.finite_loss)).fall >= WEAK_FALL


def _training_fall(evidence: Evidence, losses: Sequence[Point]) -> Finding:
    """What the training loss says: its medians of fifths, its trend, a drop at the very start; evaluations can overrule it."""
    name, level = "underfitting", values(losses)
    curve, line = ends(level), trend(losses)
    early = float(np.median(level[: max(START, len(level) // 50)]))
    drop = 1 - curve.tail / early
    is_drop_sure = drop > EARLY_SIGMAS * MEDIAN_ERROR * relative_noise(level) / math.sqrt(START)
    message = f"The training loss fell by {curve.fall:.0%}, from {curve.head:.3g} to {curve.tail:.3g}"
    measure = Measure(
        curve.fall, 2 * NO_FALL, f"medians of the first and the last fifth, Mann-Kendall p > {SURE_P}; {CONVENTION}"
    )
    if curve.fall >= WEAK_FALL or (drop >= WEAK_FALL and is_drop_sure):
        start = "" if curve.fall >= WEAK_FALL else f" after a quick drop from {early:.3g}"
        return finding(name, "clear", f"{message}{start}.", measure=measure)
    is_sure = line.p_value < SURE_P and curve.fall >= NO_FALL / 3
    if curve.head < LOW_LEVEL or is_sure or curve.fall >= 2 * NO_FALL or (drop >= 2 * NO_FALL and is_drop_sure):
        return finding(name, "fired", f"{message}. {LITTLE}", "info", measure=measure)
    evaluated = _evaluation_fall(evidence)
    if evaluated >= NO_FALL:
        return finding(name, "fired", f"{message}, the eval loss by {evaluated:.0%}. {LITTLE}", "info", measure=measure)
    if line.fall_high >= WEAK_FALL:
        return finding(
            name,
            "insufficient",
            f"{message}, and up to {line.fall_high:.0%} within its noise: too much to tell.",
            measure=measure,
        )
    return finding(
        name, "fired", f"{message}: no sure trend (Mann-Kendall p = {line.p_value:.2g}), and at most {max(line.fall_high, 0):.0%} within its noise.",
        "warning", advice=_underfit_advice(evidence), measure=measure,
    )  # fmt: skip


def _evaluation_fall(evidence: Evidence) -> float:
    """Share of the first evaluation's loss that was gone at the last one; 0 without two."""
    points = finite(evidence.eval_loss)
    return 1 - points[-1].value / points[0].value if len(points) > 1 and points[0].value > 0 else 0.0


def _underfit_advice(evidence: Evidence) -> str:
    rank = now(evidence, "adapter.r")
    return (
        f"{higher_rate(evidence)}, or {more_epochs(evidence)}. If that doesn't help, check that labels reach the loss, "
        f"{'that r' + rank + ' and target_modules reach enough weights, ' if rank else ''}and the data. It could also be a base that "
        "already knows these rows, or rows with nothing in common."
    )


def _no_better_than_base(evidence: Evidence) -> tuple[str, float] | None:
    """A sentence where validation NLL kept more than half of its start and no suite's answers beat the base's."""
    if len(evidence.validation) < 2 or not evidence.base or evidence.validation[0].step != 0:
        return None
    before, after = probe_mean(evidence.validation[0]), probe_mean(evidence.validation[-1])
    if after < STILL_HIGH * before:
        return None
    for suite, metric in (("held_out", "exact_match"), ("template_adherence", "all")):
        ours, theirs = evidence.suites.get(suite), evidence.base.get(suite)
        if ours is None or theirs is None or metric not in ours.metrics or metric not in theirs.metrics:
            return None
        if ours.metrics[metric].low > theirs.metrics[metric].high:
            return None
    message = (
        f"Validation NLL is still {after:.2f} nats per token ({after / before:.0%} of the base's {before:.2f}), and neither exact "
        "match nor template adherence is above the base's."
    )
    return message, after / before


def overfitting(evidence: Evidence) -> Finding:
    """Validation loss rose again after its best while the training rows were learned further (Prechelt's GL)."""
    name = "overfitting"
    points = [point for point in finite(evidence.eval_loss) if point.step > 0]
    if len(points) < MIN_EVALUATIONS:
        return finding(name, "insufficient", f"Only {len(points)} evaluations; {MIN_EVALUATIONS} are needed.")
    best, last = min(points, key=lambda point: point.value), points[-1]
    loss_over_best = 100 * (last.value / best.value - 1) if best.value > 0 else 0.0
    measure = Measure(loss_over_best, GENERALIZATION_LOSS, "Prechelt 1998, GL")
    numbers = f"Eval loss was best at step {best.step} ({best.value:.3g}) and ended at {last.value:.3g}, {loss_over_best:.1f} % higher"
    if last is best:
        return finding(
            name, "clear", f"Eval loss is lowest at its last evaluation ({best.value:.3g}).", measure=measure
        )
    is_small = last.value - best.value < OVERFIT_NATS
    if is_small or (loss_over_best < GENERALIZATION_LOSS and not _is_watched(points, best)):
        return finding(name, "clear", f"{numbers}.", measure=measure)
    if not _learned_on(evidence, best.step):
        return finding(
            name, "clear", f"{numbers}, but the training rows were not learned further either.", measure=measure
        )
    surely, interval = _surely_worse(evidence.validation, best.step)
    message = f"{numbers}{interval}, while the loss on training rows kept falling."
    if not surely:
        return finding(name, "insufficient", f"{message} The rise is within the noise of the rows.", measure=measure)
    if loss_over_best < GENERALIZATION_LOSS:
        return finding(
            name, "fired", f"{message} Watch it.", "info", advice=_overfit_advice(evidence, best.step), measure=measure
        )
    return finding(name, "fired", message, "warning", advice=_overfit_advice(evidence, best.step), measure=measure)


def _is_watched(points: Sequence[Point], best: Point) -> bool:
    """Whether the last two evaluations both lie at least 1 % above the best one, so that it isn't a single bad one."""
    return points[-2] is not best and min(point.value for point in points[-2:]) >= best.value * (1 + WATCH / 100)


def _overfit_advice(evidence: Evidence, best_step: int) -> str:
    last = evidence.eval_loss[-1].step
    return (
        f"Use the checkpoint of step {best_step} of {last}, {fewer_epochs(evidence)}, add data or dropout. It could also be validation "
        f"rows of another kind than the training rows. {CAVEAT}"
    )


def _learned_on(evidence: Evidence, since: int) -> bool:
    """Whether training rows were predicted at least 2 % better at the end than at a step."""
    if evidence.train_probe:
        at = next((probe for probe in evidence.train_probe if probe.step >= since), evidence.train_probe[-1])
        return probe_mean(evidence.train_probe[-1]) < (1 - LEARNED_ON) * probe_mean(at)
    near = level_at(evidence.finite_loss, since)
    return near is None or ends(values(evidence.finite_loss)).tail < (1 - LEARNED_ON) * near


def _surely_worse(probes: Sequence[Probe], best_step: int) -> tuple[bool, str]:
    at_best = next((probe for probe in probes if probe.step == best_step), None)
    if at_best is None:
        return True, ""
    difference = paired_difference(
        [as_float(v) for v in probes[-1].nll], [as_float(v) for v in at_best.nll], [str(i) for i in range(len(at_best.nll))],
        resamples=2000,
    )  # fmt: skip
    return difference.low > 0, f" (per row {difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}])"
