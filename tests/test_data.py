"""Splits."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.config import DataConfig, SourceConfig
from harness.data.splits import load_splits
from harness.errors import DataError

Write = Callable[..., Path]


def test_no_assistant_turn_is_refused(write: Write) -> None:
    path = write(json.dumps({"messages": [{"role": "user", "content": "hi"}]}) * 1, "silent.jsonl")
    with pytest.raises(DataError, match="no row ends with an assistant turn"):
        load_splits(DataConfig(train=SourceConfig(path=str(path))))


def prompts(path: Path) -> dict[str, str]:
    splits = load_splits(DataConfig(train=SourceConfig(path=str(path))))
    return {row.prompt: name for name in ("train", "validation", "test") for row in getattr(splits, name)}


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
