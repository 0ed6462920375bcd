"""Sources, formats and splits."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.config import DataConfig, SourceConfig
from harness.data.formats import conversations
from harness.data.sources import Row, load_rows
from harness.data.splits import load_splits
from harness.errors import DataError

Write = Callable[..., Path]
GOOD = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}


def rows_of(*contents: dict) -> list[Row]:
    return [Row(f"row {i}", content) for i, content in enumerate(contents)]


def test_broken_json_line_names_file_and_line(write: Write) -> None:
    lines = [json.dumps(GOOD)] * 16 + ['{"messages": ['] + [json.dumps(GOOD)] * 3
    path = write("\n".join(lines), "broken.jsonl")
    with pytest.raises(DataError, match=r"broken\.jsonl:17: the line isn't valid JSON"):
        load_rows(SourceConfig(path=str(path)))


def test_line_separator_inside_a_string_is_no_line_break(write: Write) -> None:
    path = write(json.dumps({"prompt": "a\u2028b", "completion": "c"}, ensure_ascii=False), "odd.jsonl")
    assert len(load_rows(SourceConfig(path=str(path)))) == 1


def test_missing_file_is_told(write: Write) -> None:
    write("", "x.yaml")
    with pytest.raises(DataError, match="there is no such data file"):
        load_rows(SourceConfig(path="nothing.jsonl"))


def test_alpaca_rows_become_turns() -> None:
    row = conversations(rows_of({"instruction": "Add.", "input": "1 2", "output": "3", "system": "Be brief."}), "auto")[
        0
    ]
    assert [(t.role, t.content) for t in row.messages] == [
        ("system", "Be brief."),
        ("user", "Add.\n1 2"),
        ("assistant", "3"),
    ]


def test_prompt_completion_stays_plain_text() -> None:
    row = conversations(rows_of({"prompt": "p", "completion": "c"}), "auto")[0]
    assert row.is_plain
    assert row.example().text == "p"
    assert row.example().reference == "c"


def test_preference_rows_are_refused_with_advice() -> None:
    with pytest.raises(DataError, match="keep the chosen one as `completion`"):
        conversations(rows_of({"prompt": "p", "chosen": "a", "rejected": "b"}), "auto")


def test_unknown_columns_are_named() -> None:
    with pytest.raises(DataError, match="the columns bar, foo are no known format"):
        conversations(rows_of({"foo": 1, "bar": 2}), "auto")


def test_unknown_role_is_named() -> None:
    with pytest.raises(DataError, match="the role 'robot'"):
        conversations(rows_of({"messages": [{"role": "robot", "content": "x"}]}), "auto")


def test_no_assistant_turn_is_refused(write: Write) -> None:
    path = write(json.dumps({"messages": [{"role": "user", "content": "hi"}]}) * 1, "silent.jsonl")
    with pytest.raises(DataError, match="no row ends with an assistant turn"):
        load_splits(DataConfig(train=SourceConfig(path=str(path))))


def prompts(path: Path) -> dict[str, str]:
    splits = load_splits(DataConfig(train=SourceConfig(path=str(path))))
    return {row.prompt: name for name, rows in zip(splits._fields, splits, strict=True) for row in rows}


def test_hash_split_is_stable_when_rows_are_added(write: Write) -> None:
    lines = [json.dumps({"prompt": f"question {i}", "completion": "x"}) for i in range(200)]
    before = prompts(write("\n".join(lines[:120]), "rows.jsonl"))
    after = prompts(write("\n".join(lines), "rows.jsonl"))
    assert all(after[prompt] == split for prompt, split in before.items())
    assert set(before.values()) == {"train", "validation", "test"}


def test_training_rows_with_a_held_out_prompt_are_left_out(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    lines = [json.dumps({"prompt": f"question {i}", "completion": "x"}) for i in range(20)]
    write("\n".join(lines), "train.jsonl")
    write("\n".join(lines[:3]), "test.jsonl")
    config = DataConfig(
        train=SourceConfig(path="train.jsonl"), test=SourceConfig(path="test.jsonl"), validation_share=0.2
    )
    splits = load_splits(config)
    asked = {row.prompt for row in splits.test}
    assert not asked & {row.prompt for row in (*splits.train, *splits.validation)}
    assert "3 rows have the same prompt as a held-out row" in caplog.text


def test_limit_takes_the_same_rows_again(write: Write) -> None:
    config = DataConfig(train=SourceConfig(path="embedded:train"), limit=10)
    first, second = (load_splits(config).train for _ in range(2))
    assert len(first) == 10
    assert first == second


def test_repeated_held_out_rows_count_once_and_shared_ids_are_refused(
    write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [json.dumps({"prompt": f"question {i}", "completion": "x"}) for i in range(30)]
    write("\n".join(rows), "train.jsonl")
    write("\n".join([json.dumps({"prompt": "held out", "completion": "x"})] * 3), "test.jsonl")
    config = DataConfig(
        train=SourceConfig(path="train.jsonl"), test=SourceConfig(path="test.jsonl"), validation_share=0.3
    )
    assert len(load_splits(config).test) == 1
    assert "2 held-out rows are exact repetitions" in caplog.text
    write(
        "\n".join(json.dumps({"id": 7, "prompt": f"held out {i}", "completion": "x"}) for i in range(2)), "test.jsonl"
    )
    with pytest.raises(DataError, match="two different held-out rows have the id '7'"):
        load_splits(config)


def test_validation_and_test_are_told_apart_in_the_fingerprint(write: Write) -> None:
    from harness.data.splits import data_fingerprint

    write('{"prompt": "a", "completion": "b"}\n', "rows.jsonl")
    train, other = SourceConfig(path="embedded:train"), SourceConfig(path="rows.jsonl")
    assert data_fingerprint(DataConfig(train=train, validation=other)) != data_fingerprint(
        DataConfig(train=train, test=other)
    )
