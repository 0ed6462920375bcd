"""Whether an answer has the form that was asked for: its turn, JSON, tool calls, thinking."""

from collections.abc import Sequence
from typing import NamedTuple

from harness.records import Expectation, StopReason
from harness.scoring.continuation import continuation_failure
from harness.scoring.json_form import json_failure
from harness.scoring.measurement import Measurement, ToolCall
from harness.scoring.thinking import (
    DELIMITERS,
    THINK_CLOSE,
    THINK_OPEN,
    answer_in,
    has_thinking,
    thinking_failure,
    without_thinking,
)
from harness.scoring.tool_calls import MARKERS, tool_calls_in, tool_failure, without_calls
from harness.scoring.turns import end_failure, role_failure, special_token_failure

# A control token that begins or ends a thinking block or a call: the checks of those name what is wrong.
STRUCTURE_TOKENS = frozenset((*MARKERS, *(token for pair in DELIMITERS for token in pair)))


class Around(NamedTuple):
    """What else is known of an answer."""

    prompt: str = ""
    """What was asked, control tokens visible."""
    reference: str | None = None
    """The right answer as the template writes it; None where it isn't known."""
    parsed_calls: Sequence[ToolCall] | None = None
    """Calls that the tokenizer's own parser or a server found."""


NOTHING_ELSE = Around()


def adherence_failure(
    text: str,
    stop_reason: StopReason,
    expect: Expectation,
    special_tokens: Sequence[str] = (),
    around: Around = NOTHING_ELSE,
) -> str:
    """The first way in which an answer breaks the template, or "" where it keeps to it.

    Args:
        text: the completion without its end-of-turn token, and without the prefill.
        stop_reason: only `end_of_turn` is a turn that was ended.
        expect: what form was asked for.
        special_tokens: control tokens that must not stand inside an answer.
        around: what else is known.
    """
    ended = end_failure(text, stop_reason, around.prompt)
    checked = [token for token in special_tokens if expect.is_free or token not in STRUCTURE_TOKENS]
    if failure := ended or special_token_failure(text, checked):
        return failure
    if not text.strip() and not around.parsed_calls:
        # A template that leaves out what it can't write teaches empty answers.
        return "" if around.reference is not None and not around.reference.strip() else "empty_answer"
    if expect.is_free:
        return ""
    whole = expect.prefill + text
    return (
        (continuation_failure(text, expect.prefill) if expect.prefill else "")
        or role_failure(text, around.prompt)
        or thinking_failure(whole, wanted=expect.thinking)
        or (json_failure(answer_in(whole), expect.json_schema) if expect.json_schema is not None else "")
        or tool_failure(whole, expect, around.reference or "", around.parsed_calls)
    )


def measured_failure(measured: Measurement) -> str:
    """The first way in which a measured generation breaks the template, or ""."""
    generation, example = measured.generation, measured.example
    # A reference that the template couldn't write says nothing about the format of calls.
    reference = None if measured.prompt_differs else example.reference
    around = Around(generation.prompt, reference, measured.parsed_calls)
    return adherence_failure(generation.text, generation.stop_reason, example.expect, measured.special_tokens, around)


__all__ = [
    "THINK_CLOSE",
    "THINK_OPEN",
    "Around",
    "adherence_failure",
    "has_thinking",
    "measured_failure",
    "thinking_failure",
    "tool_calls_in",
    "without_calls",
    "without_thinking",
]
