"""How well the rows were learned: hardly at all, or at the cost of rows that were held out."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from harness.diagnose.curves import MIN_LOSSES, START, STILL_HIGH, diverged
from harness.diagnose.evidence import (
    CONVENTION,
    Evidence,
    Measure,
    Point,
    as_float,
    before_after,
    comparable,
    finding,
    probe_mean,
)
from harness.diagnose.memorized_curve import LOW_LEVEL
from harness.diagnose.numbers import Array, ends, finite, noise, trend, values
from harness.diagnose.progress import moved
from harness.diagnose.series import level_at
from harness.diagnose.settings import fewer_epochs, higher_rate, more_epochs, now
from harness.records import Estimate, Finding, Probe
from harness.stats import paired_difference

MIN_EVALUATIONS = 4
WEAK_FALL = 0.10
NO_FALL = 0.03
TOO_NOISY = 0.08
"""A flat curve of which so large a fall can't be excluded says nothing: a base that knows its rows falls by as much."""
EARLY_PARTS = (50, 20, 10)
SURE_P = 0.01
LITTLE = "That is little, but normal for a base that knows how to do it."
GENERALIZATION_LOSS = 5.0
WATCH = 1.0
TWICE = 100.0
NOISE_SIGMAS = 2.0
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
    if abs(ends(values(losses)).head) < 1e-4:
        return finding(name, "not_applicable", "The training loss was zero from the start; see no_supervised_tokens.")
    return _validation_fall(evidence) or _training_fall(evidence, losses)


def _validation_fall(evidence: Evidence) -> Finding | None:
    """What the same validation rows say, before training and at its end; None where they weren't probed."""
    name, pair = "underfitting", before_after(evidence.validation)
    if pair is None:
        return None
    before, after = ([as_float(value) for value in probe.nll] for probe in pair)
    difference = paired_difference(before, after, [str(i) for i in range(len(before))], resamples=2000)
    fall, start = 1 - pair.ratio, probe_mean(pair.before)
    numbers = f"Validation NLL went from {start:.3g} to {probe_mean(pair.after):.3g} nats per token ({-fall:+.0%})"
    measure = Measure(fall, NO_FALL, f"paired bootstrap over rows; {CONVENTION}")
    if (difference.low <= 0 or fall < NO_FALL) and start >= LOW_LEVEL:
        if _training_rows_were_learned(evidence):
            return finding(
                name, "clear", f"{numbers}, but the training rows were learned; see overfitting.", measure=measure
            )
        if fall >= NO_FALL:
            return finding(
                name, "insufficient", f"{numbers}: the fall is within the noise of {len(before)} rows.", measure=measure
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
    pair = before_after(evidence.train_probe)
    if pair is not None:
        return pair.ratio < 1 - WEAK_FALL
    return bool(evidence.finite_loss) and ends(values(evidence.finite_loss)).fall >= WEAK_FALL


def _training_fall(evidence: Evidence, losses: Sequence[Point]) -> Finding:
    """What the training loss says: its medians of fifths, its trend, a drop at the very start; evaluations can overrule it."""
    name, level = "underfitting", values(losses)
    curve, line = ends(level), trend(losses)
    start, drop = _early_drop(level)
    message = f"The training loss {moved(curve.fall)}, from {curve.head:.3g} to {curve.tail:.3g}"
    measure = Measure(
        curve.fall, 2 * NO_FALL, f"medians of the first and the last fifth, Mann-Kendall p > {SURE_P}; {CONVENTION}"
    )
    if max(curve.fall, drop) >= WEAK_FALL:
        after = "" if curve.fall >= WEAK_FALL else f" after a quick drop from {start:.3g}"
        return finding(name, "clear", f"{message}{after}.", measure=measure)
    is_sure = line.p_value < SURE_P and curve.fall >= NO_FALL / 3
    if curve.head < LOW_LEVEL or is_sure or max(curve.fall, drop) >= 2 * NO_FALL:
        return finding(name, "fired", f"{message}. {LITTLE}", "info", measure=measure)
    evaluated = _evaluation_fall(evidence)
    if evaluated >= NO_FALL:
        return finding(
            name, "fired", f"{message}; the eval loss fell by {evaluated:.0%}. {LITTLE}", "info", measure=measure
        )
    is_evaluated_from_start = len(evidence.eval_loss) > 1 and evidence.eval_loss[0].step == 0
    if line.fall_high >= TOO_NOISY and not is_evaluated_from_start:
        return finding(
            name,
            "insufficient",
            f"{message}, and up to {line.fall_high:.0%} within its noise: too much to tell.",
            measure=measure,
        )
    at_most = f", and a fall of at most {line.fall_high:.0%} within its noise" if line.fall_high > 0 else ""
    return finding(
        name, "fired", f"{message}: no sure fall (Mann-Kendall p = {line.p_value:.2g}){at_most}.",
        "warning", advice=_underfit_advice(evidence), measure=measure,
    )  # fmt: skip


class EarlyDrop(NamedTuple):
    """A fall so early that the first fifth of the curve hides it."""

    start: float
    """Median of the first values."""
    share: float
    """How much of it was lost by the last fifth; 0 where that isn't sure."""


def _early_drop(level: Array) -> EarlyDrop:
    """The largest sure drop from the first 2 %, 5 % or 10 % to the last half (Mann-Whitney), as a share of the start."""
    found, tail, late = EarlyDrop(float(level[0]), 0.0), ends(level).tail, level[len(level) // 2 :]
    for part in EARLY_PARTS:
        early = level[: max(START, len(level) // part)]
        start = float(np.median(early))
        share = 1 - tail / start if start > 0 else 0.0
        if share > found.share and stats.mannwhitneyu(early, late, alternative="greater").pvalue < SURE_P / 2:
            found = EarlyDrop(start, share)
    return found


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
    pair = before_after(evidence.validation)
    if pair is None or not evidence.base:
        return None
    before, after = probe_mean(pair.before), probe_mean(pair.after)
    if after < STILL_HIGH * before:
        return None
    for kind, metric in (("held_out", "exact_match"), ("template_adherence", "all")):
        pairs = _pairs(evidence, kind, metric)
        if not pairs or any(ours.low > theirs.high for ours, theirs in pairs):
            return None
    message = (
        f"Validation NLL is still {after:.2f} nats per token ({after / before:.0%} of the base's {before:.2f}), and neither exact "
        "match nor template adherence is above the base's."
    )
    return message, after / before


def _pairs(evidence: Evidence, kind: str, metric: str) -> list[tuple[Estimate, Estimate]]:
    """A metric of this model and of its base, for every suite of a kind that measured both."""
    both = [(suite, evidence.base[name]) for name, suite in evidence.suites.items() if name in evidence.base]
    return [
        (ours.metrics[metric], theirs.metrics[metric])
        for ours, theirs in both
        if ours.is_kind(kind) and metric in ours.metrics and metric in theirs.metrics
    ]


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
    learned_on = _learned_on(evidence, best.step)
    if learned_on is False:
        return finding(
            name, "clear", f"{numbers}, but the training rows were not learned further either.", measure=measure
        )
    surely, interval = _surely_worse(evidence.validation, points, best)
    compared = (
        ", while the loss on training rows kept falling"
        if learned_on
        else "; no training loss was logged to compare with"
    )
    message = f"{numbers}{interval}{compared}."
    if not surely:
        of = "rows" if interval else "evaluations"
        return finding(name, "insufficient", f"{message} The rise is within the noise of the {of}.", measure=measure)
    if loss_over_best < (GENERALIZATION_LOSS if learned_on else TWICE):
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


def _learned_on(evidence: Evidence, since: int) -> bool | None:
    """Whether training rows were predicted at least 2 % better at the end than at a step; None without their loss."""
    probes = comparable(evidence.train_probe)
    if probes:
        at = next((probe for probe in probes if probe.step >= since), probes[-1])
        return probe_mean(probes[-1]) < (1 - LEARNED_ON) * probe_mean(at)
    near = level_at(evidence.finite_loss, since)
    return None if near is None else ends(values(evidence.finite_loss)).tail < (1 - LEARNED_ON) * near


def is_beyond_noise(level: Sequence[float]) -> bool:
    """Whether the last evaluation is above the best by more than they jump anyway, or the one before it is 5 % above, too."""
    best = min(level)
    both = len(level) > 1 and min(level[-2:]) >= (1 + GENERALIZATION_LOSS / 100) * best
    return both or level[-1] - best > NOISE_SIGMAS * noise(np.array(level))


def _surely_worse(probes: Sequence[Probe], points: Sequence[Point], best: Point) -> tuple[bool, str]:
    """Whether the rise since the best evaluation is more than noise: of the rows where they were probed, else of the evaluations."""
    known = comparable(probes)
    at_best = next((probe for probe in known if probe.step == best.step), None)
    rows = [as_float(value) for probe in (known[-1], at_best) for value in probe.nll] if at_best else []
    if at_best is None or not np.isfinite(rows).all():
        return _is_watched(points, best) or is_beyond_noise([point.value for point in points]), ""
    difference = paired_difference(
        [as_float(v) for v in known[-1].nll], [as_float(v) for v in at_best.nll], [str(i) for i in range(len(at_best.nll))],
        resamples=2000,
    )  # fmt: skip
    return difference.low > 0, f" (per row {difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}])"
