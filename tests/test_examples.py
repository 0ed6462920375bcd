"""Rows of a user's file as evaluation examples."""

import json
from pathlib import Path

import pytest

from harness.data.examples import load_examples
from harness.errors import DataError
from harness.eval_config import SourceConfig
from harness.records import Example


def examples(tmp_path: Path, *rows: dict) -> list[Example]:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return load_examples(SourceConfig(path=str(file)))


def test_a_prompt_and_a_reference(tmp_path: Path) -> None:
    found = examples(tmp_path, {"id": 7, "prompt": "2+2?", "reference": "4", "category": "math", "cluster": "sums"})[0]
    assert (found.id, found.text, found.reference, found.slices, found.cluster) == ("7", "2+2?", "4", ("math",), "sums")


def test_rows_without_id_are_numbered(tmp_path: Path) -> None:
    rows = [{"question": "a?", "answer": "1"}, {"question": "b?", "answer": "2"}]
    assert [e.id for e in examples(tmp_path, *rows)] == ["0", "1"]


def test_messages_end_with_the_reference(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    found = examples(tmp_path, {"id": "x", "messages": turns})[0]
    assert (found.id, len(found.messages), found.reference) == ("x", 1, "Hello")


def test_messages_beside_a_reference_are_read_as_a_conversation(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Hi"}]
    found = examples(tmp_path, {"messages": turns, "reference": "Hello"})[0]
    assert (len(found.messages), found.messages[0].content, found.reference) == (1, "Hi", "Hello")


@pytest.mark.parametrize("answer", ["Mars", 1, "B", "b"])
def test_the_right_choice_is_named_numbered_or_lettered(tmp_path: Path, answer: object) -> None:
    found = examples(tmp_path, {"question": "Which?", "choices": ["Venus", "Mars"], "answer": answer})[0]
    assert (found.choices, found.reference) == (("Venus", "Mars"), "Mars")


def test_an_answer_that_is_no_choice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"rows.jsonl:1: the answer 'Pluto' is none of the choices"):
        examples(tmp_path, {"question": "Which?", "choices": ["Venus", "Mars"], "answer": "Pluto"})


def test_humaneval_and_mbpp_tests(tmp_path: Path) -> None:
    humaneval = {
        "task_id": "HumanEval/0",
        "prompt": "def f():\n",
        "test": "def check(c):\n    assert c() == 1",
        "entry_point": "f",
    }
    mbpp = {"task_id": 2, "text": "Write g", "test_list": ["assert g() == 2", "assert g() > 1"], "code": "..."}
    first, second = examples(tmp_path, humaneval, mbpp)
    assert first.tests.endswith("check(f)")
    assert second.tests == "assert g() == 2\nassert g() > 1"


def test_ifeval_instructions_keep_their_options(tmp_path: Path) -> None:
    row = {"key": 1, "prompt": "Write.", "instruction_id_list": ["a:b", "c:d"], "kwargs": [{}, {"num_words": 3}]}
    assert examples(tmp_path, row)[0].instructions == ({"id": "a:b"}, {"id": "c:d", "num_words": 3})


def test_a_row_without_anything_to_score_it_by_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="rows.jsonl:1"):
        examples(tmp_path, {"prompt": "2+2?"})


@pytest.mark.parametrize(
    ("stated", "reference"),
    [(7, "7"), (2.5, "2.5"), (True, "true"), ({"stadt": "Köln", "big": True}, '{"stadt": "Köln", "big": true}')],
)
def test_a_reference_that_is_no_text_is_written_as_json(tmp_path: Path, stated: object, reference: str) -> None:
    turns = [{"role": "user", "content": "?"}]
    plain, turned = examples(tmp_path, {"prompt": "?", "reference": stated}, {"messages": turns, "reference": stated})
    assert (plain.reference, turned.reference) == (reference, reference)


def test_a_list_is_a_reference_only_where_the_answer_is_one(tmp_path: Path) -> None:
    row = {"prompt": "Which?", "reference": ["a", "b"]}
    assert examples(tmp_path, {**row, "json_schema": {"type": "array"}})[0].reference == '["a", "b"]'
    with pytest.raises(DataError, match=r"rows.jsonl:1: the reference is a list, but a row has one reference"):
        examples(tmp_path, row)


TURNS = [{"role": "user", "content": "Which?"}]


@pytest.mark.parametrize("answer", ["Mars", 1, "B", "1"])
def test_choices_beside_messages_follow_the_same_rules(tmp_path: Path, answer: object) -> None:
    found = examples(tmp_path, {"messages": TURNS, "choices": ["Venus", "Mars"], "answer": answer})[0]
    assert (found.messages[-1].content, found.reference) == ("Which?", "Mars")


def test_last_turn_may_be_the_letter_of_a_choice(tmp_path: Path) -> None:
    turns = [*TURNS, {"role": "assistant", "content": "B"}]
    assert examples(tmp_path, {"messages": turns, "choices": ["Venus", "Mars"]})[0].reference == "Mars"


def test_stated_reference_counts_before_the_last_turn(tmp_path: Path) -> None:
    turns = [*TURNS, {"role": "assistant", "content": "3 + 4 is 7"}]
    found = examples(tmp_path, {"messages": turns, "reference": 7})[0]
    assert (len(found.messages), found.reference) == (1, "7")


def test_messages_keep_cluster_and_schema(tmp_path: Path) -> None:
    row = {"messages": TURNS, "reference": {"a": 1}, "cluster": 0, "json_schema": {"required": ["a"]}}
    found = examples(tmp_path, row)[0]
    assert (found.cluster, found.expect.json_schema) == ("0", {"required": ["a"]})


def test_messages_may_be_scored_by_tests_alone(tmp_path: Path) -> None:
    found = examples(tmp_path, {"messages": TURNS, "tests": "assert f() == 1"})[0]
    assert (found.messages[-1].content, found.reference, found.tests) == ("Which?", "", "assert f() == 1")


def test_turns_from_a_server_log_may_have_a_reference_beside_them(tmp_path: Path) -> None:
    found = examples(tmp_path, {"conversations": [{"from": "human", "value": "Which?"}], "answer": "Mars"})[0]
    assert (found.messages[-1].content, found.reference) == ("Which?", "Mars")


@pytest.mark.parametrize(("answer", "reference"), [(1, "1"), (2, "2"), (0, "3"), ("2", "2")])
def test_number_among_numbers_is_the_choice_itself(tmp_path: Path, answer: object, reference: str) -> None:
    assert examples(tmp_path, {"prompt": "?", "choices": [3, 1, 2], "answer": answer})[0].reference == reference


@pytest.mark.parametrize("answer", ["0", "C", "9", True])
def test_answer_that_could_mean_several_choices_is_refused(tmp_path: Path, answer: object) -> None:
    with pytest.raises(DataError, match="is none of the choices"):
        examples(tmp_path, {"prompt": "?", "choices": ["10", "20"], "answer": answer})


@pytest.mark.parametrize(
    ("labels", "key", "reference"),
    [
        ("ABC", "B", "1"), ("123", "1", "2"), ("123", "3", "3"), ("BAC", "b", "2"),
    ],
)  # fmt: skip
def test_arc_names_the_right_choice_by_its_label(tmp_path: Path, labels: str, key: str, reference: str) -> None:
    row = {"question": "?", "choices": {"text": ["2", "1", "3"], "label": list(labels)}, "answerKey": key}
    assert examples(tmp_path, row)[0].reference == reference


def test_table_holds_choices_and_schema_as_json(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text('prompt,choices,answer,json_schema\n?,"[""Venus"", ""Mars""]",1,"{""type"": ""string""}"\n')
    found = load_examples(SourceConfig(path=str(file)))[0]
    assert (found.choices, found.reference) == (("Venus", "Mars"), "Mars")
    assert found.expect.json_schema == {"type": "string"}


def test_a_prompt_that_already_holds_the_input_is_left_as_it_is(tmp_path: Path) -> None:
    row = {"prompt": "Rewrite: x\nOutput:", "instruction": "Rewrite.", "input": "x", "target": "y"}
    assert examples(tmp_path, row)[0].text == "Rewrite: x\nOutput:"
    assert examples(tmp_path, {"instruction": "Rewrite.", "input": "x", "target": "y"})[0].text == "Rewrite.\n\nx"
