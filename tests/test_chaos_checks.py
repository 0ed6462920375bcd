"""What `benchmarks/chaos.py` takes for lost, doubled or false: each of its checks must see the damage that it is there for."""

import dataclasses
import json
import socket
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import chaos
from benchmarks.chaos_cases import parent_cases, report_cases, store_cases, worker_cases
from benchmarks.chaos_checks import Damage, damage, differences, ranked, untrue
from benchmarks.chaos_matrix import Campaign
from benchmarks.chaos_page import page
from benchmarks.chaos_snapshot import CellState, Run, Snapshot, read_snapshot

LOSSES = ((1, {"loss": 2.5, "tokens_per_second": 90.0}), (2, {"loss": 1.5, "tokens_per_second": 91.0}))
CELL = CellState(
    "c1", "one", "finished", LOSSES, {"probes.jsonl": ("validation at step 2",), "extraction.jsonl": ("a", "b")}
)
RUN = Run(
    "r1", "one", "cell", "c1", "FINISHED", curves={"loss": ((1, 2.5), (2, 1.5)), "tokens_per_second": ((2, 91.0),)},
    params=frozenset({"training.seed"}), files=frozenset({"findings.json"}), models=("last",), datasets=("d1", "d2"), traces=2,
)  # fmt: skip
PARENT = Run("r0", "x (report)", "experiment", "", "FINISHED", files=frozenset({"report.html"}))
RANKING = {
    "rows": [
        {
            "cell": "c1",
            "name": "one",
            "rank": 1,
            "rank_interval": [1, 1],
            "mlflow_run_ids": ["r1"],
            "metrics": {"nll": {"value": 0.5}},
        }
    ]
}
WHOLE = Snapshot({"c1": CELL}, (PARENT, RUN), RANKING)


def cell(**changed: Any) -> Snapshot:
    return dataclasses.replace(WHOLE, cells={"c1": dataclasses.replace(CELL, **changed)})


def run(**changed: Any) -> Snapshot:
    return dataclasses.replace(WHOLE, runs=(PARENT, dataclasses.replace(RUN, **changed)))


def test_an_experiment_is_as_good_as_itself() -> None:
    assert damage(WHOLE, WHOLE).is_none


def test_other_ids_and_times_are_no_damage() -> None:
    slower = ((1, {"loss": 2.5, "tokens_per_second": 9.0}), (2, {"loss": 1.5, "tokens_per_second": 9.1}))
    ranking = json.loads(json.dumps(RANKING).replace("r1", "r9"))
    other = dataclasses.replace(
        cell(trace=slower), runs=(PARENT, dataclasses.replace(RUN, run_id="r9")), ranking=ranking
    )
    assert damage(WHOLE, other).is_none


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (dataclasses.replace(WHOLE, cells={}), "one: the whole cell"),
        (cell(trace=LOSSES[:1]), "one: trace.jsonl: loss at step 2"),
        (cell(trace=(LOSSES[0], (2, {"loss": 1.5}))), "one: trace.jsonl: tokens_per_second at step 2"),
        (cell(trace=(LOSSES[0], (2, {"loss": 1.6, "tokens_per_second": 1.0}))), "one: trace.jsonl: loss at step 2 is 1.6 and was 1.5"),
        (cell(lines={"probes.jsonl": ("validation at step 2",), "extraction.jsonl": ("a",)}), "one: extraction.jsonl: 1 of 2 lines, such as b"),
        (dataclasses.replace(WHOLE, runs=(PARENT,)), "one: its MLflow run"),
        (dataclasses.replace(WHOLE, runs=(RUN,)), "the run of the experiment"),
        (run(curves={**RUN.curves, "loss": ((1, 2.5),)}), "one: MLflow: loss at step 2"),
        (run(curves={**RUN.curves, "loss": ((1, 2.5), (2, "nan"))}), "one: MLflow: loss at step 2 is 'nan' and was 1.5"),
        (run(params=frozenset()), "one: MLflow params: training.seed"),
        (run(files=frozenset()), "one: MLflow files: findings.json"),
        (run(models=()), "one: MLflow: 1 logged model last"),
        (run(datasets=("d1",)), "one: MLflow: 1 datasets"),
        (run(traces=1), "one: MLflow: 1 traces"),
        (dataclasses.replace(WHOLE, ranking={}), "ranking: rows is None and was"),
        (dataclasses.replace(WHOLE, ranking=json.loads(json.dumps(RANKING).replace("0.5", "0.6"))), "ranking: rows.c1.metrics.nll.value is 0.6 and was 0.5"),
    ],
)  # fmt: skip
def test_what_is_gone_or_differs_is_lost(found: Snapshot, said: str) -> None:
    seen = damage(WHOLE, found)
    assert [text for text in seen.lost if text.startswith(said)], seen
    assert not seen.duplicated


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (dataclasses.replace(WHOLE, runs=(PARENT, RUN, dataclasses.replace(RUN, run_id="r2"))), "one: more than one MLflow run"),
        (dataclasses.replace(WHOLE, runs=(PARENT, dataclasses.replace(PARENT, run_id="r2"), RUN)), "2 runs of the experiment"),
        (cell(trace=(*LOSSES, LOSSES[1])), "one: trace.jsonl: loss twice at step 2"),
        (cell(lines={**CELL.lines, "probes.jsonl": ("validation at step 2",) * 2}), "one: probes.jsonl: validation at step 2"),
        (run(curves={**RUN.curves, "loss": ((1, 2.5), (2, 1.4), (2, 1.5))}), "one: MLflow: loss twice at step 2"),
        (run(curves={**RUN.curves, "loss": ((1, 2.5), (2, 1.5), (3, 1.0))}), "one: MLflow: loss has step 3, which no training had"),
        (run(models=("last", "last")), "one: MLflow: 1 more logged model last"),
        (run(datasets=("d1", "d2", "d2")), "one: MLflow: a dataset"),
        (run(traces=3), "one: MLflow: 1 traces"),
        (dataclasses.replace(WHOLE, cells={"c1": CELL, "c2": dataclasses.replace(CELL, cell="c2", name="two")}), "two: a cell that the other one has not"),
    ],
)  # fmt: skip
def test_what_is_there_twice_is_duplicated(found: Snapshot, said: str) -> None:
    seen = damage(WHOLE, found)
    assert said in seen.duplicated, seen
    assert not seen.lost


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (run(status="RUNNING"), "one: RUNNING, and its process is dead"),
        (run(status="FAILED"), "one: FAILED without the tag that says why"),
        (run(status="KILLED"), "one: KILLED, and its result says finished"),
        (cell(status=""), "one: FINISHED, and it has no result"),
        (cell(status="failed"), "one: FINISHED, and its result says failed"),
    ],
)
def test_a_false_status_is_seen(found: Snapshot, said: str) -> None:
    assert said in untrue(found, may_run=False, allowed={})


def test_a_status_that_its_fault_does_not_leave_is_seen() -> None:
    assert untrue(WHOLE, may_run=False, allowed={"one": ("FINISHED",)}) == ()
    assert untrue(WHOLE, may_run=False, allowed={"one": ("KILLED",)}) == ("one: FINISHED, and not KILLED",)


def test_a_run_may_be_running_until_somebody_looked_after_it() -> None:
    assert untrue(run(status="RUNNING"), may_run=True, allowed={"one": ("KILLED",)}) == ()


def test_whoever_has_not_come_to_its_end_is_told_at_the_end() -> None:
    open_end = damage(
        WHOLE, dataclasses.replace(cell(status="failed"), runs=(PARENT, dataclasses.replace(RUN, status="FAILED")))
    )
    assert open_end.wrong_status == ("one: its result is failed", "one: FAILED")


def test_halved_batches_may_change_numbers_and_nothing_else() -> None:
    other = run(curves={**RUN.curves, "loss": ((1, 2.5), (2, 1.6))})
    assert damage(WHOLE, other, loose=["one"]).is_none
    assert damage(WHOLE, run(curves={**RUN.curves, "loss": ((1, 2.5),)}), loose=["one"]).lost


@pytest.fixture(scope="module")
def read(trained: Path) -> Iterator[Snapshot]:
    yield read_snapshot(trained, "tiny")


def test_a_real_experiment_is_read_whole(read: Snapshot) -> None:
    assert sorted(cell.name for cell in read.cells.values()) == ["base", "full", "lora"]
    assert {run.kind for run in read.runs} == {"cell", "reference", "experiment"}
    full = next(run for run in read.runs if run.name == "full")
    assert [step for step, _ in full.curves["loss"]] == [1, 2, 3]
    assert full.models
    assert full.datasets
    assert full.params
    assert "findings.json" in full.files
    assert damage(read, read).is_none


def test_a_row_that_is_deleted_from_the_store_is_missed(trained: Path, read: Snapshot, tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"
    with sqlite3.connect(trained / "mlflow.db") as source, sqlite3.connect(database) as copy:
        source.backup(copy)
        copy.execute("delete from metrics where key = 'loss' and step = 2")
    lost = damage(read, read_snapshot(trained, "tiny", database)).lost
    assert sorted(lost) == ["full: MLflow: loss at step 2", "lora: MLflow: loss at step 2"]


def test_every_kind_meets_every_stage_that_it_can() -> None:
    cases = [*worker_cases(), *parent_cases(), *report_cases(), *store_cases("server down")]
    assert len({case.name for case in cases}) == len(cases)
    kinds = ("exception", "sys.exit", "SIGINT", "SIGTERM", "SIGKILL", "SIGSEGV", "OOM", "full disk", "server down", "database locked", "corrupt checkpoint")  # fmt: skip
    stages = ("splits", "training", "checkpoint save", "evaluation", "result write", "report")
    met = {(case.kind, case.stage.replace("saved", "save")) for case in cases}
    missing = {(kind, stage) for kind in kinds for stage in stages} - met
    assert missing == {("corrupt checkpoint", "splits")}, "there is none to corrupt yet"
    assert {case.stage for case in chaos.chosen((*chaos.QUICK, *chaos.QUICK_PARENT))} >= {*stages}


def test_what_is_wrong_is_counted_and_shown(tmp_path: Path) -> None:
    campaign = Campaign(tmp_path, worker_cases(["splits"])[:2], workers=1)
    outcome = campaign.outcomes["exception-at-splits"]
    outcome.damage += Damage(lost=("a", "b"), wrong_status=("c",))
    outcome.exit_code, outcome.status = 1, "FAILED"
    table = chaos.Table(3, [each.row() for each in campaign.outcomes.values()])
    assert {key: table.as_json()[key] for key in ("kills", "lost", "duplicated", "wrong_status")} == {
        "kills": 3, "lost": 2, "duplicated": 0, "wrong_status": 1,
    }  # fmt: skip
    assert not table.is_clean
    assert "| exception | a worker | FAILED, 1 |  |  |  |  |  |  | 2 | 0 | 1 |" in page(table.rows)
    assert "- a\n- b\n- c" in page(table.rows)


def test_a_closed_gate_refuses_and_an_open_one_passes(tmp_path: Path) -> None:
    from benchmarks.chaos_server import _free_port, _Gate

    with socket.create_server(("127.0.0.1", 0)) as behind:
        outage, port = tmp_path / "outage", _free_port()
        gate = _Gate(port, behind.getsockname()[1], outage)
        gate.start()
        near = _connected(port)
        far = behind.accept()[0]
        near.sendall(b"hello")
        assert far.recv(5) == b"hello"
        outage.touch()
        assert near.recv(5) == b"", "an outage cuts what is open"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        outage.unlink()
        _connected(port).close()
        gate.close()


def _connected(port: int) -> socket.socket:
    deadline = time.monotonic() + 20
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=20)
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_rows_that_cost_orders_may_change_places_and_nothing_else() -> None:
    two = {"rows": [{"cell": cell, "rank": rank, "rank_interval": [1, 2], "n": 5} for rank, cell in enumerate("ab", 1)]}
    swapped = {
        "rows": [{"cell": cell, "rank": rank, "rank_interval": [1, 2], "n": 5} for rank, cell in enumerate("ba", 1)]
    }
    assert list(differences(ranked(two), ranked(swapped))) == []
    swapped["rows"][0]["rank_interval"] = [1, 1]
    assert list(differences(ranked(two), ranked(swapped))) != []
