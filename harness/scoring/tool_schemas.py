"""Function schemas as datasets write them: names, parameters, types."""

import ast
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from harness.scoring.json_form import strict_json
from harness.scoring.measurement import ToolCall
from harness.scoring.schemas import schema_errors, usable_schema

# Python's parser takes megabytes for every nested level, and no argument is longer.
MAX_LITERAL = 20_000
MISSING, UNEXPECTED, WRONG_TYPE, WRONG_VALUE = (
    "tool_argument_missing", "tool_argument_unexpected", "tool_argument_type", "tool_argument_value",
)  # fmt: skip
FAILURE_OF_KEYWORD = {
    "required": MISSING,
    "dependentRequired": MISSING,
    "additionalProperties": UNEXPECTED,
    "unevaluatedProperties": UNEXPECTED,
    **dict.fromkeys(
        ("enum", "const", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "pattern",
         "minLength", "maxLength", "minItems", "maxItems", "uniqueItems", "minProperties", "maxProperties"),
        WRONG_VALUE,
    ),
}  # fmt: skip
"""Keyword of JSON Schema that arguments break -> failure; any other keyword is about types."""


def tool_name(tool: Mapping[str, Any]) -> str:
    """The name of a function schema, OpenAI's or a bare one."""
    return str(tool.get("function", tool).get("name", ""))


def parameters_of(tool: Mapping[str, Any]) -> dict[str, Any]:
    """JSON Schema of a function's arguments; parameters that it doesn't name are not allowed unless it says so.

    Datasets also write the parameters without `properties` around them, and `required` beside `parameters`.
    """
    function = tool.get("function", tool)
    stated = function.get("parameters") or {}
    if not isinstance(stated, Mapping):
        return {}
    if stated and "properties" not in stated and all(isinstance(value, Mapping) for value in stated.values()):
        stated = {"properties": stated}
    schema = dict(stated)
    schema.setdefault("required", function.get("required", []))
    says_what_else = "additionalProperties" in schema or "patternProperties" in schema
    if isinstance(schema.get("properties"), Mapping) and not says_what_else:
        schema["additionalProperties"] = False
    usable: dict[str, Any] = usable_schema({**schema, "type": "object"})
    return usable


def call_failure(call: ToolCall, tools: Sequence[Mapping[str, Any]]) -> str:
    """Whether a call names one of the tools and gives it the arguments that it takes."""
    schemas = {tool_name(tool): tool for tool in tools}
    if call.name not in schemas:
        return "tool_unknown"
    errors = schema_errors(call.arguments, parameters_of(schemas[call.name]))
    found = {FAILURE_OF_KEYWORD.get(keyword, WRONG_TYPE) for keyword in errors or ()}
    return next((failure for failure in (MISSING, UNEXPECTED, WRONG_TYPE, WRONG_VALUE) if failure in found), "")


def types_of(parameter: object) -> tuple[str, ...]:
    """The JSON types that a parameter's schema allows; empty where it names none."""
    if not isinstance(parameter, Mapping):
        return ()
    stated = parameter.get("type", ())
    types = (stated,) if isinstance(stated, str) else tuple(stated)
    for key in ("anyOf", "oneOf"):
        types += tuple(name for one in parameter.get(key) or () for name in types_of(one))
    return tuple(dict.fromkeys(types))


def cast(text: str, parameter: object) -> Any:
    """An argument that a template writes as bare text, as the value that its type makes of it.

    Text that is no value of the type stays text, so that it counts as one of the wrong type.
    """
    types = types_of(parameter)
    if "string" in types:
        return None if "null" in types and text.strip() in ("null", "None") else text
    try:
        return strict_json(text)
    except ValueError:
        pass
    # Some templates write Python's True, None and single quotes.
    return literal(text) if types else text


def literal(text: str) -> Any:
    """The Python literal in a text; the text itself where it is none."""
    if len(text) > MAX_LITERAL:
        return text
    try:
        with warnings.catch_warnings(action="ignore"):
            return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text
