"""What `report` and `sync` do while a `harness run` is at work: nothing to its runs."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from mlflow.tracking import MlflowClient

from harness.cli.main import main
from harness.experiment import ending_truthfully
from harness.launch import local
from harness.locks import holding
from harness.recorded import recorded_plan
from harness.store import ExperimentFolder, experiment_folder
from harness.tracking import connection
from harness.tracking.undelivered import note_untold

Write = Callable[[str, str], Path]
YAML = """\
name: {name}
evals: [{{suite: held_out, data: test.jsonl, scorers: [exact_match]}}]
references: [{{name: a, predictions: a.jsonl}}]
ranking: {{gates: []}}
"""


def harness(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments), catch_exceptions=False)


def begun(write: Write, store: MlflowClient, name: str) -> ExperimentFolder:
    """An experiment whose run is open again, as while a `harness run` is at work."""
    write('{"id": "q1", "prompt": "1 + 1?", "reference": "2"}\n', "test.jsonl")
    write('{"id": "q1", "prediction": "2"}\n', "a.jsonl")
    write(YAML.format(name=name), f"{name}.yaml")
    done = harness("run", f"{name}.yaml")
    assert done.exit_code == 0, done.output
    folder = experiment_folder(name)
    connection.reopen(folder.parent_run_id.read_text())
    note_untold(folder)
    return folder


def status(store: MlflowClient, folder: ExperimentFolder) -> str:
    return str(store.get_run(folder.parent_run_id.read_text()).info.status)


def test_a_report_in_between_leaves_the_run_open(write: Write, store: MlflowClient) -> None:
    folder = begun(write, store, "one")
    folder.report("html").unlink()
    with holding(folder.lock):
        assert harness("report", "one.yaml").exit_code == 0
        assert folder.report("html").exists()
        assert status(store, folder) == "RUNNING"
        assert folder.undelivered.exists()
    assert harness("report", "one.yaml").exit_code == 0
    assert status(store, folder) == "FINISHED"
    assert not folder.undelivered.exists()


def test_sync_of_all_passes_over_one_that_is_at_work(write: Write, store: MlflowClient) -> None:
    at_work, left = begun(write, store, "one"), begun(write, store, "two")
    with holding(at_work.lock):
        done = harness("sync")
        assert done.exit_code == 1
        assert "one: left: all that is waiting" in done.output
        assert "two: delivered: the report" in done.output
        assert (status(store, at_work), status(store, left)) == ("RUNNING", "FINISHED")
        assert harness("sync", "one").exit_code == 2


def test_sync_leaves_a_cell_to_the_worker_that_has_it(write: Write, store: MlflowClient) -> None:
    folder = begun(write, store, "one")
    row = folder.cell(recorded_plan(folder).references[0].id)
    row.undelivered.write_text("{}")
    with holding(row.lock):
        assert harness("sync", "one").exit_code == 0
    assert row.undelivered.read_text() == "{}"


def test_an_end_between_training_and_report_is_told(write: Write, store: MlflowClient) -> None:
    folder = begun(write, store, "one")
    with pytest.raises(KeyboardInterrupt), ending_truthfully(recorded_plan(folder)):
        raise KeyboardInterrupt
    assert status(store, folder) == "KILLED"


def test_a_plan_that_the_store_refuses_costs_no_second_run(
    write: Write, store: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = begun(write, store, "one")
    first = folder.parent_run_id.read_text()
    store.delete_run(first)
    row = folder.cell(recorded_plan(folder).references[0].id)
    row.result.unlink()
    monkeypatch.setattr(connection, "RETRY_SECONDS", ())
    monkeypatch.setattr(MlflowClient, "log_dict", lambda *_: (_ for _ in ()).throw(OSError("no room")))
    assert harness("run", "one.yaml").exit_code == 0
    made = folder.parent_run_id.read_text()
    assert made != first
    assert [run.info.run_id for run in store.search_runs(["1"]) if "(report)" in run.info.run_name] == [made]


def test_a_signal_while_a_worker_starts_counts_once_it_is_known() -> None:
    import os
    import signal
    import threading
    import time

    known = []
    other = threading.Thread(target=time.sleep, args=(1.0,))
    other.start()
    with pytest.raises(KeyboardInterrupt), local._signals_held_back():
        # Another thread takes it; Python would raise it here.
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        known.append("worker")
    other.join()
    assert known == ["worker"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
