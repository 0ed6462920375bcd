"""Checks on outputs and data: every planted fault fires, and a healthy run raises no alarm."""

import random

import pytest

from harness.diagnose.data import contamination, no_supervised_tokens
from harness.diagnose.evidence import Evidence, Point
from harness.diagnose.saved import noop_adapter, saved_model
from harness.records import Contamination, Probe, ProbeSplit, SplitSummary
from harness.verification import Verification, VerifiedItem
from tests.diagnosed import (
    CHECKS,
    LORA,
    NUM_ASKED,
    Check,
    adherence,
    answered,
    evidence,
    extracted,
    known_by_heart,
    nearly_right,
    probes,
    verdict,
)
from tests.helpers import suite_result


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_healthy_run_is_clear(check: Check) -> None:
    assert check(evidence()).outcome == "clear"


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_without_evidence_a_check_says_so(check: Check) -> None:
    assert check(Evidence(loss=[], grad_norm=[], eval_loss=[])).outcome == "insufficient"


def test_every_string_of_evidence_is_short() -> None:
    long = answered(["verylongword " * 500] * NUM_ASKED, "length")
    broken = known_by_heart(
        suites={"template_adherence": adherence(0)}, generations={"template_adherence": long},
        extraction=[item.model_copy(update={"expected": "x " * 5000}) for item in extracted(0.9, 0.1)],
    )  # fmt: skip
    found = [check(broken) for check in CHECKS]
    assert max(len(text) for finding in found for text in finding.evidence) <= 200


def test_zero_loss_from_the_start_is_no_learning() -> None:
    zero = [Point(i, 0.0) for i in range(1, 101)]
    found = no_supervised_tokens(Evidence(loss=zero, grad_norm=zero, eval_loss=[]))
    assert verdict(found) == ("fired", "error")
    assert "gradient norm was 0.0" in found.message


def test_a_loss_that_falls_to_zero_late_is_learning() -> None:
    falling = [Point(i, 3.0 * 0.8**i) for i in range(100)]
    assert no_supervised_tokens(evidence(loss=falling)).outcome == "clear"


def test_zero_loss_with_a_nan_gradient_is_an_overflow() -> None:
    loss, gradient = [Point(i, 0.0) for i in range(30)], [Point(i, float("nan")) for i in range(30)]
    assert "overflowed" in no_supervised_tokens(evidence(loss=loss, grad_norm=gradient)).advice


def easy(seed: int = 0) -> list[float]:
    """Losses of one-token answers, nearly half of which the model knows for sure."""
    draw = random.Random(seed)
    return [0.0 if draw.random() < 0.45 else round(draw.gammavariate(0.6, 0.4), 4) for _ in range(300)]


def test_zero_loss_with_a_gradient_is_an_easy_batch() -> None:
    loss = [Point(i, value) for i, value in enumerate(easy())]
    learned = [Point(i, max(3 * value, 1e-3)) for i, value in enumerate(easy())]
    assert no_supervised_tokens(Evidence(loss=loss, grad_norm=learned, eval_loss=[])).outcome == "clear"
    assert verdict(no_supervised_tokens(Evidence(loss=loss, grad_norm=[], eval_loss=[]))) == ("fired", "warning")


@pytest.mark.parametrize(("norm", "severity"), [(1.0, "warning"), (0.0, "error"), (float("nan"), "error")])
def test_late_zeros_among_high_losses_are_found(norm: float, severity: str) -> None:
    draw = random.Random(1)
    losses = [1.2 if i < 100 or draw.random() > 0.6 else 0.0 for i in range(300)]
    norms = [Point(i, norm if value == 0 else 1.0) for i, value in enumerate(losses)]
    found = no_supervised_tokens(
        Evidence(loss=[Point(i, value) for i, value in enumerate(losses)], grad_norm=norms, eval_loss=[])
    )
    assert verdict(found) == ("fired", severity)
    assert f"{losses.count(0.0)} of 300 logged losses are 0.0" in found.message


def test_rows_without_supervised_tokens_are_a_warning() -> None:
    split = SplitSummary(
        source="x", digest="d", rows_read=100, rows_used=90, truncated=10, dropped_unsupervised=10, tokens=1, supervised_tokens=1
    )  # fmt: skip
    found = no_supervised_tokens(evidence(splits={"train": split}, settings={**LORA, "training.max_length": "256"}))
    assert verdict(found) == ("fired", "warning")
    assert "(now 256)" in found.advice


def untouched(split: ProbeSplit) -> list[Probe]:
    first = probes(split, 5.0, 5.0, seed=3)[0]
    return [first, first.model_copy(update={"step": 100})]


def test_an_adapter_that_changes_no_row_is_an_error() -> None:
    found = noop_adapter(evidence(validation=untouched("validation"), train_probe=untouched("train_probe")))
    assert verdict(found) == ("fired", "error")


def test_a_loaded_adapter_that_changes_no_logit_is_an_error() -> None:
    item = VerifiedItem(
        name="adapter_applies",
        passed=False,
        message="With the adapter, logits change by up to 0.",
        value=0.0,
        tolerance=1e-6,
    )
    assert verdict(noop_adapter(evidence(verification=Verification(items=(item,))))) == ("fired", "error")


def test_answers_of_the_base_after_a_fallen_loss_say_that_the_adapter_was_not_loaded() -> None:
    same = {"held_out": answered(nearly_right(1))}
    found = noop_adapter(evidence(generations=same, base_generations=same, verification=None))
    assert verdict(found) == ("fired", "error")
    assert "not there when the model was asked" in found.advice


def test_answers_of_the_base_with_a_loss_that_hardly_moved_are_a_warning() -> None:
    same = {"held_out": answered(nearly_right(1))}
    hardly = [probes("validation", 5.0, 5.0, 3)[0], probes("validation", 5.0, 4.99, 3, spread=0)[1]]
    found = noop_adapter(evidence(generations=same, base_generations=same, validation=hardly))
    assert verdict(found) == ("fired", "warning")


def test_full_fine_tunes_have_no_adapter_to_check() -> None:
    settings = {"training.learning_rate": "1e-3", "model.name": "x"}
    assert noop_adapter(evidence(settings=settings)).outcome == "not_applicable"


def test_a_checkpoint_that_is_not_what_was_trained_is_an_error() -> None:
    item = VerifiedItem(name="reloaded_nll", passed=False, message="It differs by 0.3.")
    found = saved_model(evidence(verification=Verification(items=(item,))))
    assert verdict(found) == ("fired", "error")
    assert found.evidence == ("reloaded_nll",)


def test_leaked_examples_are_an_error_with_the_score_without_them() -> None:
    leaked = tuple(f"e{i}" for i in range(23))
    suite = suite_result("held_out", {"exact_match": [1.0] * 23 + [1.0, 0.0] * 50 + [0.0] * 77})
    found = contamination(
        evidence(suites={"held_out": suite}, contamination={"held_out": Contamination(num_examples=200, exact=leaked[:20], near=leaked[18:])})
    )  # fmt: skip
    assert verdict(found) == ("fired", "error")
    assert "23 examples" in found.message.replace("23 of 200 examples", "23 examples")
    assert f"clean exact_match {50 / 177:.3f}" in found.message
    assert f"instead of {73 / 200:.3f}" in found.message


def test_shared_phrases_alone_are_an_info() -> None:
    shared = Contamination(num_examples=100, shared=tuple(f"e{i}" for i in range(30)))
    assert verdict(contamination(evidence(contamination={"held_out": shared}))) == ("fired", "info")
