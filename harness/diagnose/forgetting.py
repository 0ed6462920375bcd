"""Whether the model still knows what its base knew."""

import math
from typing import NamedTuple

from scipy import stats

from harness.diagnose.answers import short, this_run
from harness.diagnose.evidence import CONVENTION, Evidence, Measure, finding
from harness.records import Finding, SuiteResult
from harness.score_columns import values_of
from harness.stats import CONFIDENCE, MIN_PAIRS, NonInferiority, non_inferiority

MARGIN = 0.02
SEVERE = 0.10
"""Losing a few facts is a price that many pay for a new skill; losing a tenth of the base's knowledge is another model."""
METRIC = "accuracy"
SHOWN = 10


class _Change(NamedTuple):
    """Accuracy after minus accuracy before, over the same questions."""

    suite: str
    before: float
    after: float
    found: NonInferiority
    n: int
    lost: tuple[str, ...]
    """Questions that the base answers and this model doesn't."""

    @property
    def is_known_by_base(self) -> bool:
        return self.before >= MARGIN

    @property
    def is_bounded(self) -> bool:
        """Whether there are enough independent questions to say anything."""
        return math.isfinite(self.found.low)

    @property
    def detectable(self) -> float:
        """Smallest true difference that is found with 80 % power at the 5 % level, as the width of the bounds tells."""
        error = (self.found.high - self.found.low) / (2 * float(stats.norm.ppf(CONFIDENCE)))
        return error * float(stats.norm.ppf(0.975) + stats.norm.ppf(0.8))

    @property
    def sentence(self) -> str:
        bounds = (
            f"[{100 * self.found.low:+.1f}, {100 * self.found.high:+.1f}]"
            if self.is_bounded
            else "from too few independent ones to say how surely"
        )
        return (
            f"{self.suite}: {self.before:.1%} before and {self.after:.1%} after on {self.n} questions, "
            f"{100 * self.found.difference:+.1f} points {bounds}"
        )


def forgetting(evidence: Evidence) -> Finding:
    """Accuracy on a retention suite surely more than 2 points below the base's: forgot; surely not: retained."""
    name = "forgetting"
    changes = [
        _change(suite, evidence.base[suite_name])
        for suite_name, suite in evidence.suites.items()
        if suite.is_kind("retention") and suite_name in evidence.base and METRIC in suite.metrics
    ]
    known = [change for change in changes if change is not None and change.is_known_by_base]
    if not known:
        if any(change is not None for change in changes):
            return finding(
                name, "not_applicable", "The base itself answers hardly any question of the retention suite."
            )
        return finding(name, "insufficient", "No suite of retention was asked of both this model and its base.")
    worst = min(known, key=lambda change: change.found.high)
    message = "; ".join(change.sentence for change in known)
    measure = Measure(worst.found.difference, -MARGIN, f"non-inferiority, one-sided 95 %; margin: {CONVENTION}")
    if worst.found.verdict == "forgot":
        return finding(
            name, "fired", f"Forgot: {message}.", "error" if worst.found.high < -SEVERE else "warning", measure=measure,
            advice=_advice(evidence), evidence=[short(f"{worst.suite}/{example}") for example in worst.lost[:SHOWN]],
        )  # fmt: skip
    if all(change.found.verdict == "retained" for change in known):
        return finding(name, "clear", f"Retained: {message}.", measure=measure)
    detectable = (
        f"; {worst.n} such questions find differences from {100 * worst.detectable:.1f} points"
        if worst.is_bounded
        else ""
    )
    return finding(
        name, "insufficient", f"Inconclusive: {message}{detectable}. More questions would tell.", measure=measure
    )


def _change(ours: SuiteResult, base: SuiteResult) -> _Change | None:
    after, before = values_of(ours, METRIC), values_of(base, METRIC)
    shared = sorted(after.keys() & before.keys())
    if len(shared) < MIN_PAIRS:
        return None
    old, new = [before[i] for i in shared], [after[i] for i in shared]
    found = non_inferiority(new, old, [ours.clusters.get(i, i) for i in shared], MARGIN)
    lost = tuple(example for example in shared if after[example] < before[example])
    return _Change(ours.suite, sum(old) / len(old), sum(new) / len(new), found, len(shared), lost)


def _advice(evidence: Evidence) -> str:
    is_adapter = any(key.startswith("adapter.") for key in evidence.settings)
    first = "Lower adapter.r" if is_adapter else "Train an adapter (LoRA) instead of all weights"
    return (
        f"{first}, lower learning_rate, or mix 5 to 10 % of general rows into the training data.{this_run(evidence)} What else it "
        "could be: the questions are asked as plain text, and the model now answers everything in its new form."
    )
