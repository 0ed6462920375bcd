"""All checks on one run."""

from collections.abc import Callable, Mapping

from harness.diagnose import curves, fit, learning_rate, phases, progress, spikes, validation
from harness.diagnose.data import contamination, no_supervised_tokens
from harness.diagnose.diversity import low_diversity
from harness.diagnose.evidence import Evidence, finding
from harness.diagnose.forgetting import forgetting
from harness.diagnose.format import format_inconsistency
from harness.diagnose.memorization import memorization
from harness.diagnose.repetition import repetition
from harness.diagnose.saved import noop_adapter, saved_model
from harness.records import Finding, Severity

CHECKS: Mapping[str, Callable[[Evidence], Finding]] = {
    "non_finite": curves.non_finite,
    "no_supervised_tokens": no_supervised_tokens,
    "noop_adapter": noop_adapter,
    "loss_spike": spikes.loss_spike,
    "gradient_explosion": spikes.gradient_explosion,
    "diverged": curves.diverged,
    "learning_rate_too_high": learning_rate.learning_rate_too_high,
    "learning_rate_too_low": learning_rate.learning_rate_too_low,
    "underfitting": fit.underfitting,
    "overfitting": fit.overfitting,
    "slow_validation": validation.slow_validation,
    "gap_growth": validation.gap_growth,
    "memorization": memorization,
    "format_inconsistency": format_inconsistency,
    "repetition": repetition,
    "low_diversity": low_diversity,
    "forgetting": forgetting,
    "contamination": contamination,
    "loss_phases": phases.phases,
    "still_improving": progress.still_improving,
    "stalled": progress.stalled,
    "too_short": progress.too_short,
    "scale_mismatch": progress.scale_mismatch,
    "saved_model": saved_model,
}
OUTPUT_CHECKS = ("format_inconsistency", "repetition", "low_diversity", "contamination")
"""What answers alone can tell."""
DOOMED = ("non_finite", "diverged")
"""What a training does not come back from."""


def diagnose(evidence: Evidence) -> tuple[Finding, ...]:
    """Every check with its outcome, in a fixed order; one that ended the training has fired, whatever came after."""
    found = tuple(check(evidence) for check in CHECKS.values())
    stopped_by = evidence.stopped_on.partition(":")[0]
    return tuple(_that_stopped(f, evidence.stopped_on) if f.check == stopped_by else f for f in found)


def output_findings(evidence: Evidence) -> tuple[Finding, ...]:
    """The checks that need answers alone, as for predictions of another system."""
    return tuple(CHECKS[name](evidence) for name in OUTPUT_CHECKS)


def _that_stopped(now: Finding, stopped_on: str) -> Finding:
    """The finding of the check that ended the training, with where that was and what it saved."""
    _, where, why = stopped_on.split(": ", 2)
    if now.outcome == "fired":
        return now.model_copy(update={"message": f"{now.message} Training was {where}."})
    severity: Severity = "error" if now.check in DOOMED else "warning"
    return finding(now.check, "fired", f"Training was {where}: {why}", severity, evidence=[now.message])
