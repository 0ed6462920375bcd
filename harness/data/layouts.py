"""The columns of a row, in each known format, as turns or as plain text."""

from collections.abc import Callable, Mapping
from string import Formatter
from typing import Any, Literal, NamedTuple

from harness.data.turns import as_messages, parsed
from harness.errors import DataError
from harness.records import Message

Format = Literal["messages", "prompt_completion", "sharegpt", "alpaca", "question_answer", "text"]
Columns = Mapping[str, Any]

TURN_COLUMNS = ("messages", "conversations", "conversation", "dialog")
QUESTION_COLUMNS = ("question", "query")
ANSWER_COLUMNS = ("answer", "answers", "response")
INPUT_COLUMNS = ("input", "context")
OUTPUT_COLUMNS = ("output", "response")


class Body(NamedTuple):
    """What a row trains on: turns, or a plain prompt with its completion."""

    messages: tuple[Message, ...] = ()
    prompt: str = ""
    completion: str = ""


class TextTemplate(NamedTuple):
    """A `data.text`: literal text around columns, of which the last one is the answer."""

    pieces: tuple[tuple[str, str], ...]
    """Literal text and the column after it."""
    tail: str
    """Literal text after the last column."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it names."""
        return tuple(column for _, column in self.pieces)


def format_of(columns: Columns) -> Format | None:
    """The format that has these columns, if any.

    Raises: DataError: a list of turns is text, but not valid JSON.
    """
    if column := _turn_column(columns):
        turns = parsed(columns[column], column)
        first = turns[0] if isinstance(turns, list) and turns else None
        return "sharegpt" if isinstance(first, Mapping) and "from" in first else "messages"
    if "prompt" in columns and "completion" in columns:
        return "prompt_completion"
    if "instruction" in columns and (_present(columns, OUTPUT_COLUMNS) or "instances" in columns):
        return "alpaca"
    if _present(columns, QUESTION_COLUMNS) and _present(columns, ANSWER_COLUMNS):
        return "question_answer"
    return "text" if "text" in columns else None


def parse_template(text: str) -> TextTemplate:
    """A `data.text` with its columns told apart.

    Raises: DataError: it isn't literal text around plain column names.
    """
    try:
        parts = list(Formatter().parse(text))
    except ValueError as error:
        raise DataError(f"data.text can't be read ({error}); write a literal brace as {{{{ or }}}}") from error
    pieces: list[tuple[str, str]] = []
    literal = ""
    for before, column, spec, conversion in parts:
        literal += before
        if column is None:
            continue
        if not column or spec or conversion or not set("[].").isdisjoint(column):
            raise DataError(
                f"data.text: a placeholder is the plain name of a column, such as {{question}}, not {{{column}}}"
            )
        pieces.append((literal, column))
        literal = ""
    if not pieces:
        raise DataError("data.text names no column; write its name in braces, such as {answer}")
    return TextTemplate(tuple(pieces), literal)


def from_template(template: TextTemplate, columns: Columns) -> Body:
    """Everything up to the last column as prompt, that column and what follows as completion."""
    values = [_cell(columns, column) for column in template.columns]
    if not values[-1].strip():
        return Body()
    literals = [literal for literal, _ in template.pieces]
    before = "".join(literal + value for literal, value in zip(literals, values[:-1], strict=False)) + literals[-1]
    # Most tokenizers join a space with the word after it: a prompt that ends with one would be other tokens
    # in inference than in training.
    prompt = before.rstrip(" \t")
    return Body(prompt=prompt, completion=before[len(prompt) :] + values[-1] + template.tail)


def _cell(columns: Columns, name: str) -> str:
    if columns.get(name) is None:
        raise DataError(f"the row has no {name}, which data.text names")
    return str(columns[name])


def _present(columns: Columns, names: tuple[str, ...]) -> str | None:
    return next((name for name in names if name in columns), None)


def _turn_column(columns: Columns) -> str | None:
    """The column with turns; one of plain text, such as a dialog to summarize, has none."""
    for name in TURN_COLUMNS:
        value = columns.get(name, "")
        if not isinstance(value, str) or value.lstrip().startswith("["):
            return name
    return None


def _text(columns: Columns, *names: str, is_required: bool = True) -> str:
    """The text in the first of these columns that is there."""
    name = _present(columns, names)
    value = columns[name] if name else None
    if value is None and not is_required:
        return ""
    if name is None:
        raise DataError(f"the row has no {' or '.join(names)}")
    if not isinstance(value, str):
        raise DataError(f"{name} must be text, not {type(value).__name__}")
    return value


def _dialog(columns: Columns, *turns: Message) -> Body:
    """Turns after the one of the column `system`, unless they have a system turn already."""
    system = _text(columns, "system", is_required=False)
    if system.strip() and not any(turn.role == "system" for turn in turns):
        turns = (Message(role="system", content=system), *turns)
    return Body(messages=turns)


def _exchange(question: str, answer: str) -> tuple[Message, Message]:
    return Message(role="user", content=question), Message(role="assistant", content=answer)


def _from_turns(columns: Columns) -> Body:
    name = _turn_column(columns) or _present(columns, TURN_COLUMNS)
    if name is None:
        raise DataError(f"the row has no {' or '.join(TURN_COLUMNS)}")
    return _dialog(columns, *as_messages(columns[name], name))


def _from_prompt(columns: Columns) -> Body:
    """Prompt and completion, each as text or as turns; a `system` column makes turns of both."""
    prompt, completion = columns.get("prompt"), columns.get("completion")
    if isinstance(prompt, list) or isinstance(completion, list) or "system" in columns:
        # As in TRL, only the completion is learned: answers in the prompt are context.
        asked = (turn.model_copy(update={"is_supervised": False}) if turn.role == "assistant" else turn
                 for turn in _side(columns, "prompt", "user"))  # fmt: skip
        return _dialog(columns, *asked, *_side(columns, "completion", "assistant"))
    return Body(prompt=_text(columns, "prompt"), completion=_text(columns, "completion"))


def _side(columns: Columns, name: str, role: str) -> tuple[Message, ...]:
    if isinstance(columns.get(name), list):
        return as_messages(columns[name], name)
    return (Message(role=role, content=_text(columns, name)),)


def _from_alpaca(columns: Columns) -> Body:
    """Alpaca's rows, Dolly's (context and response) and self-instruct's (the first of the instances)."""
    task = columns
    if not _present(columns, OUTPUT_COLUMNS):
        instances = parsed(columns.get("instances"), "instances")
        if not isinstance(instances, list) or not instances or not isinstance(instances[0], Mapping):
            raise DataError("the row has neither an output nor a list of instances with one")
        task = instances[0]
    instruction, given = _text(columns, "instruction"), _text(task, *INPUT_COLUMNS, is_required=False)
    question = f"{instruction}\n{given}" if given else instruction
    return _dialog(columns, *_history(columns), *_exchange(question, _text(task, *OUTPUT_COLUMNS)))


def _history(columns: Columns) -> list[Message]:
    pairs = parsed(columns.get("history"), "history") or []
    turns: list[Message] = []
    for pair in pairs if isinstance(pairs, list) else [pairs]:
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise DataError("history must be a list of pairs of texts, question and answer")
        turns.extend(_exchange(*pair))
    return turns


def _from_question(columns: Columns) -> Body:
    question, context = _text(columns, *QUESTION_COLUMNS), _text(columns, "context", is_required=False)
    answer = {name: _first_answer(columns[name]) for name in ANSWER_COLUMNS if name in columns}
    asked = f"{context}\n\n{question}" if context else question
    return _dialog(columns, *_exchange(asked, _text(answer, *ANSWER_COLUMNS)))


def _first_answer(value: object) -> object:
    """SQuAD gives the texts of several annotators, `{"text": [...]}`, or none for an unanswerable question."""
    value = value["text"] if isinstance(value, Mapping) and "text" in value else value
    return (value[0] if value else "") if isinstance(value, list) else value


def _from_text(columns: Columns) -> Body:
    return Body(completion=_text(columns, "text"))


READERS: Mapping[Format, Callable[[Columns], Body]] = {
    "messages": _from_turns,
    "sharegpt": _from_turns,
    "prompt_completion": _from_prompt,
    "alpaca": _from_alpaca,
    "question_answer": _from_question,
    "text": _from_text,
}
"""Each raises a DataError, one sentence without the row's place, where a row doesn't have its format."""
