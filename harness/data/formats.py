"""Rows of any known format as conversations, and what is wrong with those that can't be learned from."""

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Literal, NamedTuple

from pydantic import ValidationError

from harness.config import DataFormat
from harness.data.layouts import READERS, Body, Columns, Format, format_of, from_template, parse_template
from harness.data.sources import Row
from harness.data.turns import NO_INPUTS, parsed, template_inputs
from harness.errors import DataError
from harness.records import Example, Expectation, Message, Record, TemplateInputs

FaultKind = Literal["broken_row", "preference_pairs", "missing_assistant_turn", "empty_answer", "role_order"]
PREFERENCE = (
    "this is preference data (chosen/rejected); SFT needs one answer a row: keep the chosen one as `completion`, "
    "or train with a preference method such as TRL's DPOTrainer"
)
NOTHING, THINKING = Expectation(), Expectation(thinking=True)


class Conversation(Record):
    """One row to train on: turns that end with an assistant's, or a plain prompt with its completion."""

    id: str
    index: int = 0
    """Position of the row in its source, from 0."""
    where: str = ""
    """File and line, or dataset and position."""
    messages: tuple[Message, ...] = ()
    prompt: str = ""
    """Only where `messages` is empty: text that is trained without a template."""
    completion: str = ""
    inputs: TemplateInputs = TemplateInputs()
    slices: tuple[str, ...] = ()
    cluster: str = ""
    group: str = ""
    """Value of `data.group_by`; rows of one group stay in one split."""
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


class Fault(Record):
    """One row that is left out, and why."""

    index: int
    """Position of the row in its source, from 0."""
    where: str
    kind: FaultKind
    message: str
    """One sentence, without `where`."""


class Converted(NamedTuple):
    """What became of the rows of a source."""

    format: Format
    rows: list[Conversation]
    faults: list[Fault]


def detect_format(row: Row) -> Format:
    """The format of a row, from its columns.

    Raises: DataError: no known format has these columns, or they are preference data.
    """
    if _is_preference(row.content):
        raise DataError(f"{row.where}: {PREFERENCE}")
    found = format_of(row.content)
    if found is None:
        raise DataError(
            f"{row.where}: the columns {', '.join(sorted(row.content)) or '(none)'} are no known format; use messages "
            "or conversations (lists of turns), prompt/completion, instruction/input/output, question/answer or text, "
            "or say in data.text how the columns become text"
        )
    return found


def convert(
    rows: Sequence[Row], format: DataFormat = "auto", *, text: str | None = None, group_by: str | None = None
) -> Converted:
    """Every row as a conversation, or as a fault where it can't be learned from.

    Args:
        rows: the rows of one source.
        format: auto: that of the first row that has a known one.
        text: how the columns become text, as in `data.text`; the format is then text.
        group_by: column whose value becomes `group`.

    Raises: DataError: no row has a known format, all are preference data, `text` can't be read, or no row has a column
        that `text` or `group_by` names.
    """
    if group_by is not None:
        _check_column(rows, group_by, "data.group_by")
    if text is not None:
        chosen: Format = "text"
        read = _template_reader(rows, format, text)
    else:
        chosen = _common_format(rows) if format == "auto" else format
        read = READERS[chosen]
    converted = Converted(chosen, [], [])
    for row in rows:
        if text is None and _is_preference(row.content):
            converted.faults.append(_fault(row, "preference_pairs", PREFERENCE))
            continue
        try:
            # Plain text meets no template, so these columns mean something else there.
            inputs = NO_INPUTS if chosen == "text" else template_inputs(row.content)
            conversation = _conversation(row, read(row.content), inputs, group_by)
        except DataError as error:
            converted.faults.append(_fault(row, "broken_row", str(error)))
            continue
        if fault := _content_fault(conversation):
            converted.faults.append(_fault(row, *fault))
        else:
            converted.rows.append(conversation)
    if rows and all(fault.kind == "preference_pairs" for fault in converted.faults) and not converted.rows:
        raise DataError(f"{rows[0].where}: {PREFERENCE}")
    return converted


def _is_preference(columns: Columns) -> bool:
    return columns.get("chosen") is not None and columns.get("rejected") is not None


def _check_column(rows: Sequence[Row], column: str, setting: str) -> None:
    if rows and not any(column in row.content for row in rows):
        known = ", ".join(sorted(rows[0].content)) or "(none)"
        raise DataError(f"{rows[0].where}: {setting} names {column!r}, but the columns are {known}; name one of them")


def _template_reader(rows: Sequence[Row], format: DataFormat, text: str) -> Callable[[Columns], Body]:
    if format not in ("auto", "text"):
        raise DataError(f"data.text makes plain text of the rows, but data.format is {format}; delete one of the two")
    template = parse_template(text)
    for column in template.columns:
        _check_column(rows, column, "data.text")
    return partial(from_template, template)


def _common_format(rows: Sequence[Row]) -> Format:
    """The format of the first row that has a known one: a broken row at the start must not hide the others."""
    first_error = DataError("there are no rows to find a format from; give data.format or another file")
    for number, row in enumerate(rows):
        try:
            return detect_format(row)
        except DataError as error:
            first_error = error if number == 0 else first_error
    raise first_error


def _fault(row: Row, kind: FaultKind, message: str) -> Fault:
    return Fault(index=row.index, where=row.where, kind=kind, message=message)


def _conversation(row: Row, body: Body, inputs: TemplateInputs, group_by: str | None) -> Conversation:
    columns = row.content
    entities = columns.get("entities")
    group = columns.get(group_by) if group_by is not None else None
    return Conversation(
        id=_row_id(columns),
        index=row.index,
        where=row.where,
        messages=body.messages,
        prompt=body.prompt,
        completion=body.completion,
        inputs=inputs,
        slices=_slices(columns),
        cluster=str(entities[0]) if isinstance(entities, list) and entities else "",
        group="" if group is None else str(group),
        expect=_expectation(columns, body.messages),
    )


def _row_id(columns: Columns) -> str:
    given = columns.get("id")
    if given is not None and given != "":
        return str(given)
    return hashlib.sha256(repr(sorted(columns.items())).encode()).hexdigest()[:12]


def _slices(columns: Columns) -> tuple[str, ...]:
    kind, phrasing = columns.get("kind"), columns.get("phrasing")
    slices: tuple[str, ...] = (kind,) if isinstance(kind, str) else ()
    if isinstance(phrasing, str):
        slices += ("new phrasing" if "new-" in phrasing else "usual phrasing",)
    return slices


def _expectation(columns: Columns, messages: Sequence[Message]) -> Expectation:
    """As the row states it; else thinking is expected where the reference thinks before it answers."""
    if given := parsed(columns.get("expect"), "expect"):
        try:
            return Expectation.model_validate(given)
        except ValidationError as error:
            raise DataError(
                f"`expect` takes json_schema, tools and thinking only ({error.errors()[0]['msg']})"
            ) from error
    thinks = bool(messages and messages[-1].reasoning_content and not messages[-1].tool_calls)
    return THINKING if thinks else NOTHING


def _content_fault(row: Conversation) -> tuple[FaultKind, str] | None:
    """What keeps a row from being learned, the gravest first; turns are counted from 1."""
    if row.is_plain:
        return None if row.completion.strip() else ("empty_answer", "the completion is empty")
    if row.messages[-1].role != "assistant":
        return (
            "missing_assistant_turn",
            f"the conversation ends with a {row.messages[-1].role} turn, not with an answer",
        )
    for number, turn in enumerate(row.messages, 1):
        if turn.role == "assistant" and not turn.content.strip() and not turn.tool_calls:
            return "empty_answer", f"turn {number} (assistant) is empty"
    problem = _order_problem([turn.role for turn in row.messages])
    return ("role_order", problem) if problem else None


def _order_problem(roles: Sequence[str]) -> str | None:
    if "system" in roles[1:]:
        return f"turn {roles.index('system', 1) + 1} is a system turn; only the first one can be"
    start = 1 if roles[0] == "system" else 0
    if roles[start] != "user":
        return f"the conversation begins with the {roles[start]}, not with the user"
    for number, (role, following) in enumerate(pairwise(roles), 1):
        if role == following and role != "tool":
            return f"turns {number} and {number + 1} are both from the {role}"
        if following == "tool" and role not in ("assistant", "tool"):
            return f"turn {number + 1} is a tool turn without an assistant turn before it"
    return None
