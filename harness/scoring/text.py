"""How close an answer is to its reference, as text."""

import re
import string
from functools import lru_cache
from typing import TYPE_CHECKING

from harness.scoring.thinking import answer_in

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics import BLEU, CHRF

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)
IDEOGRAPH = re.compile("[\u3040-\u30ff\u3400-\u9fff]")
ROUGE_WORD = re.compile("[a-z0-9]+")

MAX_ROUGE_WORDS = 2000
"""ROUGE compares so many words of each text at most."""
MAX_CHARS = 200_000
"""chrF and BLEU compare so many characters of each text at most, about a second's work."""


def exact_match(answer: str, reference: str) -> float:
    """1 where the texts are equal but for blanks around them, else 0."""
    return float(answer.strip() == reference.strip())


def normalized(text: str) -> str:
    """Lower case without punctuation, articles and repeated blanks (the SQuAD 1.1 normalization)."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def normalized_match(answer: str, reference: str) -> float:
    """1 where the final answers are equal after normalization, else 0; thinking is left out.

    An answer without any word matches nothing, so that two empty strings are never a success.
    """
    answer, reference = answer_in(answer), answer_in(reference)
    wanted = normalized(reference)
    return float(normalized(answer) == wanted) if wanted else exact_match(answer, reference)


def starts_with_reference(answer: str, reference: str) -> float:
    """1 where the answer begins with the reference, whatever follows: right content that may not know when to stop."""
    return float(bool(reference.strip()) and answer.strip().startswith(reference.strip()))


def contains_reference(answer: str, reference: str) -> float:
    """1 where the reference stands anywhere in the answer, in whole words after normalization; thinking is left out.

    Chinese and Japanese have no blanks between words, so that there any place counts.
    """
    answer, reference = answer_in(answer), answer_in(reference)
    wanted, given = normalized(reference), normalized(answer)
    if not wanted:
        return float(bool(reference) and reference in answer)
    return float(wanted in given if IDEOGRAPH.search(wanted) else f" {wanted} " in f" {given} ")


def rouge_words(text: str) -> list[str]:
    """The words that ROUGE compares: runs of ASCII letters and digits in lower case, as in rouge-score, unstemmed.

    A text in another script has none.
    """
    return ROUGE_WORD.findall(text.lower())


def rouge_n(answer: str, reference: str, n: int) -> float:
    """ROUGE-N F-measure in [0, 1] (rouge-score; Lin 2004)."""
    return _rouge(f"rouge{n}", answer, reference)


def rouge_l(answer: str, reference: str) -> float:
    """ROUGE-L F-measure in [0, 1], the text as one sentence (rouge-score; Lin 2004)."""
    return _rouge("rougeL", answer, reference)


def _rouge(kind: str, answer: str, reference: str) -> float:
    # Cut to words first: rouge-score's time grows with the product of both lengths.
    given, wanted = (" ".join(rouge_words(text)[:MAX_ROUGE_WORDS]) for text in (answer, reference))
    return float(_rouge_scorer(kind).score(wanted, given)[kind].fmeasure)


def chrf(answer: str, reference: str) -> float:
    """ChrF in [0, 1] (sacrebleu's sentence chrF2, divided by 100)."""
    return float(_chrf().sentence_score(answer[:MAX_CHARS], [reference[:MAX_CHARS]]).score) / 100


def bleu(answer: str, reference: str) -> float:
    """BLEU in [0, 1] (sacrebleu's sentence BLEU, divided by 100).

    Its defaults: runs of up to 4 words of the 13a tokenizer, case kept, exponential smoothing, and only as many orders as
    the answer has words for.
    """
    score = float(_bleu().sentence_score(answer[:MAX_CHARS], [reference[:MAX_CHARS]]).score)
    # A perfect match is 100.00000000000004.
    return min(score / 100, 1.0)


@lru_cache
def _rouge_scorer(kind: str) -> "RougeScorer":
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([kind], use_stemmer=False)


@lru_cache(maxsize=1)
def _chrf() -> "CHRF":
    from sacrebleu.metrics import CHRF

    return CHRF()


@lru_cache(maxsize=1)
def _bleu() -> "BLEU":
    from sacrebleu.metrics import BLEU

    return BLEU(effective_order=True)
