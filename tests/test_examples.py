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
