"""Whether an answer looks as the experiment file says."""

import re
from collections.abc import Sequence

import regex

from harness.languages import UNDETERMINED, language
from harness.records import Score
from harness.scoring.measurement import Measurement, Scorer
from harness.scoring.thinking import answer_in
from harness.style_rules import StyleRules

REGEX_SECONDS = 1.0
"""How long one regular expression may search one answer."""
MARKDOWN = re.compile(
    r"^#{1,6} \S|^[ \t]*+(?:```|~~~|[-*+] \S|(?:\|[ \t]*+)?:?-{3,}+:?[ \t]*+\|)|\*\*[^*\n]+\*\*|\[[^\[\]\n]+\]\(",
    re.MULTILINE,
)


def style_failure(text: str, style: StyleRules) -> str:
    """The first rule that an answer breaks, or "" where it keeps to all.

    One of `too_short`, `too_long`, `wrong_opener`, `markdown_missing`, `markdown_not_asked`, `pattern_missing`,
    `pattern_not_allowed`, `wrong_language`, and `regex_timeout` where a regular expression took too long to tell.
    """
    text = answer_in(text)
    num_words = len(text.split())
    if style.min_words is not None and num_words < style.min_words:
        return "too_short"
    if style.max_words is not None and num_words > style.max_words:
        return "too_long"
    if style.openers and not text.casefold().startswith(tuple(opener.casefold() for opener in style.openers)):
        return "wrong_opener"
    if style.markdown != "allowed" and has_markdown(text) != (style.markdown == "required"):
        return "markdown_missing" if style.markdown == "required" else "markdown_not_asked"
    try:
        if not all(_matches(style.must_match, text)):
            return "pattern_missing"
        if any(_matches(style.must_not_match, text)):
            return "pattern_not_allowed"
    except TimeoutError:
        return "regex_timeout"
    if style.language is not None and language(text) not in (style.language, UNDETERMINED):
        return "wrong_language"
    return ""


def style_scorer(style: StyleRules, metric: str = "style") -> Scorer:
    """A scorer that gives 1 where the answer keeps to the rules, and nothing where a regular expression took too long."""

    def score(measured: Measurement) -> Score:
        failure = style_failure(measured.generation.text, style)
        value = None if failure == "regex_timeout" else float(not failure)
        return Score(example_id=measured.example.id, metric=metric, value=value, failure=failure)

    return score


def has_markdown(text: str) -> bool:
    """Whether there is a heading, bold text, a bullet list, a fence, a link or a table; numbered lists are plain text."""
    return MARKDOWN.search(text) is not None


def _matches(patterns: Sequence[str], text: str) -> list[bool]:
    """Whether each pattern is found.

    Raises: TimeoutError: one took too long.
    """
    return [regex.search(pattern, text, timeout=REGEX_SECONDS) is not None for pattern in patterns]
