"""The scorers by their names: right, wrong, no answer, and where they don't apply."""

import math
import sys

import pytest

from harness.errors import EvalError
from harness.scoring import text
from harness.scoring.code import pass_at_k
from harness.scoring.measurement import Measurement
from harness.scoring.table import CHOICE_SCORERS, CODE_SCORERS, NLL_SCORERS, SAMPLE_SCORERS, SCORERS
from harness.scoring.verdict import Verdict
from tests.measurements import generation, measurement, verdict


def test_no_name_is_in_both_tables() -> None:
    assert not set(SCORERS) & set(SAMPLE_SCORERS)


def test_every_special_need_is_of_a_scorer() -> None:
    assert set(NLL_SCORERS + CHOICE_SCORERS + CODE_SCORERS) <= set(SCORERS) | set(SAMPLE_SCORERS)


@pytest.mark.parametrize(
    ("metric", "answer", "reference", "value"),
    [
        ("exact_match", " Paris ", "Paris", 1),
        ("exact_match", "paris", "Paris", 0),
        ("normalized_match", "<think>Lyon?</think>The Paris!", "paris", 1),
        ("normalized_match", "", "paris", 0),
        ("starts_with_reference", "Paris, of course", "Paris", 1),
        ("contains_reference", "It is Paris, of course.", "paris", 1),
        ("contains_reference", "Comparison", "paris", 0),
        ("contains_reference", "<think>Paris</think>Lyon", "paris", 0),
        ("contains_reference", "", "paris", 0),
        ("contains_reference", "答案是北京。", "北京", 1),
        ("contains_reference", "a ... b", "...", 1),
        ("contains_reference", "anything", "", 0),
        ("answer_words", "<think>one two</think>three four  five\n", "", 3),
        ("answer_words", "", "", 0),
    ],
)
def test_comparison(metric: str, answer: str, reference: str, value: float) -> None:
    assert verdict(metric, measurement(answer, reference=reference)) == (value, "")


def test_rouge_of_a_known_pair() -> None:
    # Lin 2004, section 3.1: against "police killed the gunman", S2 shares 3 words in order and S3 shares 2.
    reference = "police killed the gunman"
    assert text.rouge_l("police kill the gunman", reference) == pytest.approx(3 / 4)
    assert text.rouge_l("the gunman kill police", reference) == pytest.approx(2 / 4)
    assert text.rouge_n("police kill the gunman", reference, 1) == pytest.approx(3 / 4)
    assert text.rouge_n("the gunman kill police", reference, 2) == pytest.approx(1 / 3)


def test_rouge_counts_a_repeated_word_once_for_each_time_in_the_reference() -> None:
    assert text.rouge_n("a a a a", "a b", 1) == pytest.approx(2 * (1 / 4) * (1 / 2) / (1 / 4 + 1 / 2))


@pytest.mark.parametrize("metric", ["rouge_1", "rouge_2", "rouge_l"])
def test_rouge_of_a_text_in_another_script_is_unscored(metric: str) -> None:
    assert verdict(metric, measurement("北京", reference="北京")) == (None, "reference_without_words")


@pytest.mark.parametrize("metric", ["rouge_l", "chrf", "bleu"])
def test_empty_answer_shares_nothing(metric: str) -> None:
    assert verdict(metric, measurement("", reference="some words")) == (0, "")


@pytest.mark.parametrize("metric", ["rouge_1", "chrf", "bleu"])
def test_empty_reference_is_unscored(metric: str) -> None:
    assert verdict(metric, measurement("some words", reference=" ")) == (None, "reference_without_words")


def test_bleu_of_a_short_answer_has_its_own_orders_and_the_brevity_penalty() -> None:
    # Both words and the one pair match: precision 1, and e^(1 - 3/2) for 2 words instead of 3 (Papineni et al. 2002).
    assert text.bleu("the cat", "the cat sat") == pytest.approx(math.exp(1 - 3 / 2))


def test_bleu_and_chrf_of_the_same_text_are_one() -> None:
    assert text.bleu("the cat sat on the mat", "the cat sat on the mat") == 1
    assert text.chrf("the cat sat on the mat", "the cat sat on the mat") == pytest.approx(1)


def test_likeliest_choice_counts() -> None:
    choices = ("no", "yes, without any doubt")
    measured = measurement("", reference=choices[1], choices=choices, logprobs=(-4.0, -6.0))
    assert verdict("choice_accuracy", measured) == (0, "")
    # -4 / 2 bytes against -6 / 22 bytes.
    assert verdict("choice_accuracy_norm", measured) == (1, "")


def test_choices_are_normalized_by_bytes() -> None:
    # Two letters of three bytes each: -5 / 6 is above -4 / 4, but -5 / 2 below -4 / 4.
    measured = measurement("", reference="北京", choices=("Rome", "北京"), logprobs=(-4.0, -5.0))
    assert verdict("choice_accuracy_norm", measured) == (1, "")


@pytest.mark.parametrize("metric", CHOICE_SCORERS)
def test_choices_that_were_not_measured_are_unscored(metric: str) -> None:
    assert verdict(metric, measurement("", reference="a", choices=("a", "b"))) == (None, "not_measured")
    nan = measurement("", reference="a", choices=("a", "b"), logprobs=(math.nan, -1.0))
    assert verdict(metric, nan) == (None, "not_measured")


@pytest.mark.parametrize("metric", CHOICE_SCORERS)
def test_reference_that_is_no_choice_is_unscored(metric: str) -> None:
    measured = measurement("", reference="c", choices=("a", "b"), logprobs=(-1.0, -2.0))
    assert verdict(metric, measured) == (None, "reference_not_a_choice")


@pytest.mark.parametrize("metric", [*CHOICE_SCORERS, *CODE_SCORERS])
def test_metric_that_does_not_apply_leaves_the_example_out(metric: str) -> None:
    assert verdict(metric, measurement("a", reference="a")) is None


def test_pass_at_k_of_worked_numbers() -> None:
    # 1 - C(n - c, k) / C(n, k): 1 - 7/10, 1 - 21/252, 1 - 0/120.
    assert pass_at_k(10, 3, 1) == pytest.approx(0.3)
    assert pass_at_k(10, 3, 5) == pytest.approx(1 - 21 / 252)
    assert pass_at_k(10, 8, 3) == 1
    assert pass_at_k(5, 0, 5) == 0
    assert pass_at_k(5, 5, 1) == 1


def test_pass_at_k_is_the_formula() -> None:
    for n in range(1, 25):
        for c in range(n + 1):
            for k in range(1, n + 1):
                assert pass_at_k(n, c, k) == pytest.approx(1 - math.comb(n - c, k) / math.comb(n, k), abs=1e-12)


def test_pass_at_k_of_samples() -> None:
    right, wrong = "def f(x): return x + 1", "def f(x): return x"
    measured = measurement(right, wrong, wrong, wrong, right, tests="assert f(1) == 2")
    assert verdict("pass_at_1", measured) == (pytest.approx(0.4), "failed_assertion")
    assert verdict("pass_at_5", measured) == (1, "failed_assertion")
    assert verdict("pass_at_10", measured) == (None, "too_few_samples")


@pytest.mark.parametrize(
    ("answers", "reference", "majority", "agreement"),
    [
        (["It is 18.", "The answer is 18 eggs", "17"], "so #### 18", 1, 2 / 3),
        (["17", "17", "#### 18"], "#### 18", 0, 2 / 3),
        (["none", "18", "no idea"], "#### 18", 1, 1 / 3),
        (["Paris", "the paris!", "Lyon"], "Paris", 1, 2 / 3),
        (["Lyon", "Paris"], "Paris", 0, 1 / 2),
    ],
)
def test_majority_of_samples(answers: list[str], reference: str, majority: float, agreement: float) -> None:
    measured = measurement(*answers, reference=reference)
    assert verdict("majority_match", measured) == (majority, "")
    assert verdict("agreement", measured) == (pytest.approx(agreement), "")


def test_samples_without_any_answer_have_no_majority() -> None:
    measured = measurement("none", "", reference="18")
    assert verdict("majority_match", measured) == (0, "no_answer")
    assert verdict("agreement", measured) == (0, "")


@pytest.mark.parametrize("metric", ["majority_match", "agreement"])
def test_one_sample_has_no_majority(metric: str) -> None:
    assert verdict(metric, measurement("18", reference="18")) == (None, "too_few_samples")


def test_bits_per_byte_is_the_nll_in_bits_over_the_bytes() -> None:
    measured = Measurement(
        example=measurement("", reference="abcd").example, generation=generation(""), nll=math.log(4), reference_bytes=4,
        reference_tokens=2,
    )  # fmt: skip
    assert verdict("nll", measured) == (math.log(4), "")
    # 2 tokens of 2 bits each, over 4 bytes.
    assert verdict("bits_per_byte", measured) == (pytest.approx(1.0), "")


@pytest.mark.parametrize("metric", NLL_SCORERS)
def test_nll_that_was_not_measured_is_unscored(metric: str) -> None:
    assert verdict(metric, measurement("a", reference="a")) == Verdict(None)


def test_missing_sentence_transformers_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(EvalError, match=r"pip install 'sft-harness\[embeddings\]'"):
        verdict("embedding_similarity", measurement("a", reference="a"))
