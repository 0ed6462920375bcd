"""How much a text repeats itself, by the limits that Gopher set for web pages."""

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

# Rae et al. 2021 (arXiv:2112.11446), table A1, as in datatrove's GopherRepetitionFilter.
TOP_NGRAMS = {2: 0.20, 3: 0.18, 4: 0.16}
"""Size -> largest share of the characters that the most frequent n-gram may take."""
DUPLICATE_NGRAMS = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
"""Size -> largest share of the characters in n-grams that occurred before."""
LIMITS = (
    *(("top", *item) for item in TOP_NGRAMS.items()),
    *(("duplicate", *item) for item in DUPLICATE_NGRAMS.items()),
)
"""All of them, shorter runs first."""
DUPLICATE_LINES = 0.30
"""Largest share of the lines that occurred before."""
MIN_WORDS = 12
"""Below, no text is said to repeat itself: a list of three things may well name one of them in each."""
DOCUMENT_WORDS = 200
"""Gopher's limits are for web pages. In a short answer a list with parallel items breaks them: 15 % of GSM8K's human
answers do. Below this length half of the text must repeat, and only 0.1 % of them do."""
SHORT_LIMIT = 0.5
MAX_CHARACTERS = 100_000
"""What repeats shows in the first ones."""
LONGEST_WORD = 40
"""Longer runs without blanks are read by the character."""
MIN_LINE_WORDS = 3
MIN_LINES = 4

# Scripts without blanks between words: Thai, Lao, Burmese, Khmer, kana, Chinese and Korean ideographs.
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
MARKS = "!-/:-@\\[-`{-~\u2010-\u2027\u3000-\u303f\uff01-\uff0f\uff1a-\uff20"
PIECE = re.compile(rf"[{UNSPACED}]|[{MARKS}]|[^\s{UNSPACED}{MARKS}]+")
WORD = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}{MARKS}]+")
MARK = re.compile(rf"[{MARKS}]")
CHARACTER = re.compile(rf"[{UNSPACED}]")
WORDS_SHARE = 0.2
"""Below this share of the characters a text is all punctuation, which then counts."""
# A word of Chinese has one or two characters: n-grams of twice the size say the same.
CHARACTERS_A_WORD = 2
REMEMBERED = 2048
"""Texts whose verdict is kept: several checks ask the same answers, and every cell has the same references."""


@lru_cache(maxsize=REMEMBERED)
def repetition_failure(text: str) -> str:
    """The first limit that a text breaks, such as `top_2_gram`, `duplicate_5_gram` or `duplicate_lines`; "" if none.

    Punctuation counts only where there is little else, so that JSON and tables are judged by what they hold. An n-gram
    that occurs once repeats nothing and is not counted, other than in datatrove.
    """
    text = text[:MAX_CHARACTERS]
    words, scale = words_of(text)
    if len(words) < MIN_WORDS * scale:
        return ""
    is_short = len(words) < DOCUMENT_WORDS * scale
    total = sum(map(len, words))
    for kind, size, limit in LIMITS:
        runs = runs_of(words, size * scale)
        if len(set(runs)) == len(runs):
            break  # nothing occurs twice, so no longer run does
        characters = _top_characters(runs) if kind == "top" else _duplicate_characters(runs)
        if characters > (SHORT_LIMIT if is_short else limit) * total:
            return f"{kind}_{size}_gram"
    return "duplicate_lines" if duplicate_lines(text) > (SHORT_LIMIT if is_short else DUPLICATE_LINES) else ""


def words_of(text: str) -> tuple[list[str], int]:
    """The pieces of a text to make n-grams of, and how many of them make a word."""
    words: list[str] = WORD.findall(text)
    length = sum(map(len, words))
    # Blanks and marks together must be many before it is worth counting the marks.
    if length < WORDS_SHARE * len(text) and length < WORDS_SHARE * (length + len(MARK.findall(text))):
        return PIECE.findall(text), 1
    characters = sum(len(word) for word in words if len(word) > LONGEST_WORD)
    characters += 0 if text.isascii() else len(CHARACTER.findall(text))
    if characters > length / 2:
        return [character for word in words for character in word], CHARACTERS_A_WORD
    return words, 1


def runs_of(words: Sequence[str], size: int) -> list[tuple[str, ...]]:
    """All n-grams of a list of words, in their order."""
    return list(zip(*(words[offset:] for offset in range(size)), strict=False))


def _top_characters(runs: Sequence[tuple[str, ...]]) -> int:
    """Characters of the n-gram that takes most, times its number, where it occurs more than once."""
    counts = Counter(runs)
    return max((sum(map(len, run)) * count for run, count in counts.most_common(1) if count > 1), default=0)


def _duplicate_characters(runs: Sequence[tuple[str, ...]]) -> int:
    """Characters of the n-grams that occurred before, none of them counted twice."""
    seen: set[tuple[str, ...]] = set()
    repeated, position = 0, 0
    while position < len(runs):
        run = runs[position]
        if run in seen:
            repeated += sum(map(len, run))
            position += len(run)
        else:
            seen.add(run)
            position += 1
    return repeated


def duplicate_lines(text: str) -> float:
    """Share of the lines that occurred before, of those with 3 words or more; 0 for fewer than 4 of them."""
    lines = [line.strip() for line in text.split("\n") if len(line.split(maxsplit=MIN_LINE_WORDS)) >= MIN_LINE_WORDS]
    return 1 - len(set(lines)) / len(lines) if len(lines) >= MIN_LINES else 0.0
