"""Whether a model answers different prompts more alike than the right answers are."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple, TypeVar

import numpy as np
from scipy import stats

from harness.diagnose.answers import Answer, answers_of, base_answers, short, this_run
from harness.diagnose.evidence import CONVENTION, Evidence, Measure, finding
from harness.records import Finding
from harness.scoring.repetition import repetition_failure
from harness.scoring.similarity import Ngram, compression_ratio, distinct_share, ngrams, pairwise_similarity
from harness.stats import estimate

T = TypeVar("T")
MIN_PAIRS = 40
LESS_DIVERSE = 1.25
IDENTICAL_SHARE = 0.05
ONE_ANSWER_SHARE = 0.25
STILL_BASE = 0.5
FREE_FORM = 0.5
GROUPS = 10
LONGEST = 2000
MOST_PAIRS = 2000
SAMPLES_ALIKE = 0.9
SAMPLE_WORDS = 20
SHOWN = 5


class _Pair(NamedTuple):
    """An answer and what it is held against: the reference, or the base's answer."""

    answer: Answer
    yardstick: str


class _Sign(NamedTuple):
    """One way in which answers are alike, with the number that says so."""

    name: str
    message: str
    measure: Measure
    fired: bool


def low_diversity(evidence: Evidence) -> Finding:
    """Different prompts get the same answers, or answers of the same words, where the references differ."""
    name = "low_diversity"
    answers = answers_of(evidence)
    base = {answer.id: answer for answer in base_answers(evidence)}
    pairs = [_Pair(answer, answer.reference) for answer in answers if answer.reference]
    held_against = "references"
    if len(pairs) < MIN_PAIRS:
        ended = [a for a in answers if a.id in base and base[a.id].generation.stop_reason in ("end_of_turn", "unknown")]
        pairs, held_against = [_Pair(answer, base[answer.id].text) for answer in ended], "base's answers"
    samples = _samples(evidence)
    if len(pairs) < MIN_PAIRS and samples is None:
        return finding(
            name, "insufficient", f"{len(pairs)} answers can be held against references or the base's answers; {MIN_PAIRS} are needed."
        )  # fmt: skip
    same = sum(a.id in base and a.text == base[a.id].text for a in answers) / len(answers)
    if same >= STILL_BASE:
        return finding(name, "not_applicable", f"{same:.0%} of the answers are still the untouched base's.")
    pairs = pairs[:MOST_PAIRS]
    signs = [_identical(pairs), _one_answer(pairs), *_alike(pairs)] if len(pairs) >= MIN_PAIRS else []
    signs += [samples] if samples is not None else []
    fired = [sign for sign in signs if sign.fired]
    if not fired:
        numbers = "; ".join(sign.message for sign in signs)
        return finding(name, "clear", f"Against the {held_against}: {numbers}.", measure=signs[0].measure)
    return finding(
        name, "fired", f"Against the {held_against}: " + "; ".join(sign.message for sign in fired) + ".", "warning",
        advice="Train fewer epochs, or on rows whose answers vary more; a higher temperature hides this and mends nothing."
        f"{this_run(evidence)} What else it could be: references that vary where the prompt gives no reason to.",
        measure=fired[0].measure, evidence=[f"sign: {sign.name}" for sign in fired] + _most_common(answers),
    )  # fmt: skip


@lru_cache(maxsize=4 * MOST_PAIRS)
def _key(text: str) -> str:
    return " ".join(text.casefold().split())


def _identical(pairs: Sequence[_Pair]) -> _Sign:
    """Share of answers that another prompt gets, too, above the same share of the yardsticks."""
    texts, yardsticks = [_key(pair.answer.text) for pair in pairs], [_key(pair.yardstick) for pair in pairs]
    ours, theirs = Counter(texts), Counter(yardsticks)
    repeated = [float(ours[text] > 1) for text in texts]
    expected = [float(theirs[text] > 1) for text in yardsticks]
    excess = estimate((np.array(repeated) - np.array(expected)).tolist())
    return _Sign(
        "identical",
        f"{np.mean(repeated):.1%} of the answers are given to several prompts, and {np.mean(expected):.1%} are expected to be",
        Measure(excess.value, IDENTICAL_SHARE, CONVENTION),
        excess.low > IDENTICAL_SHARE,
    )


def _one_answer(pairs: Sequence[_Pair]) -> _Sign:
    """Share of the most common answer, above that of the most common yardstick."""
    texts, yardsticks = [_key(pair.answer.text) for pair in pairs], [_key(pair.yardstick) for pair in pairs]
    top, expected = Counter(texts).most_common(1)[0][0], Counter(yardsticks).most_common(1)[0][0]
    difference = [float(a == top) - float(b == expected) for a, b in zip(texts, yardsticks, strict=True)]
    excess = estimate(difference)
    return _Sign(
        "one_answer",
        f"one answer makes up {texts.count(top) / len(texts):.1%}, and {yardsticks.count(expected) / len(texts):.1%} is expected",
        Measure(excess.value, ONE_ANSWER_SHARE, CONVENTION),
        excess.low > ONE_ANSWER_SHARE,
    )


def _alike(pairs: Sequence[_Pair]) -> list[_Sign]:
    """Compression and distinct bigrams, where the yardsticks are free text and answers don't repeat themselves.

    Every pair is cut to the length of its shorter text, because both numbers depend on how much text there is.
    """
    if len({_key(pair.yardstick) for pair in pairs}) < FREE_FORM * len(pairs):
        return []
    cut = []
    for pair in pairs:
        length = min(len(pair.answer.text), len(pair.yardstick), LONGEST)
        if length and not repetition_failure(pair.answer.text):
            cut.append((pair.answer.text[:length], pair.yardstick[:length]))
    if len(cut) < MIN_PAIRS:
        return []
    bigrams = [(ngrams(ours, 2), ngrams(theirs, 2)) for ours, theirs in cut]
    ratios = (
        (
            "compression",
            "the answers compress {0:.2f} [{1:.2f}, {2:.2f}] times as well",
            _ratio(cut, compression_ratio),
        ),
        (
            "distinct_2",
            "the answers repeat pairs of words {0:.2f} [{1:.2f}, {2:.2f}] times as often",
            _ratio(bigrams, _repeated_bigrams),
        ),
    )
    signs = []
    for name, sentence, ratio in ratios:
        if ratio is not None:
            threshold = Measure(ratio[0], LESS_DIVERSE, CONVENTION)
            signs.append(_Sign(name, sentence.format(*ratio), threshold, ratio[1] > LESS_DIVERSE))
    return signs


def _repeated_bigrams(texts: Sequence[Sequence[Ngram]]) -> float | None:
    """Bigrams by different bigrams: the inverse of distinct-2."""
    share = distinct_share(texts)
    return 1 / share if share else None


def _ratio(
    cut: Sequence[tuple[T, T]], measure: Callable[[Sequence[T]], float | None]
) -> tuple[float, float, float] | None:
    """The answers' measure by the yardsticks', with a 95 % interval (delete-a-group jackknife, Kott 2001)."""

    def value(part: Sequence[tuple[T, T]]) -> float | None:
        ours, theirs = measure([text for text, _ in part]), measure([text for _, text in part])
        return ours / theirs if ours is not None and theirs else None

    whole = value(cut)
    parts = [value([pair for i, pair in enumerate(cut) if i % GROUPS != group]) for group in range(GROUPS)]
    known = [part for part in parts if part is not None]
    if whole is None or len(known) < GROUPS:
        return None
    error = float(np.sqrt((GROUPS - 1) * np.var(known)))
    margin = error * float(stats.t.ppf(0.975, GROUPS - 1))
    return whole, whole - margin, whole + margin


def _samples(evidence: Evidence) -> _Sign | None:
    """How alike several samples of one prompt are, where they are long and not simply right."""
    by_prompt: dict[str, list[Answer]] = {}
    for answer in answers_of(evidence, sample=None):
        by_prompt.setdefault(answer.id, []).append(answer)
    similarities = []
    for answers in (several for several in by_prompt.values() if len(several) > 1):
        texts = [answer.text for answer in answers if _key(answer.text) != _key(answer.reference or "")]
        if len(texts) > 1 and len(ngrams(texts[0], 1)) >= SAMPLE_WORDS:
            similarity = pairwise_similarity(texts)
            similarities += [similarity] if similarity is not None else []
    if len(similarities) < MIN_PAIRS // 2:
        return None
    mean = estimate(similarities)
    return _Sign(
        "samples",
        f"samples of one prompt share {mean.value:.0%} [{mean.low:.0%}, {mean.high:.0%}] of their words",
        Measure(mean.value, SAMPLES_ALIKE, CONVENTION),
        mean.low > SAMPLES_ALIKE,
    )


def _most_common(answers: Sequence[Answer]) -> list[str]:
    counts = Counter(_key(answer.text) for answer in answers)
    return [f"{count} times: {short(text)}" for text, count in counts.most_common(SHOWN) if count > 1]
