"""Tool calls whose arguments are marked up one by one, and calls written as Python."""

import ast
import json
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from harness.scoring.call_formats import NAME, Read, call_of, calls_of, enclosed, named_call, nothing_but
from harness.scoring.json_form import strict_json
from harness.scoring.measurement import ToolCall
from harness.scoring.tool_schemas import MAX_LITERAL, cast, parameters_of, tool_name

Tools = Sequence[Mapping[str, Any]]
GEMMA_KEY = re.compile(r"([{,]\s*+)([A-Za-z_][\w.-]*+)\s*+:")
GEMMA_NONE = re.compile(r"\bNone\b")


def tool_call_tags(text: str, tools: Tools) -> Read:
    """What stands in `<tool_call>` tags: JSON (Hermes, Qwen), `<function=...>` (Qwen Coder) or `<arg_key>` (GLM)."""
    inside, beside = enclosed(text, "<tool_call>", "</tool_call>")
    calls: list[ToolCall] = []
    kinds = []
    for piece in (piece.strip() for piece in inside):
        if piece.startswith("{"):
            kinds.append("json")
            calls.append(call_of(strict_json(piece)))
        elif piece.startswith("["):
            kinds.append("json_list")
            calls += calls_of(strict_json(piece))
        elif piece.startswith("<function="):
            kinds.append("function")
            found = function_tags(piece, tools)
            nothing_but(found.beside)
            calls += found.calls
        else:
            kinds.append("arg_key")
            calls.append(_arg_keys(piece, tools))
    return Read(calls, beside, "+".join(dict.fromkeys(kinds)))


def function_tags(text: str, tools: Tools) -> Read:
    """`<function=NAME>{...}</function>` (Llama 3.1, Functionary), or with a `<parameter=KEY>` for every argument (Qwen Coder)."""
    inside, beside = enclosed(text, "<function=", "</function>")
    return Read([_function(piece, tools) for piece in inside], beside)


def _function(piece: str, tools: Tools) -> ToolCall:
    name, _, body = piece.partition(">")
    if "<parameter=" not in body and body.strip():
        return named_call(name, body)
    pieces, gaps = enclosed(body, "<parameter=", "</parameter>")
    nothing_but(gaps)
    pairs = []
    for part in pieces:
        key, found, value = part.partition(">")
        if not found:
            raise ValueError("a parameter without a value")
        pairs.append((key, value.removeprefix("\n").removesuffix("\n")))
    return _cast_call(name, pairs, tools)


def _arg_keys(piece: str, tools: Tools) -> ToolCall:
    name, *parts = piece.split("<arg_key>")
    pairs = []
    for part in parts:
        key, found, rest = part.partition("</arg_key>")
        values, gaps = enclosed(rest, "<arg_value>", "</arg_value>")
        nothing_but(gaps)
        if not found or len(values) != 1:
            raise ValueError("a key without one value")
        pairs.append((key, values[0]))
    return _cast_call(name, pairs, tools)


def _cast_call(name: str, pairs: Sequence[tuple[str, str]], tools: Tools) -> ToolCall:
    """A call with its arguments as the values that the tool's types make of them."""
    name = name.strip()
    if not NAME.fullmatch(name) or len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("no name, or an argument twice")
    schema = next((parameters_of(tool) for tool in tools if tool_name(tool) == name), {})
    properties = schema.get("properties")
    types = properties if isinstance(properties, Mapping) else {}
    return ToolCall(name, {key: cast(value, types.get(key)) for key, value in pairs})


def invoke_tags(opening: str, closing: str, prefix: str = "") -> Callable[[str, Tools], Read]:
    """A reader of `<invoke name="...">` with a `<parameter name="...">` for every argument (DeepSeek 3.2, MiniMax)."""

    def read(text: str, tools: Tools) -> Read:
        sections, beside = enclosed(text, opening, closing)
        calls = []
        for section in sections:
            pieces, gaps = enclosed(section, f'<{prefix}invoke name="', f"</{prefix}invoke>")
            nothing_but(gaps)
            calls += [_invoke(piece, prefix, tools) for piece in pieces]
        if not calls:
            raise ValueError("nothing is called")
        return Read(calls, beside)

    return read


def _invoke(piece: str, prefix: str, tools: Tools) -> ToolCall:
    name, _, body = piece.partition('">')
    pieces, gaps = enclosed(body, f'<{prefix}parameter name="', f"</{prefix}parameter>")
    nothing_but(gaps)
    texts: list[tuple[str, str]] = []
    stated: dict[str, Any] = {}
    for part in pieces:
        key, _, rest = part.partition('"')
        kind, found, value = rest.partition(">")
        if not found:
            raise ValueError("a parameter without a value")
        if 'string="' in kind:
            stated[key] = value if 'string="true"' in kind else strict_json(value)
        texts.append((key, value))
    call = _cast_call(name, texts, tools)
    return ToolCall(call.name, call.arguments | stated)


def gemma(text: str, tools: Tools) -> Read:
    """`<|tool_call>call:NAME{key:<|"|>text<|"|>,other:3}<tool_call|>`: JSON with bare keys and its own quotation marks."""
    inside, beside = enclosed(text, "<|tool_call>", "<tool_call|>")
    calls = []
    for piece in inside:
        head, brace, body = piece.strip().partition("{")
        if not head.startswith("call:"):
            raise ValueError("not a call")
        outside, *quoted = (brace + body).split('<|"|>')
        parts = [_gemma_json(outside)]
        for number, part in enumerate(quoted):
            parts.append(json.dumps(part) if number % 2 == 0 else _gemma_json(part))
        calls.append(named_call(head.removeprefix("call:"), "".join(parts)))
    return Read(calls, beside)


def _gemma_json(text: str) -> str:
    return GEMMA_NONE.sub("null", GEMMA_KEY.sub(r'\1"\2":', text))


def lfm(text: str, tools: Tools) -> Read:
    """`<|tool_call_start|>[name(key="value")]<|tool_call_end|>`."""
    inside, beside = enclosed(text, "<|tool_call_start|>", "<|tool_call_end|>")
    return Read([call for piece in inside for call in python_calls(piece)], beside)


def bare_python(text: str, names: Sequence[str]) -> Read | None:
    """`[name(key="value"), ...]` and nothing else; None where it doesn't begin with the name of a tool."""
    head = re.match(r"\s*+\[\s*+([\w.]{1,200}+)\(", text)
    if head is None or head[1] not in names:
        return None
    return Read(python_calls(text), "")


def python_calls(text: str) -> list[ToolCall]:
    """Calls written as Python, with named arguments that are literals.

    Raises: ValueError: it is something else.
    """
    if len(text) > MAX_LITERAL:
        raise ValueError("too long for a call")
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(text.strip(), mode="eval").body
        nodes = tree.elts if isinstance(tree, ast.List) else [tree]
        calls = [_python_call(node) for node in nodes]
    except (SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError("not a call in Python") from error
    if not calls:
        raise ValueError("nothing is called")
    return calls


def _python_call(node: ast.expr) -> ToolCall:
    if not isinstance(node, ast.Call) or node.args or not all(keyword.arg for keyword in node.keywords):
        raise ValueError("not a call with named arguments")
    arguments = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in node.keywords}
    return ToolCall(ast.unparse(node.func), arguments)
