"""The memorization ladder: each rung by itself, and what is no memorization."""

import random

from harness.diagnose.evidence import Evidence, Point
from harness.diagnose.memorization import memorization
from harness.records import ExtractionItem, Finding, ProbeSplit
from tests.diagnosed import NUM_ASKED, answered, evidence, extracted, known_by_heart, probes, rows, verdict


def rungs(found: Finding) -> list[str]:
    return [text.removeprefix("rung: ") for text in found.evidence if text.startswith("rung: ")]


def test_training_answers_that_come_back_word_for_word_are_an_error() -> None:
    found = memorization(known_by_heart(extraction=extracted(0.9, 0.1)))
    assert verdict(found) == ("fired", "error")
    assert rungs(found) == ["level", "membership", "extraction"]
    assert "4 epochs over 600 rows, learning_rate 0.0002, adapter.r 8" in found.advice


def test_rows_that_are_told_apart_are_a_warning_without_extraction() -> None:
    found = memorization(known_by_heart(extraction=extracted(0.1, 0.1)))
    assert verdict(found) == ("fired", "warning")
    assert rungs(found) == ["level", "membership"]
    assert memorization(known_by_heart(extraction=[])).severity == "warning"


def test_a_few_extracted_answers_are_enough() -> None:
    slightly = {
        "train_probe": probes("train_probe", 2.0, 0.80, seed=4, n=200),
        "validation": probes("validation", 2.0, 0.95, seed=5, n=200),
    }
    found = memorization(evidence(**slightly, extraction=extracted(0.12, 0.0)))
    assert verdict(found) == ("fired", "error")
    assert rungs(found) == ["extraction"]


def test_a_low_loss_on_held_out_rows_alike_is_a_learned_skill() -> None:
    skill = known_by_heart(validation=0.011, extraction=extracted(1.0, 0.75))
    assert memorization(skill).outcome == "clear"


def test_a_usual_gap_between_training_and_held_out_rows_is_no_memorization() -> None:
    gap = {
        "train_probe": probes("train_probe", 2.0, 0.9, seed=4),
        "validation": probes("validation", 2.0, 1.05, seed=5),
    }
    assert memorization(evidence(**gap, extraction=extracted(0.0, 0.0))).outcome == "clear"


def test_held_out_prompts_answered_with_training_answers_are_overlap() -> None:
    long = [example.reference for example in rows("train") if len(example.reference.split()) >= 8]
    copied = (long * NUM_ASKED)[:NUM_ASKED]
    found = memorization(evidence(generations={"held_out": answered(copied)}))
    assert verdict(found) == ("fired", "warning")
    assert rungs(found) == ["overlap"]


def test_training_rows_that_come_back_in_phrases_are_overlap() -> None:
    def item(split: ProbeSplit, i: int) -> ExtractionItem:
        expected = f"row {i} tells of two boats that left the grey harbour before dawn on day {i}"
        said = (
            expected
            if split == "train_probe"
            else f"an answer of its own about number {i} and nothing that was in any row"
        )
        return ExtractionItem(
            split=split, example_id=str(i), prefix="", expected=expected, generated=f"{said} again", is_verbatim=False
        )

    splits: tuple[ProbeSplit, ...] = ("train_probe", "validation")
    found = memorization(known_by_heart(extraction=[item(split, i) for split in splits for i in range(40)]))
    assert "overlap" in rungs(found)


def steps_at_epochs(drop: float) -> dict[str, object]:
    draw = random.Random(0)
    epochs = [Point(i, i / 50) for i in range(1, 201)]
    loss = [Point(i, 2.0 * (1 - drop) ** ((i - 1) // 50) * draw.lognormvariate(0, 0.03)) for i in range(1, 201)]
    return {"loss": loss, "epochs": epochs, "grad_norm": [], "eval_loss": []}


def test_a_curve_alone_is_an_info_at_most() -> None:
    steps = memorization(Evidence(**steps_at_epochs(0.3)))  # type: ignore[arg-type]
    assert verdict(steps) == ("fired", "info")
    assert rungs(steps) == ["stair_step"]
    low = memorization(Evidence(**steps_at_epochs(0.7)))  # type: ignore[arg-type]
    assert verdict(low) == ("fired", "info")
    assert rungs(low) == ["level", "stair_step"]
    assert memorization(Evidence(**steps_at_epochs(0.0))).outcome == "insufficient"  # type: ignore[arg-type]


def test_single_rows_overrule_the_curve() -> None:
    assert memorization(evidence(**steps_at_epochs(0.7))).outcome == "clear"


def test_one_row_that_is_no_number_leaves_nothing_to_tell() -> None:
    broken = probes("train_probe", 2.0, 0.9, seed=4)
    broken[-1] = broken[-1].model_copy(update={"nll": ("nan", *broken[-1].nll[1:])})
    found = memorization(evidence(train_probe=broken, extraction=[]))
    assert found.outcome == "insufficient"
    assert "nan" not in found.message
