"""Whether an answer is the JSON that was asked for: strictly, and with what stands around it taken away."""

import json
import re
from collections.abc import Mapping
from typing import Any

from harness.scoring.schemas import schema_errors

LANGUAGE = re.compile(r"```[\w-]*+\s*+")
BEGINS_VALUE = re.compile(r"\{\s*+\"|\[\s*+[\[{\"]")
# Each place where a value might begin can cost a walk to the end of the text.
MAX_PLACES = 50


class DuplicateKeyError(ValueError):
    """An object names a key twice."""


def strict_json(text: str) -> Any:
    """The one JSON value that a text is, as RFC 8259 has it: no NaN, no key twice.

    Raises: ValueError: it is none; DuplicateKeyError where that alone is wrong.
    """
    repeated: list[str] = []

    def checked(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) < len(pairs):
            repeated.append(next(iter(value)))
        return value

    try:
        value = json.loads(text, parse_constant=_no_constant, object_pairs_hook=checked)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if repeated:
        raise DuplicateKeyError(repeated[0])
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def json_failure(text: str, schema: Mapping[str, Any]) -> str:
    """Strict: the whole answer is one JSON value that fits the schema, with no prose or fences around it."""
    try:
        value = strict_json(text)
    except DuplicateKeyError:
        return "json_duplicate_key"
    except ValueError:
        return _surroundings(text)
    return _misfit(value, schema)


def loose_json_failure(text: str, schema: Mapping[str, Any]) -> str:
    """Loose: the JSON value that an answer is or holds, without fences and prose around it, fits the schema."""
    try:
        value = json.loads(_unfenced(text), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        found = _longest_value(text)
        if found is None:
            return "json_invalid"
        value = found
    return _misfit(value, schema)


def is_json_object(text: str) -> bool:
    """Whether a text is a JSON object, or a list of them: something that only a prompt that asks for JSON is answered with."""
    if not text.lstrip().startswith(("{", "[")):
        return False
    try:
        value = strict_json(text)
    except ValueError:
        return False
    return isinstance(value, dict) or (isinstance(value, list) and bool(value) and isinstance(value[0], dict))


def _misfit(value: object, schema: Mapping[str, Any]) -> str:
    # A schema that can't be used asks for nothing but JSON.
    return "json_schema_mismatch" if schema and schema_errors(value, schema) else ""


def _surroundings(text: str) -> str:
    """What keeps a text from being JSON: a fence around it, prose around it, or its own form."""
    unfenced = _unfenced(text)
    if unfenced != text.strip():
        try:
            json.loads(unfenced, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            pass
        else:
            return "json_fenced"
    return "json_invalid" if _longest_value(text) is None else "json_prose"


def _unfenced(text: str) -> str:
    """What stands inside the code fence that a text is; the text itself where it is none."""
    text = text.strip()
    first, _, rest = text.partition("\n")
    if not first.startswith("```") or not rest.endswith("```") or not LANGUAGE.fullmatch(first):
        return text
    return rest.removesuffix("```").strip()


def _longest_value(text: str) -> Any:
    """The longest JSON object or list inside a text; None where there is none."""
    decoder = json.JSONDecoder(parse_constant=_no_constant)
    best, length, position = None, 0, 0
    for _ in range(MAX_PLACES):
        places = [place for sign in "{[" if (place := text.find(sign, position)) >= 0]
        if not places:
            break
        start = min(places)
        try:
            value, stop = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            if BEGINS_VALUE.match(text, start):
                break  # what follows is part of a value that is broken or cut
            position = start + 1
            continue
        if stop - start > length:
            best, length = value, stop - start
        position = stop
    return best
