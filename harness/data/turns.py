"""Turns, tool calls and tools in the many spellings of public datasets, as the records that templates read."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from harness.errors import DataError
from harness.records import Message, TemplateInputs

ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant", "bot": "assistant",
    "chatgpt": "assistant", "bing": "assistant", "bard": "assistant", "function_call": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool", "ipython": "tool", "function_response": "tool",
}  # fmt: skip
"""Role in the data -> role in a template."""
REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
NO_INPUTS = TemplateInputs()


class _Content(NamedTuple):
    text: str | None
    reasoning: str
    calls: tuple[dict[str, Any], ...]


def as_messages(value: object, column: str) -> tuple[Message, ...]:
    """A list of turns, also as JSON text, as messages.

    Raises: DataError: it is no such list; the message names the turn, counted from 1.
    """
    turns = parsed(value, column)
    if not isinstance(turns, list) or not turns:
        raise DataError(f"{column} must be a list of turns with role and content")
    return tuple(_message(turn, f"turn {number} of {column}") for number, turn in enumerate(turns, 1))


def template_inputs(row: Mapping[str, Any]) -> TemplateInputs:
    """What the columns `tools`, `documents` and `chat_template_kwargs` of a row give to its template.

    Raises: DataError: one of them has another form.
    """
    given = {key: value for key in TemplateInputs.model_fields if (value := parsed(row.get(key), key))}
    if not given:
        return NO_INPUTS
    if "tools" in given:
        given["tools"] = tuple(_tool(item) for item in _objects(given["tools"], "tools"))
    if "documents" in given:
        given["documents"] = tuple(_objects(given["documents"], "documents"))
    if not isinstance(given.get("chat_template_kwargs", {}), Mapping):
        raise DataError("chat_template_kwargs must be an object")
    return TemplateInputs(**given)


def parsed(value: Any, what: str) -> Any:
    """The value, or what it says where it is JSON text, as tables carry it; None where that text is blank.

    Raises: DataError: the text isn't JSON.
    """
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value.strip() else None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{what} is text, but not valid JSON ({error})") from error


def _objects(value: object, what: str) -> Sequence[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise DataError(f"{what} must be a list of objects")
    return value


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    function = tool.get("function", tool)
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise DataError("every one of tools needs a name, a description and parameters")
    return tool if "function" in tool else {"type": "function", "function": tool}


def _message(turn: object, where: str) -> Message:
    if not isinstance(turn, Mapping):
        raise DataError(f"{where} is not an object with role and content")
    stated = turn["role"] if "role" in turn else turn.get("from")
    role = ROLES.get(stated) if isinstance(stated, str) else None
    if role is None:
        raise DataError(f"the role {stated!r} of {where} is not one of {', '.join(ROLES)}")
    content = _content(turn, where)
    if stated == "function_call":
        content = _Content("", "", _calls(content.text, where))
    if content.text is None and role != "assistant":
        raise DataError(f"{where} has no text; its content must be text or a list of parts")
    further = {
        "reasoning_content": content.reasoning or _reasoning(turn, where),
        "tool_calls": content.calls
        + (_calls(turn.get("tool_calls"), where) or _calls(turn.get("function_call"), where)),
        "name": str(turn.get("name") or ""),
        "tool_call_id": str(turn.get("tool_call_id") or ""),
    }
    # Pydantic remembers which fields were given, which in a large dataset takes more memory than the fields.
    filled: dict[str, Any] = {key: value for key, value in further.items() if value}
    if role == "assistant" and _is_masked(turn):
        filled["is_supervised"] = False
    return Message(role=role, content=content.text or "", **filled)


def _reasoning(turn: Mapping[str, Any], where: str) -> str:
    for key in REASONING_KEYS:
        if value := turn.get(key):
            if not isinstance(value, str):
                raise DataError(f"{key} of {where} must be text, not {type(value).__name__}")
            return value
    return ""


def _is_masked(turn: Mapping[str, Any]) -> bool:
    """Whether the turn is not to be learned: `weight` is OpenAI's key, `loss_weight` LLaMA-Factory's, `train` Axolotl's."""
    return turn.get("weight") == 0 or turn.get("loss_weight") == 0 or turn.get("train") is False


def _content(turn: Mapping[str, Any], where: str) -> _Content:
    content = turn["content"] if "content" in turn else turn.get("value")
    if content is None or isinstance(content, str):
        return _Content(content, "", ())
    if not isinstance(content, list):
        raise DataError(f"the content of {where} must be text or a list of parts, not {type(content).__name__}")
    texts: list[str] = []
    reasoning: list[str] = []
    calls: list[dict[str, Any]] = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text":
            texts.append(_part_text(part, ("text", "value"), where))
        elif kind in ("reasoning", "thinking"):
            reasoning.append(_part_text(part, ("value", "text", "thinking", "reasoning"), where))
        elif kind == "tool_call":
            calls.extend(_calls(part.get("value"), where))
        else:
            raise DataError(f"{where} holds a part of type {kind!r}; only text can be trained")
    return _Content("".join(texts), "".join(reasoning), tuple(calls))


def _part_text(part: Mapping[str, Any], keys: Sequence[str], where: str) -> str:
    for key in keys:
        if isinstance(part.get(key), str):
            return str(part[key])
    raise DataError(f"{where} holds a part of type {part['type']!r} without text")


def _calls(value: object, where: str) -> tuple[dict[str, Any], ...]:
    """Calls in OpenAI's form or as a bare name with arguments, one or a list, also as JSON text."""
    calls = parsed(value, f"the tool call of {where}")
    if not calls:
        return ()
    calls = calls if isinstance(calls, list) else [calls]
    return tuple(_call(call, where) for call in calls)


def _call(call: object, where: str) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise DataError(f"a tool call of {where} has no name; it needs name and arguments")
    arguments = parsed(function.get("arguments"), f"the arguments of a tool call of {where}")
    arguments = {} if arguments is None else arguments
    if not isinstance(arguments, dict):
        raise DataError(f"the arguments of a tool call of {where} must be an object, not {type(arguments).__name__}")
    given_id = call.get("id") if isinstance(call, Mapping) else None
    identity = {"id": given_id} if given_id is not None else {}
    return identity | {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
