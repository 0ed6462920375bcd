"""Rank and report on a machine that has nothing but the tracking server: the same, byte for byte."""

import json
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import pytest
from click.testing import CliRunner, Result

from harness import experiment
from harness.cli.main import main
from harness.errors import ConfigError, StoreError
from harness.experiment import finish, run_experiment
from harness.follow import cause_of, record_death
from harness.grid import Cell, CellSpec
from harness.plan import Plan, plan_experiment
from harness.recorded import find_plan, restore, write_plan
from harness.records import CellResult, Generation, TracePoint
from harness.resources import file_digest
from harness.store import CellFolder, append_lines, read_record, write_lines, write_record
from harness.targets import diagnose_target, find_cell
from harness.tracking import connection, experiment_run, record_files
from harness.tracking.mlflow_tracker import MlflowTracker
from harness.tracking.record_files import pack, unpack
from tests.helpers import coin, suite_result, trained_for

N = 30
YAML = """\
name: shared
model: {name: embedded:base}
template: {name: chatml}
data: {train: embedded:train, validation: embedded:validation, test: embedded:test, limit: 40}
variants:
  good: {training: {learning_rate: 1e-3}}
  bad: {training: {learning_rate: 2e-3}}
  crashed: {training: {learning_rate: 3e-3}}
  refused: {training: {learning_rate: 4e-3}}
  waiting: {training: {learning_rate: 5e-3}}
evals: [held_out]
ranking: {by: held_out.exact_match, gates: []}
tracking: {system_metrics: false}
"""
RATES = {"good": 0.8, "bad": 0.3, "base": 0.1}
# A server without what it starts beside itself.
REPORTS = ("ranking.json", "report.json", "report.md", "report.html")


def harness(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments), catch_exceptions=False)


@pytest.fixture(autouse=True)
def _same_store_afterwards(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = mlflow.get_tracking_uri()
    monkeypatch.setattr(connection, "RETRY_SECONDS", (0.1, 0.3, 0.5))
    yield
    mlflow.set_tracking_uri(before)
    # MLflow exports what it is told.
    os.environ.pop("MLFLOW_TRACKING_URI", None)


def result_of(cell: Cell, run_id: str) -> CellResult:
    """As a worker would have it: good, bad, crashed, or the base."""
    has_failed = cell.name == "crashed"
    scores = suite_result("held_out", {"exact_match": coin(RATES.get(cell.name, 0.5), N, 1)})
    return CellResult(
        cell=cell.id, name=cell.name, group=cell.group, seed=cell.seed, base=cell.base, overrides=cell.overrides,
        status="failed" if has_failed else "finished", stage="training" if has_failed else "", error="it broke" if has_failed else "",
        reference=cell.reference.kind if cell.reference else None, mlflow_run_id=run_id, suites=() if has_failed else (scores,),
        train=trained_for(20) if cell.seed is not None and not has_failed else None,
    )  # fmt: skip


def train(made: Plan, cell: Cell, parent: str, experiment_id: str) -> None:
    """What a worker leaves: its folder, and its run."""
    folder = made.folder.cell(cell.id)
    spec = CellSpec(
        cell=cell, experiment=made.config.name, evals=made.config.evals, parent_run_id=parent, system_metrics=False, num_threads=1
    )  # fmt: skip
    write_record(folder.spec, spec)
    points = [TracePoint(step=i, epoch=i / 20, seconds=float(i), values={"loss": 2.0 / i}) for i in range(1, 21)]
    write_lines(folder.trace, points if cell.seed is not None else [])
    answers = [
        Generation(
            example_id=f"e{i}", prompt=f"<|im_start|>{i}", text=f"{cell.name}\u2028 says {i}", stop_reason="end_of_turn",
            prompt_tokens=3, completion_tokens=3,
        )
        for i in range(N)
    ]  # fmt: skip
    write_lines(folder.generations("held_out", "d"), answers)
    tracker = MlflowTracker(spec, folder, experiment_id)
    result = result_of(cell, tracker.run_id)
    tracker.log_records(folder, result)
    tracker.close("FAILED" if result.status == "failed" else "FINISHED")
    write_record(folder.result, result)


class Shared:
    """An experiment that was run in one folder and logged to a store."""

    def __init__(self, folder: Path, uri: str) -> None:
        self.uri = uri
        self.made = plan_experiment(str(folder / "shared.yaml"))
        experiment_id = connection.connect(uri, "shared")
        self.parent = experiment_run.open_parent_run(self.made.folder, experiment_id, "shared", write_plan(self.made))
        for cell in self.made.everything():
            if cell.name == "refused":
                refusal = result_of(cell, "").model_copy(update={"status": "failed", "stage": "checking the cell", "error": "no", "suites": (), "train": None})  # fmt: skip
                write_record(self.made.folder.cell(cell.id).result, refusal)
            elif cell.name != "waiting":
                train(self.made, cell, self.parent, experiment_id)
        other = result_of(self.made.references[0], "").model_copy(update={"cell": "other", "name": "other", "base": "", "reference": "predictions"})  # fmt: skip
        write_record(self.made.folder.imported("other").result, other)
        finish(self.made)

    def cell(self, name: str) -> Cell:
        return next(cell for cell in self.made.everything() if cell.name == name)


Share = Callable[[str], Shared]


@pytest.fixture
def share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Share:
    """Runs the experiment in a folder `here`; then stands in an empty folder `elsewhere` that knows the store alone."""

    def _share(uri: str) -> Shared:
        for name in ("here", "elsewhere"):
            (tmp_path / name).mkdir()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        monkeypatch.chdir(tmp_path / "here")
        (tmp_path / "here" / "shared.yaml").write_text(YAML)
        shared = Shared(tmp_path / "here", uri)
        monkeypatch.chdir(tmp_path / "elsewhere")
        return shared

    return _share


@pytest.fixture
def shared(share: Share, tmp_path: Path) -> Shared:
    return share(f"sqlite:///{tmp_path}/store.db")


def check_sameness(shared: Shared) -> None:
    ranked = harness("rank", "shared", "--json")
    assert ranked.exit_code == 0, ranked.output
    assert {row["name"] for row in json.loads(ranked.stdout)["excluded"]} == {"crashed", "refused", "waiting"}
    assert harness("report", "shared").exit_code == 0
    for name in REPORTS:
        there = Path("mlruns/restored/shared") / name
        assert there.read_bytes() == (shared.made.folder.path / name).read_bytes(), name
    assert not Path("mlruns/harness").exists(), "a later `harness run` would take it for its own"


def test_a_database_alone_gives_the_same_ranking_and_report(shared: Shared) -> None:
    check_sameness(shared)


def test_a_server_alone_gives_the_same_ranking_and_report(share: Share, server: str) -> None:
    check_sameness(share(server))


def test_only_what_has_changed_is_fetched_again(shared: Shared) -> None:
    folder = restore("shared", shared.uri)
    assert folder is not None
    before = {path: path.stat().st_mtime_ns for path in folder.path.glob("cells/*/result.json")}
    cell = shared.cell("good")
    source = shared.made.folder.cell(cell.id)
    result = read_record(source.result, CellResult).model_copy(
        update={"suites": (suite_result("held_out", {"exact_match": coin(0.5, N, 9)}),)}
    )
    record_files.log_cell(result.mlflow_run_id, source, result)
    restore("shared", shared.uri)
    after = {path: path.stat().st_mtime_ns for path in folder.path.glob("cells/*/result.json")}
    assert [path.parent.name for path, written in after.items() if before[path] != written] == [cell.id]
    assert read_record(folder.cell(cell.id).result, CellResult) == result


def test_a_run_that_is_not_here_is_shown(shared: Shared) -> None:
    run_id = read_record(shared.made.folder.cell(shared.cell("bad").id).result, CellResult).mlflow_run_id
    found = find_cell(run_id)
    assert found.result.name == "bad"
    assert found.folder.path.is_relative_to(Path.cwd() / "mlruns" / "restored")
    assert diagnose_target(run_id).findings
    assert find_cell("good").result.name == "good", "its siblings came with it"


def test_a_cell_is_fetched_by_the_name_of_its_experiment(shared: Shared) -> None:
    assert find_cell("shared/good").result.name == "good"
    with pytest.raises(ConfigError, match="no such cell"):
        find_cell("shared/nobody")
    with pytest.raises(ConfigError, match="no such cell"):
        find_cell("0" * 32)


def test_the_file_decides_the_order_where_it_is_there(shared: Shared, tmp_path: Path) -> None:
    Path("mine.yaml").write_text(YAML.replace("embedded:train", "not/here.jsonl").replace("gates: []", "alpha: 0.2"))
    found = find_plan("mine.yaml")
    assert found.is_recorded
    assert found.config.ranking.alpha == 0.2
    assert {cell.id for cell in found.cells} == {cell.id for cell in shared.made.cells}


def test_records_of_this_folder_come_before_those_of_the_store(
    shared: Shared, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(shared.made.folder.path.parents[2])
    assert not find_plan("shared.yaml").is_recorded
    found = find_plan("shared")
    assert found.is_recorded
    assert found.folder == shared.made.folder
    assert "its last run in this folder" in caplog.text


def test_what_nobody_knows_is_told_as_ever(shared: Shared) -> None:
    assert "nosuch: there is no such experiment file" in harness("rank", "nosuch").stderr
    refused = harness("rank", "shared", "--set", "ranking.alpha=0.1")
    assert refused.exit_code == 2
    assert "--set: shared is known from its records alone" in refused.stderr


def test_a_store_that_is_away_is_a_warning_beside_the_error(
    write: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write(YAML, "shared.yaml")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    done = harness("rank", "shared.yaml")
    assert done.exit_code == 2
    assert "http://127.0.0.1:9 can't be read" in caplog.text
    assert "has no results yet" in done.stderr


def test_a_store_that_is_away_does_not_fail_a_cell(shared: Shared, caplog: pytest.LogCaptureFixture) -> None:
    cell = shared.made.folder.cell(shared.cell("good").id)
    record_files.log_cell("0" * 32, cell, read_record(cell.result, CellResult))
    assert "the records could not be sent to MLflow" in caplog.text


def test_a_worker_that_was_killed_gets_its_records_from_the_parent(shared: Shared) -> None:
    cell = shared.cell("good")
    folder = shared.made.folder.cell(cell.id)
    folder.result.unlink()
    # Killed while it wrote.
    append_lines(folder.trace, [])
    with folder.trace.open("ab") as file:
        file.write('{"step": 21, "values": {"n\u00e9'.encode()[:-1])
    record_death(folder, cell, "failed", cause_of(-9))
    restored = restore("shared", shared.uri)
    assert restored is not None
    assert "SIGKILL" in read_record(restored.cell(cell.id).result, CellResult).error
    assert restored.cell(cell.id).trace.read_bytes() == folder.trace.read_bytes()


@pytest.fixture
def packed(tmp_path: Path) -> Callable[[dict[str, str]], tuple[Path, str]]:
    """A zip with these members, and its digest."""

    def _packed(members: dict[str, str]) -> tuple[Path, str]:
        path = tmp_path / "records.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return path, file_digest(path)

    return _packed


@pytest.mark.parametrize(
    "name",
    ["../evil.json", "/etc/evil", "cells/abc/../../evil", "cells/other/result.json", "cells/abc/a/b/c.json", "report.html",
     "experiment.json", "cells/abc/.hidden", "cells\\abc\\x"],
)  # fmt: skip
def test_names_that_are_no_records_are_refused(
    packed: Callable[..., tuple[Path, str]], tmp_path: Path, name: str
) -> None:
    path, digest = packed({"cells/abc/result.json": "{}", name: "x"})
    with pytest.raises(StoreError, match="which is no record"):
        unpack(path, tmp_path / "root", digest, "abc")
    assert not (tmp_path / "root").exists()


def test_other_content_than_the_run_states_is_refused(packed: Callable[..., tuple[Path, str]], tmp_path: Path) -> None:
    path, _ = packed({"cells/abc/result.json": "{}"})
    with pytest.raises(StoreError, match="not those that their run states"):
        unpack(path, tmp_path / "root", "0" * 64, "abc")


def test_records_that_would_fill_the_disk_are_refused(
    packed: Callable[..., tuple[Path, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_files, "MAX_BYTES", 1_000_000)
    path, digest = packed({"cells/abc/trace.jsonl": "0" * 1_000_001})
    assert path.stat().st_size < 10_000
    with pytest.raises(StoreError, match="too large"):
        unpack(path, tmp_path / "root", digest, "abc")


def test_records_of_another_cell_are_refused(shared: Shared, tmp_path: Path) -> None:
    root = shared.made.folder.path
    good = read_record(shared.made.folder.cell(shared.cell("good").id).result, CellResult)
    other = CellFolder(root / "cells" / "abc")
    digest = pack(root, [], {other.result: good.model_dump_json()}, tmp_path / "r.zip")
    with pytest.raises(StoreError, match="those of another cell"):
        unpack(tmp_path / "r.zip", tmp_path / "root", digest, "abc")


def test_a_report_that_cannot_be_written_ends_the_parent_run_as_failed(
    write: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(
        '{"id": "a", "prompt": "1+1", "reference": "2"}\n{"id": "b", "prompt": "1+2", "reference": "3"}\n', "test.jsonl"
    )
    write('{"id": "a", "prediction": "2"}\n{"id": "b", "prediction": "4"}\n', "mine.jsonl")
    path = write(
        "name: alone\nevals: [{suite: held_out, data: test.jsonl, scorers: [exact_match]}]\n"
        "references: [{predictions: mine.jsonl, name: mine}]\nranking: {gates: []}\n",
        "alone.yaml",
    )

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(experiment, "write_reports", fail)
    made = plan_experiment(str(path))
    with pytest.raises(OSError, match="disk full"):
        run_experiment(made, lambda _: None, lambda _: None)
    parent = connection.client().get_run(made.folder.parent_run_id.read_text())
    assert parent.info.status == "FAILED"
