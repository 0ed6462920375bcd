"""Answers that repeat themselves, are all alike, or have lost what the base knew."""

import random
from collections.abc import Sequence

import pytest

from harness.diagnose.answers import answers_of
from harness.diagnose.diversity import low_diversity
from harness.diagnose.evidence import Evidence
from harness.diagnose.forgetting import forgetting
from harness.diagnose.repetition import repetition
from harness.records import Example, StopReason, SuiteResult
from tests.diagnosed import NUM_ASKED, answered, asked, evidence, nearly_right, verdict
from tests.helpers import suite_result


def test_answers_in_circles_are_a_warning() -> None:
    loops = [text if i % 5 else "pony and " * 60 for i, text in enumerate(nearly_right())]
    found = repetition(evidence(generations={"held_out": answered(loops)}))
    assert verdict(found) == ("fired", "warning")
    assert found.statistic == 0.2


def test_one_answer_in_circles_is_no_pattern() -> None:
    loops = [text if i else "pony and " * 60 for i, text in enumerate(nearly_right())]
    assert repetition(evidence(generations={"held_out": answered(loops)})).outcome == "clear"


def test_answers_that_repeat_because_the_reference_does_are_fine() -> None:
    songs = tuple(example.model_copy(update={"reference": f"la {example.id} la " * 40}) for example in asked())
    generations = {"held_out": answered([example.reference for example in songs])}
    assert repetition(evidence(generations=generations, examples={"held_out": songs})).outcome == "clear"


@pytest.mark.parametrize(("stop", "expected"), [("end_of_turn", "clear"), ("length", "fired")])
def test_a_base_that_ends_its_turns_is_a_yardstick_and_one_that_does_not_is_none(
    stop: StopReason, expected: str
) -> None:
    loops = [text if i % 5 else "pony and " * 60 for i, text in enumerate(nearly_right())]
    base = {"held_out": answered(["goat and " * 60] * NUM_ASKED, stop)}
    assert repetition(evidence(generations={"held_out": answered(loops)}, base_generations=base)).outcome == expected


def test_the_same_answers_for_many_prompts_are_a_warning() -> None:
    few = [text if i % 2 else nearly_right()[i % 6] for i, text in enumerate(nearly_right())]
    found = low_diversity(evidence(generations={"held_out": answered(few)}))
    assert verdict(found) == ("fired", "warning")
    assert "sign: identical" in found.evidence


def labelled(classes: Sequence[str]) -> tuple[Example, ...]:
    return tuple(
        example.model_copy(update={"reference": classes[i % len(classes)]}) for i, example in enumerate(asked())
    )


def test_classification_has_few_answers_by_nature() -> None:
    draw = random.Random(0)
    examples = labelled(["positive", "negative", "neutral"])
    guesses = [e.reference if draw.random() < 0.8 else draw.choice(["positive", "negative"]) for e in examples]
    assert (
        low_diversity(evidence(generations={"held_out": answered(guesses)}, examples={"held_out": examples})).outcome
        == "clear"
    )


def test_one_class_for_all_prompts_is_a_warning() -> None:
    examples = labelled(["positive", "negative"])
    found = low_diversity(
        evidence(generations={"held_out": answered(["positive"] * NUM_ASKED)}, examples={"held_out": examples})
    )
    assert verdict(found) == ("fired", "warning")
    assert "sign: one_answer" in found.evidence


def test_one_phrase_in_every_answer_is_a_warning() -> None:
    draw = random.Random(1)
    words = [
        f"{a}{b}"
        for a in ("har", "mil", "sto", "gre", "lan", "wob", "tir", "fen")
        for b in ("bour", "let", "ne", "at", "tern", "dle", "ing", "ky")
    ]
    free = tuple(example.model_copy(update={"reference": " ".join(draw.choices(words, k=25))}) for example in asked())
    texts = [
        f"As a helpful assistant I am glad to answer this question for you today {i} {draw.choice(words)}"
        for i in range(NUM_ASKED)
    ]
    found = low_diversity(evidence(generations={"held_out": answered(texts)}, examples={"held_out": free}))
    assert verdict(found) == ("fired", "warning")
    assert {"sign: compression", "sign: distinct_2"} <= set(found.evidence)


def test_answers_that_are_still_the_bases_are_not_judged() -> None:
    same = {"held_out": answered(["pony"] * NUM_ASKED)}
    assert low_diversity(evidence(generations=same, base_generations=same)).outcome == "not_applicable"


def test_without_references_the_base_is_the_yardstick() -> None:
    base = {"held_out": answered(nearly_right(2))}
    few = {"held_out": answered([nearly_right()[i % 6] for i in range(NUM_ASKED)])}
    assert low_diversity(evidence(generations=few, base_generations=base, examples={})).outcome == "fired"
    assert low_diversity(evidence(generations=few, base_generations={}, examples={})).outcome == "insufficient"


def test_long_samples_that_are_all_the_same_are_a_warning() -> None:
    long = [f"story {i} " + " ".join(f"word{i}{j}" for j in range(30)) for i in range(NUM_ASKED)]
    samples = [g.model_copy(update={"sample": sample}) for sample in range(3) for g in answered(long)]
    found = low_diversity(evidence(generations={"held_out": samples}))
    assert "sign: samples" in found.evidence


def retention(before: Sequence[float], after: Sequence[float]) -> Evidence:
    base, ours = (suite_result("retention", {"accuracy": values}) for values in (before, after))
    return evidence(base={"retention": base}, suites={"retention": ours})


@pytest.mark.parametrize(
    ("lost", "n", "expected"),
    [
        (0, 400, ("clear", "-")),
        (0, 50, ("insufficient", "-")),
        (8, 400, ("insufficient", "-")),
        (32, 400, ("fired", "warning")),
        (120, 400, ("fired", "error")),
    ],
)
def test_forgetting_has_three_answers(lost: int, n: int, expected: tuple[str, str]) -> None:
    found = forgetting(retention([1.0] * n, [0.0] * lost + [1.0] * (n - lost)))
    assert verdict(found) == expected


def test_an_inconclusive_answer_says_what_could_be_found() -> None:
    assert "find differences from" in forgetting(retention([1.0] * 400, [0.0] * 8 + [1.0] * 392)).message


def called(name: str, kind: str, metric: str, value: float) -> SuiteResult:
    return suite_result(name, {metric: [value] * 300}).model_copy(update={"kind": kind})


def test_any_suite_of_retention_counts_whatever_it_is_called() -> None:
    base, ours = (called("geography", "retention", "accuracy", value) for value in (1.0, 0.5))
    found = forgetting(evidence(base={"geography": base}, suites={"geography": ours}))
    assert verdict(found) == ("fired", "error")
    assert found.evidence[0] == "geography/e0"


def test_suite_that_is_only_called_retention_measures_none() -> None:
    base, ours = (called("retention", "held_out", "accuracy", value) for value in (1.0, 0.5))
    assert forgetting(evidence(base={"retention": base}, suites={"retention": ours})).outcome == "insufficient"


def test_answers_to_retention_are_left_out_whatever_it_is_called() -> None:
    given = {"geography": answered(["Paris"] * NUM_ASKED)}
    suites = {"geography": called("geography", "retention", "accuracy", 1.0)}
    assert answers_of(evidence(generations=given, suites=suites)) == []


def test_a_base_that_knows_nothing_has_nothing_to_forget() -> None:
    assert forgetting(retention([0.0] * 400, [0.0] * 400)).outcome == "not_applicable"
