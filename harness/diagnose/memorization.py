"""The memorization ladder: from a suspicious curve to training answers that come back word for word."""

from typing import NamedTuple

from harness.diagnose.answers import this_run
from harness.diagnose.evidence import CONVENTION, Evidence, Measure, finding
from harness.diagnose.membership import (
    Completion,
    Membership,
    completed_with_phrases,
    completion,
    copied_answers,
    membership,
    trained_phrases,
)
from harness.diagnose.memorized_curve import LOW_LEVEL, STEP_DROP, low_level, stair_steps
from harness.records import Finding, Severity

LIKELY_AUC = 0.6
STRONG_AUC = 0.8
EXTRACTED_SHARE = 0.01
CHANCE = 0.5
TWICE = 2
OF_VALIDATION = 0.75
FAR_BELOW = 0.5
MIN_GAP = 0.02
"""Nats. Below it, and above three quarters of the validation NLL, a low loss on training rows is a learned skill."""
LEVEL_SOURCE = "Unsloth's LoRA guide"
EXTRACTION_SOURCE = "Carlini et al. 2023, definition 3.1, against validation rows"
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "error")


class Rung(NamedTuple):
    """One step of the ladder that a run has reached."""

    name: str
    """level, stair_step, membership, overlap or extraction."""
    severity: Severity
    sentence: str
    measure: Measure
    shown: tuple[str, ...] = ()


def memorization(evidence: Evidence) -> Finding:
    """Training rows that are known by heart: the highest rung that the evidence reaches, and all below it."""
    name = "memorization"
    rows, completed = membership(evidence), completion(evidence)
    rungs = [*_curve_rungs(evidence, rows), *_row_rungs(rows, completed), *_copy_rungs(evidence, rows)]
    if rungs:
        rungs.sort(key=lambda rung: SEVERITIES.index(rung.severity))
        highest = rungs[-1]
        also = [rung.sentence for rung in rungs[:-1] if rung.sentence != highest.sentence]
        return finding(
            name, "fired", "; ".join([highest.sentence, *dict.fromkeys(also)]) + ".", highest.severity,
            advice=_advice(evidence, highest.severity), measure=highest.measure,
            evidence=[*dict.fromkeys(f"rung: {rung.name}" for rung in rungs), *(text for rung in rungs for text in rung.shown)],
        )  # fmt: skip
    parts = [part.sentence for part in (rows, completed) if part is not None]
    if rows is None:
        level = low_level(evidence)
        curve = f"The training loss, which ended at {level.level:.3g}, shows no sign of it; " if level else ""
        return finding(
            name, "insufficient", f"{curve}to tell, the loss of single training and validation rows before and after training is needed."
        )  # fmt: skip
    return finding(
        name, "clear", f"{'; '.join(parts)}: training rows are not treated differently.",
        measure=Measure(rows.auc, LIKELY_AUC, f"membership AUC against the base's loss: {CONVENTION}"),
    )  # fmt: skip


def _is_material(rows: Membership | None) -> bool:
    """Whether training rows are much better known than held-out ones; single rows unknown, nothing speaks against it."""
    if rows is None:
        return True
    return rows.train <= OF_VALIDATION * rows.validation and rows.validation - rows.train >= MIN_GAP


def _curve_rungs(evidence: Evidence, rows: Membership | None) -> list[Rung]:
    """What the training loss alone suggests; single rows overrule it."""
    if not _is_material(rows):
        return []
    rungs = []
    if rows is not None and rows.train < LOW_LEVEL:
        shown = (f"level: {rows.train:.3g}",)
        rungs.append(Rung("level", "info", rows.sentence, Measure(rows.train, LOW_LEVEL, LEVEL_SOURCE), shown))
    level = low_level(evidence) if rows is None else None
    if level is not None and level.is_suspect:
        before = f", from {level.first_pass:.3g} while the rows were new" if level.first_pass is not None else ""
        sentence = f"The training loss ended at {level.level:.3g}{before}"
        shown = (f"level: {level.level:.3g}",)
        rungs.append(Rung("level", "info", sentence, Measure(level.level, LOW_LEVEL, LEVEL_SOURCE), shown))
    steps = stair_steps(evidence)
    if steps is not None and steps.is_suspect:
        at = ", ".join(map(str, steps.boundaries[:3]))
        sentence = (
            f"The training loss drops by {steps.drop:.0%} where epochs begin (step {at}), and by {steps.in_epoch_drop:.0%} inside them: "
            "rows that come back are known by then"
        )
        shown = (f"stair_step: drop {steps.drop:.2f} at steps {at}",)
        rungs.append(Rung("stair_step", "info", sentence, Measure(steps.drop, STEP_DROP, CONVENTION), shown))
    return rungs


def _row_rungs(rows: Membership | None, completed: Completion | None) -> list[Rung]:
    """What single rows prove."""
    rungs = []
    if rows is not None and _is_member(rows):
        strength = "strong" if rows.low > STRONG_AUC else "likely"
        measure = Measure(rows.auc, LIKELY_AUC, f"membership AUC against the base's loss: {CONVENTION}")
        rungs.append(Rung("membership", "warning", rows.sentence, measure, (f"membership: {strength}",)))
    if completed is not None and _is_extracted(rows, completed):
        measure = Measure(completed.train - completed.validation, 0.0, EXTRACTION_SOURCE)
        rungs.append(Rung("extraction", "error", completed.sentence, measure, completed.shown))
    return rungs


def _is_member(rows: Membership) -> bool:
    """Whether training rows are surely told apart, beyond the gap that a few epochs leave behind anyway."""
    is_suspect = rows.train < LOW_LEVEL or rows.train <= FAR_BELOW * rows.validation
    return _is_material(rows) and (rows.low > STRONG_AUC or (rows.low > LIKELY_AUC and is_suspect))


def _is_extracted(rows: Membership | None, completed: Completion) -> bool:
    """Whether training answers come back more often than validation answers, by more than a skill that rows teach."""
    is_told_apart = rows is None or rows.low > CHANCE
    is_skill = not _is_material(rows) and completed.train < TWICE * completed.validation
    return completed.low > 0 and completed.train >= EXTRACTED_SHARE and is_told_apart and not is_skill


def _copy_rungs(evidence: Evidence, rows: Membership | None) -> list[Rung]:
    """Phrases of training answers where they don't belong."""
    source = f"8-grams (Slack and Al Moubayed 2025); {CONVENTION}"
    is_told_apart = _is_material(rows) and (rows is None or rows.low > CHANCE)
    known = trained_phrases(evidence)
    found = [copied_answers(evidence, known), completed_with_phrases(evidence, known) if is_told_apart else None]
    return [
        Rung("overlap", "warning", copies.sentence, Measure(copies.statistic, copies.threshold, source), copies.shown)
        for copies in found
        if copies is not None and copies.is_sure
    ]


def _advice(evidence: Evidence, severity: Severity) -> str:
    is_adapter = any(key.startswith("adapter.") for key in evidence.settings)
    advice = (
        "Train fewer epochs (1 to 3), remove duplicates, add rows, lower learning_rate"
        f"{' or adapter.r' if is_adapter else ''}.{this_run(evidence)}"
    )
    if severity == "info":
        return f"{advice} A curve alone proves nothing: easy rows have a low loss, too. Probe single training and validation rows to tell."
    return f"{advice} What else it could be: validation rows of another kind than the training rows, which are harder for any model."
