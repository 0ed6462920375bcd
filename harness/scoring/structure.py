"""Whether an answer has the form that was asked for: its turn, JSON, tool calls, thinking."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jsonschema

from harness.records import Expectation, StopReason
from harness.scoring.text import without_thinking

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
EMPTY_THINKING = re.compile(r"<think>\s*</think>\s*")
TOOL_CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
# A role name alone on a line is a header that leaked; one inside a sentence is prose.
ROLE_HEADER = re.compile(r"^\s*(system|user|assistant|tool|human|gpt)\s*:?\s*$", re.IGNORECASE | re.MULTILINE)


def adherence_failure(
    text: str, stop_reason: StopReason, expect: Expectation, special_tokens: Sequence[str] = ()
) -> str:
    """The first way in which an answer breaks the template, or "" where it keeps to it.

    Args:
        text: the completion without its end-of-turn token.
        stop_reason: only `end_of_turn` is a turn that was ended.
        expect: what form was asked for.
        special_tokens: control tokens that must not stand inside an answer.
    """
    if stop_reason != "end_of_turn":
        return "runs_on" if stop_reason == "length" else "wrong_end_token"
    if any(token in text for token in special_tokens):
        return "special_token_in_answer"
    if not text.strip():
        return "empty_answer"
    if expect.is_free:
        return ""
    if ROLE_HEADER.search(text):
        return "role_header_in_answer"
    return (
        thinking_failure(text, wanted=expect.thinking)
        or (json_failure(without_thinking(text), expect.json_schema) if expect.json_schema is not None else "")
        or tool_failure(without_thinking(text), expect)
    )


def thinking_failure(text: str, *, wanted: bool) -> str:
    """Exactly one closed thinking block before the answer where wanted, and none where not; an empty one is none."""
    text = EMPTY_THINKING.sub("", text)
    opened, closed = text.count(THINK_OPEN), text.count(THINK_CLOSE)
    if not wanted:
        return "thinking_not_asked" if opened or closed else ""
    if opened == 0:
        return "thinking_missing"
    if opened != closed or text.find(THINK_CLOSE) < text.find(THINK_OPEN):
        return "thinking_not_closed"
    if opened > 1:
        return "thinking_repeated"
    if not text.lstrip().startswith(THINK_OPEN):
        return "prose_before_thinking"
    return "" if without_thinking(text).strip() else "no_answer_after_thinking"


def has_thinking(text: str) -> bool:
    """Whether there is a thinking block with something in it."""
    return THINK_OPEN in EMPTY_THINKING.sub("", text)


def tool_calls_in(text: str) -> list[str]:
    """What stands inside the `<tool_call>` tags."""
    return TOOL_CALL.findall(text)


def without_calls(text: str) -> str:
    """The text beside the calls."""
    return TOOL_CALL.sub("", text)


def json_failure(text: str, schema: Mapping[str, Any]) -> str:
    """Strict: the whole answer is one JSON value that fits the schema, with no prose or fences around it."""
    try:
        value = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return "json_invalid"
    validator = jsonschema.Draft202012Validator(dict(schema))
    return "" if validator.is_valid(value) else "json_schema_mismatch"


def tool_failure(text: str, expect: Expectation) -> str:
    """As many well-formed calls of known tools as are expected where tools are given, and no call where none are."""
    calls = TOOL_CALL.findall(text)
    if not expect.tools:
        return "tool_call_not_asked" if "<tool_call>" in text or "</tool_call>" in text else ""
    if len(calls) != expect.num_calls:
        return "tool_call_missing" if len(calls) < expect.num_calls else "tool_call_repeated"
    if TOOL_CALL.sub("", text).strip() and not expect.allows_prose:
        return "prose_around_tool_call"
    return next((failure for call in calls if (failure := _call_failure(call, expect.tools))), "")


def _call_failure(text: str, tools: Sequence[Mapping[str, Any]]) -> str:
    try:
        call = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return "tool_call_invalid_json"
    if not isinstance(call, dict) or set(call) != {"name", "arguments"}:
        return "tool_call_wrong_keys"
    schemas = {tool["function"]["name"]: tool["function"].get("parameters", {}) for tool in tools}
    if not isinstance(call["name"], str) or call["name"] not in schemas:
        return "tool_unknown"
    try:
        validator = jsonschema.Draft202012Validator(schemas[call["name"]])
        return "" if validator.is_valid(call["arguments"]) else "tool_arguments_mismatch"
    except jsonschema.exceptions.UnknownType:
        return ""  # schemas of real datasets say "dict" and "str"
