"""The scorers of the harness, by the name that an experiment file gives them."""

import math
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from functools import partial

from harness.records import Score
from harness.scoring import choice, fields, numeric, text
from harness.scoring.code import code_of, pass_at_k, run_tests
from harness.scoring.embedding import embedding_similarity
from harness.scoring.ifeval import ifeval_loose, ifeval_strict
from harness.scoring.measurement import Measurement, Scorer
from harness.scoring.thinking import answer_in
from harness.scoring.verdict import Verdict

Compare = Callable[[str, str], float | Verdict]
"""An answer and its reference -> how well it does, or that with the kind of failure."""
Judge = Callable[[Measurement], Verdict | None]
"""None where the metric doesn't apply to the example."""

NLL_SCORERS = ("nll", "bits_per_byte")
"""Need the NLL of the reference."""
CHOICE_SCORERS = ("choice_accuracy", "choice_accuracy_norm")
"""Need the log-probability of the example's choices."""
CODE_SCORERS = ("code_passes", "pass_at_1", "pass_at_5", "pass_at_10")
"""Run what the model wrote, and so are used only where that is allowed."""


def scored(metric: str, judge: Judge) -> Scorer:
    """A scorer that judges a measurement."""

    def score(measured: Measurement) -> Score | None:
        verdict = judge(measured)
        if verdict is None:
            return None
        return Score(example_id=measured.example.id, metric=metric, value=verdict.value, failure=verdict.failure)

    return score


def compared(metric: str, compare: Compare) -> Scorer:
    """A scorer that compares the generation with the reference."""

    def judge(measured: Measurement) -> Verdict:
        given = compare(measured.generation.text, measured.example.reference)
        return given if isinstance(given, Verdict) else Verdict(given)

    return scored(metric, judge)


def overlap(compare: Callable[[str, str], float], words_of: Callable[[str], object] = str.strip) -> Compare:
    """A comparison by words that can't be told where the reference has none."""

    def judge(answer: str, reference: str) -> Verdict:
        if not words_of(reference):
            return Verdict(None, "reference_without_words")
        return Verdict(compare(answer, reference))

    return judge


def field_share(share: str) -> Compare:
    """One of the shares of JSON fields."""

    def judge(answer: str, reference: str) -> Verdict:
        shares, failure = fields.json_shares(answer, reference)
        return Verdict(None if shares is None else getattr(shares, share), failure)

    return judge


def chosen(compare: Callable[[tuple[float, ...], tuple[str, ...], str], Verdict]) -> Judge:
    """A comparison of the example's choices, where it has any."""

    def judge(measured: Measurement) -> Verdict | None:
        example = measured.example
        return compare(measured.choice_logprobs, example.choices, example.reference) if example.choices else None

    return judge


def code_passes(measured: Measurement) -> Verdict | None:
    """1 where the code in the answer passes the example's tests; examples without tests are left out."""
    if not measured.example.tests:
        return None
    kind = _ending(measured, measured.generation.text)
    return Verdict(1.0) if kind == "passed" else Verdict(0.0, kind)


def passes_at(k: int) -> Judge:
    """The chance that one of k samples passes the example's tests."""

    def judge(measured: Measurement) -> Verdict | None:
        samples = _samples(measured)
        if not measured.example.tests:
            return None
        if len(samples) < k:
            return Verdict(None, "too_few_samples")
        kinds = [_ending(measured, sample) for sample in samples]
        failure = next((kind for kind in kinds if kind != "passed"), "")
        return Verdict(pass_at_k(len(kinds), kinds.count("passed"), k), failure)

    return judge


def majority_match(measured: Measurement) -> Verdict:
    """1 where the most frequent final answer of the samples is the reference's (self-consistency, Wang et al. 2022).

    A final answer is the final number where the reference has one, else the normalized text. Samples without any don't
    vote; of equally frequent ones the first counts.
    """
    wanted, given = _final_answers(measured)
    if len(given) < 2:
        return Verdict(None, "too_few_samples")
    votes = Counter(answer for answer in given if answer is not None)
    if not votes:
        return Verdict(0.0, "no_answer")
    return Verdict(float(votes.most_common(1)[0][0] == wanted))


def agreement(measured: Measurement) -> Verdict:
    """Share of the samples that give the most frequent final answer, right or wrong."""
    _, given = _final_answers(measured)
    if len(given) < 2:
        return Verdict(None, "too_few_samples")
    votes = Counter(answer for answer in given if answer is not None)
    return Verdict(max(votes.values(), default=0) / len(given))


def nll(measured: Measurement) -> Verdict:
    """Nats per token of the reference."""
    return Verdict(measured.nll)


def bits_per_byte(measured: Measurement) -> Verdict:
    """Bits per UTF-8 byte of the reference."""
    if measured.nll is None or not measured.reference_bytes:
        return Verdict(None)
    return Verdict(measured.nll * measured.reference_tokens / measured.reference_bytes / math.log(2))


def answer_words(measured: Measurement) -> Verdict:
    """Number of words of the answer, divided by blanks, without its thinking."""
    return Verdict(float(len(answer_in(measured.generation.text).split())))


def _ending(measured: Measurement, answer: str) -> str:
    example = measured.example
    return run_tests(code_of(answer, example.text, example.expect.prefill), example.tests).kind


def _samples(measured: Measurement) -> list[str]:
    return [sample.text for sample in measured.samples or (measured.generation,)]


def _final_answers(measured: Measurement) -> tuple[Hashable, list[Hashable]]:
    """The reference's final answer and that of every sample; None where there is none."""
    number = numeric.final_number(measured.example.reference)
    if number is not None:
        return number, [numeric.final_number(sample) for sample in _samples(measured)]
    return _words(measured.example.reference), [_words(sample) for sample in _samples(measured)]


def _words(answer: str) -> str | None:
    return text.normalized(answer_in(answer)) or None


COMPARISONS: Mapping[str, Compare] = {
    "exact_match": text.exact_match,
    "normalized_match": text.normalized_match,
    "starts_with_reference": text.starts_with_reference,
    "contains_reference": text.contains_reference,
    "numeric_match": numeric.numeric_match,
    "json_valid": lambda answer, _: fields.json_valid(answer),
    "json_exact": fields.json_exact,
    "json_precision": field_share("precision"),
    "json_recall": field_share("recall"),
    "json_f1": field_share("f1"),
    "rouge_1": overlap(partial(text.rouge_n, n=1), text.rouge_words),
    "rouge_2": overlap(partial(text.rouge_n, n=2), text.rouge_words),
    "rouge_l": overlap(text.rouge_l, text.rouge_words),
    "chrf": overlap(text.chrf),
    "bleu": overlap(text.bleu),
    "embedding_similarity": overlap(embedding_similarity),
}
JUDGES: Mapping[str, Judge] = {
    "choice_accuracy": chosen(choice.choice_accuracy),
    "choice_accuracy_norm": chosen(choice.choice_accuracy_norm),
    "code_passes": code_passes,
    "ifeval_strict": ifeval_strict,
    "ifeval_loose": ifeval_loose,
    "nll": nll,
    "bits_per_byte": bits_per_byte,
    "answer_words": answer_words,
}
SAMPLE_JUDGES: Mapping[str, Judge] = {
    "pass_at_1": passes_at(1),
    "pass_at_5": passes_at(5),
    "pass_at_10": passes_at(10),
    "majority_match": majority_match,
    "agreement": agreement,
}

SCORERS: Mapping[str, Scorer] = {
    **{name: compared(name, compare) for name, compare in COMPARISONS.items()},
    **{name: scored(name, judge) for name, judge in JUDGES.items()},
}
"""Look at one completion of a prompt."""
SAMPLE_SCORERS: Mapping[str, Scorer] = {name: scored(name, judge) for name, judge in SAMPLE_JUDGES.items()}
"""Look at all completions of a prompt at once."""
