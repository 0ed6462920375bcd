"""How alike texts are: to each other, and to texts that were trained on."""

import zlib
from collections.abc import Sequence, Set
from itertools import combinations

from harness.scoring.repetition import runs_of, words_of

Ngram = tuple[str, ...]
COPIED_NGRAM = 8
"""Words, as in Slack and Al Moubayed 2025 (arXiv:2510.11372)."""
LONGEST = 20_000
"""Characters of a text that are looked at."""


def compression_ratio(texts: Sequence[str]) -> float | None:
    """Bytes before by bytes after zlib: the higher, the more the texts have in common (Shaib et al. 2024, arXiv:2403.00553).

    Depends on the amount of text: compare sets of equal size only. None where there is no text.
    """
    data = "\n".join(texts).encode("utf-8", "surrogatepass")
    return len(data) / len(zlib.compress(data, 9)) if data.strip() else None


def distinct_share(texts: Sequence[Sequence[Ngram]]) -> float | None:
    """Distinct-n (Li et al. 2016, arXiv:1510.03055): different n-grams by n-grams of all texts; None where there is none."""
    count = sum(map(len, texts))
    return len(set[Ngram]().union(*texts)) / count if count else None


def pairwise_similarity(texts: Sequence[str]) -> float | None:
    """Mean Jaccard similarity of the words of every pair of texts; None for fewer than two that have words."""
    sets = [set(ngrams(text, 1)) for text in texts]
    sets = [words for words in sets if words]
    shares = [len(one & other) / len(one | other) for one, other in combinations(sets, 2)]
    return sum(shares) / len(shares) if shares else None


def ngrams(text: str, size: int) -> list[Ngram]:
    """Runs of words of a text, in lower case; in Chinese, Japanese or Thai of twice as many characters."""
    words, scale = words_of(text[:LONGEST].casefold())
    return runs_of(words, size * scale)


def share_in(runs: Sequence[Ngram], known: Set[Ngram]) -> float | None:
    """Which share of the n-grams is known; None where there is none."""
    return sum(run in known for run in runs) / len(runs) if runs else None
