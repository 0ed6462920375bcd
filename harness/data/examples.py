"""Rows of a file as evaluation examples: a prompt, its reference, and what else a scorer may need."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from harness.data.formats import convert
from harness.data.sources import Row, load_rows
from harness.errors import DataError
from harness.eval_config import SourceConfig
from harness.records import Example, Expectation

PROMPTS = ("prompt", "question", "instruction", "text", "query")
REFERENCES = ("reference", "answer", "target", "completion", "output", "response", "canonical_solution")
IDS = ("id", "task_id", "key")
SLICES = ("slices", "kind", "category")
CLUSTERS = ("cluster", "group")


def load_examples(source: SourceConfig) -> list[Example]:
    """Every row of a source as an example, with the id of its `id` column or else its number.

    Columns: `prompt` (or `question`, `instruction` with `input`) or `messages`; `reference` (or `answer`, `target`,
    `completion`...), or else the conversation's last turn; and where a scorer needs them `choices` (with the right one,
    its number or its letter as `answer`), `tests` (or HumanEval's `test` and `entry_point`, MBPP's `test_list`),
    `json_schema`, `tools`, `slices`, `cluster`, and IFEval's `instruction_id_list` with `kwargs`.

    Raises: DataError: a row has no prompt, or no reference and nothing else to score it by.
    """
    return [_example(row, number) for number, row in enumerate(load_rows(source))]


def _example(row: Row, number: int) -> Example:
    content, named = row.content, _first(row.content, IDS)
    try:
        shared = {
            "id": str(named if named is not None else number),
            "choices": tuple(str(choice) for choice in _choices(content)),
            "tests": _tests(content),
            "instructions": _instructions(content),
        }
        prompt = _prompt(content)
        if prompt is None or (_first(content, REFERENCES) is None and not _is_scored_otherwise(content)):
            example = _conversation(row)
            return example.model_copy(update={**shared, "slices": example.slices or _slices(content)})
        return Example(
            text=prompt,
            reference=_reference(content, row.where),
            slices=_slices(content),
            cluster=str(_first(content, CLUSTERS) or ""),
            expect=_expectation(content),
            **shared,
        )
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
    given = content.get("input")
    return f"{prompt}\n\n{given}" if isinstance(given, str) and given and "instruction" in content else prompt


def _is_scored_otherwise(content: Mapping[str, Any]) -> bool:
    return bool(_tests(content) or content.get("instruction_id_list") or content.get("json_schema"))


def _reference(content: Mapping[str, Any], where: str) -> str:
    """The right answer as text; among choices it may be given by its number, from 0, or by its letter."""
    reference, choices = _first(content, REFERENCES), _choices(content)
    if not choices:
        return reference if isinstance(reference, str) else "" if reference is None else str(reference)
    if isinstance(reference, int) and 0 <= reference < len(choices):
        return str(choices[reference])
    if isinstance(reference, str) and reference not in choices and len(reference.strip()) == 1:
        place = ord(reference.strip().upper()) - ord("A")
        if 0 <= place < len(choices):
            return str(choices[place])
    if reference not in choices:
        raise DataError(
            f"{where}: the answer {reference!r} is none of the choices; give the choice, its number from 0 or its letter"
        )
    return str(reference)


def _choices(content: Mapping[str, Any]) -> list[Any]:
    """A list, or as in ARC and MMLU a mapping with the list in `text`."""
    choices = content.get("choices") or content.get("options") or []
    if isinstance(choices, Mapping):
        choices = choices.get("text", [])
    return list(choices) if isinstance(choices, list | tuple) else []


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


def _expectation(content: Mapping[str, Any]) -> Expectation:
    tools = content.get("tools")
    return Expectation(json_schema=content.get("json_schema"), tools=tuple(tools) if isinstance(tools, list) else ())


def _conversation(row: Row) -> Example:
    """Any format that can be trained on: its last answer, or the row's reference, is what is compared with."""
    turns, reference = row.content.get("messages"), _first(row.content, REFERENCES)
    if isinstance(turns, list) and isinstance(reference, str):
        row = row._replace(content={**row.content, "messages": [*turns, {"role": "assistant", "content": reference}]})
    converted = convert([row])
    if converted.faults:
        raise DataError(f"{row.where}: {converted.faults[0].message}")
    return converted.rows[0].example()
