"""Verdicts on tool calls by the rules of the Berkeley Function-Calling Leaderboard, for Python functions.

The rules, their order and the names of the errors are those of `bfcl_eval/eval_checker/ast_eval/ast_checker.py` in
https://github.com/ShishirPatil/gorilla (commit a6da28eeae63c47551517f6c4cd6381292adf6ee), oddities included: nested
types are checked one level deep, strings are compared without blanks, case and some punctuation, and an empty string
among the possible answers marks an argument that may be left out.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from harness.scoring.measurement import ToolCall
from harness.scoring.schemas import TYPE_NAMES
from harness.scoring.tool_schemas import parameters_of, tool_name

PossibleAnswer = Mapping[str, Mapping[str, Sequence[Any]]]
"""Name of a function -> its argument -> the values that are right."""
PYTHON_TYPES = {"string": str, "integer": int, "number": float, "boolean": bool, "array": list, "object": dict}
IGNORED_CHARACTERS = re.compile(r"[ ,./\-_*^]")
FAILURE_OF_ERROR = {
    **dict.fromkeys(
        (f"{checker}:wrong_count" for checker in
         ("simple_function_checker", "multiple_function_checker", "parallel_function_checker_no_order")),
        "tool_call_wrong_count",
    ),
    "simple_function_checker:wrong_func_name": "tool_wrong",
    "simple_function_checker:missing_required": "tool_argument_missing",
    "simple_function_checker:missing_optional": "tool_argument_missing",
    "simple_function_checker:unexpected_param": "tool_argument_unexpected",
    "type_error:simple": "tool_argument_type",
    "type_error:nested": "tool_argument_type",
    **dict.fromkeys(
        ("value_error:string", "value_error:list/tuple", "value_error:dict_key", "value_error:dict_value",
         "value_error:list_dict_count", "value_error:others", "dict_checker:unclear", "list_dict_checker:unclear"),
        "tool_argument_value",
    ),
    "parallel_function_checker_no_order:cannot_find_match": "tool_call_unmatched",
}  # fmt: skip
"""BFCL's error type -> failure."""


class _Parameter(NamedTuple):
    """What BFCL looks at in an argument's schema."""

    expected: type
    nested: type | None
    """Of the items of a list."""


def bfcl_verdict(
    calls: Sequence[ToolCall], functions: Sequence[Mapping[str, Any]], possible_answers: Sequence[PossibleAnswer]
) -> str:
    """BFCL's error type for the calls of an answer; "" where it calls them right.

    Args:
        calls: what was called.
        functions: the schemas, OpenAI's or BFCL's own.
        possible_answers: one for every call that is wanted. Several are BFCL's category parallel, where the order
            doesn't matter; one among several functions is multiple; one alone is simple.
    """
    if len(calls) != len(possible_answers):
        checker = "parallel_function_checker_no_order" if len(possible_answers) > 1 else (
            "multiple_function_checker" if len(functions) > 1 else "simple_function_checker")  # fmt: skip
        return f"{checker}:wrong_count"
    known = {tool_name(function): function for function in functions}
    if len(possible_answers) == 1:
        return _call_error(calls[0], known, possible_answers[0])
    left = list(calls)
    for possible in possible_answers:
        match = next((place for place, call in enumerate(left) if not _call_error(call, known, possible)), None)
        if match is None:
            return "parallel_function_checker_no_order:cannot_find_match"
        del left[match]
    return ""


def possible_answers_of(calls: Sequence[ToolCall], functions: Sequence[Mapping[str, Any]]) -> list[PossibleAnswer]:
    """The possible answers that reference calls stand for: their own values, and no or the default value for the rest."""
    known = {tool_name(function): parameters_of(function).get("properties") or {} for function in functions}
    answers: list[PossibleAnswer] = []
    for call in calls:
        schemas = known.get(call.name, {})
        defaults = {
            name: [_possible(schema["default"], schema), ""]
            for name, schema in schemas.items()
            if isinstance(schema, Mapping) and "default" in schema
        }
        given = {name: [_possible(value, schemas.get(name))] for name, value in call.arguments.items()}
        answers.append({call.name: defaults | given})
    return answers


def _possible(value: Any, schema: Any) -> Any:
    """A value as BFCL's answers have it: every value inside an object is a list of right ones."""
    expected, nested = _parameter(schema)
    if expected is dict and isinstance(value, Mapping):
        return {key: [one] for key, one in value.items()}
    if expected is list and nested is dict and isinstance(value, list):
        return [{key: [one] for key, one in item.items()} if isinstance(item, Mapping) else item for item in value]
    return value


def _call_error(call: ToolCall, known: Mapping[str, Mapping[str, Any]], possible_answer: PossibleAnswer) -> str:
    name, possible = next(iter(possible_answer.items()))
    if call.name != name or name not in known:
        return "simple_function_checker:wrong_func_name"
    schema = parameters_of(known[name])
    # A function of which only the name is known takes what the reference gives it.
    properties = schema.get("properties", {name: {} for name in possible})
    if any(required not in call.arguments for required in schema.get("required", ())):
        return "simple_function_checker:missing_required"
    for argument, value in call.arguments.items():
        if argument not in properties or argument not in possible:
            return "simple_function_checker:unexpected_param"
        if error := _argument_error(value, _parameter(properties[argument]), possible[argument]):
            return error
    is_missing = any(argument not in call.arguments and "" not in values for argument, values in possible.items())
    return "simple_function_checker:missing_optional" if is_missing else ""


def _parameter(schema: Any) -> _Parameter:
    expected = _type_of(schema)
    has_items = expected is list and isinstance(schema.get("items"), Mapping)
    return _Parameter(expected, _type_of(schema["items"]) if has_items else None)


def _type_of(schema: Any) -> type:
    """The Python type that a schema names; text where it names none, as BFCL takes `any`."""
    stated = schema.get("type") if isinstance(schema, Mapping) else None
    names = [stated] if isinstance(stated, str) else list(stated or ())
    known = [TYPE_NAMES[name] for name in names if name in TYPE_NAMES and TYPE_NAMES[name] != "null"]
    return PYTHON_TYPES[known[0]] if known else str


def _argument_error(value: Any, parameter: _Parameter, possible: Sequence[Any]) -> str:
    expected, nested = parameter
    if expected is float and type(value) is int:
        value = float(value)
    error, is_variable = _type_error(value, possible, expected, nested)
    if error:
        return error
    if is_variable or expected not in (dict, list, str):
        return "" if value in possible else "value_error:others"
    if expected is dict:
        return _object_error(value, possible)
    if expected is str:
        right = [_standard(one) for one in possible if isinstance(one, str)]
        return "" if _standard(value) in right else "value_error:string"
    if nested is dict:
        return _objects_error(value, possible)
    right_lists = [[_standard(item) for item in one] for one in possible]
    return "" if [_standard(item) for item in value] in right_lists else "value_error:list/tuple"


def _type_error(value: Any, possible: Sequence[Any], expected: type, nested: type | None) -> tuple[str, bool]:
    """The error of a value's type, and whether it stands for a variable: a value of the type that the answers have."""
    answered = next((type(one) for one in possible if one != ""), None)
    if type(value) is expected:
        is_variable = answered is not None and answered is not expected
        if nested is None or any(_fits(value, one, nested) for one in possible):
            return "", is_variable
    if answered is not None and type(value) is answered:
        return ("type_error:nested" if type(value) is expected else ""), True
    return "type_error:simple", False


def _fits(items: Any, possible: Any, nested: type) -> bool:
    """Whether all items of a list have the type that its items should have, or that of the items of a right list."""
    return not isinstance(possible, list) or not any(_type_error(item, possible, nested, None)[0] for item in items)


def _standard(value: Any) -> Any:
    """A string without what writers differ in; anything else as it is."""
    return IGNORED_CHARACTERS.sub("", value).lower().replace("'", '"') if isinstance(value, str) else value


def _object_error(value: Any, possible: Sequence[Any]) -> str:
    error = "dict_checker:unclear"
    for answer in possible:
        if not isinstance(answer, Mapping) or not isinstance(value, Mapping):
            continue
        error = _keys_error(value, answer)
        if not error:
            return ""
    return error


def _keys_error(value: Mapping[str, Any], answer: Mapping[str, Sequence[Any]]) -> str:
    error = ""
    for key, given in value.items():
        if key not in answer:
            error = "value_error:dict_key"
        elif _standard(given) not in [_standard(one) for one in answer[key]]:
            error = "value_error:dict_value"
        if error:
            break
    is_missing = any(key not in value and "" not in values for key, values in answer.items())
    return "value_error:dict_key" if is_missing else error


def _objects_error(value: Sequence[Any], possible: Sequence[Any]) -> str:
    error = "list_dict_checker:unclear"
    for answer in possible:
        if len(value) != len(answer):
            error = "value_error:list_dict_count"
            continue
        errors = (_object_error(item, [right]) for item, right in zip(value, answer, strict=True))
        error = next((one for one in errors if one), "")
        if not error:
            return ""
    return error
