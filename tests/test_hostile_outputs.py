"""No text that a model can write makes a scorer raise, hang or leave something behind."""

import dataclasses
from importlib.util import find_spec

import pytest

from harness.records import Score
from harness.scoring.style import style_scorer
from harness.scoring.table import CODE_SCORERS, SAMPLE_SCORERS, SCORERS
from harness.style_rules import StyleRules
from tests.guards import guarded
from tests.measurements import measurement

CHARS = 100_000

TEXTS = {
    "empty": "",
    "blank": " " * CHARS,
    "lines": "\n" * CHARS,
    "tabs": "\t" * CHARS,
    "letters": "a" * CHARS,
    "words": "a b " * (CHARS // 4),
    "different_words": " ".join(map(str, range(17_000))),
    "digits": "9" * CHARS,
    "signs": "-" * CHARS,
    "points": "." * CHARS,
    "groups": "1,22" * (CHARS // 4),
    "slashes": "1/" * (CHARS // 2),
    "exponents": "1e" * (CHARS // 2),
    "large_exponent": "The answer is 1e999999999999",
    "impossible_exponent": "#### 1e" + "9" * CHARS,
    "hashes": "#" * CHARS,
    "marks": "answer: " * (CHARS // 8),
    "boxes": "\\boxed{" * (CHARS // 7),
    "thoughts": "<think>" * (CHARS // 7),
    "closed_thoughts": "</think>" + "<think>" * (CHARS // 7),
    "calls": "<tool_call>" * (CHARS // 11),
    "fences": "```" * (CHARS // 3),
    "fenced_line": "```" + "a" * CHARS,
    "fenced_lines": "```python\n" * (CHARS // 10),
    "links": "[" * CHARS + "](",
    "table": "|" + " " * CHARS + "-",
    "stars": "*" * CHARS,
    "brackets": "[" * CHARS,
    "braces": '{"a":' * (CHARS // 5),
    "closed_brackets": "[" * (CHARS // 2) + "]" * (CHARS // 2),
    "nested_within_the_limit": "[" * 900 + "]" * 900,
    "nan": '{"a": NaN, "b": [Infinity, -Infinity]}',
    "large_integer": '{"a": ' + "9" * CHARS + "}",
    "large_float": '{"a": 1e999999999999999999999999}',
    "twice": '{"a": 1, "a": 2}',
    "strings": '"' * CHARS,
    "escapes": "\\" * CHARS,
    "nulls": "\0" * CHARS,
    "null_in_code": "x = 1\0",
    "controls": "".join(map(chr, range(32))) + "\x7f\x85\u2028\u202e\ufeff",
    "surrogate": "\ud800",
    "surrogates": "answer: 4 \ud800\udc00\udfff " * 1000,
    "accents": "e" + "\u0301" * CHARS,
    "letters_of_all_scripts": "".join(map(chr, range(0x100, 0xD000, 3))),
    "script": "<script>alert(1)</script><img src=x onerror=alert(1)>" * 100,
    "entities": "&amp;quot;" * (CHARS // 10),
    "backtracking": "a" * 50 + "!" + "(a+)+$" * 100,
    "formatting": "%s%n{0.__class__}${jndi:ldap://x}" * 100,
    "forks": "import os\nwhile True:\n    os.fork()",
    "parentheses": "(" * CHARS,
    "class_with_hooks": "class A(AssertionError):\n    def __str__(self): raise A()\nraise A()",
}
# Here they need what isn't installed everywhere: a model, and lm-evaluation-harness.
OPTIONAL = {"embedding_similarity"} | (set() if find_spec("lm_eval") else {"ifeval_strict", "ifeval_loose"})
TABLE = {name: scorer for name, scorer in {**SCORERS, **SAMPLE_SCORERS}.items() if name not in OPTIONAL}
INSTRUCTIONS = (
    {"id": "punctuation:no_comma"},
    {"id": "length_constraints:number_words", "relation": "at least", "num_words": 10},
    {"id": "keywords:existence", "keywords": ["cat"]},
    {"id": "detectable_format:json_format"},
)


def scored(name: str, kind: str, reference: str) -> Score:
    """The score of several equal answers of a kind."""
    measured = measurement(
        *[TEXTS[kind]] * (10 if name in CODE_SCORERS else 2),
        reference=reference,
        tests="assert False",
        choices=("a", reference),
        logprobs=(-1.0, -2.0),
    )
    example = measured.example.model_copy(update={"instructions": INSTRUCTIONS})
    with guarded(kind):
        score = TABLE[name](dataclasses.replace(measured, example=example))
    assert score is not None, f"{name} says nothing of {kind}"
    assert (score.example_id, score.metric) == ("e", name), kind
    return score


@pytest.mark.parametrize("name", TABLE)
def test_every_hostile_answer_gets_a_score(name: str) -> None:
    for kind in TEXTS:
        scored(name, kind, 'The answer is 42, or {"a": 1}')


@pytest.mark.parametrize("name", [name for name in TABLE if name not in CODE_SCORERS])
def test_every_hostile_text_can_be_compared_with_itself(name: str) -> None:
    values = {kind: scored(name, kind, TEXTS[kind]).value for kind in TEXTS}
    shares = {kind: value for kind, value in values.items() if value is not None and name != "answer_words"}
    assert all(0 <= value <= 1 + 1e-9 for value in shares.values()), shares


@pytest.mark.parametrize("kind", TEXTS)
def test_every_hostile_text_has_a_style(kind: str) -> None:
    rules = StyleRules(
        must_not_match=(r"^(\s|\w|\d)+x$", r"(a|a|aa)+$y"), markdown="none", language="en", openers=("x", ""), max_words=10**6
    )  # fmt: skip
    with guarded(kind):
        assert style_scorer(rules)(measurement(TEXTS[kind])) is not None
