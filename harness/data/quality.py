"""What can be wrong with one row of training data, and scores that rows are filtered by."""

import json
import math
import random
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from harness.config import FilterConfig
from harness.languages import FENCED, JSON_START, language

FENCE_LINE = re.compile(r"^[ \t]*```(?!.*```)", re.MULTILINE)
INLINE_CODE = re.compile(r"`[^`\n]+`")
# Lengths are bounded here and below, so that no text makes a pattern try everything with everything.
MATH = re.compile(
    r"\$\$.{1,2000}?\$\$|\\\(.{1,2000}?\\\)|\\\[.{1,2000}?\\\]|\$[^$\n]{0,300}\\[a-zA-Z][^$\n]{0,300}\$", re.DOTALL
)
# The first branch takes braces that LaTeX or JSX doubles, without capturing them: \frac{{a}}{b}, x^{{2}}, style={{s}}.
PLACEHOLDER = re.compile(
    r"(?:\\[a-zA-Z]+\s*|[\^_=}])\{\{[^{}]*\}\}"
    r"|(\{\{ ?[A-Za-z_]\w*(?:[ .-]\w+){0,5} ?\}\}"
    r"|\$\{[a-z_]\w+\}(?![$^_])"
    r"|\[INSERT\b[^\]\n]{0,60}\]|<INSERT\b[^>\n]{0,60}>"
    r"|\[(?:YOUR|ENTER)[ _][A-Z0-9 _'’/-]{1,40}\]"
    r"|\[(?:[A-Z]+[ _]){0,3}(?:NAME|ADDRESS|EMAIL|COMPANY|DATE|CITY|NUMBER)\])"
)
PLACEHOLDER_STARTS = ("{{", "${", "[", "<INSERT")

TEMPLATE_TOKEN = (
    r"<\|[A-Za-z0-9_]{2,40}\|>|<｜[^｜<>\n]{2,40}｜>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|</?s>"
    r"|^### (?:Instruction|Response|Human|Assistant):"
)
TEMPLATE_TOKEN_STARTS = ("<|", "<｜", "INST]", "SYS>>", "_of_turn>", "<s>", "</s>", "### ")

IDEOGRAPH = r"\u3040-\u30ff\u3400-\u9fff"
# A Chinese or Japanese character counts as a word, with the punctuation after it.
WORD = re.compile(rf"[{IDEOGRAPH}][\u3000-\u303f\uff00-\uffef]*|[^\s{IDEOGRAPH}]+")
WORD_ALONE = re.compile(r"[\w']+")
HAS_IDEOGRAPH = re.compile(f"[{IDEOGRAPH}]")

SENTENCE_END = re.compile(r"[.!?…][\"'”’)*_]*(?:\s|$)")
LIST_OR_TABLE = re.compile(r"\s*(?:[-*•+>|#]|\(?\w{1,3}[.)])\s*")
NOT_PROSE = re.compile(r"[/\\@_=<>{}#]|\w[.:]\w")
QUOTED_AUTHOR = re.compile(r"(?:^|[\s\"”*_])[-–—―~]\s*[A-Z][\w.'’-]*,?(?:\s+[A-Z][\w.'’-]*,?){0,5}$")
CUT_WORDS = frozenset(["the", "a", "an", "and", "or", "of", "its", "their", "because", "which", "than"])
JSON_STRING = re.compile(r'"(?:\\.|[^"\\])*"?', re.DOTALL)

OPENER = re.compile(
    r"[\s\"'*>]*(?:(?:that(?:['’]s| is) )?(?:(?:a|an|such a) )?(?:really )?"
    r"(?:great|good|excellent|fantastic|wonderful|fascinating|brilliant|interesting|insightful|amazing) "
    r"(?:question|point|idea|observation|choice)\b"
    r"|what an? (?:\w+ )?(?:great|good|excellent|fantastic|wonderful|fascinating|brilliant|interesting|lovely|amazing)\b"
    r"|(?:certainly|absolutely|of course|sure|sure thing|definitely)\s*[!,.—-]"
    r"|(?:i['’]d|i would|i['’]ll|i will) be (?:more than )?(?:happy|glad|delighted|pleased) to\b"
    r"|i['’]m (?:so )?(?:glad|happy) (?:that )?you asked|thank you for (?:asking|your (?:great )?question)"
    r"|you(?:['’]re| are) (?:absolutely|completely|so) right|as an ai\b)",
    re.IGNORECASE,
)
HEDGES = (
    "might", "perhaps", "possibly", "probably", "presumably", "seemingly", "apparently", "arguably", "potentially",
    "likely", "could be", "i think", "i believe", "i guess", "i suppose", "i assume", "i am not sure", "i'm not sure",
    "i am not certain", "i'm not certain", "it is important to", "it's important to", "it is essential to",
    "it's essential to", "it is crucial to", "it's crucial to", "it is worth noting", "it's worth noting",
    "it is worth mentioning", "it's worth mentioning", "keep in mind", "please note", "it seems", "it appears",
    "it depends", "in my opinion", "generally speaking", "to some extent", "as far as i know",
)  # fmt: skip
# At most three numbers, not right after a word, `=` or a bracket: longer ones and those are lists and indices of code.
CITATION = re.compile(
    r"(?<![\w\])=,:(\[])(?<![=:(,\[] )\[[1-9]\d{0,2}(?:\s?[,;–-]\s?[1-9]\d{0,2}){0,2}\](?!\()"
    r"|\([A-Z][\w'’-]{1,40}(?: et al\.?| (?:and|&) [A-Z][\w'’-]{1,40})?, (?:19|20)\d\d[a-z]?\)"
    r"|\b[A-Z][\w'’-]{1,40} et al\.? \((?:19|20)\d\d[a-z]?\)"
    r"|【\d+[†:][^】\n]*】|citation needed"
)


class RowScores(NamedTuple):
    """What `data.filter` can ask for, without `ifd`, which needs a model."""

    answer_words: float
    """Words between blanks; a Chinese or Japanese character counts as one."""
    length_ratio: float | None
    """Words of the answer per word of the instruction; None: the instruction has no words."""
    sycophancy: float
    """1: the answer opens with flattery or a servile phrase, such as "Great question!" or "Certainly!"; else 0."""
    hedges: float
    """Hedging phrases per 100 words, such as "perhaps" or "it is important to note"."""
    citations: float
    """Citation marks per 100 words, such as `[1]` or `(Smith et al., 2020)`, outside of code."""
    repetition: float
    """Share of the characters that repeat what stands before, in [0, 1]; see `repetition`."""


def unfilled_placeholders(text: str) -> tuple[str, ...]:
    """Slots of a text template that nobody filled, such as `{{name}}`, `${user}` or `[YOUR NAME]`; not in code or math."""
    if not any(start in text for start in PLACEHOLDER_STARTS):
        return ()
    found = PLACEHOLDER.findall(MATH.sub(" ", _without_code(text)))
    return tuple(dict.fromkeys(slot for slot in found if slot))


def foreign_template_tokens(text: str, own: Collection[str] = ()) -> tuple[str, ...]:
    """Control tokens of chat templates that stand literally in a text, in order and once each.

    Code counts, too: a tokenizer makes no difference there. So do the tokens in `own`, those of the template in use:
    an end of turn inside a turn is as wrong as a foreign one.
    """
    if not any(start in text for start in TEMPLATE_TOKEN_STARTS) and not any(token in text for token in own):
        return ()
    return tuple(dict.fromkeys(_template_tokens(tuple(own)).findall(text)))


@lru_cache(maxsize=16)
def _template_tokens(own: tuple[str, ...]) -> re.Pattern[str]:
    given = [re.escape(token) for token in sorted(own, key=len, reverse=True) if token]
    return re.compile("|".join([*given, TEMPLATE_TOKEN]), re.MULTILINE)


def looks_truncated(answer: str) -> bool:
    """Whether an answer stops in the middle: of JSON, of a code block, or of a sentence.

    It would rather miss one than accuse a whole answer: prose must have 20 words and a last line of 8, and must end its
    other sentences and lines with punctuation. Languages without blanks or sentence marks are never accused.
    """
    text = answer.strip()
    if text[:1] in ("{", "[") and JSON_START.match(text):
        return _is_cut_json(text)
    if text.count("```") % 2 and len(FENCE_LINE.findall(text)) % 2:
        return True
    # Only a letter, a comma or a dash at the end can be the middle of a sentence.
    if not text or not (text[-1].isalpha() or text[-1] in ",-–—"):
        return False
    lines = [line for line in text.split("\n") if line.strip()]
    words = lines[-1].split()
    if len(words) < 8 or len(text.split()) < 20:
        return False
    if LIST_OR_TABLE.match(lines[-1]) or NOT_PROSE.search(words[-1]) or QUOTED_AUTHOR.search(lines[-1]):
        return False
    if words[-1].lower() in CUT_WORDS or text[-1] == ",":
        return True
    closed = sum(not line.rstrip()[-1].isalpha() for line in lines[:-1])
    return SENTENCE_END.search(text) is not None and closed * 2 >= len(lines) - 1


def _is_cut_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        bare = JSON_STRING.sub("", text)
        return bare.count("{") + bare.count("[") > bare.count("}") + bare.count("]")
    return False


def language_mix(texts: Sequence[str], *, limit: int = 2000, seed: int = 0) -> dict[str, float]:
    """Share of each language in a sample of at most `limit` texts, the largest first."""
    sample = random.Random(seed).sample(list(texts), limit) if len(texts) > limit else texts
    return {code: number / len(sample) for code, number in Counter(map(language, sample)).most_common()}


def row_scores(instruction: str, answer: str) -> RowScores:
    """The scores of one row; an answer without words has no hedges, citations or repetitions."""
    num_words, num_asked = len(_words(answer)), len(_words(instruction))
    per_hundred = 100 / max(num_words, 1)
    has_marks = "[" in answer or "(" in answer or "【" in answer
    return RowScores(
        answer_words=float(num_words),
        length_ratio=num_words / num_asked if num_asked else None,
        sycophancy=float(OPENER.match(answer) is not None),
        hedges=_num_hedges(answer) * per_hundred,
        citations=len(CITATION.findall(_without_code(answer))) * per_hundred if has_marks else 0.0,
        repetition=repetition(answer),
    )


def _num_hedges(text: str) -> int:
    words = WORD_ALONE.findall(text.replace("’", "'"))
    bare = f" {' '.join(words)} "
    lowered = bare.lower()
    # May is a month, so only the small one is a hedge.
    return bare.count(" may ") + sum(lowered.count(f" {hedge} ") for hedge in HEDGES)


def repetition(text: str) -> float:
    """Share of the characters, without blanks, in a line or a run of 4 words that already occurred in the text.

    Gopher's duplicate lines and n-grams (Rae et al. 2021, arXiv:2112.11446, table A1) as one number; Gopher drops web
    pages above 0.20 by lines and 0.15 by runs of 5 words. Chinese and Japanese take runs of 10 characters, since 4 are
    a usual term there.
    """
    lines = [words for line in text.split("\n") if (words := _words(line))]
    words = [word for line in lines for word in line]
    size = 10 if HAS_IDEOGRAPH.search(text) else 4
    runs = list(zip(*(words[offset:] for offset in range(size)), strict=False))
    keys = [tuple(line) for line in lines]
    if len(set(runs)) == len(runs) and len(set(keys)) == len(keys):
        return 0.0
    repeats = bytearray(len(words))
    _mark(repeats, runs, [(start, size) for start in range(len(runs))])
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    _mark(repeats, keys, [(start, len(line)) for start, line in zip(starts, lines, strict=False)])
    lengths = [len(word) for word in words]
    return sum(length for length, repeated in zip(lengths, repeats, strict=True) if repeated) / sum(lengths)


def _mark(repeats: bytearray, keys: Sequence[tuple[str, ...]], spans: Sequence[tuple[int, int]]) -> None:
    """Sets the words of every span whose key came before; a span is its first word and its number of words."""
    seen: set[tuple[str, ...]] = set()
    for key, (start, length) in zip(keys, spans, strict=True):
        if key in seen:
            repeats[start : start + length] = b"\1" * length
        seen.add(key)


def kept(scores: Mapping[str, Sequence[float | None]], filters: Sequence[FilterConfig]) -> list[str]:
    """For every row "" where it is kept, else the reason, such as `filter: repetition 0.62 > 0.3`.

    Filters apply in their order, each to the rows that are left; a row without the score is kept. Among equal scores
    `top` keeps the first rows.
    """
    reasons = [""] * len(next(iter(scores.values()), ()))
    for item in filters:
        values = scores[item.score]
        for row, value in enumerate(values):
            if reasons[row] or value is None:
                continue
            if item.min is not None and value < item.min:
                reasons[row] = f"filter: {item.score} {value:.6g} < {item.min:g}"
            elif item.max is not None and value > item.max:
                reasons[row] = f"filter: {item.score} {value:.6g} > {item.max:g}"
        if item.top is not None:
            scored = [(-value, row) for row, value in enumerate(values) if not reasons[row] and value is not None]
            # Without the small subtraction, 0.07 of 100 rows would be 8: floats make it 7.000000000000001.
            for negative, row in sorted(scored)[math.ceil(item.top * len(scored) - 1e-9) :]:
                reasons[row] = f"filter: {item.score} {-negative:.6g} is not in the top {item.top * 100:g} %"
    return reasons


def _words(text: str) -> list[str]:
    return text.split() if text.isascii() else WORD.findall(text)


def _without_code(text: str) -> str:
    return INLINE_CODE.sub(" ", FENCED.sub(" ", text)) if "`" in text or "~~~" in text else text
