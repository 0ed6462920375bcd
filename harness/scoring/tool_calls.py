"""The tool calls in an answer: read in any known format, then checked against the tools and the reference's calls."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from harness.records import Example, Expectation
from harness.scoring import call_formats, call_markup
from harness.scoring.bfcl import FAILURE_OF_ERROR, bfcl_verdict, possible_answers_of
from harness.scoring.call_formats import Read
from harness.scoring.measurement import ToolCall
from harness.scoring.thinking import without_thinking
from harness.scoring.tool_schemas import call_failure, tool_name

Tools = Sequence[Mapping[str, Any]]
MALFORMED = "tool_call_malformed"


class Format(NamedTuple):
    """One way to write calls."""

    name: str
    markers: tuple[str, ...]
    """Text that only a call has: where one of them is, there is a call, or what should have been one."""
    read: Callable[[str, Tools], Read]


def _json(read: Callable[[str], Read]) -> Callable[[str, Tools], Read]:
    """A reader that needs no tools, because JSON says what is a number."""
    return lambda text, tools: read(text)


FORMATS = (
    Format("tool_call", ("<tool_call>", "</tool_call>"), call_markup.tool_call_tags),
    Format("tool_calls", ("<tool_calls>", "</tool_calls>"), _json(call_formats.tagged_list)),
    Format("mistral", ("[TOOL_CALLS]",), _json(call_formats.mistral)),
    Format("python_tag", ("<|python_tag|>",), _json(call_formats.python_tag)),
    Format("granite", ("<|tool_call|>",), _json(call_formats.rest_is_list("<|tool_call|>"))),
    Format("firefunction", ("functools[{",), _json(call_formats.rest_is_list("functools"))),
    Format("apertus", ("<|tools_prefix|>", "<|tools_suffix|>"), _json(call_formats.apertus)),
    Format("cohere", ("<|START_ACTION|>", "<|END_ACTION|>"), _json(call_formats.cohere)),
    Format("deepseek", ("<｜tool▁call", "<｜tool call"), _json(call_formats.deepseek)),
    Format("kimi", ("<|tool_calls_section_begin|>", "<|tool_call_begin|>"), _json(call_formats.kimi)),
    Format("harmony", ("to=functions.",), _json(call_formats.harmony)),
    Format("mcp", ("<use_mcp_tool>", "</use_mcp_tool>"), _json(call_formats.mcp)),
    Format("gemma", ("<|tool_call>", "<tool_call|>"), call_markup.gemma),
    Format("lfm", ("<|tool_call_start|>", "<|tool_call_end|>"), call_markup.lfm),
    Format(
        "dsml",
        ("<｜DSML｜",),
        call_markup.invoke_tags("<｜DSML｜function_calls>", "</｜DSML｜function_calls>", "｜DSML｜"),
    ),
    Format("minimax", ("<minimax:tool_call>",), call_markup.invoke_tags("<minimax:tool_call>", "</minimax:tool_call>")),
    Format("function_calls", ("<function_calls>",), call_markup.invoke_tags("<function_calls>", "</function_calls>")),
    Format("function", ("<function=", "</function>"), call_markup.function_tags),
)
"""In the order in which they are looked for: `<function=` also stands inside `<tool_call>`."""
BARE = (
    ("bare_json", call_formats.bare_json),
    ("functionary", call_formats.functionary),
    ("bare_python", call_markup.bare_python),
)
"""Formats without markers, looked for only where there are tools."""
MARKERS = tuple(marker for known in FORMATS for marker in known.markers)


class ReadCalls(NamedTuple):
    """The calls of an answer."""

    calls: tuple[ToolCall, ...]
    format: str = ""
    """How they are written; empty where there are none."""
    beside: str = ""
    """The text around them."""
    failure: str = ""
    """`tool_call_malformed` where there is a call that can't be read."""


def read_calls(text: str, tools: Tools = (), parsed: Sequence[ToolCall] | None = None) -> ReadCalls:
    """The calls of an answer, in whichever format they are written.

    Args:
        text: the answer; calls inside its thinking are only thought of.
        tools: what can be called; some formats write every argument as text, and some can be told by a tool's name only.
        parsed: what the tokenizer's own parser or a server found, which counts where the text has no known format; a
            call without a name is one that it couldn't read.
    """
    text = without_thinking(text)
    for known in FORMATS:
        if any(marker in text for marker in known.markers):
            return _read(known.name, text, partial(known.read, text, tools))
    names = [tool_name(tool) for tool in tools]
    for name, read in BARE if names else ():
        found = _read(name, text, partial(read, text, names))
        if found.format:
            return found
    if parsed:
        failure = "" if all(call.name for call in parsed) else MALFORMED
        return ReadCalls(() if failure else tuple(parsed), "parsed", text, failure)
    return ReadCalls((), beside=text)


def _read(name: str, text: str, read: Callable[[], Read | None]) -> ReadCalls:
    try:
        found = read()
    except ValueError:
        return ReadCalls((), name, text, MALFORMED)
    if found is None:
        return ReadCalls((), beside=text)
    if any(marker in found.beside for marker in MARKERS):
        return ReadCalls((), name, text, MALFORMED)
    return ReadCalls(tuple(found.calls), f"{name}:{found.kind}" if found.kind else name, found.beside)


def tool_failure(text: str, expect: Expectation, reference: str = "", parsed: Sequence[ToolCall] | None = None) -> str:
    """As many well-formed calls of known tools as are expected where tools are given, and no call where none are.

    Args:
        text: the answer.
        expect: which tools, and how many calls.
        reference: the right answer as the template writes it: its format is the one that the model was taught.
        parsed: as in `read_calls`.
    """
    if not expect.tools:
        return "tool_call_not_asked" if parsed or any(marker in without_thinking(text) for marker in MARKERS) else ""
    found = read_calls(text, expect.tools, parsed)
    if found.failure or not found.calls:
        return found.failure or "tool_call_missing"
    taught = read_calls(reference, expect.tools).format
    if taught and taught != found.format:
        return "tool_call_wrong_format"
    if len(found.calls) != expect.num_calls:
        return "tool_call_wrong_count"
    if found.beside.strip() and not expect.allows_prose:
        return "prose_around_tool_call"
    return next((failure for call in found.calls if (failure := call_failure(call, expect.tools))), "")


def calls_failure(
    text: str, expect: Expectation, wanted: Sequence[ToolCall], parsed: Sequence[ToolCall] | None = None
) -> str:
    """Whether the calls are the right ones, as BFCL's AST check tells it: the tools, the arguments and their values.

    Args:
        text: the answer.
        expect: which tools, and how many calls.
        wanted: the reference's calls; where there are none, the calls must only fit the tools.
        parsed: as in `read_calls`.
    """
    found = read_calls(text, expect.tools, parsed)
    if found.failure or not found.calls:
        return found.failure or "tool_call_missing"
    if not wanted:
        wrong_count = "tool_call_wrong_count" if len(found.calls) != expect.num_calls else ""
        return wrong_count or next((f for call in found.calls if (f := call_failure(call, expect.tools))), "")
    error = bfcl_verdict(found.calls, expect.tools, possible_answers_of(wanted, expect.tools))
    if error.endswith("wrong_func_name") and any(call.name not in map(tool_name, expect.tools) for call in found.calls):
        return "tool_unknown"
    return FAILURE_OF_ERROR[error] if error else ""


def reference_calls(example: Example) -> tuple[ToolCall, ...]:
    """The calls of the right answer: as its text has them, since a template may write one of several only, or as stated."""
    found = read_calls(example.reference, example.expect.tools).calls
    if found or example.answer is None:
        return found
    functions = [call["function"] for call in example.answer.tool_calls]
    return tuple(ToolCall(function["name"], function["arguments"]) for function in functions)


def tool_calls_in(text: str, tools: Tools = ()) -> list[ToolCall]:
    """The well-formed calls of an answer."""
    return list(read_calls(text, tools).calls)


def without_calls(text: str, tools: Tools = ()) -> str:
    """The answer beside its calls."""
    return read_calls(text, tools).beside
