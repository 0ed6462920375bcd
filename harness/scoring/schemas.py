"""Whether a value fits a JSON Schema, in bounded time and also for the schemas of real datasets."""

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any

import jsonschema
import regex
from jsonschema.validators import extend, validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable

PATTERN_SECONDS = 0.2
"""A pattern that takes longer is one that backtracks without end, which it does where it doesn't match."""
MAX_ERRORS = 20
MAX_VALUES = 10_000
"""A JSON value with more values in it fits nothing: no answer is that large, and to check it could take a minute."""
TYPE_NAMES = {
    "string": "string", "str": "string", "text": "string",
    "integer": "integer", "int": "integer", "long": "integer",
    "number": "number", "float": "number", "double": "number",
    "boolean": "boolean", "bool": "boolean",
    "array": "array", "list": "array", "tuple": "array",
    "object": "object", "dict": "object", "map": "object",
    "null": "null", "none": "null",
}  # fmt: skip
"""Type in the schemas of real datasets -> type in JSON Schema."""
LIST_OF = re.compile(r"\w{1,20}\[(\w{1,20})\]")
SUBSCHEMAS = ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames", "prefixItems",
              "anyOf", "oneOf", "allOf", "unevaluatedItems")  # fmt: skip
NAMED_SUBSCHEMAS = ("properties", "$defs", "definitions", "dependentSchemas")


class _TooSlowError(Exception):
    """A pattern took too long: the rest isn't looked at, or a list of such strings would take hours."""


def schema_errors(value: object, schema: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Keywords of the schema that the value breaks, such as `required` or `type`; None where the schema can't be used.

    Nothing is fetched: a schema that refers to another address can't be used.
    """
    validator = _validator(json.dumps(schema, sort_keys=True, default=str))
    if validator is None:
        return None
    if _is_too_large(value):
        return ("size",)
    try:
        return tuple(str(error.validator) for error in islice(validator.iter_errors(value), MAX_ERRORS))
    except _TooSlowError:
        return ("pattern",)
    except RecursionError:
        return ("depth",)
    except Unresolvable:
        return None


def _is_too_large(value: object) -> bool:
    waiting, count = [value], 0
    while waiting and count <= MAX_VALUES:
        one = waiting.pop()
        count += 1
        if isinstance(one, Mapping):
            waiting.extend(one.values())
        elif isinstance(one, list):
            waiting.extend(one)
    return count > MAX_VALUES


def usable_schema(schema: Any) -> Any:
    """The schema with the names of types mended, and without what is no schema or can't be checked in bounded time.

    `patternProperties` goes, and with it what depends on it.
    """
    if isinstance(schema, list):
        return [usable_schema(one) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    kept = dict(schema)
    if "patternProperties" in kept:
        for key in ("patternProperties", "additionalProperties", "unevaluatedProperties"):
            kept.pop(key, None)
    stated = kept.pop("type", None)
    if types := _types(stated):
        kept["type"] = types[0] if len(types) == 1 else list(types)
    if isinstance(stated, str) and (found := LIST_OF.match(stated)) and _types(found[1]):
        kept.setdefault("items", {"type": _types(found[1])[0]})
    if not _is_list_of_names(kept.get("required", [])):
        del kept["required"]
    for key in SUBSCHEMAS:
        if key in kept:
            kept[key] = usable_schema(kept[key])
    for key in NAMED_SUBSCHEMAS:
        if isinstance(kept.get(key), Mapping):
            kept[key] = {name: usable_schema(one) for name, one in kept[key].items() if isinstance(one, Mapping | bool)}
    return kept


def _types(stated: object) -> tuple[str, ...]:
    """The types that a schema names, as in `str, optional` and `List[int]`; empty where one of them isn't known."""
    names = stated if isinstance(stated, list) else [stated]
    known = []
    for name in names:
        if not isinstance(name, str):
            return ()
        word, _, further = name.partition(",")
        word = word.partition("[")[0].strip().lower()
        if word not in TYPE_NAMES:
            return ()
        known.append(TYPE_NAMES[word])
        if "optional" in further.lower():
            known.append("null")
    return tuple(dict.fromkeys(known))


def _is_list_of_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


@lru_cache(maxsize=512)
def _validator(text: str) -> Any | None:
    """A validator of the schema in a JSON text; None where it is no schema."""
    try:
        schema = usable_schema(json.loads(text))
        kind = validator_for(schema, default=jsonschema.Draft202012Validator)
        kind.check_schema(schema)
    except (jsonschema.SchemaError, RecursionError, regex.error):
        return None
    bounded: Any = extend(kind, {"pattern": _pattern, "uniqueItems": _unique_items})  # type: ignore[no-untyped-call]
    return bounded(schema, registry=Registry())


def _pattern(validator: Any, pattern: str, value: object, schema: object) -> Any:
    if not isinstance(value, str):
        return
    try:
        matches = regex.search(pattern, value, timeout=PATTERN_SECONDS) is not None
    except TimeoutError as error:
        raise _TooSlowError from error
    except regex.error:
        return
    if not matches:
        yield jsonschema.ValidationError(f"the value does not match {pattern!r}")


def _unique_items(validator: Any, wanted: bool, value: object, schema: object) -> Any:
    """The library compares every pair of items where they can't be sorted."""
    if not wanted or not isinstance(value, Sequence) or isinstance(value, str):
        return
    if len({json.dumps(item, sort_keys=True) for item in value}) < len(value):
        yield jsonschema.ValidationError("the items are not unique")
