"""How much of a JSON answer is right, field by field."""

import json
import re
from collections import Counter
from collections.abc import Hashable, Iterator
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple, NoReturn

from harness.scoring.json_form import DuplicateKeyError, strict_json
from harness.scoring.thinking import answer_in
from harness.scoring.verdict import Verdict

NOTHING = object()
"""What stands where no JSON was found; `null` is JSON."""
BEGINS_WITH_JSON = re.compile(r"(?:```\w*+\s*+)?+[{\[]")
MAX_STARTS = 20
MAX_DEPTH = 100
"""Keys below are not told apart, so that a deep nest doesn't make long paths."""

Path = tuple[str | None, ...]
"""Keys from the root down; None for a place in a list, whichever."""


class Number(NamedTuple):
    """A JSON number by its value: 1.0 is 1, but unlike Python's 1 it isn't true."""

    value: Decimal


class FieldShares(NamedTuple):
    """Shares in [0, 1]."""

    precision: float
    recall: float
    f1: float


def json_valid(answer: str) -> Verdict:
    """1 where the whole answer, thinking left out, is one JSON value with nothing around it, no NaN, and no key twice."""
    try:
        strict_json(answer_in(answer))
    except DuplicateKeyError:
        return Verdict(0.0, "json_duplicate_key")
    except ValueError:
        return Verdict(0.0, "json_invalid")
    return Verdict(1.0)


def json_exact(answer: str, reference: str) -> Verdict:
    """1 where the answer has the same JSON value as the reference, else 0.

    Numbers are compared by value, strings letter by letter, lists in order, keys in any order; a missing key is not null.
    As in the field scores, the last of two equal keys counts, and prose or fences around the JSON don't: see `json_valid`.
    """
    given, wanted = _found(answer), _found(reference)
    if wanted is NOTHING:
        return Verdict(None, "reference_not_json")
    if given is NOTHING:
        return Verdict(0.0, "json_invalid")
    try:
        if given == wanted:
            return Verdict(1.0)
    except RecursionError:
        return Verdict(None, "json_too_deep")
    return Verdict(0.0, _difference(fields(given), fields(wanted)) or "json_differs")


def json_shares(answer: str, reference: str) -> tuple[FieldShares | None, str]:
    """Precision, recall and F1 of the fields of an answer, and the first kind of fault.

    A field is a string, number or boolean with the keys above it. Strings are equal but for case and blanks; a number is
    not a string. Elements of a list count in any order and as often as they occur, so that one missing element doesn't
    shift the rest; which fields of a list of objects belong together isn't looked at (`json_exact` does). Null, "", {}
    and [] say that there is nothing, and so are no fields: a missing key is the same.

    All three are 0 where no field is right, and 1 where there is nothing to find and nothing was found.

    Returns: None where the reference is no JSON.
    """
    wanted = _found(reference)
    if wanted is NOTHING:
        return None, "reference_not_json"
    given = _found(answer)
    if given is NOTHING:
        return FieldShares(0.0, 0.0, 0.0), "json_invalid"
    have, want = fields(given), fields(wanted)
    if not have and not want:
        return FieldShares(1.0, 1.0, 1.0), ""
    right = (have & want).total()
    if not right:
        return FieldShares(0.0, 0.0, 0.0), _difference(have, want)
    precision, recall = right / have.total(), right / want.total()
    return FieldShares(precision, recall, 2 * precision * recall / (precision + recall)), _difference(have, want)


def fields(value: Any) -> Counter[tuple[Path, Hashable]]:
    """How often each field occurs, as its path with its normalized value."""
    return Counter((path, _normalized(leaf)) for path, leaf in _leaves(value) if not _is_nothing(leaf))


def _leaves(value: Any) -> Iterator[tuple[Path, Any]]:
    """Everything that holds nothing else, with its path. Not recursive, because JSON nests deeper than Python's stack."""
    waiting: list[tuple[Path, Any]] = [((), value)]
    while waiting:
        path, item = waiting.pop()
        if isinstance(item, dict) and item:
            waiting.extend(((*path, key)[:MAX_DEPTH], below) for key, below in item.items())
        elif isinstance(item, list) and item:
            waiting.extend(((*path, None)[:MAX_DEPTH], below) for below in item)
        else:
            yield path, item


def _is_nothing(leaf: Any) -> bool:
    return leaf is None or leaf in ({}, []) or (isinstance(leaf, str) and not leaf.strip())


def _normalized(leaf: Any) -> Hashable:
    return " ".join(leaf.casefold().split()) if isinstance(leaf, str) else leaf


def _difference(given: Counter[tuple[Path, Hashable]], wanted: Counter[tuple[Path, Hashable]]) -> str:
    """The gravest kind of fault among the fields, or "" where they are the same."""
    missing, extra = wanted - given, given - wanted
    have, want = {path for path, _ in given}, {path for path, _ in wanted}
    if any(path not in have for path, _ in missing):
        return "missing_field"
    if any(path not in want for path, _ in extra):
        return "extra_field"
    return "wrong_value" if missing or extra else ""


def _found(text: str) -> Any:
    """The JSON value in a text: the whole of it, or the first object or list that prose or fences stand around."""
    text = answer_in(text)
    value = _loads(text)
    # Where JSON is what the answer begins with, broken JSON has no better one inside.
    num_starts = 1 if BEGINS_WITH_JSON.match(text) else MAX_STARTS
    start = -1
    while value is NOTHING and num_starts:
        starts = [place for bracket in "{[" if (place := text.find(bracket, start + 1)) >= 0]
        if not starts:
            break
        start, num_starts = min(starts), num_starts - 1
        value = _loads(text[start:], is_whole=False)
    return value


def _loads(text: str, *, is_whole: bool = True) -> Any:
    """The JSON value of a text, or the one that it begins with; NOTHING where it isn't JSON or nests too deep."""
    decoder = json.JSONDecoder(parse_float=_number, parse_int=_number, parse_constant=_refuse)
    try:
        return decoder.decode(text) if is_whole else decoder.raw_decode(text)[0]
    except (ValueError, RecursionError, InvalidOperation):
        return NOTHING


def _number(text: str) -> Number:
    return Number(Decimal(text))


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")
