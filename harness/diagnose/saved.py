"""Whether what is on disk is what was trained, and whether training changed anything."""

import math
from collections.abc import Sequence

from harness.diagnose.answers import MIN_ANSWERS, answers_of, base_answers, this_run
from harness.diagnose.evidence import CONVENTION, Evidence, Measure, as_float, before_after, finding, probe_mean
from harness.records import Finding, Probe

SAME_NLL = 1e-6
"""Nats. Below it the adapter leaves every row as it was."""
LEARNED = 0.05
"""Relative fall of the validation NLL that must show in at least one answer."""
METHOD = "largest change that rounding makes, " + CONVENTION


def noop_adapter(evidence: Evidence) -> Finding:
    """An adapter that changes nothing: never trained, not loaded, or on no module."""
    name = "noop_adapter"
    if _trains_all_weights(evidence):
        return finding(name, "not_applicable", "All weights were trained; there is no adapter.")
    advice = (
        f"Check that adapter.target_modules ({evidence.settings.get('adapter.target_modules', 'unknown')}) match modules of this model, that "
        f"their weights are trainable, and that the learning rate isn't zero.{this_run(evidence)}"
    )
    applied = (
        next((i for i in evidence.verification.items if i.name == "adapter_applies"), None)
        if evidence.verification
        else None
    )
    if applied is not None and not applied.passed:
        return finding(
            name, "fired", applied.message, "error", advice=advice, measure=Measure(applied.value, applied.tolerance, METHOD)
        )  # fmt: skip
    change = _largest_change(evidence)
    if change is not None and change <= SAME_NLL:
        return finding(
            name, "fired", f"No row's NLL changed by more than {change:.1e} nats between step 0 and the last step.", "error",
            advice=advice, measure=Measure(change, SAME_NLL, METHOD),
        )  # fmt: skip
    same, compared = _same_answers(evidence)
    if compared >= MIN_ANSWERS and same == compared:
        return _all_answers_same(evidence, compared, advice)
    if change is None and applied is None and compared < MIN_ANSWERS:
        return finding(
            name, "insufficient", "Neither single rows before and after training, nor the base's answers are known."
        )
    parts = [applied.message] if applied is not None else []
    parts += [f"Single rows' NLL changed by up to {change:.2g} nats."] if change is not None else []
    parts += [f"{compared - same} of {compared} answers differ from the base's."] if compared else []
    return finding(name, "clear", " ".join(parts), measure=Measure(change, SAME_NLL, METHOD))


def _trains_all_weights(evidence: Evidence) -> bool:
    """Whether this is a cell of ours without an adapter; of another's training nobody knows."""
    is_ours = bool(evidence.verification or evidence.validation or evidence.generations)
    return is_ours and bool(evidence.settings) and not any(key.startswith("adapter.") for key in evidence.settings)


def _all_answers_same(evidence: Evidence, compared: int, advice: str) -> Finding:
    """All answers are the base's own: why depends on what the trainer saw."""
    name = "noop_adapter"
    message = f"All {compared} answers are the untouched base's, word for word"
    measure = Measure(1.0, 1.0, CONVENTION)
    pair = before_after(evidence.validation)
    if pair is None:
        return finding(name, "fired", f"{message}.", "error", advice=advice, measure=measure)
    before, after = probe_mean(pair.before), probe_mean(pair.after)
    if before - after >= LEARNED * before:
        return finding(
            name, "fired", f"{message}, though validation NLL fell from {before:.3g} to {after:.3g} in training.", "error",
            advice="The adapter was trained but not there when the model was asked: look at how it is saved and loaded.", measure=measure,
        )  # fmt: skip
    return finding(
        name, "fired", f"{message}; validation NLL went from {before:.4g} to {after:.4g}.", "warning",
        advice="The adapter changes too little to change an answer: raise learning_rate (times 10) or train longer." + this_run(evidence),
        measure=measure,
    )  # fmt: skip


def _largest_change(evidence: Evidence) -> float | None:
    """Largest change of a row's NLL since step 0; None where single rows weren't probed before and after."""
    changes = [*_changes(evidence.validation), *_changes(evidence.train_probe)]
    return max(changes) if changes else None


def _changes(probes: Sequence[Probe]) -> list[float]:
    if len(probes) < 2 or probes[0].step != 0 or len(probes[0].nll) != len(probes[-1].nll):
        return []
    pairs = zip(probes[0].nll, probes[-1].nll, strict=True)
    changes = [abs(as_float(after) - as_float(before)) for before, after in pairs]
    return [change if math.isfinite(change) else math.inf for change in changes]


def _same_answers(evidence: Evidence) -> tuple[int, int]:
    """How many answers are the base's own, of how many that both gave; an answer without text is none."""
    base = {answer.id: answer.text for answer in base_answers(evidence)}
    ours = [answer for answer in answers_of(evidence) if answer.id in base and (answer.text or base[answer.id])]
    return sum(answer.text == base[answer.id] for answer in ours), len(ours)


def saved_model(evidence: Evidence) -> Finding:
    """Whether the checkpoint on disk is what was trained, stops by itself, and its adapter does something."""
    name = "saved_model"
    if evidence.verification is None:
        return finding(name, "insufficient", "The saved checkpoint was not loaded again.")
    failures = evidence.verification.failures
    if failures:
        return finding(
            name, "fired", " ".join(item.message for item in failures), "error",
            advice="What is on disk is not what was measured in training: don't ship it; look at the versions of peft and "
            "transformers, at modules_to_save, and at added tokens.",
            evidence=[item.name for item in failures],
        )  # fmt: skip
    return finding(name, "clear", " ".join(item.message for item in evidence.verification.items))
