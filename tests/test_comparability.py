"""Which differences between cells are the experiment's own, and which are accidents."""

from typing import Any

import pytest

from harness.comparability import differences, sentence
from harness.records import CellResult, TrainResult
from tests.helpers import cell_result


def trained(name: str, overrides: dict[str, Any], **facts: str) -> CellResult:
    train = TrainResult(
        steps=1, planned_steps=1, epochs=1.0, seconds=1.0, train_loss=1.0, best_step=None, best_eval_loss=None,
        eval_loss=None, checkpoints={"last": "x"}, splits={}, device="cpu", dtype="float32", num_parameters=1,
        num_trainable_parameters=1, peak_memory_gib=None, settings={}, environment={},
        facts={key.replace("_", " "): value for key, value in facts.items()},
    )  # fmt: skip
    return cell_result(name).model_copy(update={"overrides": overrides, "train": train})


def found(*results: CellResult) -> list[str]:
    return [sentence(difference) for difference in differences(results)]


def test_cells_with_the_same_facts_do_not_differ() -> None:
    assert found(*(trained(name, {"training.learning_rate": rate}, rows_used="600", device="cpu")
                   for name, rate in (("a", 1e-3), ("b", 1e-4)))) == []  # fmt: skip


def test_a_difference_that_nobody_swept_is_told_with_its_cells() -> None:
    rates = {"training.learning_rate": 1e-3}
    results = [trained(f"c{i}", rates, rows_used="598" if i == 4 else "600") for i in range(5)]
    assert found(*results) == ["rows used: 600 (c0, c1, c2 and 1 more), 598 (c4)"]


@pytest.mark.parametrize(
    ("swept", "fact"),
    [
        ("data.train", "rows_used"),
        ("data", "rows_used"),
        ("template.name", "supervised_tokens"),
        ("training.max_length", "rows_dropped"),
        ("training.num_train_epochs", "tokens_seen"),
        ("training.per_device_train_batch_size", "effective_batch"),
        ("early_stopping_patience", "tokens_seen"),
        ("model.name", "attention"),
        ("adapter.r", "adapter_dtype"),
        ("quantization", "base_dtype"),
        ("training.packing", "packing"),
        ("training.packing_strategy", "packing"),
    ],
)
def test_a_swept_field_explains_what_follows_from_it(swept: str, fact: str) -> None:
    assert found(trained("a", {swept: 1}, **{fact: "x"}), trained("b", {swept: 2}, **{fact: "y"})) == []


@pytest.mark.parametrize(
    ("swept", "fact"),
    [
        ("training.learning_rate", "rows_used"),
        ("training.max_length", "effective_batch"),
        # Fields that only begin like one that would explain it.
        ("training.max_length_of_something", "supervised_tokens"),
        ("model.name_of_something", "attention"),
        ("training.learning_rate", "device"),
        ("model.name", "gpu"),
        ("model.name", "torch"),
    ],
)
def test_a_swept_field_explains_nothing_else(swept: str, fact: str) -> None:
    assert len(found(trained("a", {swept: 1}, **{fact: "x"}), trained("b", {swept: 2}, **{fact: "y"}))) == 1


def test_cells_that_agree_in_what_explains_it_must_agree_in_the_fact() -> None:
    results = [
        trained("a1", {"data.limit": 10}, rows_used="10"),
        trained("a2", {"data.limit": 10}, rows_used="9"),
        trained("b1", {"data.limit": 20}, rows_used="20"),
    ]
    assert found(*results) == ["rows used: 10 (a1), 9 (a2)"]


def test_a_fact_that_one_cell_lacks_is_unknown() -> None:
    assert found(trained("a", {}, device="cpu"), trained("b", {})) == ["device: cpu (a), unknown (b)"]


def test_references_and_failed_cells_are_left_out() -> None:
    assert (
        found(trained("a", {}, device="cpu"), cell_result("base", seed=None), cell_result("b", status="failed")) == []
    )
