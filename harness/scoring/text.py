"""How close an answer is to its reference, as text."""

import re
import string
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics import CHRF

THINKING = re.compile(r"<think>.*?</think>\s*", re.DOTALL)
ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


def without_thinking(text: str) -> str:
    """The answer after its closed thinking blocks."""
    return THINKING.sub("", text)


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
    wanted = normalized(without_thinking(reference))
    if not wanted:
        return exact_match(without_thinking(answer), without_thinking(reference))
    return float(normalized(without_thinking(answer)) == wanted)


def starts_with_reference(answer: str, reference: str) -> float:
    """1 where the answer begins with the reference, whatever follows: right content that may not know when to stop."""
    return float(bool(reference.strip()) and answer.strip().startswith(reference.strip()))


@lru_cache(maxsize=1)
def _rouge() -> "RougeScorer":
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=False)


@lru_cache(maxsize=1)
def _chrf() -> "CHRF":
    from sacrebleu.metrics import CHRF

    return CHRF()


def rouge_l(answer: str, reference: str) -> float:
    """ROUGE-L F-measure in [0, 1] (rouge-score)."""
    return float(_rouge().score(reference, answer)["rougeL"].fmeasure)


def chrf(answer: str, reference: str) -> float:
    """ChrF in [0, 1] (sacrebleu's sentence chrF, divided by 100)."""
    return float(_chrf().sentence_score(answer, [reference]).score) / 100
