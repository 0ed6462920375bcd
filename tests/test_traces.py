"""Failing answers as MLflow traces: few, the worst first, with their scores, and never twice."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from harness.records import Example, Generation, Score, SuiteResult
from harness.store import CellFolder, write_lines
from harness.tracking.traces import FailingAnswer, failing_answers, log_traces
from tests.helpers import suite_result

CRITERION = "held_out.exact_match"


def answered(folder: CellFolder, suite: SuiteResult, stop_reason: str = "end_of_turn") -> None:
    """An answer to every example of a suite."""
    rows = [
        Generation(
            example_id=example, prompt=f"<user>{example}", text=f"said {example}", stop_reason=stop_reason, prompt_tokens=3,
            completion_tokens=2, seconds=0.5,
        )
        for example in suite.clusters
    ]  # fmt: skip
    write_lines(folder.generations(suite.suite, suite.digest), rows)
    asked = [Example(id=example, text=example, reference=f"right {example}") for example in suite.clusters]
    write_lines(folder.asked(suite.suite, suite.digest), asked)


def ids(answers: list[FailingAnswer]) -> list[tuple[str, str]]:
    return [(answer.suite, answer.generation.example_id) for answer in answers]


@pytest.fixture
def folder(tmp_path: Path) -> CellFolder:
    return CellFolder(tmp_path / "x" / "cells" / "c")


def test_the_criterions_failures_come_first_and_the_worst_of_them(folder: CellFolder) -> None:
    others = suite_result("retention", {"accuracy": [0.0, 1.0]})
    suite = suite_result("held_out", {"exact_match": [1.0, 0.5, 0.0, None]})
    for item in (others, suite):
        answered(folder, item)
    found = failing_answers(folder, [others, suite], CRITERION, 50)
    assert ids(found) == [("held_out", "e2"), ("held_out", "e1"), ("retention", "e0")]
    assert found[0].expected == "right e2"
    assert ids(failing_answers(folder, [others, suite], CRITERION, 1)) == [("held_out", "e2")]


def test_a_named_failure_counts_where_the_suite_is_not_ranked_by(folder: CellFolder) -> None:
    suite = suite_result("adherence", {"all": [1.0, 1.0, 0.0]})
    failed = Score(example_id="e1", metric="end_of_turn", value=0.0, failure="runs_on")
    suite = suite.model_copy(update={"scores": (*suite.scores, failed)})
    answered(folder, suite)
    assert ids(failing_answers(folder, [suite], CRITERION, 50)) == [("adherence", "e2"), ("adherence", "e1")]


def test_a_suite_that_is_ranked_by_a_loss_fails_by_its_first_metric(folder: CellFolder) -> None:
    suite = suite_result("held_out", {"nll": [0.1, 0.9], "exact_match": [0.0, 1.0]})
    answered(folder, suite)
    assert ids(failing_answers(folder, [suite], "held_out.nll", 50)) == [("held_out", "e0")]


def test_losses_tell_nothing_of_a_failure(folder: CellFolder) -> None:
    suite = suite_result("held_out", {"nll": [0.0, 0.4]})
    answered(folder, suite)
    assert failing_answers(folder, [suite], "held_out.nll", 50) == []


def test_what_was_never_answered_is_no_trace(folder: CellFolder) -> None:
    suite = suite_result("held_out", {"exact_match": [0.0]})
    answered(folder, suite, "prompt_too_long")
    assert failing_answers(folder, [suite], CRITERION, 50) == []


def test_a_trace_holds_the_answer_its_scores_and_where_it_comes_from(store: MlflowClient, folder: CellFolder) -> None:
    experiment = store.create_experiment("x")
    run = store.create_run(experiment).info.run_id
    suite = suite_result("held_out", {"exact_match": [0.0], "chrf": [0.25]})
    answered(folder, suite)
    log_traces(run, experiment, "m-1", failing_answers(folder, [suite], CRITERION, 50))
    (trace,) = store.search_traces(locations=[experiment], run_id=run)
    assert trace.info.tags["harness.suite"] == "held_out"
    assert trace.info.tags["harness.example"] == "e0"
    assert trace.info.trace_metadata["mlflow.modelId"] == "m-1"
    assert trace.info.execution_duration == 500
    (span,) = trace.data.spans
    assert (span.inputs, span.outputs) == ({"prompt": "<user>e0"}, "said e0")
    said = {item.name: item.value for item in trace.info.assessments}
    assert said == {"held_out.exact_match": 0.0, "held_out.chrf": 0.25, "expected": "right e0"}


def test_traces_are_replaced_not_doubled(store: MlflowClient, folder: CellFolder) -> None:
    experiment = store.create_experiment("x")
    run, other = (store.create_run(experiment).info.run_id for _ in range(2))
    before, after = (
        suite_result("held_out", {"exact_match": [0.0] * count}).model_copy(update={"digest": digest})
        for count, digest in ((3, "old"), (2, "new"))
    )
    for suite in (before, after):
        answered(folder, suite)
    log_traces(other, experiment, "", failing_answers(folder, [before], CRITERION, 50))
    for suite in (before, before, after):
        log_traces(run, experiment, "", failing_answers(folder, [suite], CRITERION, 50))
    assert len(store.search_traces(locations=[experiment], run_id=run)) == 2
    assert len(store.search_traces(locations=[experiment], run_id=other)) == 3
