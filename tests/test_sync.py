"""A tracking server that goes away costs nothing but time: training goes on, and `harness sync` delivers the rest, once."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import mlflow
import pytest
from mlflow import MlflowClient

from harness.delivery import conclude, deliver_cells
from harness.errors import StoreError
from harness.grid import CellSpec
from harness.records import CellResult, TracePoint
from harness.store import CellFolder, ExperimentFolder, read_lines, read_record, write_lines, write_record
from harness.tracking import connection
from harness.tracking.base import NullTracker, RunStatus
from harness.tracking.experiment_run import open_parent_run
from harness.tracking.mlflow_tracker import MlflowTracker, open_tracker
from tests.helpers import cell_result, suite_result
from tests.test_tracking import spec_of

STEPS = 16
YAML = f"""\
name: away
model: {{name: embedded:base}}
template: {{name: chatml}}
data: {{train: embedded:train, validation: embedded:validation, test: embedded:test, limit: 40}}
training:
  max_steps: {STEPS}
  per_device_train_batch_size: 8
  max_length: 128
  gradient_checkpointing: false
  eval_steps: 8
variants:
  first: {{training: {{learning_rate: 1e-3}}}}
  second: {{training: {{learning_rate: 2e-3}}}}
evals: [{{suite: held_out, limit: 8, max_new_tokens: 8}}]
ranking: {{by: held_out.nll, gates: []}}
launch: {{workers: 1}}
tracking: {{system_metrics: false}}
"""
ALONE = {"NO_PROXY": "127.0.0.1", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


class Server:
    """A tracking server that can be stopped and started again, with the same store at the same address."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        options = [
            "--backend-store-uri", f"sqlite:///{self._folder}/server.db", "--artifacts-destination", str(self._folder / "artifacts"),
            "--host", "127.0.0.1", "--port", str(self._port), "--workers", "1",
        ]  # fmt: skip
        with (self._folder / "log").open("a") as log:
            command = [sys.executable, "-m", "mlflow", "server", *options]
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | ALONE)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        for _ in range(900):
            assert self._process.poll() is None, (self._folder / "log").read_text()
            try:
                opener.open(f"{self.url}/health", timeout=5).close()
                return
            except OSError:
                time.sleep(0.1)
        raise AssertionError("the server isn't ready")

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(30)


class Interrupted(NamedTuple):
    """An experiment whose server went away in the middle of its first cell, and came back after its end."""

    folder: ExperimentFolder
    client: MlflowClient
    code: int
    output: str

    def sync(self) -> tuple[int, list[dict[str, list[str]]]]:
        done = harness(self.folder.path.parents[2], self.client.tracking_uri, "sync", "--json")
        return done.returncode, json.loads(done.stdout)

    def cells(self) -> dict[str, CellResult]:
        found = [read_record(path, CellResult) for path in self.folder.path.glob("cells/*/result.json")]
        return {result.name: result for result in found}


def harness(folder: Path, url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness", *arguments]
    return subprocess.run(
        command, cwd=folder, env=os.environ | ALONE | {"MLFLOW_TRACKING_URI": url}, capture_output=True, text=True, check=False
    )  # fmt: skip


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Interrupted]:
    place, there = tmp_path_factory.mktemp("here"), tmp_path_factory.mktemp("server")
    (place / "away.yaml").write_text(YAML)
    server = Server(there)
    server.start()
    command = [sys.executable, "-m", "harness", "run", "away.yaml"]
    with (place / "output").open("w") as output:
        run = subprocess.Popen(
            command, cwd=place, env=os.environ | ALONE | {"MLFLOW_TRACKING_URI": server.url}, stdout=output, stderr=output
        )  # fmt: skip
    folder = ExperimentFolder(place / "mlruns" / "harness" / "away")
    while run.poll() is None and not any(len(p.read_text().splitlines()) > 3 for p in folder.path.glob("cells/*/trace.jsonl")):  # fmt: skip
        time.sleep(0.02)
    server.stop()
    code = run.wait(300)
    server.start()
    before = mlflow.get_tracking_uri()
    try:
        yield Interrupted(folder, MlflowClient(server.url), code, (place / "output").read_text())
    finally:
        server.stop()
        mlflow.set_tracking_uri(before)
        os.environ.pop("MLFLOW_TRACKING_URI", None)


def test_all_that_a_server_missed_is_delivered_once(interrupted: Interrupted) -> None:
    assert interrupted.code == 0, interrupted.output
    assert "`harness sync` sends it" in interrupted.output
    assert interrupted.cells()["second"].mlflow_run_id == "", "its run could not be made"
    code, (synced,) = interrupted.sync()
    assert code == 0
    assert set(synced["delivered"]) == {"first", "second", "the report"}
    runs = {name: interrupted.client.get_run(result.mlflow_run_id) for name, result in interrupted.cells().items()}
    assert {name: run.info.status for name, run in runs.items()} == dict.fromkeys(
        ("first", "second", "base"), "FINISHED"
    )
    assert len(interrupted.client.search_runs([runs["base"].info.experiment_id])) == 4
    for name in ("first", "second"):
        check_completeness(interrupted, runs[name].info.run_id, interrupted.cells()[name])
    parent = interrupted.client.get_run(interrupted.folder.parent_run_id.read_text())
    assert parent.info.status == "FINISHED"
    assert "report.html" in {file.path for file in interrupted.client.list_artifacts(parent.info.run_id)}
    assert interrupted.sync() == (0, []), "nothing is sent twice"


def check_completeness(interrupted: Interrupted, run_id: str, result: CellResult) -> None:
    client, run = interrupted.client, interrupted.client.get_run(run_id)
    trace = list(read_lines(interrupted.folder.cell(result.cell).trace, TracePoint))
    for metric in ("loss", "eval_loss", "learning_rate"):
        recorded = {point.step: point.values[metric] for point in trace if metric in point.values}
        sent = [(point.step, point.value) for point in client.get_metric_history(run_id, metric)]
        assert sorted(sent) == sorted(recorded.items()), metric
    assert [point.step for point in client.get_metric_history(run_id, "loss")] == list(range(1, STEPS + 1))
    assert len(client.get_metric_history(run_id, "held_out.nll")) == 1
    assert run.data.params["training.max_steps"] == str(STEPS)
    assert {"harness.records", "harness.preflight", "harness.rank", "mlflow.note.content"} <= set(run.data.tags)
    assert "harness/records.zip" in {file.path for file in client.list_artifacts(run_id, "harness")}
    assert [file.path for file in client.list_artifacts(run_id, "generations")] == ["generations/held_out.json"]
    models = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run_id}'")
    assert {model.tags["harness.checkpoint_kind"] for model in models} == {"best", "last"}
    assert [metric.key for model in models for metric in model.metrics or () if metric.key == "held_out.nll"] == [
        "held_out.nll"
    ]


def test_a_server_that_is_away_at_the_start_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "away.yaml").write_text(YAML)
    done = harness(tmp_path, "http://127.0.0.1:9", "run", "away.yaml")
    assert done.returncode == 2
    assert "http://127.0.0.1:9 can't be used" in done.stderr
    assert not list(tmp_path.glob("mlruns/harness/away/cells/*/trace.jsonl"))


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MlflowClient]:
    before = mlflow.get_tracking_uri()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(connection, "RETRY_SECONDS", (0.0,))
    connection.select_store(f"sqlite:///{tmp_path / 'mlflow.db'}")
    yield connection.client()
    mlflow.set_tracking_uri(before)
    os.environ.pop("MLFLOW_TRACKING_URI", None)


@pytest.fixture
def cell(store: MlflowClient, tmp_path: Path) -> CellFolder:
    """A cell with a trace of five steps and no run yet."""
    folder = ExperimentFolder(tmp_path / "mlruns" / "harness" / "x")
    parent = open_parent_run(folder, store.create_experiment("x"), "x", {})
    spec = spec_of("one").model_copy(update={"parent_run_id": parent})
    made = folder.cell(spec.cell.id)
    write_record(made.spec, spec)
    write_lines(
        made.trace, [TracePoint(step=i, epoch=0.1, seconds=2.0 * i, values={"loss": 1 / i}) for i in range(1, 6)]
    )
    return made


def result_of(run_id: str, status: str = "finished") -> CellResult:
    suite = suite_result("held_out", {"exact_match": [1.0, 0.0]})
    return cell_result("one", suite, status=status).model_copy(update={"cell": "a" * 12, "mlflow_run_id": run_id})


def opened(cell: CellFolder) -> MlflowTracker:
    tracker = open_tracker(read_record(cell.spec, CellSpec), cell)
    assert isinstance(tracker, MlflowTracker)
    return tracker


def steps(store: MlflowClient, run_id: str) -> list[int]:
    return [point.step for point in store.get_metric_history(run_id, "loss")]


def test_a_cell_goes_on_without_a_run_that_cannot_be_made(
    store: MlflowClient, cell: CellFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object, **__: object) -> None:
        raise ConnectionError("gone")

    with monkeypatch.context() as away:
        away.setattr(MlflowClient, "create_run", gone)
        tracker = open_tracker(read_record(cell.spec, CellSpec), cell)
    assert isinstance(tracker, NullTracker)
    conclude(tracker, cell, result_of(tracker.run_id))
    tracker.close("FINISHED")
    write_record(cell.result, result_of(tracker.run_id))
    assert deliver_cells([cell]).left == ("one (the whole run)",), "it isn't asked again at once"
    connection.note_answer(None)
    assert deliver_cells([cell]).delivered == ("one",)
    result = read_record(cell.result, CellResult)
    assert steps(store, result.mlflow_run_id) == [1, 2, 3, 4, 5]
    times = [point.timestamp for point in store.get_metric_history(result.mlflow_run_id, "loss")]
    assert [late - early for early, late in zip(times, times[1:], strict=False)] == [2000] * 4
    assert store.get_run(result.mlflow_run_id).data.metrics["held_out.exact_match"] == 0.5
    assert deliver_cells([cell]) == ((), ())


def test_what_a_killed_process_had_not_sent_is_sent_by_the_next(store: MlflowClient, cell: CellFolder) -> None:
    killed = opened(cell)
    killed.log_metrics({"loss": 1.0}, 1)
    killed.log_metrics({"loss": 0.5}, 2)
    killed._writer.close()
    again = opened(cell)
    assert again.run_id == killed.run_id
    again.log_metrics({"loss": 0.5}, 2)
    again.log_metrics({"loss": 0.2}, 5)
    conclude(again, cell, result_of(again.run_id))
    again.close("FINISHED")
    assert sorted(steps(store, again.run_id)) == [1, 2, 3, 4, 5]
    assert not cell.undelivered.exists()
    assert not opened(cell).owes


@pytest.mark.parametrize(("status", "owes"), [("FINISHED", False), ("FAILED", True), ("KILLED", True)])
def test_a_run_that_was_stopped_may_lack_what_was_recorded_just_then(
    status: RunStatus, owes: bool, cell: CellFolder
) -> None:
    opened(cell).close(status)
    assert not cell.undelivered.exists()
    assert opened(cell).owes == owes


def test_a_run_that_somebody_deleted_is_made_again_with_everything(store: MlflowClient, cell: CellFolder) -> None:
    tracker = opened(cell)
    tracker.close("FINISHED")
    store.delete_run(tracker.run_id)
    again = opened(cell)
    assert again.run_id != tracker.run_id
    assert again.owes


def test_a_status_that_was_missed_is_the_one_that_was_meant(
    store: MlflowClient, cell: CellFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = opened(cell)
    result = result_of(tracker.run_id, "failed")
    conclude(tracker, cell, result)
    with monkeypatch.context() as away:
        away.setattr(MlflowClient, "set_terminated", lambda *_, **__: 1 / 0)
        tracker.close("FAILED")
    write_record(cell.result, result)
    assert store.get_run(tracker.run_id).info.status == "RUNNING"
    assert deliver_cells([cell]).delivered == ("one",)
    ended = store.get_run(tracker.run_id)
    assert ended.info.status == "FAILED"
    assert ended.data.tags["harness.error"] == "training: it broke"
    assert abs(ended.info.end_time / 1000 - cell.result.stat().st_mtime) < 1


def test_a_store_that_was_just_found_away_holds_nobody_up(store: MlflowClient) -> None:
    calls = []

    def call() -> None:
        calls.append(1)
        raise ConnectionError("gone")

    with connection.noting() as missed:
        assert not connection.deliver("params", call)
        assert not connection.deliver("tags", call)
    assert (missed, len(calls)) == (["params", "tags"], 2), "one attempt, one retry, and then none"


def test_runs_of_another_store_are_not_made_twice(store: MlflowClient, cell: CellFolder, tmp_path: Path) -> None:
    write_record(cell.result, result_of(opened(cell).run_id))
    connection.select_store(f"sqlite:///{tmp_path / 'other.db'}")
    with pytest.raises(StoreError, match="belongs to sqlite:.*mlflow.db, not to"):
        deliver_cells([cell])
