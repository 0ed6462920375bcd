"""Runs whose process died without a word are closed, and nobody else's are touched."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import mlflow
import pytest
from click.testing import CliRunner, Result
from mlflow import MlflowClient

from harness.cli.main import main
from harness.grid import CellSpec
from harness.reconcile import reconcile
from harness.records import CellResult
from harness.store import experiment_folder, write_record
from harness.tracking import connection, writer
from harness.tracking.experiment_run import beating, open_parent_run
from harness.tracking.left_running import close_left, left_running
from harness.tracking.mlflow_tracker import MlflowTracker
from harness.tracking.ownership import HEARTBEAT_TAG, HOST_TAG, PID_TAG, owner_tags
from harness.tracking.writer import MetricWriter
from tests.test_tracking import spec_of

# What a worker does, up to the middle of its training.
WORKER = """
import sys, time
from harness.grid import CellSpec
from harness.store import CellFolder, experiment_folder
from harness.tracking import connection
from harness.tracking.experiment_run import open_parent_run
from harness.tracking.mlflow_tracker import MlflowTracker
experiment = connection.connect(sys.argv[1], "x")
parent = open_parent_run(experiment_folder("x"), experiment, "x", {})
spec = CellSpec.model_validate_json(sys.argv[2])
tracker = MlflowTracker(spec, experiment_folder("x").cell(spec.cell.id), experiment)
print(parent, tracker.run_id, flush=True)
time.sleep(60)
"""


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MlflowClient]:
    before = mlflow.get_tracking_uri()
    monkeypatch.chdir(tmp_path)
    connection.select_store(f"sqlite:///{tmp_path / 'mlflow.db'}")
    yield connection.client()
    mlflow.set_tracking_uri(before)
    os.environ.pop("MLFLOW_TRACKING_URI", None)


def run_with(store: MlflowClient, tags: Mapping[str, str]) -> str:
    found = store.get_experiment_by_name("x")
    experiment = found.experiment_id if found else store.create_experiment("x")
    return str(store.create_run(experiment, tags=dict(tags), run_name="one").info.run_id)


def of_ours(**changed: str) -> dict[str, str]:
    """Tags of a run of this process, some of them replaced."""
    own = {"harness.kind": "cell", "harness.experiment": "x", "harness.cell": "a" * 12, **owner_tags()}
    return own | {f"harness.{name}": value for name, value in changed.items()}


def ago(minutes: float) -> str:
    return (datetime.now(UTC) - timedelta(minutes=minutes)).isoformat(timespec="seconds")


def status(store: MlflowClient, run_id: str) -> str:
    return str(store.get_run(run_id).info.status)


def harness(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments), catch_exceptions=False)


def killed_worker(spec: CellSpec) -> tuple[str, str]:
    """Ids of the runs that a process had open when it was killed: the experiment's and a cell's."""
    command = [sys.executable, "-c", WORKER, connection.current_uri(), spec.model_dump_json()]
    worker = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert worker.stdout is not None
    parent, cell = worker.stdout.readline().split()
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    return parent, cell


def test_runs_of_a_killed_process_are_closed_and_resumed(store: MlflowClient) -> None:
    spec = spec_of("one")
    parent, cell = killed_worker(spec)
    before = store.get_run(cell)
    assert before.info.status == "RUNNING"
    said = harness("reconcile", "--dry-run", "--json")
    assert {item["run_id"] for item in json.loads(said.stdout)} == {parent, cell}
    assert status(store, cell) == "RUNNING", "it was a dry run"
    closed = harness("reconcile", "x")
    assert closed.exit_code == 0
    assert len(closed.stdout.splitlines()) == 2
    assert f"one ({cell}) -> KILLED: process " in closed.stdout
    after = store.get_run(cell)
    assert (status(store, parent), after.info.status) == ("KILLED", "KILLED")
    assert "is gone" in after.data.tags["harness.error"]
    last_heard = 1000 * datetime.fromisoformat(before.data.tags[HEARTBEAT_TAG]).timestamp()
    assert abs(after.info.end_time - last_heard) < 2000
    assert "no run was left" in harness("reconcile").stderr
    again = MlflowTracker(spec, experiment_folder("x").cell(spec.cell.id), before.info.experiment_id)
    assert again.run_id == cell
    tags = store.get_run(cell).data.tags
    assert tags[PID_TAG] == owner_tags()[PID_TAG]
    assert "harness.error" not in tags, "it goes on"
    assert reconcile(["x"]) == ()
    again.close("FINISHED")
    assert status(store, cell) == "FINISHED"


@pytest.mark.parametrize(
    ("changed", "is_dead"),
    [
        ({}, False),
        ({"minutes": 60}, False),
        ({"pid": f"{os.getpid()}@1.00"}, True),
        ({"pid": "4194305@1.00"}, True),
        ({"host": "far-away", "minutes": 9}, False),
        ({"host": "far-away", "minutes": 11}, True),
        ({"host": "far-away", "heartbeat": "nonsense"}, False),
        ({"kind": ""}, False),
    ],
    ids=["own", "own-silent", "reused-pid", "no-such-pid", "other-host", "other-host-silent", "unreadable", "not-ours"],
)
def test_who_is_taken_for_dead(store: MlflowClient, changed: dict[str, Any], is_dead: bool) -> None:
    beat = {"heartbeat": ago(changed["minutes"])} if "minutes" in changed else {}
    run_id = run_with(store, of_ours(**beat, **{name: text for name, text in changed.items() if name != "minutes"}))
    assert [item.run_id for item in reconcile(["x"])] == ([run_id] if is_dead else [])
    assert status(store, run_id) == ("KILLED" if is_dead else "RUNNING")


def test_silence_is_measured_by_the_option(store: MlflowClient) -> None:
    run_id = run_with(store, of_ours(host="far-away", heartbeat=ago(20)))
    assert harness("reconcile", "x", "--stale-after", "30").stdout == ""
    assert "last heard of 20 minutes ago" in harness("reconcile", "x", "--stale-after", "15").stdout
    assert status(store, run_id) == "KILLED"


def test_runs_without_our_tags_are_left_alone(store: MlflowClient) -> None:
    foreign = run_with(store, {PID_TAG: "4194305@1.00", HOST_TAG: owner_tags()[HOST_TAG]})
    plain = run_with(store, {})
    assert reconcile([]) == ()
    assert (status(store, foreign), status(store, plain)) == ("RUNNING", "RUNNING")


@pytest.mark.parametrize(("recorded", "expected"), [("finished", "FINISHED"), ("failed", "FAILED")])
def test_a_result_that_was_written_says_how_the_run_ended(store: MlflowClient, recorded: str, expected: str) -> None:
    run_id = run_with(store, of_ours(pid="4194305@1.00"))
    stage, error = ("", "") if recorded == "finished" else ("training", "it broke")
    result = CellResult(
        cell="a" * 12, name="one", group="g", seed=0, overrides={}, status=recorded, stage=stage, error=error, mlflow_run_id=run_id
    )  # fmt: skip
    write_record(experiment_folder("x").cell("a" * 12).result, result)
    assert [item.status for item in reconcile(["x"])] == [expected]
    assert status(store, run_id) == expected
    assert store.get_run(run_id).data.tags.get("harness.error", "") == (error and f"{stage}: {error}")


def test_the_result_of_another_run_or_half_of_one_says_nothing(store: MlflowClient) -> None:
    run_id = run_with(store, of_ours(pid="4194305@1.00"))
    path = experiment_folder("x").cell("a" * 12).result
    path.parent.mkdir(parents=True)
    path.write_text('{"cell": "aaaa')
    assert [(item.run_id, item.status) for item in reconcile(["x"])] == [(run_id, "KILLED")]


def test_a_run_that_was_taken_over_meanwhile_is_not_closed(store: MlflowClient) -> None:
    run_id = run_with(store, of_ours(pid="4194305@1.00"))
    (left,) = left_running([store.get_run(run_id).info.experiment_id], None)
    connection.reopen(run_id)
    assert close_left(left) is None
    assert status(store, run_id) == "RUNNING"


def test_runs_of_other_machines_are_not_judged_when_a_run_starts(store: MlflowClient) -> None:
    run_id = run_with(store, of_ours(host="far-away", heartbeat=ago(600)))
    assert left_running([store.get_run(run_id).info.experiment_id], None) == []


def test_an_experiment_that_nobody_knows_is_named(store: MlflowClient) -> None:
    store.create_experiment("y")
    said = harness("reconcile", "nosuch")
    assert said.exit_code == 2
    assert "knows no experiment 'nosuch'" in said.stderr


def test_the_writer_says_that_its_process_lives(store: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "HEARTBEAT_SECONDS", 0.0)
    run_id = run_with(store, of_ours(heartbeat=ago(60)))
    with beating(run_id):
        pass
    assert reconcile(["x"]) == ()
    beat = datetime.fromisoformat(store.get_run(run_id).data.tags[HEARTBEAT_TAG])
    assert datetime.now(UTC) - beat < timedelta(minutes=1)


def test_the_run_of_an_experiment_states_its_process(store: MlflowClient) -> None:
    run_id = open_parent_run(experiment_folder("x"), store.create_experiment("x"), "x", {})
    assert store.get_run(run_id).data.tags[PID_TAG] == owner_tags()[PID_TAG]


def points(store: MlflowClient, run_id: str, name: str) -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in store.get_metric_history(run_id, name)]


def test_a_step_that_is_trained_again_is_in_its_curve_once(store: MlflowClient) -> None:
    run_id = run_with(store, {})
    for is_new, steps in ((True, range(1, 6)), (False, range(4, 9))):
        curve = MetricWriter(store, run_id, is_new=is_new)
        for step in steps:
            curve.put({"loss": 1 / step, "broken": float("nan"), "high": float("inf")}, step)
        curve.put({"estimate": 0.5 if is_new else 0.6, "same": 1.0}, 0)
        assert curve.close() == 0
    for name in ("loss", "broken", "high"):
        assert [step for step, _ in points(store, run_id, name)] == list(range(1, 9)), name
    assert points(store, run_id, "estimate") == [(0, 0.5), (0, 0.6)], "it was evaluated again"
    assert points(store, run_id, "same") == [(0, 1.0)]


def test_however_many_runs_there_are_they_are_searched_once(
    store: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(30):
        store.set_terminated(run_with(store, of_ours(pid="4194305@1.00")))
    dead = {run_with(store, of_ours(pid="4194305@1.00")) for _ in range(3)}
    calls: list[str] = []
    search, get = MlflowClient.search_runs, MlflowClient.get_run
    monkeypatch.setattr(MlflowClient, "search_runs", lambda *a, **k: calls.append("search") or search(*a, **k))
    monkeypatch.setattr(MlflowClient, "get_run", lambda *a, **k: calls.append("get") or get(*a, **k))
    assert {item.run_id for item in reconcile(["x"])} == dead
    assert (calls.count("search"), calls.count("get")) == (1, 3)
