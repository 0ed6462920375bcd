"""JSON answers, field by field."""

import pytest

from harness.scoring.fields import json_exact, json_shares, json_valid


@pytest.mark.parametrize(
    ("answer", "value", "failure"),
    [
        ('{"a": 1}', 1, ""),
        ("<think>{</think>\n[1, 2]", 1, ""),
        ("null", 1, ""),
        ('Sure: {"a": 1}', 0, "json_invalid"),
        ('```json\n{"a": 1}\n```', 0, "json_invalid"),
        ('{"a": NaN}', 0, "json_invalid"),
        ('{"a": 1, "a": 2}', 0, "json_duplicate_key"),
        ('{"a": "\n"}', 0, "json_invalid"),
        ("", 0, "json_invalid"),
        ("[" * 100_000, 0, "json_invalid"),
    ],
)
def test_json_valid(answer: str, value: float, failure: str) -> None:
    assert json_valid(answer) == (value, failure)


@pytest.mark.parametrize(
    ("answer", "reference", "value", "failure"),
    [
        ('{"b": [1, 2], "a": 1.0}', '{"a": 1, "b": [1, 2]}', 1, ""),
        ('Here:\n```json\n{"a": 1}\n```', '{"a": 1}', 1, ""),
        ('{"a": true}', '{"a": 1}', 0, "wrong_value"),
        ('{"a": "1"}', '{"a": 1}', 0, "wrong_value"),
        ('{"a": "x"}', '{"a": "X"}', 0, "json_differs"),
        ('{"a": [2, 1]}', '{"a": [1, 2]}', 0, "json_differs"),
        ("{}", '{"a": null}', 0, "json_differs"),
        ("{}", '{"a": 1}', 0, "missing_field"),
        ('{"a": 1, "b": 2}', '{"a": 1}', 0, "extra_field"),
        ("none", '{"a": 1}', 0, "json_invalid"),
        ('{"a": 1} as in [1]', '{"a": 1}', 1, ""),
        ('As [he] says: {"a": 1}', '{"a": 1}', 1, ""),
        ('{"x": {"a": 1}, "y": ', '{"a": 1}', 0, "json_invalid"),
        ('```json\n{"x": {"a": 1}, "y": ', '{"a": 1}', 0, "json_invalid"),
        ('{"a": 1}', "prose", None, "reference_not_json"),
        ("1e400", "1e400", 1, ""),
    ],
)
def test_json_exact(answer: str, reference: str, value: float | None, failure: str) -> None:
    assert json_exact(answer, reference) == (value, failure)


REFERENCE = '{"who": {"name": "Ann Lee", "age": 30}, "tags": ["a", "b", "b"], "place": null, "note": ""}'


@pytest.mark.parametrize(
    ("answer", "precision", "recall", "failure"),
    [
        (REFERENCE, 1, 1, ""),
        ('{"tags": ["b", "a", "b"], "who": {"age": 30.0, "name": " ann  LEE"}}', 1, 1, ""),
        ('{"who": {"name": "Ann Lee"}}', 1, 1 / 5, "missing_field"),
        ('{"who": {"name": "Bob", "age": 30}, "tags": ["a", "b", "b"]}', 4 / 5, 4 / 5, "wrong_value"),
        ('{"who": {"name": "Ann Lee", "age": 30}, "tags": ["a", "b"]}', 1, 4 / 5, "wrong_value"),
        ('{"who": {"name": "Ann Lee", "age": 30}, "tags": ["a", "b", "b", "c"]}', 5 / 6, 1, "wrong_value"),
        ('{"who": {"name": "Ann Lee", "age": 30}, "tags": ["a", "b", "b"], "x": 1}', 5 / 6, 1, "extra_field"),
        ('{"who": {"name": "Ann Lee", "age": "30"}, "tags": ["a", "b", "b"]}', 4 / 5, 4 / 5, "wrong_value"),
        ("{}", 0, 0, "missing_field"),
        ("I can't tell.", 0, 0, "json_invalid"),
    ],
)
def test_field_shares(answer: str, precision: float, recall: float, failure: str) -> None:
    shares, kind = json_shares(answer, REFERENCE)
    assert shares is not None
    assert (shares.precision, shares.recall, kind) == (pytest.approx(precision), pytest.approx(recall), failure)
    f1 = 2 * precision * recall / (precision + recall) if precision else 0
    assert shares.f1 == pytest.approx(f1)


def test_nothing_found_where_nothing_is_to_find_is_right() -> None:
    assert json_shares('{"a": null}', '{"a": "", "b": []}') == ((1, 1, 1), "")


def test_something_found_where_nothing_is_to_find_is_wrong() -> None:
    assert json_shares('{"a": "x"}', '{"a": null}') == ((0, 0, 0), "extra_field")


def test_reference_that_is_no_json_is_unscored() -> None:
    assert json_shares("{}", "prose") == (None, "reference_not_json")


def test_objects_in_a_list_are_compared_leaf_by_leaf() -> None:
    # What the docstring warns of: who has which age is lost, and json_exact is there to see it.
    given, wanted = '[{"n": "a", "age": 1}, {"n": "b", "age": 2}]', '[{"n": "a", "age": 2}, {"n": "b", "age": 1}]'
    assert json_shares(given, wanted) == ((1, 1, 1), "")
    assert json_exact(given, wanted) == (0, "json_differs")
