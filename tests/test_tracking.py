"""MLflow: what goes wrong there must not end a training, and passwords must not show."""

import json
import logging
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, Metric

from harness.config import ModelConfig, RankingConfig, RunConfig
from harness.grid import Cell, CellSpec
from harness.rank_cells import rank
from harness.ranking import Ranking
from harness.records import CellResult, Finding, SuiteResult
from harness.secrets import without_password
from harness.store import ExperimentFolder
from harness.tracking import connection
from harness.tracking.connection import deliver
from harness.tracking.experiment_run import describe_experiment
from harness.tracking.logged_datasets import suite_input
from harness.tracking.logged_models import evaluated_model, find_models, log_checkpoint, safe_model_name
from harness.tracking.notes import cell_note, experiment_note
from harness.tracking.outcomes import log_outcomes
from harness.tracking.ui import experiment_addresses
from harness.tracking.writer import MetricLink, MetricWriter
from tests.conftest import MINIMAL
from tests.helpers import cell_result, coin, error_finding, suite_result, trained_for


def written(client: MlflowClient, values: dict[str, float]) -> dict[str, float]:
    """What of the values reaches a run."""
    run = client.create_run(client.create_experiment("x"))
    writer = MetricWriter(client, run.info.run_id)
    writer.put(values, 0)
    writer.close()
    return dict(client.get_run(run.info.run_id).data.metrics)


def test_metric_that_mlflow_refuses_is_named_and_the_others_arrive(
    store: MlflowClient, caplog: pytest.LogCaptureFixture
) -> None:
    many = {f"m{i}": float(i) for i in range(50)}
    with caplog.at_level(logging.WARNING):
        assert written(store, {**many, "what?": 1.0, "last": 2.0}) == {**many, "last": 2.0}
    assert "'what?'" in caplog.text
    assert "can't be reached" not in caplog.text


def test_metrics_of_a_store_that_is_away_are_counted(store: MlflowClient, caplog: pytest.LogCaptureFixture) -> None:
    class Away(MlflowClient):
        def log_batch(self, run_id: str, metrics: list[Metric]) -> None:
            raise ConnectionError("gone")

    with caplog.at_level(logging.WARNING):
        assert written(Away(), {"a": 1.0, "b": 2.0}) == {}
    assert "MLflow can't be reached (ConnectionError)" in caplog.text
    assert "2 metrics could not be sent" in caplog.text


def test_a_call_that_fails_once_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "RETRY_SECONDS", (0.0, 0.0))
    calls = []

    def call() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("UNIQUE constraint failed")

    deliver("datasets", call)
    assert len(calls) == 2


def test_a_call_that_always_fails_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connection, "RETRY_SECONDS", (0.0,))
    with caplog.at_level(logging.WARNING):
        deliver("datasets", lambda: 1 / 0)
    assert "the datasets could not be sent to MLflow: division by zero" in caplog.text


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://me:secret@db.example/mlflow", "postgresql://***@db.example/mlflow"),
        ("https://user:p%40ss@host:5000/x", "https://***@host:5000/x"),
        ("sqlite:////tmp/mlflow.db", "sqlite:////tmp/mlflow.db"),
    ],
)
def test_passwords_are_left_out(uri: str, shown: str) -> None:
    assert without_password(uri) == shown


def spec_of(name: str) -> CellSpec:
    config = RunConfig(model=ModelConfig(name="embedded:base"), data={"train": "embedded:train"})
    cell = Cell(id="a" * 12, name=name, group="g", overrides={"training.learning_rate": 1e-3}, seed=0, config=config)
    return CellSpec(cell=cell, experiment="x", evals=(), parent_run_id="", system_metrics=False, num_threads=1)


def test_a_checkpoint_that_is_logged_again_keeps_its_model_and_a_later_one_replaces_it(
    store: MlflowClient, tmp_path: Path
) -> None:
    experiment = store.create_experiment("x")
    run = store.create_run(experiment).info.run_id
    first = [
        log_checkpoint(run, experiment, spec_of("lr=0.1"), trained_for(8), "last", tmp_path / "checkpoint-8")
        for _ in range(2)
    ]
    assert first[0] == first[1] == evaluated_model(run, experiment)
    later = log_checkpoint(run, experiment, spec_of("lr=0.1"), trained_for(9), "last", tmp_path / "checkpoint-9")
    models = find_models(run, experiment)
    assert later != first[0]
    assert {kind: model.model_id for kind, model in models.items()} == {"last": later}
    assert models["last"].params["step"] == "9"
    assert models["last"].params["training.learning_rate"] == "0.001"
    assert models["last"].tags["harness.checkpoint"] == str(tmp_path / "checkpoint-9")


def test_models_sort_and_filter_by_metrics_on_a_dataset(store: MlflowClient, tmp_path: Path) -> None:
    experiment = store.create_experiment("x")
    for name, value in (("low", 0.25), ("high", 0.75), ("middle", 0.5)):
        run = store.create_run(experiment).info.run_id
        model = log_checkpoint(run, experiment, spec_of(name), trained_for(8), "last", tmp_path / "checkpoint-8")
        writer = MetricWriter(store, run)
        writer.put({"held_out.exact_match": value}, 0, MetricLink(model, "held_out", "digest"))
        writer.close()
        assert store.get_run(run).data.metrics == {"held_out.exact_match": value}
    order = [{"field_name": "metrics.held_out.exact_match", "ascending": False}]
    assert names(store.search_logged_models([experiment], order_by=order)) == ["high-last", "middle-last", "low-last"]
    wanted, other = [{"dataset_name": "held_out", "dataset_digest": "digest"}], [{"dataset_name": "retention"}]
    above = "metrics.held_out.exact_match > 0.3"
    assert set(names(store.search_logged_models([experiment], above, datasets=wanted))) == {"high-last", "middle-last"}
    assert names(store.search_logged_models([experiment], above, datasets=other)) == []


def names(models: list[LoggedModel]) -> list[str]:
    return [model.name for model in models]


def test_names_of_models_leave_out_what_mlflow_refuses() -> None:
    assert safe_model_name("learning_rate=0.1,a/b:c 'd'") == "learning_rate=0_1,a_b_c__d_"


def test_a_trained_cell_fills_models_datasets_traces_and_notes(trained: Path) -> None:
    client = MlflowClient(f"sqlite:///{trained}/mlflow.db")
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    ordered = client.search_logged_models([experiment.experiment_id], order_by=[{"field_name": "metrics.held_out.nll"}])
    measured = [model for model in ordered if any(metric.key == "held_out.nll" for metric in model.metrics)]
    assert [model.tags["harness.evaluated"] for model in measured] == ["true", "true"]
    values = [runs[model.tags["harness.checkpoint"] and name].data.metrics["held_out.nll"] for model in measured
              for name in ("full", "lora") if runs[name].info.run_id == model.source_run_id]  # fmt: skip
    assert values == sorted(values)
    losses = {(m.step, m.dataset_name) for m in measured[0].metrics if m.key == "eval_loss"}
    assert losses == {(3, "embedded:validation")}
    contexts = {
        (item.dataset.name, item.tags[0].value): json.loads(item.dataset.profile)
        for item in runs["lora"].inputs.dataset_inputs
    }
    assert contexts["roses", "train"]["num_rows"] == 40
    assert contexts["held_out", "test"]["num_rows"] == 8
    traces = client.search_traces(locations=[experiment.experiment_id], run_id=runs["lora"].info.run_id)
    assert 0 < len(traces) <= 8
    note = runs["lora"].data.tags["mlflow.note.content"]
    assert "harness promote tiny/" in note
    assert "held_out.nll" in experiment.tags["mlflow.note.content"]
    assert runs["base"].data.tags["mlflow.runType"] == "evaluation"
    assert [name for name in runs["lora"].data.metrics if name.startswith("slices/")]


def grid(store: MlflowClient) -> tuple[str, list[CellResult], Ranking]:
    """Two cells and the base with runs of their own."""
    experiment = store.create_experiment("x")
    suites = [suite_result("held_out", {"exact_match": coin(p, 60, seed=3)}) for p in (0.2, 0.9, 0.1)]
    results = [
        cell_result(name, suite, seed=seed).model_copy(
            update={"mlflow_run_id": store.create_run(experiment).info.run_id}
        )
        for name, suite, seed in zip(("a", "b", "base"), suites, (0, 0, None), strict=True)
    ]
    findings = {results[0].cell: (error_finding(),), results[1].cell: ()}
    config = RankingConfig(gates=(), resamples=1000)
    return experiment, results, rank("x", config, results[:2], results[2:], findings)


def test_a_run_is_told_of_its_outcome_once_and_again_where_it_changed(store: MlflowClient, tmp_path: Path) -> None:
    _, results, ranking = grid(store)
    folder, first = ExperimentFolder(tmp_path), results[0].mlflow_run_id
    findings: dict[str, tuple[Finding, ...]] = {results[0].cell: (error_finding(),)}
    log_outcomes(folder, ranking, results, findings)
    tags = store.get_run(first).data.tags
    assert tags["harness.warnings"] == "diverged"
    assert tags["harness.rank"] == "2"
    assert tags["mlflow.runColor"] != store.get_run(results[1].mlflow_run_id).data.tags["mlflow.runColor"]
    store.set_tag(first, "harness.warnings", "left alone")
    log_outcomes(folder, ranking, results, findings)
    assert store.get_run(first).data.tags["harness.warnings"] == "left alone"
    log_outcomes(folder, ranking, results, {results[0].cell: ()})
    assert store.get_run(first).data.tags["harness.warnings"] == "none"


def test_what_a_store_that_is_away_missed_is_told_later(
    store: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, results, ranking = grid(store)
    monkeypatch.setattr(connection, "RETRY_SECONDS", ())
    with monkeypatch.context() as away:
        away.setattr(MlflowClient, "log_batch", lambda *_, **__: 1 / 0)
        log_outcomes(ExperimentFolder(tmp_path), ranking, results, {})
    log_outcomes(ExperimentFolder(tmp_path), ranking, results, {})
    assert "mlflow.note.content" in store.get_run(results[2].mlflow_run_id).data.tags


def test_the_saved_view_shows_swept_fields_and_sorts_by_the_criterion(store: MlflowClient, tmp_path: Path) -> None:
    from harness.experiment_file import load_experiment

    experiment, results, ranking = grid(store)
    path = tmp_path / "x.yaml"
    path.write_text(MINIMAL.replace("name: small", "name: x\ndescription: Which one?", 1))
    note = describe_experiment(results[0].mlflow_run_id, experiment, ranking, results, load_experiment(path))
    tags = store.get_experiment(experiment).tags
    assert tags["mlflow.note.content"] == note
    assert note.startswith("**Which one?**")
    envelope = json.loads(tags["mlflow.sharedViewState.harness"])
    state = json.loads(envelope["state"])
    assert state["orderByKey"] == "metrics.`held_out.exact_match`"
    assert state["orderByAsc"] is False
    assert "params.`sweep.training.learning_rate`" in state["selectedColumns"]
    sections = {section["uuid"] for section in state["compareRunSections"]}
    assert {chart["metricSectionId"] for chart in state["compareRunCharts"]} <= sections
    (address,) = experiment_addresses(["x"], connection.current_uri(), 5000)
    assert address.endswith(f"/#/experiments/{experiment}/runs?viewStateShareKey=harness&workflowType=machine_learning")


def test_notes_show_names_as_text(store: MlflowClient) -> None:
    _, results, ranking = grid(store)
    hostile = "<script>alert(1)</script>"
    row = ranking.rows[0].model_copy(update={"name": f"{hostile}|b"})
    note = experiment_note(ranking.model_copy(update={"rows": (row,)}), hostile, "#/report", "harness run x")
    assert "<script" not in note
    finding = error_finding().model_copy(update={"message": hostile})
    assert "<script" not in cell_note(ranking, results[0], [finding])


def test_slices_of_a_suite_are_in_its_dataset() -> None:
    suite: SuiteResult = suite_result("held_out", {"exact_match": [1.0, 0.0]})
    suite = suite.model_copy(update={"slices": {"e0": ("fact",), "e1": ("json", "fact")}})
    dataset = suite_input(suite).dataset
    assert json.loads(dataset.profile) == {"num_rows": 2, "clusters": 2, "slices": ["fact", "json"]}
    assert [column["name"] for column in json.loads(dataset.schema)["mlflow_colspec"]] == ["exact_match"]


def test_what_a_training_measures_before_its_first_step_is_there_once_and_estimates_change(store: MlflowClient) -> None:
    """A training that was killed before its first checkpoint measures it again, in another time."""
    run = store.create_run(store.create_experiment("again")).info.run_id
    for values in ({"eval_runtime": 1.0, "held_out.nll": 0.5}, {"eval_runtime": 2.0, "held_out.nll": 0.4}):
        writer = MetricWriter(store, run, is_new=False)
        writer.put(values, 0)
        assert writer.close() == 0
    assert [point.value for point in store.get_metric_history(run, "eval_runtime")] == [1.0]
    assert store.get_run(run).data.metrics["held_out.nll"] == 0.4


def test_a_checkpoint_that_was_trained_again_doubles_no_step_of_the_curve(store: MlflowClient) -> None:
    """A training that ran out of memory measures a step again with a smaller batch, by a hair differently."""
    experiment = store.create_experiment("smaller")
    run = store.create_run(experiment).info.run_id
    model = store.create_logged_model(experiment, source_run_id=run, name="last").model_id
    writer = MetricWriter(store, run)
    writer.put({"eval_loss": 3.8895097}, 4)
    writer.put({"eval_loss": 3.8895096}, 4)
    writer.put({"eval_loss": 3.8895096}, 4, MetricLink(model, "rows", "0123"))
    assert writer.close() == 0
    assert {(point.step, point.value) for point in store.get_metric_history(run, "eval_loss")} == {(4, 3.8895097)}
    assert len({point.timestamp for point in store.get_metric_history(run, "eval_loss")}) == 1
    assert [metric.key for metric in store.get_logged_model(model).metrics] == ["eval_loss"]


def test_a_cell_that_had_failed_first_gets_its_swept_fields_later(store: MlflowClient, tmp_path: Path) -> None:
    _, results, ranking = grid(store)
    first = results[0].model_copy(update={"overrides": {}})
    other = results[1].model_copy(update={"overrides": {"training.max_steps": 3}})
    log_outcomes(ExperimentFolder(tmp_path), ranking, [first.model_copy(update={"train": None}), other], {})
    assert "sweep.training.max_steps" not in store.get_run(first.mlflow_run_id).data.params
    trained = trained_for(5)
    finished = first.model_copy(update={"train": trained.model_copy(update={"settings": {"training.max_steps": "5"}})})
    for findings in ({}, {first.cell: (error_finding(),)}):
        log_outcomes(ExperimentFolder(tmp_path), ranking, [finished, other], findings)
        data = store.get_run(first.mlflow_run_id).data
        assert (data.params["sweep.training.max_steps"], data.metrics["sweep/training.max_steps"]) == ("5", 5.0)
    assert len(store.get_metric_history(first.mlflow_run_id, "sweep/training.max_steps")) == 1
