"""Verifiable instructions: right, wrong, forgiven, untellable and hostile answers."""

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.errors import EvalError
from harness.records import Example, Generation
from harness.scoring.ifeval import check_ifeval, ifeval_loose, ifeval_strict
from harness.scoring.measurement import Measurement

pytest.importorskip("lm_eval")

NO_COMMA = {"id": "punctuation:no_comma"}
TWO_BULLETS = {"id": "detectable_format:number_bullet_lists", "num_bullets": 2}
TITLE = {"id": "detectable_format:title"}
SENTENCES = {"id": "length_constraints:number_sentences", "num_sentences": 2, "relation": "at least"}


def measured(text: str, *instructions: dict[str, Any]) -> Measurement:
    generation = Generation.model_construct(
        example_id="1", prompt="", text=text, stop_reason="end_of_turn", prompt_tokens=1, completion_tokens=1
    )
    return Measurement(Example(id="1", text="Write.", reference="", instructions=instructions), generation)


@pytest.fixture
def without_nltk_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import nltk

    importlib.import_module("lm_eval.tasks.ifeval.instructions_util")._get_sentence_tokenizer.cache_clear()
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    monkeypatch.setattr(nltk, "download", lambda *args, **options: False)


@pytest.mark.parametrize(
    ("text", "strict", "loose", "failure"),
    [
        ("* one\n* two", 1.0, 1.0, ""),
        ("* one\n* two\n* three", 0.0, 1.0, "detectable_format:number_bullet_lists"),
        ("one, two", 0.0, 0.0, "punctuation:no_comma"),
        ("", 0.0, 0.0, "punctuation:no_comma"),
    ],
    ids=["right", "one line too many", "wrong", "no answer"],
)
def test_answer_follows_every_instruction_or_names_the_first_that_it_does_not(
    text: str, strict: float, loose: float, failure: str
) -> None:
    told = measured(text, NO_COMMA, TWO_BULLETS)
    scores = ifeval_strict(told), ifeval_loose(told)
    assert [score.value for score in scores if score] == [strict, loose]
    assert scores[0] is not None and scores[0].failure == failure


def test_what_was_thought_is_no_part_of_the_answer() -> None:
    score = ifeval_strict(measured("<think>\nFirst, a plan.\n</think>\n* one\n* two", NO_COMMA, TWO_BULLETS))
    assert score is not None and score.value == 1.0


def test_prompt_without_instructions_is_left_out() -> None:
    assert ifeval_strict(measured("Hello.")) is None


@pytest.mark.parametrize(
    ("instruction", "failure"),
    [
        ({"id": "taste:good"}, "instruction_unknown"),
        ({"id": "detectable_format:number_bullet_lists"}, "instruction_undetermined"),
        ({"id": "detectable_format:number_bullet_lists", "num_bullets": -1}, "instruction_undetermined"),
        ({"id": "detectable_format:number_bullet_lists", "bullets": 2}, "instruction_malformed"),
        ({"id": "length_constraints:number_words", "num_words": 5, "relation": "about"}, "instruction_malformed"),
    ],
)
def test_instruction_that_can_not_be_checked_is_unscored(instruction: dict[str, Any], failure: str) -> None:
    score = ifeval_strict(measured("* one\n* two", instruction))
    assert score is not None
    assert (score.value, score.failure) == (None, failure)


def test_instruction_that_is_surely_broken_decides_whatever_the_others() -> None:
    score = ifeval_strict(measured("one, two", {"id": "taste:good"}, NO_COMMA))
    assert score is not None
    assert (score.value, score.failure) == (0.0, "punctuation:no_comma")


def test_same_short_answer_is_of_the_same_language_every_time() -> None:
    told = measured("Ja gerne", {"id": "language:response_language", "language": "de"})
    assert len({score.value for _ in range(20) if (score := ifeval_strict(told))}) == 1


def test_sentences_that_can_not_be_counted_are_unscored(without_nltk_data: None) -> None:
    score = ifeval_strict(measured("One. Two.", SENTENCES))
    assert score is not None
    assert (score.value, score.failure) == (None, "nltk_data_missing")


def test_missing_nltk_data_are_told_before_training(without_nltk_data: None) -> None:
    with pytest.raises(EvalError, match="python -m nltk.downloader punkt_tab"):
        check_ifeval()


def test_missing_package_is_named_with_its_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.tasks.ifeval", None)
    with pytest.raises(EvalError, match=r"pip install 'sft-harness\[benchmarks\]'"):
        ifeval_strict(measured("x", NO_COMMA))


@pytest.mark.parametrize("instruction", [NO_COMMA, TWO_BULLETS, TITLE, {"id": "detectable_format:json_format"}])
@pytest.mark.parametrize("unit", ["\n", "<", "[", "\ud800", "\x00", "*", '"', "<b>"])
def test_hostile_answers_are_told_apart_without_escaping(instruction: dict[str, Any], unit: str) -> None:
    score = ifeval_loose(measured(unit * (100_000 // len(unit)), instruction))
    assert score is not None
    assert score.value in (0.0, 1.0) or score.failure in ("too_long_to_check", "nested_too_deep")


def test_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    ifeval_strict(measured("???", {"id": "language:response_language", "language": "de"}))
    assert capsys.readouterr() == ("", "")
