"""Style rules: each kept and broken."""

from typing import Any

import pytest
from pydantic import ValidationError

from harness.languages import language
from harness.scoring.style import style_failure, style_scorer
from harness.style_rules import StyleRules
from tests.measurements import measurement

ENGLISH = "The weather was lovely, so we walked along the river and had lunch in a small garden."
GERMAN = "Das Wetter war schön, also sind wir am Fluss entlang gegangen und haben im Garten gegessen."


@pytest.mark.parametrize(
    ("rules", "text", "failure"),
    [
        ({}, "anything", ""),
        ({"must_match": [r"^Dear \w+", "regards"]}, "Dear Ann, ... regards", ""),
        ({"must_match": [r"^Dear \w+", "regards"]}, "Dear Ann", "pattern_missing"),
        ({"must_not_match": ["(?i)as an ai"]}, "As an AI, I", "pattern_not_allowed"),
        ({"must_not_match": ["(?i)as an ai"]}, "<think>as an AI</think>I", ""),
        ({"min_words": 2}, "one", "too_short"),
        ({"min_words": 2, "max_words": 2}, "one two", ""),
        ({"max_words": 2}, "one two three", "too_long"),
        ({"openers": ["Hello", "Good day"]}, "good day to you", ""),
        ({"openers": ["Hello", "Good day"]}, "Well, hello", "wrong_opener"),
        ({"language": "de"}, GERMAN, ""),
        ({"language": "de"}, ENGLISH, "wrong_language"),
        ({"language": "de"}, "OK", ""),
        ({"markdown": "none"}, "plain\n1. first\n2. second, 3 * 4 * 5, a [note] (here)", ""),
        ({"markdown": "required"}, "plain", "markdown_missing"),
    ],
)
def test_style(rules: dict[str, Any], text: str, failure: str) -> None:
    assert style_failure(text, StyleRules.model_validate(rules)) == failure


@pytest.mark.parametrize(
    "text",
    ["# Title", "so **bold** it is", "- one\n- two", "```\ncode\n```", "see [here](http://x)", "a | b\n---|---\n"],
)
def test_markdown_is_seen(text: str) -> None:
    assert style_failure(text, StyleRules(markdown="none")) == "markdown_not_asked"
    assert style_failure(text, StyleRules(markdown="required")) == ""


def test_catastrophic_pattern_is_unscored() -> None:
    scorer = style_scorer(StyleRules(must_match=(r"^(a|a|aa)+$",)))
    score = scorer(measurement("a" * 5000 + "!"))
    assert score is not None
    assert (score.metric, score.value, score.failure) == ("style", None, "regex_timeout")


def test_style_scorer_names_the_broken_rule() -> None:
    score = style_scorer(StyleRules(max_words=1), "shape")(measurement("one two"))
    assert score is not None
    assert (score.metric, score.value, score.failure) == ("shape", 0, "too_long")


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"must_match": ["("]}, "is not a regular expression"),
        ({"min_words": 3, "max_words": 2}, "min_words 3 is above max_words 2"),
        ({"language": "German"}, "language"),
        ({"regex": "x"}, "regex"),
    ],
)
def test_impossible_rules_are_refused(rules: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        StyleRules.model_validate(rules)


def test_language_of_a_lone_surrogate() -> None:
    assert language("\ud800" * 100) == "und"
