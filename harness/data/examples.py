"""Rows of a file as evaluation examples: a prompt, its reference, and what else a scorer may need."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

from pydantic import ValidationError

from harness.data.formats import convert
from harness.data.layouts import TURN_COLUMNS
from harness.data.sources import Row, load_rows
from harness.data.turns import ROLES, parsed
from harness.errors import DataError
from harness.eval_config import SourceConfig
from harness.records import Example, Expectation

PROMPTS = ("prompt", "question", "instruction", "text", "query")
REFERENCES = ("reference", "answer", "target", "completion", "output", "response", "canonical_solution", "answerKey")
IDS = ("id", "task_id", "key")
SLICES = ("slices", "kind", "category")
CLUSTERS = ("cluster", "group")
# Stands where a conversation needs an answer and its row has none, because it is scored otherwise.
NO_ANSWER = {"role": "assistant", "content": "-"}


class _Choices(NamedTuple):
    values: tuple[Any, ...] = ()
    labels: tuple[str, ...] = ()
    """As in ARC, one for each; mostly there are none."""


def load_examples(source: SourceConfig) -> list[Example]:
    """Every row of a source as an example, with the id of its `id` column or else its number.

    Columns: `prompt` (or `question`, `instruction` with `input`) or `messages`; `reference` (or `answer`, `target`,
    `completion`...), or else the conversation's last turn; and where a scorer needs them `choices` (with the right one,
    its label, its number from 0 or its letter as `answer`), `tests` (or HumanEval's `test` and `entry_point`, MBPP's `test_list`),
    `json_schema`, `tools`, `slices`, `cluster`, and IFEval's `instruction_id_list` with `kwargs`.

    Raises: DataError: a row has no prompt, or no reference and nothing else to score it by.
    """
    return [_example(row, number) for number, row in enumerate(load_rows(source))]


def _example(row: Row, number: int) -> Example:
    content, named = row.content, _first(row.content, IDS)
    try:
        choices = _choices(content)
        prompt = _prompt(content)
        if prompt is None or (_first(content, REFERENCES) is None and not _is_scored_otherwise(content)):
            example = _conversation(row)
        else:
            stated, expect = _stated_reference(content), _expectation(content)
            example = Example(id="", text=prompt, reference=stated, slices=_slices(content), expect=expect)
        return example.model_copy(
            update={
                "id": str(named if named is not None else number),
                "reference": _right_choice(content, example.reference, choices)
                if choices.values
                else example.reference,
                "slices": example.slices or _slices(content),
                "cluster": _cluster(content) or example.cluster,
                "choices": tuple(_written(choice) for choice in choices.values),
                "tests": _tests(content),
                "instructions": _instructions(content),
            }
        )
    except DataError as error:
        raise DataError(f"{row.where}: {str(error).removeprefix(f'{row.where}: ')}") from error
    except (ValidationError, TypeError, ValueError) as error:
        raise DataError(
            f"{row.where}: the row can't be asked ({str(error).splitlines()[0]}); mend or delete it"
        ) from error


def _first(content: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((content[name] for name in names if content.get(name) is not None), None)


def _prompt(content: Mapping[str, Any]) -> str | None:
    prompt = _first(content, PROMPTS)
    if not isinstance(prompt, str) or "messages" in content or "conversations" in content:
        return None
    given, is_instruction = content.get("input"), prompt == content.get("instruction")
    return f"{prompt}\n\n{given}" if isinstance(given, str) and given and is_instruction else prompt


def _is_scored_otherwise(content: Mapping[str, Any]) -> bool:
    return bool(_tests(content) or content.get("instruction_id_list") or content.get("json_schema"))


def _stated_reference(content: Mapping[str, Any]) -> str:
    """The row's reference as text, JSON where it is more than text or a number; empty where there is none."""
    stated = _first(content, REFERENCES)
    if isinstance(stated, list | tuple) and not content.get("json_schema"):
        raise DataError(
            "the reference is a list, but a row has one reference; give one of them, or json_schema where the answer is a list"
        )
    return "" if stated is None else _written(stated)


def _written(value: object) -> str:
    is_json = isinstance(value, bool | dict | list | tuple)
    return json.dumps(value, ensure_ascii=False, default=str) if is_json else str(value)


def _right_choice(content: Mapping[str, Any], reference: str, choices: _Choices) -> str:
    """The choice that the row's answer means: its label, the choice itself, its number from 0 or its letter."""
    stated = _first(content, REFERENCES)
    # A blank cell of a table states nothing; the last turn may.
    if stated == "" or not isinstance(stated, str | int | float):
        stated = reference
    place = _place(stated, choices)
    if place is None:
        raise DataError(
            f"the answer {stated!r} is none of the choices; give the choice, its number from 0 or its letter"
        )
    return _written(choices.values[place])


def _place(stated: str | float, choices: _Choices) -> int | None:
    """Where the right choice stands among them; None where that isn't clear."""
    values, labels = choices
    if str(stated).strip().upper() in labels:
        return labels.index(str(stated).strip().upper())
    for place, value in enumerate(values):
        # True equals 1, but is another answer.
        if _written(value) == stated or (value == stated and isinstance(value, bool) == isinstance(stated, bool)):
            return place
    number = _number(stated.strip(), values) if isinstance(stated, str) else stated
    is_place = isinstance(number, int) and not isinstance(number, bool) and 0 <= number < len(values)
    return cast(int, number) if is_place else None


def _number(stated: str, values: tuple[Any, ...]) -> int | None:
    """The number that a letter or, where no choice is a number itself, digits stand for."""
    if len(stated) == 1 and stated.isascii() and stated.isalpha():
        return ord(stated.upper()) - ord("A")
    is_number = stated.isascii() and stated.isdecimal() and not any(_is_numeral(value) for value in values)
    return int(stated) if is_number else None


def _is_numeral(value: object) -> bool:
    try:
        float(_written(value))
    except ValueError:
        return False
    return True


def _choices(content: Mapping[str, Any]) -> _Choices:
    """A list, or as in ARC a mapping with the list in `text` and the names of its items in `label`; tables hold JSON."""
    given = content.get("choices") or content.get("options") or []
    if isinstance(given, str) and given.lstrip()[:1] in ("[", "{"):
        given = parsed(given, "choices")
    labels: object = ()
    if isinstance(given, Mapping):
        given, labels = given.get("text", []), given.get("label", [])
    if not isinstance(given, list | tuple):
        return _Choices()
    if not isinstance(labels, list | tuple) or len(labels) != len(given):
        labels = ()
    return _Choices(tuple(given), tuple(str(label).strip().upper() for label in labels))


def _tests(content: Mapping[str, Any]) -> str:
    if isinstance(content.get("tests"), str):
        return str(content["tests"])
    if isinstance(content.get("test"), str) and isinstance(content.get("entry_point"), str):
        return f"{content['test']}\n\ncheck({content['entry_point']})"
    listed = content.get("tests", content.get("test_list"))
    return "\n".join(str(line) for line in listed) if isinstance(listed, list) else ""


def _instructions(content: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    names, options = content.get("instruction_id_list"), content.get("kwargs")
    if not isinstance(names, list):
        return ()
    given = options if isinstance(options, list) else [{}] * len(names)
    return tuple({"id": name, **(option or {})} for name, option in zip(names, given, strict=True))


def _slices(content: Mapping[str, Any]) -> tuple[str, ...]:
    found = _first(content, SLICES)
    values = found if isinstance(found, list | tuple) else [found] if found is not None else []
    return tuple(str(value) for value in values)


def _cluster(content: Mapping[str, Any]) -> str:
    found = _first(content, CLUSTERS)
    return "" if found is None else str(found)


def _expectation(content: Mapping[str, Any]) -> Expectation:
    tools = content.get("tools")
    return Expectation(json_schema=_schema(content), tools=tuple(tools) if isinstance(tools, list) else ())


def _schema(content: Mapping[str, Any]) -> Any:
    return parsed(content.get("json_schema"), "json_schema")


def _conversation(row: Row) -> Example:
    """Any format that can be trained on: the row's reference, or else its last answer, is what is compared with."""
    row, has_answer = _completed(row)
    converted = convert([row])
    if converted.faults:
        raise DataError(converted.faults[0].message)
    example = converted.rows[0].example()
    schema = _schema(row.content)
    form = example.expect.model_dump() | ({} if schema is None else {"json_schema": schema})
    reference = example.reference if has_answer else ""
    return example.model_copy(update={"expect": Expectation(**form), "reference": reference})


def _completed(row: Row) -> tuple[Row, bool]:
    """The row with its reference as the last turn of its turns, and whether it has an answer at all."""
    column = next((name for name in TURN_COLUMNS if _holds_turns(row.content.get(name))), None)
    turns = parsed(row.content[column], column) if column is not None else None
    if column is None or not isinstance(turns, list) or not turns:
        return row, True
    stated, is_answered = _stated_reference(row.content), _is_answer(turns[-1])
    if not stated and (is_answered or not _is_scored_otherwise(row.content)):
        return row, True
    answer = {"role": "assistant", "content": stated} if stated else NO_ANSWER
    asked = turns[:-1] if is_answered else turns
    return row._replace(content={**row.content, column: [*asked, answer]}), bool(stated)


def _holds_turns(value: object) -> bool:
    return isinstance(value, list) or (isinstance(value, str) and value.lstrip().startswith("["))


def _is_answer(turn: object) -> bool:
    stated = turn.get("role", turn.get("from")) if isinstance(turn, Mapping) else None
    return isinstance(stated, str) and ROLES.get(stated) == "assistant"
