"""Scorers: right, wrong, no answer, hostile text."""

import pytest

from harness.records import Expectation
from harness.scoring import text
from harness.scoring.structure import adherence_failure

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
TOOL = {
    "type": "function",
    "function": {
        "name": "find",
        "parameters": {
            "type": "object",
            "properties": {"x": {"type": "string"}},
            "required": ["x"],
            "additionalProperties": False,
        },
    },
}
CALL = '<tool_call>{"name": "find", "arguments": {"x": "y"}}</tool_call>'


@pytest.mark.parametrize(
    ("answer", "stop", "expect", "failure"),
    [
        ("Fine.", "end_of_turn", Expectation(), ""),
        ("Fine.", "length", Expectation(), "runs_on"),
        ("Fine.", "end_of_text", Expectation(), "wrong_end_token"),
        ("  ", "end_of_turn", Expectation(), "empty_answer"),
        ("Hi\nuser\nmore", "end_of_turn", Expectation(), "role_header_in_answer"),
        ("Ask the user about it", "end_of_turn", Expectation(), ""),
        ("a <|im_start|> b", "end_of_turn", Expectation(), "special_token_in_answer"),
        ('{"a": 1}', "end_of_turn", Expectation(json_schema=SCHEMA), ""),
        ('{"a": "1"}', "end_of_turn", Expectation(json_schema=SCHEMA), "json_schema_mismatch"),
        ('{"a": 1, "b": 2}', "end_of_turn", Expectation(json_schema=SCHEMA), "json_schema_mismatch"),
        ('Sure: {"a": 1}', "end_of_turn", Expectation(json_schema=SCHEMA), "json_prose"),
        ('```json\n{"a": 1}\n```', "end_of_turn", Expectation(json_schema=SCHEMA), "json_fenced"),
        ('{"a": 1, "a": 2}', "end_of_turn", Expectation(json_schema=SCHEMA), "json_duplicate_key"),
        ('{"a": 1', "end_of_turn", Expectation(json_schema=SCHEMA), "json_invalid"),
        ('{"a": NaN}', "end_of_turn", Expectation(json_schema={}), "json_invalid"),
        ("[" * 100_000, "end_of_turn", Expectation(json_schema=SCHEMA), "json_invalid"),
        (CALL, "end_of_turn", Expectation(tools=(TOOL,)), ""),
        (CALL + CALL, "end_of_turn", Expectation(tools=(TOOL,)), "tool_call_wrong_count"),
        ("y", "end_of_turn", Expectation(tools=(TOOL,)), "tool_call_missing"),
        (f"Sure! {CALL}", "end_of_turn", Expectation(tools=(TOOL,)), "prose_around_tool_call"),
        (CALL.replace("find", "kill"), "end_of_turn", Expectation(tools=(TOOL,)), "tool_unknown"),
        (CALL.replace('"y"', "3"), "end_of_turn", Expectation(tools=(TOOL,)), "tool_argument_type"),
        (CALL.replace("}}", "}"), "end_of_turn", Expectation(tools=(TOOL,)), "tool_call_malformed"),
        ('<tool_call>{"name": ["find"], "arguments": {}}</tool_call>', "end_of_turn", Expectation(tools=(TOOL,)), "tool_call_malformed"),
        (CALL, "end_of_turn", Expectation(), "tool_call_not_asked"),
        ("<think>a</think>\n3", "end_of_turn", Expectation(thinking=True), ""),
        ("3", "end_of_turn", Expectation(thinking=True), "thinking_missing"),
        ("<think>a 3", "end_of_turn", Expectation(thinking=True), "thinking_not_closed"),
        ("</think>a<think> 3", "end_of_turn", Expectation(thinking=True), "thinking_not_closed"),
        ("<think>a</think><think>b</think>3", "end_of_turn", Expectation(thinking=True), "thinking_repeated"),
        ("So <think>a</think> 3", "end_of_turn", Expectation(thinking=True), "prose_before_thinking"),
        ("<think>a</think>\n", "end_of_turn", Expectation(thinking=True), "no_answer_after_thinking"),
        ("<think>a</think>\n3", "end_of_turn", Expectation(), "thinking_not_asked"),
    ],
)  # fmt: skip
def test_adherence(answer: str, stop: str, expect: Expectation, failure: str) -> None:
    assert adherence_failure(answer, stop, expect, ("<|im_start|>", "<|im_end|>")) == failure


def test_exact_match_ignores_blanks_around_only() -> None:
    assert text.exact_match(" a b ", "a b") == 1
    assert text.exact_match("a  b", "a b") == 0
    assert text.exact_match("", "a") == 0


def test_normalized_match_follows_squad() -> None:
    assert text.normalized_match("The Cat!", "cat") == 1
    assert text.normalized_match("<think>dog?</think>\nCat.", "a cat") == 1
    assert text.normalized_match("dog", "cat") == 0
    assert text.normalized_match("", "...") == 0


def test_starts_with_reference() -> None:
    assert text.starts_with_reference("42 and then some", "42") == 1
    assert text.starts_with_reference("so 42", "42") == 0
    assert text.starts_with_reference("anything", "") == 0


def test_rouge_l_of_a_known_pair() -> None:
    # Lin 2004, section 3.1: "police killed the gunman" and "police kill the gunman" share a subsequence of 3 of 4 words.
    assert text.rouge_l("police kill the gunman", "police killed the gunman") == pytest.approx(0.75)
    assert text.rouge_l("", "police") == 0


def test_chrf_is_a_share() -> None:
    assert text.chrf("same text", "same text") == pytest.approx(1.0)
    assert text.chrf("", "same text") == 0
