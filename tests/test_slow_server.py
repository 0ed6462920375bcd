"""A tracking server that is slow, or takes requests and never answers, costs a training nothing."""

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE

from harness.store import CellFolder, read_lines, read_record
from harness.tracking import connection, system_metrics, writer
from harness.tracking.base import NullTracker
from harness.tracking.connection import deliver, is_away, note_answer
from harness.tracking.mlflow_tracker import MlflowTracker, open_tracker
from harness.tracking.system_metrics import FILE, SystemPoint
from harness.tracking.undelivered import Undelivered
from harness.tracking.writer import MetricWriter
from tests.test_tracking import spec_of


class Holding(MlflowClient):
    """A client whose first answer comes when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.is_asked, self.may_answer = threading.Event(), threading.Event()

    def log_batch(self, run_id: str, metrics: list[Metric]) -> None:
        self.is_asked.set()
        assert self.may_answer.wait(60)
        super().log_batch(run_id, metrics)


def new_run(store: MlflowClient) -> str:
    return str(store.create_run(store.create_experiment("slow")).info.run_id)


def steps_of(store: MlflowClient, run_id: str, name: str) -> list[int]:
    return sorted(point.step for point in store.get_metric_history(run_id, name))


def test_steps_go_on_while_a_request_is_unanswered(store: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "FLUSH_SECONDS", 0.01)
    run_id, client = new_run(store), Holding()
    metrics = MetricWriter(client, run_id)
    metrics.put({"loss": 1.0}, 1)
    assert client.is_asked.wait(60)
    for step in range(2, 1001):
        metrics.put({"loss": 1.0 / step}, step)
    assert not client.may_answer.is_set(), "a thousand steps were taken before the first answer"
    client.may_answer.set()
    assert metrics.close() == 0
    assert steps_of(store, run_id, "loss") == list(range(1, 1001))


@pytest.fixture
def black_hole(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A chosen store that takes every connection and says nothing; requests have a second of patience."""
    before = mlflow.get_tracking_uri()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(connection, "PATIENCE_SECONDS", 0.5)
    monkeypatch.setattr(writer, "PATIENCE_SECONDS", 0.5)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(50)
        yield connection.select_store(f"http://127.0.0.1:{listening.getsockname()[1]}")
    mlflow.set_tracking_uri(before)
    # MLflow exports what it is told.
    os.environ.pop("MLFLOW_TRACKING_URI", None)


def test_a_server_that_never_answers_is_asked_once_by_a_training(
    black_hole: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = connection.client()
    asked: list[str] = []

    def ask() -> None:
        asked.append("params")
        client.get_run("0" * 32)

    assert not deliver("params", ask)
    assert not deliver("datasets", ask), "nobody waits for it again"
    assert asked == ["params"]


def test_a_cell_opens_without_a_run_where_nobody_answers(black_hole: str, tmp_path: Path) -> None:
    folder = CellFolder(tmp_path / "cells" / "c")
    assert isinstance(open_tracker(spec_of("a"), folder), NullTracker)
    assert read_record(folder.undelivered, Undelivered).what == ("the whole run",)


def test_closing_waits_no_second_time_for_a_server_that_never_answers(
    black_hole: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "FLUSH_SECONDS", 0.01)
    attempts, is_failed = [], threading.Event()

    class Client(MlflowClient):
        def log_batch(self, run_id: str, metrics: list[Metric]) -> None:
            attempts.append(len(metrics))
            try:
                super().log_batch(run_id, metrics)
            finally:
                monkeypatch.setattr(writer, "FLUSH_SECONDS", 60)
                is_failed.set()

    metrics = MetricWriter(Client(), "0" * 32)
    metrics.put({"loss": 1.0}, 1)
    assert is_failed.wait(60)
    metrics.put({"loss": 0.5, "grad_norm": 2.0}, 2)
    assert metrics.close() == 3, "all are counted, also those that were put since"
    assert attempts == [1]


def test_who_waited_long_leaves_the_store_alone_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(connection.time, "monotonic", lambda: now)
    note_answer(ConnectionError("timed out"), waited=60.0)
    for later, is_asked in ((600.0, False), (1300.0, True)):
        now = 1000.0 + later
        assert deliver("params", lambda: None) is is_asked, f"after {later} s"


def test_a_database_that_another_process_locks_takes_the_next_attempt(
    store: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "RETRY_SECONDS", (0.0, 0.0))
    locked = [MlflowException("(sqlite3.OperationalError) database is locked", TEMPORARILY_UNAVAILABLE)] * 2
    assert not is_away(locked[0])

    class Locked(MlflowClient):
        def log_batch(self, run_id: str, metrics: list[Metric]) -> None:
            if locked:
                raise locked.pop()
            super().log_batch(run_id, metrics)

    run_id = new_run(store)
    metrics = MetricWriter(Locked(), run_id)
    metrics.put({"loss": 1.0}, 1)
    assert metrics.close() == 0
    assert steps_of(store, run_id, "loss") == [1]


def test_measurements_of_the_machine_wait_for_the_server(
    store: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.01")
    folder = CellFolder(tmp_path / "cells" / "c")
    folder.path.mkdir(parents=True)

    class Away(MlflowClient):
        def log_batch(self, run_id: str, metrics: list[Metric]) -> None:
            raise ConnectionError("gone")

    run_id = new_run(store)
    metrics = MetricWriter(Away(), run_id)
    machine = system_metrics.SystemMetrics(folder.path, metrics)
    while sum(1 for _ in read_lines(folder.path / FILE, SystemPoint)) < 3:
        machine._ending.wait(0.01)
    machine.finish()
    metrics.close()
    measured = [point.step for point in read_lines(folder.path / FILE, SystemPoint)]
    name = "system/cpu_utilization_percentage"
    assert steps_of(store, run_id, name) == []
    for _ in range(2):
        later = MetricWriter(store, run_id, is_new=False)
        system_metrics.send_again(folder.path, later)
        assert later.close() == 0
    assert steps_of(store, run_id, name) == measured == list(range(len(measured)))


def test_a_run_is_measured_from_its_opening(
    store: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.01")
    experiment_id = store.create_experiment("slow")
    folder = CellFolder(tmp_path / "cells" / "c")
    for _ in range(2):
        tracker = MlflowTracker(spec_of("a").model_copy(update={"system_metrics": True}), folder, experiment_id)
        known = sum(1 for _ in read_lines(folder.path / FILE, SystemPoint))
        while sum(1 for _ in read_lines(folder.path / FILE, SystemPoint)) < known + 2:
            threading.Event().wait(0.01)
        tracker.close("FINISHED")
    measured = [point.step for point in read_lines(folder.path / FILE, SystemPoint)]
    assert steps_of(store, tracker.run_id, "system/system_memory_usage_megabytes") == measured
    assert measured == list(range(len(measured))), "a run that is opened again goes on counting"
