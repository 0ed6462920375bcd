"""Findings that were made before are used again, and only while nothing that they are made from has changed."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import forked
from harness.diagnose import kept
from harness.diagnose.cell import CHECKS
from harness.diagnose.evidence import Sibling
from harness.records import Finding, Generation, Probe, TracePoint
from harness.store import ExperimentFolder, write_lines, write_record
from tests.helpers import cell_result, coin, suite_result, trained_for

N = 40


def generations(text: str) -> list[Generation]:
    return [
        Generation(
            example_id=f"e{i}", prompt=f"question {i}", text=f"{text} {i}", stop_reason="end_of_turn", prompt_tokens=3,
            completion_tokens=3,
        )
        for i in range(N)
    ]  # fmt: skip


class Recorded:
    """One cell and its base, on disk."""

    def __init__(self, root: Path) -> None:
        self.folder = ExperimentFolder(root)
        answered = cell_result("cell", suite_result("held_out", {"exact_match": coin(0.6, N, 0)}))
        self.cell = answered.model_copy(update={"train": trained_for(50)})
        self.base = cell_result("base", suite_result("held_out", {"exact_match": coin(0.4, N, 1)}), seed=None)
        for result in (self.cell, self.base):
            folder = self.folder.cell(result.cell)
            write_record(folder.result, result)
            write_lines(folder.generations("held_out", "d"), generations(f"{result.name} says"))
        points = [TracePoint(step=i, epoch=i / 50, seconds=float(i), values={"loss": 3.0 / i}) for i in range(1, 51)]
        write_lines(self.folder.cell(self.cell.cell).trace, points)
        self.calls: list[object] = []
        self.siblings: tuple[Sibling, ...] = (Sibling("other", 1e-3, None),)

    def findings(self) -> tuple[Finding, ...]:
        related = {self.cell.cell: self.siblings}
        return kept.recorded_findings(self.folder, [self.cell], {self.cell.base: self.base}, related)[self.cell.cell]


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recorded:
    made, real = Recorded(tmp_path / "experiment"), kept.diagnose
    monkeypatch.setattr(kept, "diagnose", lambda evidence: (made.calls.append(evidence), real(evidence))[1])
    return made


def test_findings_are_made_once_while_nothing_changes(recorded: Recorded) -> None:
    first = recorded.findings()
    assert [finding.check for finding in first] == list(CHECKS)
    assert recorded.findings() == first
    assert len(recorded.calls) == 1


def changed_trace(made: Recorded) -> None:
    path = made.folder.cell(made.cell.cell).trace
    path.write_text(path.read_text().replace('"loss":3.0}', '"loss":9.0}', 1))


def changed_answers(made: Recorded) -> None:
    write_lines(made.folder.cell(made.cell.cell).generations("held_out", "d"), generations("now says"))


def changed_answers_of_the_base(made: Recorded) -> None:
    write_lines(made.folder.cell(made.base.cell).generations("held_out", "d"), generations("now says"))


def changed_result(made: Recorded) -> None:
    made.cell = made.cell.model_copy(update={"suites": (suite_result("held_out", {"exact_match": coin(0.1, N, 2)}),)})


def changed_base(made: Recorded) -> None:
    made.base = made.base.model_copy(update={"suites": (suite_result("held_out", {"exact_match": coin(0.1, N, 2)}),)})


def changed_sibling(made: Recorded) -> None:
    probe = Probe(step=5, split="validation", nll=(1.0,), tokens=(3,))
    made.siblings = (Sibling("other", 1e-3, probe),)


def a_file_that_was_not_there(made: Recorded) -> None:
    write_lines(made.folder.cell(made.cell.cell).probes, [Probe(step=0, split="validation", nll=(1.0,), tokens=(3,))])


def what_was_asked(made: Recorded) -> None:
    path = made.folder.cell(made.cell.cell).asked("held_out", "d")
    path.parent.mkdir()
    path.write_text('{"id": "e1", "text": "question 1", "reference": "right"}\n')


@pytest.mark.parametrize(
    "change",
    [changed_trace, changed_answers, changed_answers_of_the_base, changed_result, changed_base, changed_sibling,
     a_file_that_was_not_there, what_was_asked],
    ids=lambda change: change.__name__,
)  # fmt: skip
def test_whatever_changes_findings_are_made_anew(recorded: Recorded, change: Callable[[Recorded], None]) -> None:
    recorded.findings()
    change(recorded)
    anew = recorded.findings()
    recorded.folder.cell(recorded.cell.cell).findings.unlink()
    assert anew == recorded.findings()
    assert len(recorded.calls) == 3, "once before the change, once after it, once without the file"


def test_another_version_makes_findings_anew(recorded: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded.findings()
    monkeypatch.setattr(kept, "_code", lambda: "another")
    recorded.findings()
    assert len(recorded.calls) == 2


def test_broken_file_of_findings_is_replaced(recorded: Recorded) -> None:
    first = recorded.findings()
    recorded.folder.cell(recorded.cell.cell).findings.write_text('{"made_from": ')
    assert recorded.findings() == recorded.findings() == first
    assert len(recorded.calls) == 2


def test_folder_that_cannot_be_written_is_diagnosed_all_the_same(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.errors import StoreError

    def refuse(path: Path, record: object) -> None:
        raise StoreError(f"{path} can't be written")

    monkeypatch.setattr(kept, "write_record", refuse)
    assert recorded.findings() == recorded.findings()
    assert len(recorded.calls) == 2


def test_run_that_may_still_go_on_is_looked_at_every_time(recorded: Recorded) -> None:
    """Its findings say how long it has been silent."""
    recorded.cell = recorded.cell.model_copy(update={"train": None})
    recorded.findings()
    assert not recorded.folder.cell(recorded.cell.cell).findings.exists()


def test_many_cells_are_looked_through_by_several_processes_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    def finding_at(position: int) -> tuple[Finding, ...]:
        message = f"{position} {os.getpid()}"
        return (Finding(check="diverged", outcome="clear", severity="info", message=message),)

    monkeypatch.setattr("harness.forked.threading.active_count", lambda: 1)
    for name in forked.THREADED:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr("harness.forked.os.sched_getaffinity", lambda _: {0, 1})
    found = [findings[0].message.split() for findings in forked.each(finding_at, forked.MANY)]
    assert [int(position) for position, _ in found] == list(range(forked.MANY))
    assert str(os.getpid()) not in {pid for _, pid in found}
    alone = [findings[0].message.split() for findings in forked.each(finding_at, 2)]
    assert {pid for _, pid in alone} == {str(os.getpid())}
