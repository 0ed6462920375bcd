"""The embedded base and data: rebuilt as shipped, free of leaks, small."""

import json
from pathlib import Path

import pytest

from harness.embedded.build import data_files
from harness.embedded.conversations import ROW_COUNTS
from harness.embedded.documents import documents
from harness.resources import embedded

MARKERS = ("<|im_start|>", "<|im_end|>", "<think>", "<tool_call>", "<|pad|>")


def shipped(split: str) -> list[dict]:
    return [json.loads(line) for line in embedded(split).read_text().splitlines()]


def test_rebuilt_data_equal_the_data_shipped() -> None:
    for name, content in data_files().items():
        assert embedded(Path(name).stem).read_text() == content, name


def test_no_entity_prompt_or_combination_is_in_two_splits() -> None:
    entities = {split: {entity for row in shipped(split) for entity in row["entities"]} for split in ROW_COUNTS}
    prompts = {split: {json.dumps(row["messages"][:-1]) for row in shipped(split)} for split in ROW_COUNTS}
    for kind in (entities, prompts):
        assert not kind["train"] & kind["test"]
        assert not kind["train"] & kind["validation"]
        assert not kind["validation"] & kind["test"]


def test_half_of_the_test_rows_use_phrasings_that_training_never_has() -> None:
    trained = {row["phrasing"] for row in shipped("train")}
    unseen = [row for row in shipped("test") if row["phrasing"] not in trained]
    assert len(unseen) == len(shipped("test")) // 2
    assert all("new-" in row["phrasing"] for row in unseen)


def test_retention_asks_what_training_never_mentions() -> None:
    trained = embedded("train").read_text()
    assert all(entity not in trained for row in shipped("retention") for entity in row["entities"])


def test_evaluation_is_large_enough_for_five_points() -> None:
    assert 200 <= len(shipped("test")) <= 400
    assert 200 <= len(shipped("retention")) <= 400


def test_ids_are_unique() -> None:
    for split in (*ROW_COUNTS, "retention"):
        ids = [row["id"] for row in shipped(split)]
        assert len(set(ids)) == len(ids)


def test_pretraining_never_sees_a_chat_marker() -> None:
    assert not any(marker in text for text in documents(seed=10_000, count=5_000) for marker in MARKERS)


def test_base_is_small_and_has_no_template() -> None:
    files = list(embedded("base").iterdir())
    assert sum(file.stat().st_size for file in files) <= 8 * 2**20
    assert not any(
        "chat_template" in file.read_text(errors="ignore") for file in files if file.suffix in (".json", ".jinja")
    )
    assert not list(embedded("base").glob("*.bin"))


@pytest.mark.parametrize("name", ["train", "base"])
def test_embedded_things_are_found(name: str) -> None:
    assert embedded(name).exists()
