"""Single steps that stand out: spikes of the loss and of the gradient norm."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.diagnose.answers import ID, short
from harness.diagnose.evidence import CONVENTION, Evidence, Measure, Point, finding
from harness.diagnose.numbers import (
    CENTER,
    MEDIAN_ERROR,
    MIN_SPIKE_LOGS,
    SIGMAS,
    SMOOTHING,
    Array,
    finite,
    outliers,
    relative_noise,
    smooth,
    values,
)
from harness.diagnose.settings import MAX_GRAD_NORM, calmer, lower_rate, now, number
from harness.records import Finding

LOSS_RATIO = 1.1
LOSS_RISE = 0.05
GRADIENT_RATIO = 3.0
RECOVERY = 10
CLIPPED_SHARE = 0.5
WARM_UP = 0.1
EXPLODED = 10.0
FELT_SIGMAS = 4.0
START_SHARE = 0.1
MIN_START = 5
SHOWN_ROWS = 8
SOURCE = f"6 x 1.4826 MAD above the values before, as OLMo-core's 6 sd; on a log scale, {CONVENTION}"


class Spike(NamedTuple):
    """One logged value, or several in a row, far above those before."""

    step: int
    """Of the highest value."""
    first_step: int
    value: float
    expected: float
    sigmas: float
    recovered: bool | None
    """Whether the values were back within ten logged steps; None where the curve ends before."""
    num_logs: int
    """How many values in a row stood out, at the most."""

    @property
    def sentence(self) -> str:
        """`step 35: 6.5 instead of 2.6`."""
        return f"step {self.step}: {self.value:.3g} instead of {self.expected:.3g}"


def spikes(points: Sequence[Point], *, ratio: float, rise: float) -> list[Spike]:
    """Spikes of a curve of positive values; values in a row count as one, at its highest."""
    series = values(points)
    found = outliers(series, ratio=ratio, rise=rise)
    episodes = np.split(np.arange(len(found.indices)), np.flatnonzero(np.diff(found.indices) > RECOVERY) + 1)
    result = []
    for episode in episodes:
        if not len(episode):
            continue
        top = episode[np.argmax(series[found.indices[episode]])]
        last, expected = int(found.indices[episode[-1]]), float(found.expected[episode[0]])
        after = series[last + 1 : last + 1 + RECOVERY]
        limit = max(ratio * expected, expected + rise)
        recovered = bool(np.median(after) <= limit) if len(after) == RECOVERY else None
        index, first = int(found.indices[top]), int(found.indices[episode[0]])
        result.append(
            Spike(
                points[index].step,
                points[first].step,
                float(series[index]),
                expected,
                float(found.sigmas[top]),
                recovered,
                _most_in_a_row(found.indices[episode]),
            )
        )
    return result


def _most_in_a_row(indices: NDArray[np.int64]) -> int:
    return max(len(part) for part in np.split(indices, np.flatnonzero(np.diff(indices) > 1) + 1))


def loss_spikes(evidence: Evidence) -> list[Spike]:
    """Spikes of the training loss; none where batches differ by design."""
    return spikes(_positive(evidence), ratio=LOSS_RATIO, rise=LOSS_RISE) if evidence.batches_are_alike else []


def _positive(evidence: Evidence) -> list[Point]:
    return [point for point in finite(evidence.loss) if point.value > 0]


def loss_spike(evidence: Evidence) -> Finding:
    """The loss of a step was far above those before it."""
    name = "loss_spike"
    if not evidence.batches_are_alike:
        return finding(name, "not_applicable", "Batches are grouped by length, so that their losses jump by design.")
    losses = _positive(evidence)
    if len(losses) < MIN_SPIKE_LOGS:
        return finding(
            name, "insufficient", f"Only {len(losses)} finite training losses above zero; {MIN_SPIKE_LOGS} are needed."
        )
    found = loss_spikes(evidence)
    if not found:
        highest = outliers(values(losses), ratio=LOSS_RATIO, rise=LOSS_RISE).highest
        message = f"None of the {len(losses)} training losses stands out."
        return finding(name, "clear", message, measure=Measure(highest, SIGMAS, SOURCE))
    worst = max(found, key=lambda spike: spike.sigmas)
    lasting = [spike for spike in found if spike.recovered is False]
    after = "it was back within ten logged steps"
    if lasting:
        after = f"after step {lasting[0].step} it was not back within ten logged steps"
    elif worst.recovered is None:
        after = "the curve ends before it could come back"
    return finding(
        name, "fired", f"The training loss spiked at {len(found)} of {len(evidence.loss)} logged steps, worst at {worst.sentence}; {after}.",
        "warning", advice=_spike_advice(evidence), measure=Measure(worst.sigmas, SIGMAS, SOURCE),
        evidence=[_with_rows(spike, evidence) for spike in sorted(found, key=lambda spike: -spike.sigmas)[:10]],
    )  # fmt: skip


def _with_rows(spike: Spike, evidence: Evidence) -> str:
    rows = evidence.batch_rows.get(spike.step, ())
    shown = ", ".join(short(row, ID) for row in rows[:SHOWN_ROWS])
    more = f", and {len(rows) - SHOWN_ROWS} more" if len(rows) > SHOWN_ROWS else ""
    return spike.sentence + (f" (rows {shown}{more})" if rows else "")


def _spike_advice(evidence: Evidence) -> str:
    rows = "the rows of these steps" if evidence.batch_rows else "the rows of these batches"
    return (
        f"Look at {rows}: very long, broken or foreign ones raise the loss of one step. If the rows are fine: {calmer(evidence)} A single "
        "spike that passes at once often costs nothing."
    )


def gradient_explosion(evidence: Evidence) -> Finding:
    """The gradient norm shot up or grew tenfold; a warning only where the loss felt it."""
    name = "gradient_explosion"
    norms = [point for point in finite(evidence.grad_norm) if point.value > 0]
    if len(norms) < 10:
        return finding(name, "insufficient", f"Only {len(norms)} gradient norms above zero were logged; 10 are needed.")
    found = spikes(norms, ratio=GRADIENT_RATIO, rise=0.0)
    loud = [spike.first_step for spike in loss_spikes(evidence)] if found else []
    hit = [spike for spike in found if _loss_felt(evidence, spike, loud)]
    grown = _growth(norms)
    advice = f"{calmer(evidence)} It could also be single broken rows, or weights in half precision."
    rose = grown is not None and _loss_rose(evidence, grown.step)
    if grown is not None and (rose or not hit):
        effect = "and the training loss rose with it" if rose else "but the training loss did not rise with it"
        return finding(
            name, "fired", f"The gradient norm grew from {grown.start:.3g} to {grown.top:.3g}, {effect}.", "warning" if rose else "info",
            advice=advice, measure=Measure(grown.top / grown.start, EXPLODED, CONVENTION),
        )  # fmt: skip
    if found:
        worst = max(hit or found, key=lambda spike: spike.sigmas)
        effect = "the loss rose with it" if hit else "the loss did not follow, so that clipping was enough"
        return finding(
            name, "fired", f"The gradient norm shot up at {len(found)} logged steps, worst at {worst.sentence}; {effect}.",
            "warning" if hit else "info", advice=advice, measure=Measure(worst.sigmas, SIGMAS, SOURCE),
            evidence=[_with_rows(spike, evidence) for spike in sorted(found, key=lambda spike: -spike.sigmas)[:10]],
        )  # fmt: skip
    return _clipping(evidence, norms)


class Growth(NamedTuple):
    """A gradient norm that became a multiple of what it was at the beginning."""

    start: float
    top: float
    step: int
    """Since when it lay above three times its start."""


def _growth(norms: Sequence[Point]) -> Growth | None:
    """How far running medians of the norm rose above its first tenth, where it is tenfold."""
    level = values(norms)
    running = smooth(level)
    start = float(np.median(level[: max(MIN_START, int(START_SHARE * len(level)))]))
    highest = int(np.argmax(running))
    top = float(running[highest])
    if top <= EXPLODED * start:
        return None
    low = np.flatnonzero(running[:highest] <= GRADIENT_RATIO * start)
    since = int(low[-1]) + 1 if len(low) else 0
    return Growth(start, top, norms[since + SMOOTHING // 2].step)


def _loss_felt(evidence: Evidence, spike: Spike, loud: Sequence[int]) -> bool:
    """Whether the loss spiked too, at one of the `loud` steps, or lay higher over the ten logged steps after it."""
    losses = evidence.finite_loss
    since = bisect_left(losses, spike.first_step, key=lambda point: point.step)
    after = losses[since : since + RECOVERY]
    if after and any(after[0].step <= step <= after[-1].step for step in loud):
        return True
    before = values(losses[max(0, since - CENTER) : since])
    if min(len(before), len(after)) < RECOVERY:
        return False
    return bool(np.median(values(after)) > max(LOSS_RATIO * np.median(before), np.quantile(before, 0.9)))


def _loss_rose(evidence: Evidence, step: int) -> bool:
    """Whether the loss surely rose by a tenth over its level just before a step, at some time after it."""
    losses = _positive(evidence)
    since = bisect_left(losses, step, key=lambda point: point.step)
    before: Array = values(losses[max(0, since - CENTER) : since])
    after: Array = values(losses[since:])
    if min(len(before), len(after)) < SMOOTHING:
        return False
    error = MEDIAN_ERROR * relative_noise(before) * math.sqrt(1 / len(before) + 1 / SMOOTHING)
    rise = math.log(float(smooth(after).max())) - math.log(float(np.median(before)))
    return rise > max(math.log(LOSS_RATIO), FELT_SIGMAS * error)


def _clipping(evidence: Evidence, norms: Sequence[Point]) -> Finding:
    """How often the gradient was cut down after the warm-up."""
    name = "gradient_explosion"
    limit = number(evidence, "training.max_grad_norm")
    limit = MAX_GRAD_NORM if limit is None else limit
    late = norms[int(WARM_UP * len(norms)) :]
    share = sum(point.value > limit for point in late) / len(late)
    message = f"The gradient norm went from {norms[0].value:.3g} to {norms[-1].value:.3g} without a jump"
    if limit <= 0 or share <= CLIPPED_SHARE:
        return finding(name, "clear", f"{message}.", measure=Measure(share, CLIPPED_SHARE, CONVENTION))
    return finding(
        name, "fired", f"{message}; {share:.0%} of the steps after the warm-up were clipped at {limit:g}.", "info",
        advice="Steps are shorter than learning_rate says"
        f"{now(evidence, 'training.learning_rate')}, which is common and harmless while the loss falls. {lower_rate(evidence)} or raise "
        "the batch size if the loss jumps.",
        measure=Measure(share, CLIPPED_SHARE, f"share of clipped steps: {CONVENTION}"),
    )  # fmt: skip
