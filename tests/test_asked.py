"""What a cell or a reference is asked of `evals`."""

import pytest

from harness.asked import asked_suites
from harness.config import RunConfig
from harness.eval_config import EvalConfig, ReferenceConfig
from harness.grid import Cell, reference_cell
from harness.records import Example

TEST = [Example(id="a", text="Who?", reference="Ann")]
BENCHMARK = EvalConfig.model_validate({"lm_eval": ["gsm8k"]})
HELD_OUT = EvalConfig(suite="held_out")


def row(**fields: object) -> Cell:
    run = RunConfig.model_validate({"model": {"name": "embedded:base"}, "data": {"train": "embedded:train"}})
    return reference_cell(ReferenceConfig.model_validate({"name": "row", **fields}), "row", run, "key")


@pytest.mark.parametrize(
    "fields", [{"few_shot": 2}, {"url": "http://host/v1", "model": "m"}, {"predictions": "p.jsonl"}]
)
def test_reference_that_has_nothing_to_answer_is_asked_nothing(fields: dict[str, object]) -> None:
    assert asked_suites(row(**fields), [BENCHMARK], TEST) == []


def test_predictions_answer_their_suite_alone() -> None:
    other = EvalConfig(suite="held_out", name="other")
    asked = asked_suites(row(predictions="p.jsonl", suite="other"), [HELD_OUT, other, BENCHMARK], TEST)
    assert [item.options.label for item in asked] == ["other"]


def test_predictions_are_no_model_that_a_benchmark_could_ask() -> None:
    assert asked_suites(row(predictions="p.jsonl", suite="lm_eval"), [BENCHMARK], TEST) == []
