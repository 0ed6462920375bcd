"""Answers that miss their form, and the causes that are named."""

import pytest

from harness.diagnose.format import format_inconsistency
from harness.records import Score, SuiteResult
from harness.verification import Verification, VerifiedItem
from tests.diagnosed import adherence, answered, asked, evidence, nearly_right, probes, verdict
from tests.helpers import suite_result


@pytest.mark.parametrize(("passed", "expected"), [(200, "clear"), (189, "insufficient"), (150, "fired")])
def test_adherence_knows_what_it_does_not_know(passed: int, expected: str) -> None:
    assert format_inconsistency(evidence(suites={"template_adherence": adherence(passed)})).outcome == expected


def test_the_worst_slice_is_named_where_the_whole_is_fine() -> None:
    suite = adherence(291, 300)
    ids = list(suite.slices)
    slices = {id_: ("tool",) if i >= 270 else ("chat", "long") if i < 30 else ("chat",) for i, id_ in enumerate(ids)}
    found = format_inconsistency(evidence(suites={"template_adherence": suite.model_copy(update={"slices": slices})}))
    assert verdict(found) == ("fired", "warning")
    assert "kind tool only 70.0% of 30" in found.message
    assert found.evidence[0] == "slice: tool"


def test_a_slice_that_is_worse_by_chance_is_not_named() -> None:
    suite = adherence(294, 300)
    slices = {id_: ("tool",) if i % 10 == 9 else ("chat",) for i, id_ in enumerate(suite.slices)}
    assert (
        format_inconsistency(
            evidence(suites={"template_adherence": suite.model_copy(update={"slices": slices})})
        ).outcome
        == "clear"
    )


@pytest.mark.parametrize(
    ("failure", "cause"),
    [
        ("runs_on", "loss mask"),
        ("wrong_end_token", "loss mask"),
        ("role_header_in_answer", "role names"),
        ("special_token_in_answer", "Control tokens"),
        ("thinking_not_closed", "enable_thinking"),
        ("no_answer_after_thinking", "enable_thinking"),
        ("json_schema_mismatch", "JSON that was asked for"),
        ("tool_argument_type", "Tool calls"),
        ("prose_around_tool_call", "Tool calls"),
        ("json_prose", "JSON that was asked for"),
        ("continuation_repeats", "continue_final_message"),
        ("empty_answer", "Answers are empty"),
        ("something_new", "generations table"),
    ],
)
def test_the_cause_follows_the_kind_of_failure(failure: str, cause: str) -> None:
    found = format_inconsistency(evidence(suites={"template_adherence": adherence(100, failure=failure)}))
    assert verdict(found) == ("fired", "error")
    assert cause in found.advice
    assert f"failure: {failure}: 100 of 200" in found.evidence


def test_a_pad_token_that_ends_turns_is_named_as_the_cause() -> None:
    item = VerifiedItem(name="pad_token", passed=False, message="The pad token 2 ends a turn.")
    broken = evidence(suites={"template_adherence": adherence(100)}, verification=Verification(items=(item,)))
    assert "The pad token 2 ends a turn." in format_inconsistency(broken).advice


def test_hardly_any_training_is_named_as_the_cause() -> None:
    slow = evidence(suites={"template_adherence": adherence(0)}, validation=probes("validation", 5.0, 4.8, seed=1))
    assert "hardly learned anything" in format_inconsistency(slow).advice


def test_answers_that_begin_right_and_go_on_are_named() -> None:
    held_out = suite_result("held_out", {"exact_match": [0.0] * 100, "starts_with_reference": [1.0] * 100})
    endless = evidence(suites={"template_adherence": adherence(0), "held_out": held_out})
    assert "only their end was not learned" in format_inconsistency(endless).advice


def test_answers_cut_before_their_reference_would_end_are_no_fault() -> None:
    cut = answered([example.reference[:5] for example in asked()], "length")
    short = evidence(
        suites={"template_adherence": adherence(0)}, generations={"held_out": cut, "template_adherence": cut}
    )  # fmt: skip
    found = format_inconsistency(short)
    assert found.outcome == "insufficient"
    assert "max_new_tokens" in found.message


def test_imported_answers_show_in_their_text_that_they_never_stop() -> None:
    prompts = [
        example.model_copy(update={"messages": (), "text": f"Input: {example.id}\nOutput:"}) for example in asked()
    ]
    endless = [f" {text}\n\nInput: another\nOutput: {text}" for text in nearly_right()]
    for texts, expected in ((endless, ("fired", "error")), (nearly_right(), ("clear", "-"))):
        generations = [g.model_copy(update={"prompt": ""}) for g in answered(texts, "unknown")]
        found = format_inconsistency(
            evidence(suites={}, generations={"imported": generations}, examples={"imported": prompts})
        )
        assert verdict(found) == expected


def worded(formal: float, casual: float, n: int = 60) -> SuiteResult:
    """A suite in which every question is asked in two wordings."""
    right = {"formal": round(formal * n), "casual": round(casual * n)}
    suite = suite_result("consistency", {"same_answer": [1.0]})
    scores = [
        Score(example_id=f"{q}~{wording}", metric="correct", value=float(q < right[wording]))
        for wording in right
        for q in range(n)
    ]
    return suite.model_copy(
        update={
            "scores": tuple(scores),
            "slices": {score.example_id: (score.example_id.partition("~")[2],) for score in scores},
            "clusters": {score.example_id: score.example_id.partition("~")[0] for score in scores},
        }
    )


def test_a_wording_that_is_surely_worse_is_named() -> None:
    suites = {"template_adherence": adherence(200), "consistency": worded(0.9, 0.5)}
    found = format_inconsistency(evidence(suites=suites))
    assert verdict(found) == ("fired", "warning")
    assert "as formal than as casual, by 40.0%" in found.message


def test_wordings_that_differ_by_chance_are_not() -> None:
    suites = {"template_adherence": adherence(200), "consistency": worded(0.9, 0.87)}
    assert format_inconsistency(evidence(suites=suites)).outcome == "clear"
