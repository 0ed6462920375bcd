"""Answers of another system, and what they are worth."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from harness.cli.main import main
from harness.collect import collect
from harness.errors import ConfigError, DataError
from harness.models.respondent import Sampling
from harness.plan import Plan, plan_experiment
from harness.predictions import PredictedAnswers, load_predictions
from harness.records import CellResult, Example, Generation
from harness.resources import embedded
from harness.score import Ruler, score_predictions
from harness.store import read_record, write_record
from tests.conftest import MINIMAL

Write = Callable[[str, str], Path]
EXAMPLES = [Example(id=str(number), text=f"{number}?", reference=str(number)) for number in (1, 2, 3)]
EVALS = "evals:\n  - {suite: held_out, limit: 2, scorers: [exact_match]}\n  - {suite: held_out, name: more, limit: 4}\n"


def lines(*rows: dict) -> str:
    return "".join(f"{json.dumps(row)}\n" for row in rows)


def harness(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def answers(write: Write, *rows: dict) -> list[Generation]:
    given = PredictedAnswers(load_predictions(write(lines(*rows), "given.jsonl")))
    asked = given.generations(EXAMPLES, as_text=True, sampling=Sampling(8, 1, 0.0, 1.0, 0))
    return [samples[0] for samples in asked]


def rows_of(split: str) -> list[dict]:
    return [json.loads(line) for line in embedded(split).read_text().splitlines()]


def oracle() -> str:
    return lines(*({"id": row["id"], "prediction": row["messages"][-1]["content"]} for row in rows_of("test")))


def test_predictions_without_ids_answer_in_order_whatever_the_examples_are_called(write: Write) -> None:
    found = answers(write, {"prediction": "1"}, {"prediction": "2"}, {"prediction": "3"})
    assert [(answer.example_id, answer.text) for answer in found] == [("1", "1"), ("2", "2"), ("3", "3")]


def test_predictions_with_ids_are_matched_by_them(write: Write) -> None:
    found = answers(write, {"id": 3, "prediction": "c"}, {"id": 1, "prediction": "a"})
    assert [(answer.text, answer.stop_reason) for answer in found] == [
        ("a", "unknown"),
        ("", "not_asked"),
        ("c", "unknown"),
    ]


@pytest.mark.parametrize("number", [2, 4])
def test_as_many_predictions_without_ids_as_examples_are_needed(write: Write, number: int) -> None:
    with pytest.raises(DataError, match=f"there are {number} predictions without ids for 3 examples"):
        answers(write, *[{"prediction": "a"}] * number)


def test_ids_on_some_lines_only_are_refused(write: Write) -> None:
    with pytest.raises(DataError, match=r"given.jsonl:2: the prediction has no id, and others have"):
        answers(write, {"id": "1", "prediction": "a"}, {"prediction": "b"})


def test_ids_of_other_examples_are_refused(write: Write) -> None:
    with pytest.raises(DataError, match="examples are called '1', predictions 'x'"):
        answers(write, {"id": "x", "prediction": "a"})


def test_null_prediction_was_never_given(write: Write) -> None:
    found = answers(write, {"id": "1", "prediction": None}, {"id": "2", "prediction": ""})
    assert [answer.stop_reason for answer in found] == ["not_asked", "unknown", "not_asked"]


@pytest.mark.parametrize("row", [{"id": "1"}, {"id": "1", "prediction": 7}, {"id": "1", "messages": []}])
def test_line_without_a_prediction_is_refused(write: Write, row: dict) -> None:
    with pytest.raises(DataError, match="a prediction needs `prediction` as text"):
        answers(write, row)


def test_null_prediction_is_unscored(write: Write) -> None:
    write(lines({"id": "a", "prompt": "?", "reference": "x"}, {"id": "b", "prompt": "?", "reference": "y"}), "d.jsonl")
    given = write(lines({"id": "a", "prediction": "x"}, {"id": "b", "prediction": None}), "p.jsonl")
    metric = score_predictions(given, Ruler(data="d.jsonl")).result.metrics["exact_match"]
    assert (metric.value, metric.n, metric.unscored) == (1, 1, 1)


def test_what_only_the_model_could_tell_is_not_listed(write: Write) -> None:
    result = score_predictions(write(oracle(), "p.jsonl"), Ruler(data="embedded:test")).result
    assert result.metrics["exact_match"].value == 1
    assert not {"nll", "bits_per_byte"} & ({score.metric for score in result.scores} | set(result.metrics))


@pytest.mark.parametrize("split", ["test", "structured_test"])
def test_perfect_predictions_keep_to_the_template(write: Write, split: str) -> None:
    rows = [{"id": row["id"], "messages": row["messages"]} for row in rows_of(split)]
    ruler = Ruler("template_adherence", f"embedded:{split}")
    result = score_predictions(write(lines(*rows), "p.jsonl"), ruler).result
    assert (result.metrics["all"].value, result.metrics["all"].unscored) == (1, 0)
    assert "probes" not in result.metrics


def test_code_is_run_where_the_command_allows_it(write: Write) -> None:
    write(lines({"id": "a", "prompt": "Write f.", "tests": "assert f() == 1"}), "d.jsonl")
    write(lines({"id": "a", "prediction": "def f():\n    return 1\n"}), "p.jsonl")
    command = ("score", "p.jsonl", "--data", "d.jsonl", "--scorers", "pass_at_1", "--json")
    assert harness(*command).exit_code == 2
    allowed = harness(*command, "--allow-code-execution")
    assert json.loads(allowed.stdout)["metrics"]["pass_at_1"]["value"] == 1


@pytest.mark.parametrize(
    ("ruler", "message"),
    [
        (Ruler(data="embedded:test"), "with --experiment the examples and scorers are the experiment's own"),
        (Ruler(scorers=("rouge_l",)), "with --experiment the examples and scorers are the experiment's own"),
        (Ruler("retention"), "'retention' is none of the experiment's evals; choose one of held_out, more"),
    ],
)
def test_row_of_an_experiment_is_held_against_its_own_ruler(write: Write, ruler: Ruler, message: str) -> None:
    write(MINIMAL + EVALS, "small.yaml")
    with pytest.raises(ConfigError, match=message):
        score_predictions(write(oracle(), "p.jsonl"), ruler, experiment="small.yaml")


def imported(write: Write) -> Plan:
    """An experiment with a finished cell that was asked what the imported row `p` answers."""
    write(MINIMAL + EVALS, "small.yaml")
    predictions = write(oracle(), "p.jsonl")
    for suite in ("held_out", "more"):
        score_predictions(predictions, Ruler(suite), experiment="small.yaml")
    made = plan_experiment("small.yaml")
    row = read_record(made.folder.imported("p").result, CellResult)
    cell = made.cells[0]
    result = row.model_copy(
        update={"cell": cell.id, "name": cell.name, "group": cell.group, "seed": 0, "reference": None}
    )
    write_record(made.folder.cell(cell.id).result, result)
    return made


def test_row_keeps_the_suites_that_it_answered_before(write: Write) -> None:
    rows = collect(imported(write)).references
    assert [(row.name, [suite.suite for suite in row.suites]) for row in rows] == [("p", ["held_out", "more"])]


def test_row_that_answered_other_examples_is_left_out(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    made = imported(write)
    file = made.folder.imported("p").result
    row = read_record(file, CellResult)
    stale = row.suites[1].model_copy(update={"digest": "of other examples"})
    write_record(file, row.model_copy(update={"suites": (row.suites[0], stale)}))
    with caplog.at_level(logging.WARNING):
        assert [[suite.suite for suite in found.suites] for found in collect(made).references] == [["held_out"]]
    assert "p: left out of the tables with more" in caplog.text
    write_record(file, row.model_copy(update={"suites": (stale,)}))
    assert collect(made).references == []
