"""All checks on one run."""

from collections.abc import Callable, Mapping
from pathlib import Path

from harness.diagnose import curves, outputs
from harness.diagnose.evidence import Evidence, cell_evidence, trainer_state_evidence
from harness.records import CellResult, Finding
from harness.store import CellFolder

CHECKS: Mapping[str, Callable[[Evidence], Finding]] = {
    "non_finite": curves.non_finite,
    "no_supervised_tokens": outputs.no_supervised_tokens,
    "diverged": curves.diverged,
    "underfitting": curves.underfitting,
    "overfitting": curves.overfitting,
    "memorization": outputs.memorization,
    "format_inconsistency": outputs.format_inconsistency,
    "saved_model": outputs.saved_model,
}


def diagnose(evidence: Evidence) -> tuple[Finding, ...]:
    """Every check with its outcome, in a fixed order."""
    return tuple(check(evidence) for check in CHECKS.values())


def diagnose_cell(folder: CellFolder, result: CellResult, base: CellResult | None) -> tuple[Finding, ...]:
    """Findings of one cell, read against the untouched base where it was evaluated."""
    return diagnose(cell_evidence(folder, result, base))


def diagnose_trainer_state(path: Path) -> tuple[Finding, ...]:
    """Findings from the curves of any Hugging Face training."""
    return diagnose(trainer_state_evidence(path))
