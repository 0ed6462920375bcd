"""MLflow: what goes wrong there must not end a training, and passwords must not show."""

import logging
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric

from harness.tracking import connection
from harness.tracking.connection import deliver, without_password
from harness.tracking.writer import MetricWriter


@pytest.fixture
def store(tmp_path: Path) -> Iterator[MlflowClient]:
    before = mlflow.get_tracking_uri()
    connection.select_store(f"sqlite:///{tmp_path / 'mlflow.db'}")
    yield connection.client()
    mlflow.set_tracking_uri(before)


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
