"""Learning rates that are too high or too low: what siblings of the same grid show, else what the curve alone suggests."""

import math
from typing import NamedTuple

import numpy as np

from harness.diagnose.curves import STILL_HIGH, diverged, hump
from harness.diagnose.evidence import (
    CONVENTION,
    Evidence,
    Measure,
    Sibling,
    as_float,
    before_after,
    finding,
    probe_mean,
)
from harness.diagnose.numbers import (
    MEDIAN_ERROR,
    Array,
    ends,
    finite,
    noise,
    relative_noise,
    trend,
    usual_noise,
    values,
)
from harness.diagnose.progress import still_improving
from harness.diagnose.settings import calmer, higher_rate, learning_rate, now
from harness.diagnose.spikes import loss_spikes
from harness.records import Finding, Severity
from harness.stats import PairedDifference, paired_difference

MIN_LOSSES = 20
ROUGH_NATS = 0.5
ROUGH_LEVEL = 4.0
"""A perplexity of 55 on the rows that are trained on: below it, hard text in batches of one row is as rough."""
HARDLY = 0.02
SPIKE_SHARE = 0.01
MANY_SPIKES = 3
SWING = 1.3
SWING_NATS = 0.3
SWING_SIGMAS = 5.0
BLOCK_DOUBT = 1.2
"""How much wider the noise of blocks is taken: there are few of them, and a drift reaches over more than one."""
MIN_BLOCK = 5
MAX_BLOCKS = 40
AT_ITS_BEST = 1.01
AT_ITS_END = 0.9
MUCH_LESS = 0.5
SLOW_FALL = 0.25
STEADY = 0.4
QUICK = 0.3
OTHER_CAUSES = "It could also be very different or broken rows, tiny batches, or half precision."


class Contrast(NamedTuple):
    """A sibling that did surely better over the same validation rows."""

    sibling: Sibling
    validation: float
    """Its mean NLL per token."""
    gain: PairedDifference

    @property
    def sentence(self) -> str:
        """What it did and by how much it is ahead."""
        return (
            f"{self.sibling.name or 'A sibling'} with learning_rate {self.sibling.learning_rate:.2g} has a validation NLL of "
            f"{self.validation:.3g}, lower by {self.gain.mean:.3g} nats per row [{self.gain.low:.3g}, {self.gain.high:.3g}]"
        )


def learning_rate_too_high(evidence: Evidence) -> Finding:
    """A sibling with a lower rate did better and this run is unstable; without siblings, the instability alone."""
    name = "learning_rate_too_high"
    rate = learning_rate(evidence)
    signs = _instability(evidence)
    better = _better_sibling(evidence, rate, is_lower=True)
    advice = f"{calmer(evidence)} {OTHER_CAUSES}"
    if better is not None and rate is not None:
        times = rate / better.sibling.learning_rate
        measure = Measure(times, 1.0, "paired bootstrap over validation rows")
        message = f"learning_rate {rate:.2g} is {times:.3g} times that of a better sibling: {better.sentence}"
        if signs:
            advice = (
                f"Take learning_rate {better.sibling.learning_rate:.2g}, or one between it and {rate:.2g}; a full fine-tune bears about a "
                f"tenth of what LoRA does. {OTHER_CAUSES}"
            )
            return finding(
                name,
                "fired",
                f"{message}; {'; '.join(signs)}.",
                "warning",
                advice=advice,
                measure=measure,
                evidence=signs,
            )
        advice = f"Prefer {better.sibling.learning_rate:.2g}. The curve is steady, so it may also have overfitted sooner, or differ by its seed."
        return finding(name, "fired", f"{message}.", "info", advice=advice, measure=measure)
    if signs:
        severity: Severity = "info" if _recovered(evidence) else "warning"
        return finding(
            name, "fired", f"The training is unstable: {'; '.join(signs)}.", severity, advice=advice,
            measure=_jump_measure(evidence), evidence=signs,
        )  # fmt: skip
    if len(evidence.finite_loss) < MIN_LOSSES:
        return finding(
            name, "insufficient", f"Only {len(evidence.finite_loss)} finite training losses; {MIN_LOSSES} are needed."
        )
    against = (
        "no sibling with a lower rate is surely better" if evidence.siblings else "there is no sibling to compare with"
    )
    return finding(name, "clear", f"The curve is steady, and {against}.", measure=_jump_measure(evidence))


def _late(evidence: Evidence) -> Array:
    losses = values(evidence.finite_loss)
    return losses[len(losses) // 2 :]


def _jump_measure(evidence: Evidence) -> Measure:
    source = f"nats from one logged step to the next in the second half, where the loss stays above {ROUGH_LEVEL:g}; {CONVENTION}"
    return Measure(noise(_late(evidence)), ROUGH_NATS, source)


def _instability(evidence: Evidence) -> list[str]:
    """What a too high rate does to a curve, one sentence a sign."""
    signs = []
    if diverged(evidence).is_warning:
        signs.append("it diverged")
    found = hump(evidence)
    if found is not None:
        signs.append(f"the training loss rose from {found.start:.3g} to {found.top:.3g} around step {found.step}")
    losses = evidence.finite_loss
    if len(losses) < MIN_LOSSES or not evidence.batches_are_alike:
        return signs
    jump, level = noise(_late(evidence)), float(np.median(_late(evidence)))
    start = ends(values(losses)).head
    if jump >= ROUGH_NATS and level >= max(ROUGH_LEVEL, STILL_HIGH * start) and not _hardly_moved(evidence):
        signs.append(f"from one logged step to the next the training loss jumps by {jump:.2g} nats around {level:.3g}")
    swing = _swing(values(losses))
    if swing is not None:
        signs.append(f"the training loss rose again from {swing[0]:.3g} to {swing[1]:.3g} after it had fallen")
    # What is over after one step says more of its rows than of the rate.
    spikes = [spike for spike in loss_spikes(evidence) if spike.recovered is False or spike.num_logs > 1]
    if len(spikes) >= MANY_SPIKES and len(spikes) >= SPIKE_SHARE * len(losses):
        signs.append(f"the training loss spiked {len(spikes)} times for several steps in {len(losses)} logged steps")
    return signs


def _hardly_moved(evidence: Evidence) -> bool:
    """Whether validation is where it was before training: then the rows are rough, and not the steps."""
    pair = before_after(evidence.validation)
    return pair is not None and abs(pair.ratio - 1) < HARDLY


def _swing(level: Array) -> tuple[float, float] | None:
    """The largest lasting rise from a low of the curve, between medians of at least five values, where it is clear."""
    size = max(MIN_BLOCK, math.ceil(len(level) / MAX_BLOCKS))
    blocks = np.array([np.median(level[i : i + size]) for i in range(0, len(level) - size + 1, size)])
    if len(blocks) < MIN_LOSSES / 2 or blocks.min() <= 0:
        return None
    lows = np.minimum.accumulate(blocks)
    top = int(np.argmax(blocks - lows))
    # Rows that are not shuffled make whole blocks differ by more than their own noise lets expect.
    drift = BLOCK_DOUBT * usual_noise(np.diff(np.log(blocks)))  # of changes, so that a slow swing is no drift
    error = max(MEDIAN_ERROR * relative_noise(level) * math.sqrt(2 / size), drift)
    rise = float(blocks[top]) / float(lows[top])
    if blocks[top] - lows[top] < SWING_NATS or rise < SWING or math.log(rise) < SWING_SIGMAS * error:
        return None
    return float(lows[top]), float(blocks[top])


def _recovered(evidence: Evidence) -> bool:
    """Whether validation rows ended at their best or at less than half of the base's NLL, whatever happened on the way."""
    points = finite(evidence.eval_loss)
    if len(points) < max(2, len(evidence.eval_loss)) or points[0].step != 0:
        return False
    first, last = points[0].value, points[-1].value
    best = min(point.value for point in points)
    is_last = not evidence.loss or points[-1].step >= AT_ITS_END * evidence.loss[-1].step
    return last < STILL_HIGH * first or (is_last and last < first and last <= AT_ITS_BEST * best)


def _better_sibling(evidence: Evidence, rate: float | None, *, is_lower: bool) -> Contrast | None:
    """The best sibling on one side of this run's rate, where it is surely better over the same validation rows."""
    if rate is None or not evidence.validation or not evidence.validation[-1].nll:
        return None
    ours = [as_float(value) for value in evidence.validation[-1].nll]
    contrasts = []
    for sibling in evidence.siblings:
        is_there = sibling.learning_rate < rate if is_lower else sibling.learning_rate > rate
        if not is_there or sibling.validation is None or len(sibling.validation.nll) != len(ours):
            continue
        theirs = [as_float(value) for value in sibling.validation.nll]
        if np.isfinite(ours).all() and np.isfinite(theirs).all():
            gain = paired_difference(ours, theirs, [str(i) for i in range(len(ours))], resamples=2000)
            contrasts.append(Contrast(sibling, probe_mean(sibling.validation), gain))
    best = min(contrasts, key=lambda contrast: contrast.validation, default=None)
    return best if best is not None and best.gain.low > 0 else None


def learning_rate_too_low(evidence: Evidence) -> Finding:
    """A sibling with a higher rate did surely better while this run still falls, or learned less than half as much."""
    name = "learning_rate_too_low"
    rate = learning_rate(evidence)
    better = _better_sibling(evidence, rate, is_lower=False)
    if better is not None and rate is not None:
        reasons = _too_slow(evidence, better)
        times = better.sibling.learning_rate / rate
        message = f"learning_rate {rate:.2g} is {1 / times:.3g} times that of a better sibling: {better.sentence}"
        advice = (
            f"Take learning_rate {better.sibling.learning_rate:.2g}, or train longer{now(evidence, 'training.num_train_epochs')}. If the "
            "siblings differ in more than the rate, such as in their seed, it could also be that."
        )
        measure = Measure(times, 1.0, "paired bootstrap over validation rows")
        if reasons:
            return finding(
                name,
                "fired",
                f"{message}; {'; '.join(reasons)}.",
                "warning",
                advice=advice,
                measure=measure,
                evidence=reasons,
            )
        return finding(name, "fired", f"{message}.", "info", advice=advice, measure=measure)
    if evidence.siblings and evidence.validation:
        return finding(name, "clear", "No sibling with a higher rate is surely better.")
    return _slow_and_steady(evidence)


def _too_slow(evidence: Evidence, better: Contrast) -> list[str]:
    """Why the lower rate is to blame, and not overfitting, for a better sibling."""
    reasons = []
    if still_improving(evidence).outcome == "fired":
        reasons.append("this run's loss was still falling")
    if evidence.validation[0].step == 0 and len(evidence.validation) > 1:
        start = probe_mean(evidence.validation[0])
        ours, theirs = start - probe_mean(evidence.validation[-1]), start - better.validation
        if theirs > 0 and ours < MUCH_LESS * theirs:
            reasons.append(f"its NLL fell by {ours:.3g} where the sibling's fell by {theirs:.3g} nats per token")
    return reasons


def _slow_and_steady(evidence: Evidence) -> Finding:
    """Without siblings: a small fall that is as steep at the end as at the start, without any quick drop."""
    name = "learning_rate_too_low"
    losses = evidence.finite_loss
    if len(losses) < MIN_LOSSES:
        return finding(name, "insufficient", f"Only {len(losses)} finite training losses; {MIN_LOSSES} are needed.")
    level, half = values(losses), len(losses) // 2
    curve, line = ends(level), trend(losses)
    first, second = trend(losses[:half]), trend(losses[half:])
    late_share = second.fall / (first.fall + second.fall) if first.fall > 0 and second.fall > 0 else 0.0
    measure = Measure(late_share, STEADY, f"share of the fall that came in the second half: {CONVENTION}")
    message = f"The training loss fell by {curve.fall:.0%}, {late_share:.0%} of it in the second half"
    is_slow = 0 < curve.fall < SLOW_FALL and line.p_value < 0.01 and second.fall_low > 0
    if is_slow and late_share >= STEADY and _quick_share(level) < QUICK:
        return finding(
            name, "fired", f"{message}: slowly and steadily, without the quick drop that most trainings begin with.", "info",
            advice=f"{higher_rate(evidence)} in a grid of a few rates: only siblings can tell. It could also be a long warm-up"
            f"{now(evidence, 'training.warmup_steps')}, or a base that knows these rows.",
            measure=measure,
        )  # fmt: skip
    return finding(
        name,
        "insufficient",
        f"{message}; whether a higher rate would do better, only siblings can tell.",
        measure=measure,
    )


def _quick_share(level: Array) -> float:
    """Share of the whole fall that the first tenth brought; a straight line's is a tenth."""
    size = len(level)
    early = float(np.median(level[: max(3, size // 50)]))
    tenth = float(np.median(level[size // 20 : max(size // 20 + 3, 3 * size // 20)]))
    end = ends(level).tail
    return (early - tenth) / (early - end) if early > end else 1.0
