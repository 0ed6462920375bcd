"""The scorers give what their sources give, on texts that nobody here wrote."""

import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

from harness.scoring import text
from harness.scoring.choice import choice_accuracy, choice_accuracy_norm
from harness.scoring.embedding import embedding_similarity
from harness.scoring.fields import json_exact, json_shares, json_valid
from harness.scoring.numeric import final_number, numeric_match

# The two filters of lm-evaluation-harness 0.4.13, lm_eval/tasks/gsm8k/gsm8k.yaml: strict-match takes the first match,
# flexible-extract the last; commas, dollar signs and a final point are ignored in the comparison.
STRICT_MATCH = re.compile(r"#### (\-?[0-9\.\,]+)")
FLEXIBLE_EXTRACT = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")


def rows(real_data: Path, name: str) -> list[dict[str, Any]]:
    lines = (real_data / "datasets" / name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture
def pairs(real_data: Path) -> list[tuple[str, str]]:
    """Answers of two public systems to 252 prompts, each with its reference."""
    names = ("davinci", "text-davinci-001")
    predictions = [row for name in names for row in rows(real_data, f"self_instruct_{name}_predictions.jsonl")]
    return [(row["response"], row["target"]) for row in predictions]


def ignored(number: str) -> str:
    return re.sub(r"\.$", "", number.replace(",", "").replace("$", ""))


def strict(answer: str) -> str:
    return ignored(STRICT_MATCH.findall(answer)[0])


def flexible(answer: str) -> str:
    return ignored(next(group for group in FLEXIBLE_EXTRACT.findall(answer)[-1] if group))


@pytest.mark.parametrize(("metric", "n"), [("rouge1", 1), ("rouge2", 2), ("rougeL", 0)])
def test_rouge_is_that_of_rouge_score(metric: str, n: int, pairs: list[tuple[str, str]]) -> None:
    scorer = RougeScorer([metric])
    theirs = [scorer.score(reference, answer)[metric].fmeasure for answer, reference in pairs]
    ours = [text.rouge_n(answer, reference, n) if n else text.rouge_l(answer, reference) for answer, reference in pairs]
    assert ours == theirs
    assert len(set(ours)) > 250


def test_rouge_is_that_of_lm_eval(pairs: list[tuple[str, str]]) -> None:
    truthfulqa = pytest.importorskip("lm_eval.tasks.truthfulqa.utils")
    for answer, reference in pairs[:20]:
        theirs = truthfulqa.rouge([reference], [answer])
        assert text.rouge_n(answer, reference, 1) * 100 == pytest.approx(theirs["rouge1"])
        assert text.rouge_n(answer, reference, 2) * 100 == pytest.approx(theirs["rouge2"])


def test_chrf_is_that_of_sacrebleu(pairs: list[tuple[str, str]]) -> None:
    for answer, reference in pairs:
        assert text.chrf(answer, reference) == sacrebleu.sentence_chrf(answer, [reference]).score / 100
        assert text.chrf(answer, reference) == pytest.approx(sacrebleu.corpus_chrf([answer], [[reference]]).score / 100)


def test_bleu_is_that_of_sacrebleu(pairs: list[tuple[str, str]]) -> None:
    for answer, reference in pairs:
        assert text.bleu(answer, reference) == min(sacrebleu.sentence_bleu(answer, [reference]).score / 100, 1)


def test_bleu_and_chrf_are_those_of_lm_eval(pairs: list[tuple[str, str]]) -> None:
    metrics = pytest.importorskip("lm_eval.api.metrics")
    for answer, reference in pairs[:100]:
        assert text.chrf(answer, reference) * 100 == pytest.approx(metrics.chrf([(reference, answer)]))
        # Of a corpus of one, with all four orders: a sentence that has four words has them too.
        if len(answer.split()) >= 4:
            assert text.bleu(answer, reference) * 100 == pytest.approx(metrics.bleu([(reference, answer)]))


@pytest.mark.parametrize(("name", "num_rows"), [("gsm8k_test.jsonl", 1319), ("gsm8k_train.jsonl", 7473)])
def test_number_of_every_gsm8k_reference_is_the_one_after_the_hashes(name: str, num_rows: int, real_data: Path) -> None:
    answers = [row["answer"] for row in rows(real_data, name)]
    assert len(answers) == num_rows
    for answer in answers:
        assert (
            final_number(answer) == Decimal(answer.split("####")[1].strip().replace(",", "")) == Decimal(strict(answer))
        )
        assert numeric_match(answer, answer) == (1, "")


@pytest.mark.parametrize("form", ["The answer is {}.", "So she makes ${} a day.", "A: {}", "**{}**", "= {} dollars"])
def test_number_of_an_answer_is_that_of_lm_eval(form: str, real_data: Path) -> None:
    for row in rows(real_data, "gsm8k_test.jsonl"):
        number = row["answer"].split("####")[1].strip()
        answer = form.format(number)
        assert final_number(answer) == Decimal(flexible(answer)) == Decimal(number.replace(",", ""))


def test_last_number_of_a_rationale_is_that_of_lm_eval_but_for_fractions(real_data: Path) -> None:
    rationales = [
        row["answer"].split("\n####")[0] for name in ("test", "train") for row in rows(real_data, f"gsm8k_{name}.jsonl")
    ]
    theirs = [re.sub(r"[^0-9.\-]", "", flexible(rationale)) for rationale in rationales]
    others = [
        rationale
        for rationale, number in zip(rationales, theirs, strict=True)
        if number in ("", ".", "-") or final_number(rationale) != Decimal(number)
    ]
    # "fills 3/4 of its capacity": they read 4, we 0.75.
    assert len(rationales) == 8792
    assert len(others) == 3
    assert all(re.search(r"\d/\d+\D*$", rationale) for rationale in others)


def test_number_filters_are_those_of_lm_eval(real_data: Path) -> None:
    extraction = pytest.importorskip("lm_eval.filters.extraction")
    answers = [row["answer"] for row in rows(real_data, "gsm8k_test.jsonl")]
    first = extraction.RegexFilter(STRICT_MATCH.pattern)
    last = extraction.RegexFilter(FLEXIBLE_EXTRACT.pattern, group_select=-1)
    numbers = [final_number(answer) for answer in answers]
    for found in (first, last):
        theirs = found.apply([[answer] for answer in answers], [{}] * len(answers))
        assert [Decimal(ignored(answer)) for (answer,) in theirs] == numbers


def test_choices_are_those_of_lm_eval() -> None:
    # lm_eval/api/task.py, process_results: np.argmax(lls), and np.argmax(lls / byte_length) for acc_bytes.
    generator = np.random.default_rng(0)
    words = ["yes", "no", "a longer answer", "北京", "ß", "x" * 40]
    for _ in range(500):
        choices = tuple(generator.permutation(words)[: generator.integers(2, 7)].tolist())
        lls = -generator.gamma(2, 3, size=len(choices))
        byte_length = np.array([float(len(choice.encode("utf-8"))) for choice in choices])
        reference = choices[int(generator.integers(len(choices)))]
        given = tuple(lls.tolist())
        assert choice_accuracy(given, choices, reference).value == float(choices[np.argmax(lls)] == reference)
        best = choices[np.argmax(lls / byte_length)]
        assert choice_accuracy_norm(given, choices, reference).value == float(best == reference)


def test_every_json_reference_is_right_and_loses_what_is_taken_from_it(real_data: Path) -> None:
    references = [row["completion"] for row in rows(real_data, "text2json_train.jsonl")]
    assert len(references) == 1817
    for reference in references:
        assert json_valid(reference).value == json_exact(reference, reference).value == 1
        assert json_shares(reference, reference) == ((1, 1, 1), "")
        value = json.loads(reference)
        filled = [key for key, below in value.items() if isinstance(below, str) and below.strip()]
        shares, failure = json_shares(json.dumps(value | {filled[0]: None}), reference)
        assert shares is not None
        num_fields = sum(
            len(below) if isinstance(below, list) else below is not None and str(below).strip() != ""
            for below in value.values()
        )
        assert (shares.precision, failure) == (float(num_fields > 1), "missing_field")
        assert shares.recall == pytest.approx((num_fields - 1) / num_fields)


def test_embedding_similarity_is_the_cosine_of_the_model(real_data: Path, tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    modules = pytest.importorskip("sentence_transformers.models")
    words = modules.Transformer(str(real_data / "models" / "stories260K_hf"), max_seq_length=64)
    words.tokenizer.pad_token = words.tokenizer.pad_token or words.tokenizer.eos_token
    pooled = modules.Pooling(words.get_word_embedding_dimension())
    model = library.SentenceTransformer(modules=[words, pooled], device="cpu")
    model.save(str(tmp_path / "model"))
    first, second = model.encode(["the cat sat", "a dog ran away"])
    cosine = first @ second / np.linalg.norm(first) / np.linalg.norm(second)
    assert embedding_similarity("the cat sat", "a dog ran away", str(tmp_path / "model")) == pytest.approx(
        cosine, abs=1e-5
    )
    assert embedding_similarity("the cat sat", "the cat sat", str(tmp_path / "model")) == pytest.approx(1, abs=1e-5)
