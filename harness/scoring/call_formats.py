"""Tool calls whose arguments are JSON, in the ways that chat templates write them.

A reader takes a text that has one of the format's markers and gives its calls with the text beside them. It raises
ValueError where the calls are not well formed: nothing is mended, since the program that runs the tools wouldn't.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from harness.scoring.json_form import strict_json
from harness.scoring.measurement import ToolCall

NAME = re.compile(r"[\w.:/-]{1,200}")
BETWEEN = re.compile(r"[\s;,]*+")


class Read(NamedTuple):
    """What a reader found."""

    calls: list[ToolCall]
    beside: str
    """The text around the calls."""
    kind: str = ""
    """Which variant of the format it is."""


def enclosed(text: str, before: str, after: str, *, may_be_open: bool = False) -> tuple[list[str], str]:
    """What stands between pairs of markers, and the text outside of them.

    Args:
        text: looked through once.
        before: the opening marker.
        after: the closing one.
        may_be_open: the last pair needs no closing marker, because that is what ends the turn.

    Raises: ValueError: a marker has no partner.
    """
    first, *parts = text.split(before)
    inside, outside = [], [first]
    for number, part in enumerate(parts, 1):
        piece, found, rest = part.partition(after)
        if not found and not (may_be_open and number == len(parts)):
            raise ValueError(f"{before} is not closed")
        inside.append(piece)
        outside.append(rest)
    beside = "".join(outside)
    if after in beside:
        raise ValueError(f"{after} closes nothing")
    return inside, beside


def nothing_but(text: str) -> None:
    """Raises: ValueError: there is more than blanks between the parts of a call."""
    if text.strip():
        raise ValueError(f"unexpected {text.strip()[:20]!r}")


def call_of(value: object, *, name: str = "name", arguments: str = "arguments", optional: str = "id") -> ToolCall:
    """A call from its JSON object, which must have these keys and no others.

    Raises: ValueError: it is none.
    """
    if not isinstance(value, dict) or set(value) - {optional} != {name, arguments}:
        raise ValueError("not a call with name and arguments")
    called, given = value[name], value[arguments]
    if not isinstance(called, str) or not called or not isinstance(given, dict):
        raise ValueError("the name is no text, or the arguments are no object")
    return ToolCall(called, given)


def calls_of(value: object, **keys: str) -> list[ToolCall]:
    """Calls from a list of JSON objects.

    Raises: ValueError: it is none, or empty.
    """
    if not isinstance(value, list) or not value:
        raise ValueError("not a list of calls")
    return [call_of(one, **keys) for one in value]


def named_call(name: str, arguments: str) -> ToolCall:
    """A call from its name and the JSON text of its arguments.

    Raises: ValueError: one of them is something else.
    """
    value = strict_json(arguments)
    if not NAME.fullmatch(name.strip()) or not isinstance(value, dict):
        raise ValueError("not a name with an object of arguments")
    return ToolCall(name.strip(), value)


def json_values(text: str) -> list[Any]:
    """The JSON values that a text is a row of, with blanks, commas or semicolons between them.

    Raises: ValueError: it is something else.
    """
    decoder, values, position = json.JSONDecoder(), [], len(text) - len(text.lstrip())
    while position < len(text):
        try:
            _, stop = decoder.raw_decode(text, position)
        except RecursionError as error:
            raise ValueError("nested too deeply") from error
        values.append(strict_json(text[position:stop]))
        gap = BETWEEN.match(text, stop)
        position = gap.end() if gap else stop
    return values


def tagged_list(text: str) -> Read:
    """`<tool_calls>[{"name": ..., "arguments": ...}]</tool_calls>` (Apriel)."""
    inside, beside = enclosed(text, "<tool_calls>", "</tool_calls>")
    return Read([call for piece in inside for call in calls_of(strict_json(piece))], beside)


def mistral(text: str) -> Read:
    """`[TOOL_CALLS][{"name": ..., "arguments": ...}]`, or since 2025 `[TOOL_CALLS]name[ARGS]{...}`."""
    beside, *parts = text.split("[TOOL_CALLS]")
    calls: list[ToolCall] = []
    for part in parts:
        if part.lstrip().startswith("["):
            calls += calls_of(strict_json(part))
            continue
        name, found, arguments = part.partition("[ARGS]")
        if not found:
            name, brace, rest = part.partition("{")
            arguments = brace + rest
        calls.append(named_call(name.partition("[CALL_ID]")[0], arguments))
    return Read(calls, beside)


def python_tag(text: str) -> Read:
    """`<|python_tag|>{"name": ..., "parameters": ...}` (Llama 3.1)."""
    beside, _, rest = text.partition("<|python_tag|>")
    values = json_values(rest)
    if not values:
        raise ValueError("nothing is called")
    return Read([call_of(value, arguments="parameters") for value in values], beside)


def rest_is_list(marker: str) -> Callable[[str], Read]:
    """A reader of `MARKER[{"name": ..., "arguments": ...}]` to the end of the text (Granite, FireFunction)."""

    def read(text: str) -> Read:
        beside, _, rest = text.partition(marker)
        return Read(calls_of(strict_json(rest)), beside)

    return read


def apertus(text: str) -> Read:
    """`<|tools_prefix|>[{"name": {...}}]<|tools_suffix|>`, the last marker being what ends the turn."""
    inside, beside = enclosed(text, "<|tools_prefix|>", "<|tools_suffix|>", may_be_open=True)
    calls = []
    for piece in inside:
        value = strict_json(piece)
        if not isinstance(value, list) or not all(isinstance(one, dict) and len(one) == 1 for one in value):
            raise ValueError("not a list of objects with one name each")
        for name, arguments in ((name, given) for one in value for name, given in one.items()):
            calls.append(call_of({"name": name, "arguments": arguments}))
    return Read(calls, beside)


def cohere(text: str) -> Read:
    """`<|START_ACTION|>[{"tool_call_id": ..., "tool_name": ..., "parameters": ...}]<|END_ACTION|>`."""
    inside, beside = enclosed(text, "<|START_ACTION|>", "<|END_ACTION|>")
    keys = {"name": "tool_name", "arguments": "parameters", "optional": "tool_call_id"}
    return Read([call for piece in inside for call in calls_of(strict_json(piece), **keys)], beside)


def deepseek(text: str) -> Read:
    """`<｜tool▁call▁begin｜>function<｜tool▁sep｜>NAME`, a line break and fenced JSON (R1, V3), or `NAME<｜tool▁sep｜>{...}` (V3.1)."""
    for word in ("tool calls begin", "tool calls end", "tool call begin", "tool call end", "tool sep"):
        # SentencePiece decodes its own sign for a space as a space.
        text = text.replace(f"<｜{word}｜>", f"<｜{word.replace(' ', '▁')}｜>")
    inside, beside = enclosed(text, "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", may_be_open=True)
    calls = []
    for section in inside:
        pieces, gaps = enclosed(section, "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>")
        nothing_but(gaps)
        for piece in pieces:
            name, _, arguments = piece.partition("<｜tool▁sep｜>")
            if name.strip() == "function":
                name, _, arguments = arguments.partition("\n")
                arguments = arguments.strip().removeprefix("```json").removesuffix("```")
            calls.append(named_call(name, arguments))
    if not calls:
        raise ValueError("nothing is called")
    return Read(calls, beside)


def kimi(text: str) -> Read:
    """`<|tool_call_begin|>functions.NAME:0<|tool_call_argument_begin|>{...}<|tool_call_end|>`."""
    sections, beside = enclosed(text, "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", may_be_open=True)
    calls = []
    for section in sections:
        pieces, gaps = enclosed(section, "<|tool_call_begin|>", "<|tool_call_end|>")
        nothing_but(gaps)
        for piece in pieces:
            identity, _, arguments = piece.partition("<|tool_call_argument_begin|>")
            name = identity.strip().removeprefix("functions.")
            calls.append(named_call(name.rpartition(":")[0] or name, arguments))
    if not calls:
        raise ValueError("nothing is called")
    return Read(calls, beside)


def harmony(text: str) -> Read:
    """`to=functions.NAME<|channel|>commentary json<|message|>{...}` (gpt-oss), also with the channel first."""
    beside, *parts = text.split("to=functions.")
    calls = []
    for part in parts:
        header, found, rest = part.partition("<|message|>")
        name = NAME.match(header)
        if not found or name is None:
            raise ValueError("a call without a message")
        arguments, _, after = rest.partition("<|end|>")
        calls.append(named_call(name.group(), arguments.removesuffix("<|call|>")))
        beside += after
    for scaffold in ("<|start|>assistant", "<|channel|>commentary", "<|channel|>analysis"):
        beside = beside.replace(scaffold, "")
    return Read(calls, beside)


def mcp(text: str) -> Read:
    """`<use_mcp_tool>` with a server's name, a tool's name and JSON arguments (MiroThinker)."""
    inside, beside = enclosed(text, "<use_mcp_tool>", "</use_mcp_tool>")
    calls = []
    for piece in inside:
        names, rest = enclosed(piece, "<tool_name>", "</tool_name>")
        arguments, rest = enclosed(rest, "<arguments>", "</arguments>")
        _, rest = enclosed(rest, "<server_name>", "</server_name>")
        nothing_but(rest)
        if len(names) != 1 or len(arguments) != 1:
            raise ValueError("not one tool with its arguments")
        calls.append(named_call(names[0], arguments[0]))
    return Read(calls, beside)


def bare_json(text: str, names: Sequence[str]) -> Read | None:
    """`{"name": ..., "parameters": ...}` and nothing else (Llama 3.2); None where it doesn't begin like a call."""
    if not re.match(r"\s*+\{\s*+\"name\"", text):
        return None
    calls = [
        call_of(value, arguments="parameters" if _has_parameters(value) else "arguments") for value in json_values(text)
    ]
    return Read(calls, "")


def _has_parameters(value: object) -> bool:
    return isinstance(value, Mapping) and "parameters" in value


def functionary(text: str, names: Sequence[str]) -> Read | None:
    """A tool's name on a line, then its JSON arguments, with `>>>` between several; None where no tool is named so."""
    segments = text.lstrip().removeprefix(">>>").split(">>>")
    heads = [segment.partition("\n")[0].strip() for segment in segments]
    if not any(head in names for head in heads):
        return None
    calls, beside = [], ""
    for head, segment in zip(heads, segments, strict=True):
        body = segment.partition("\n")[2]
        if head == "all":
            beside += body
        else:
            calls.append(named_call(head, body))
    return Read(calls, beside)
