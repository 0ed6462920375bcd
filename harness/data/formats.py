"""Rows of any known format as conversations."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import ValidationError

from harness.data.sources import Row
from harness.errors import DataError
from harness.records import Example, Expectation, Message, Record, TemplateInputs

Format = Literal["messages", "prompt_completion", "alpaca"]
ROLES = ("system", "user", "assistant", "tool")


class Conversation(Record):
    """One row to train on: turns that end with an assistant's, or a plain prompt with its completion."""

    id: str
    messages: tuple[Message, ...] = ()
    prompt: str = ""
    """Only where `messages` is empty: text that is trained without a template."""
    completion: str = ""
    inputs: TemplateInputs = TemplateInputs()
    slices: tuple[str, ...] = ()
    cluster: str = ""
    expect: Expectation = Expectation()

    @property
    def is_plain(self) -> bool:
        """Whether it is prompt and completion, not turns."""
        return not self.messages

    def as_turns(self) -> "Conversation":
        """A plain prompt as the user's turn and its completion as the assistant's, for a template that was asked for."""
        turns = (Message(role="user", content=self.prompt), Message(role="assistant", content=self.completion))
        return self.model_copy(update={"messages": turns, "prompt": "", "completion": ""}) if self.is_plain else self

    def example(self) -> Example:
        """The same as an evaluation example: everything up to the last answer, with that answer as reference."""
        shared = {
            "id": self.id,
            "slices": self.slices,
            "cluster": self.cluster,
            "expect": self.expect,
            "inputs": self.inputs,
        }
        if self.is_plain:
            return Example(text=self.prompt, reference=self.completion, **shared)
        last = self.messages[-1]
        answer = last if last.tool_calls or last.reasoning_content else None
        return Example(messages=self.messages[:-1], reference=last.content, answer=answer, **shared)


def detect_format(row: Row) -> Format:
    """The format of a row, from its keys.

    Raises: DataError: no known format has these keys.
    """
    keys = set(row.content)
    if {"chosen", "rejected"} <= keys:
        raise DataError(
            f"{row.where}: this is preference data (chosen/rejected); SFT needs one answer a row: "
            "keep the chosen one as `completion`"
        )
    if "messages" in keys:
        return "messages"
    if {"prompt", "completion"} <= keys:
        return "prompt_completion"
    if {"instruction", "output"} <= keys:
        return "alpaca"
    raise DataError(
        f"{row.where}: the columns {', '.join(sorted(keys)) or '(none)'} are no known format; "
        "use messages, prompt/completion or instruction/input/output"
    )


def conversations(rows: Sequence[Row], format: Literal["auto"] | Format) -> list[Conversation]:
    """Every row as a conversation, all in the format of the first row where it is not stated.

    Raises: DataError: a row doesn't have the format, or no row has an assistant turn.
    """
    chosen = detect_format(rows[0]) if format == "auto" else format
    convert = {"messages": _from_messages, "prompt_completion": _from_prompt, "alpaca": _from_alpaca}[chosen]
    return [convert(row) for row in rows]


def _row_id(row: Row) -> str:
    given = row.content.get("id")
    return (
        str(given) if given is not None else hashlib.sha256(repr(sorted(row.content.items())).encode()).hexdigest()[:12]
    )


def _shared(row: Row) -> dict[str, Any]:
    """Id, slices, cluster and expected form, where the row states them."""
    content = row.content
    slices = []
    if isinstance(content.get("kind"), str):
        slices.append(content["kind"])
    if isinstance(content.get("phrasing"), str):
        slices.append("new phrasing" if "new-" in content["phrasing"] else "usual phrasing")
    entities = content.get("entities")
    cluster = str(entities[0]) if isinstance(entities, list) and entities else ""
    try:
        expect = Expectation.model_validate(content.get("expect") or {})
    except ValidationError as error:
        raise DataError(
            f"{row.where}: `expect` takes json_schema, tools and thinking only ({error.errors()[0]['msg']})"
        ) from error
    return {"id": _row_id(row), "slices": tuple(slices), "cluster": cluster, "expect": expect}


def _string(row: Row, key: str, *, required: bool = True) -> str:
    value = row.content.get(key)
    if value is None and not required:
        return ""
    if not isinstance(value, str):
        raise DataError(f"{row.where}: {key} must be text, not {type(value).__name__}")
    return value


def _from_messages(row: Row) -> Conversation:
    return Conversation(messages=_turns(row, row.content.get("messages"), "messages"), **_shared(row))


def _turns(row: Row, value: object, key: str) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise DataError(f"{row.where}: {key} must be a list of turns with role and content")
    turns = []
    for turn in value:
        if not isinstance(turn, Mapping) or not isinstance(turn.get("content"), str) or "role" not in turn:
            raise DataError(f"{row.where}: every turn of {key} needs a role and a text as content")
        if turn.get("tool_calls"):
            raise DataError(
                f"{row.where}: tool_calls are not read yet; write the call into content as the template renders it"
            )
        if turn["role"] not in ROLES:
            raise DataError(f"{row.where}: the role {turn['role']!r} is not one of {', '.join(ROLES)}")
        turns.append(Message(role=turn["role"], content=turn["content"]))
    return tuple(turns)


def _from_prompt(row: Row) -> Conversation:
    prompt, completion = row.content.get("prompt"), row.content.get("completion")
    if isinstance(prompt, list) and isinstance(completion, list):
        turns = (*_turns(row, prompt, "prompt"), *_turns(row, completion, "completion"))
        return Conversation(messages=turns, **_shared(row))
    return Conversation(prompt=_string(row, "prompt"), completion=_string(row, "completion"), **_shared(row))


def _from_alpaca(row: Row) -> Conversation:
    """Alpaca rows: instruction and input are the user's turn, output the assistant's."""
    instruction, given = _string(row, "instruction"), _string(row, "input", required=False)
    system = _string(row, "system", required=False)
    turns = [Message(role="system", content=system)] if system else []
    turns.append(Message(role="user", content=f"{instruction}\n{given}" if given else instruction))
    turns.append(Message(role="assistant", content=_string(row, "output")))
    return Conversation(messages=tuple(turns), **_shared(row))
