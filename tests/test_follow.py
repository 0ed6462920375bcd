"""What a `harness run` makes of workers that die, are stopped, or find their cell in other hands."""

import os
import signal
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from harness.errors import StoreError
from harness.experiment import join_experiment, run_experiment
from harness.follow import POLL_SECONDS, Following, cause_of
from harness.grid import Cell
from harness.launch.base import TAKEN, PackJob, PackState, was_stopped
from harness.locks import holding, only_run
from harness.plan import Plan, plan_experiment
from harness.records import CellResult
from harness.store import CellFolder, read_record, write_record
from harness.tracking import experiment_run, record_files
from tests.conftest import TRAINED

Act = Callable[[CellFolder, int], int]


class Scripted:
    """A launcher whose workers do what a function says: what it gives is their exit code."""

    threads = 1

    def __init__(self, act: Act) -> None:
        self._act = act
        self.started: list[str] = []

    def launch(self, packs: Sequence[PackJob], environment: Mapping[str, str]) -> Generator[PackState]:
        for index, pack in enumerate(packs):
            folder = CellFolder(pack.folders[0])
            self.started.append(folder.path.name)
            yield PackState(index, None)
            yield PackState(index, self._act(folder, self.started.count(folder.path.name)))


def result_of(folder: CellFolder, status: str = "finished") -> CellResult:
    return CellResult(cell=folder.path.name, name="x", group="g", seed=0, overrides={}, status=status)


def has_result(made: Plan, cell: Cell) -> bool:
    return made.folder.cell(cell.id).result.exists()


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: object) -> Iterator[Plan]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "roses.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    (tmp_path / "tiny.yaml").write_text(TRAINED.replace("DATA", str(tmp_path)))
    yield plan_experiment("tiny.yaml", ())


def follow(made: Plan, act: Act) -> tuple[Scripted, list[dict[str, str]]]:
    launcher, seen = Scripted(act), []
    Following(made, made.cells, lambda progress: seen.append(dict(progress.states))).run(made.cells, launcher)
    return launcher, seen


def test_a_worker_that_dies_once_costs_one_attempt_and_the_cell_comes_last(made: Plan) -> None:
    first, second = made.cells

    def act(folder: CellFolder, attempt: int) -> int:
        if folder.path.name == first.id and attempt == 1:
            return -signal.SIGSEGV
        write_record(folder.result, result_of(folder))
        return 0

    launcher, seen = follow(made, act)
    assert launcher.started == [first.id, second.id, first.id]
    assert seen[-1][first.id] == seen[-1][second.id] == "finished"


def test_a_worker_that_dies_twice_leaves_a_record_with_both_causes(made: Plan) -> None:
    def act(folder: CellFolder, attempt: int) -> int:
        folder.log.parent.mkdir(parents=True, exist_ok=True)
        folder.log.write_text("the last words")
        return -signal.SIGSEGV if attempt == 1 else -signal.SIGKILL

    launcher, seen = follow(made, act)
    result = read_record(made.folder.cell(made.cells[0].id).result, CellResult)
    assert len(launcher.started) == 2 * len(made.cells)
    assert result.status == "failed"
    assert "twice (SIGSEGV, then SIGKILL" in result.error
    assert result.traceback == "the last words"
    assert set(seen[-1].values()) <= {"failed", "reused"}


@pytest.mark.parametrize("code", [-signal.SIGTERM, 128 + signal.SIGTERM, 128 + signal.SIGUSR1])
def test_a_worker_that_was_told_to_stop_is_not_tried_again(made: Plan, code: int) -> None:
    launcher, _ = follow(made, lambda folder, attempt: code)
    result = read_record(made.folder.cell(made.cells[0].id).result, CellResult)
    assert len(launcher.started) == len(made.cells)
    assert result.status == "killed"
    assert "`harness run` goes on" in result.error


def test_a_cell_in_other_hands_is_waited_for(made: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    first = made.cells[0]
    theirs = made.folder.cell(first.id)
    monkeypatch.setattr("harness.follow.is_done", has_result)
    naps = []

    def act(folder: CellFolder, attempt: int) -> int:
        if folder.path.name == first.id:
            return TAKEN
        write_record(folder.result, result_of(folder))
        return 0

    with holding(theirs.lock):
        released = iter([False, True])

        def nap(seconds: float) -> None:
            naps.append(seconds)
            if next(released):
                write_record(theirs.result, result_of(theirs))
                monkeypatch.setattr("harness.follow.is_held", lambda path: False)

        monkeypatch.setattr("harness.follow.time.sleep", nap)
        launcher, seen = follow(made, act)
    assert naps == [POLL_SECONDS, POLL_SECONDS]
    assert launcher.started.count(first.id) == 1
    assert seen[-1][first.id] == "finished"


def test_a_cell_that_others_left_unfinished_is_taken_over(made: Plan) -> None:
    first = made.cells[0]
    # What became of it there.
    write_record(made.folder.cell(first.id).result, result_of(made.folder.cell(first.id), "killed"))

    def act(folder: CellFolder, attempt: int) -> int:
        if folder.path.name == first.id and attempt == 1:
            return TAKEN
        if folder.path.name == first.id:
            assert not folder.result.exists()
        write_record(folder.result, result_of(folder))
        return 0

    launcher, _ = follow(made, act)
    assert launcher.started.count(first.id) == 2
    assert read_record(made.folder.cell(first.id).result, CellResult).status == "finished"


def test_workers_are_told_to_stop_where_the_display_breaks(made: Plan) -> None:
    stopped = []

    class Closing(Scripted):
        def launch(self, packs: Sequence[PackJob], environment: Mapping[str, str]) -> Generator[PackState]:
            try:
                yield from super().launch(packs, environment)
            finally:
                stopped.append(True)

    def show(progress: object) -> None:
        if "running" in progress.states.values():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Following(made, made.cells, show).run(made.cells, Closing(lambda folder, attempt: 0))
    assert stopped == [True]


def test_what_workers_that_outlived_their_run_finish_meanwhile_counts(
    made: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = made.cells
    early, late = made.folder.cell(first.id), made.folder.cell(second.id)
    launcher = Scripted(lambda folder, attempt: 1)
    monkeypatch.setattr("harness.experiment.is_done", has_result)
    monkeypatch.setattr("harness.follow.is_done", has_result)
    monkeypatch.setattr("harness.experiment.choose_launcher", lambda *_: launcher)
    monkeypatch.setattr("harness.experiment.finish", lambda plan, *, changed: (None, True))
    open_run, log = experiment_run.open_parent_run, record_files.log_experiment

    def opening(*arguments: object) -> str:
        # The one is finished while the run is opened, the other when the new one is about to launch.
        write_record(early.result, result_of(early))
        return open_run(*arguments)

    def logging(*arguments: object) -> None:
        write_record(late.result, result_of(late))
        log(*arguments)

    monkeypatch.setattr(experiment_run, "open_parent_run", opening)
    monkeypatch.setattr(record_files, "log_experiment", logging)
    seen: list[dict[str, str]] = []
    with holding(late.lock):
        run_experiment(
            made, lambda progress: seen.append(dict(progress.states)), lambda _: None, only={first.id, second.id}
        )
    assert launcher.started == []
    assert early.result.exists() and late.result.exists()
    assert seen[-1][first.id] == seen[-1][second.id] == "finished"


def test_there_must_be_somebody_to_join(made: Plan) -> None:
    with pytest.raises(StoreError, match="start it without --join"):
        join_experiment(made, lambda progress: None)


def test_a_helper_with_another_version_of_the_file_is_refused(made: Plan) -> None:
    made.folder.path.mkdir(parents=True)
    with only_run(made.folder), pytest.raises(StoreError, match=f"process {os.getpid()} .* doesn't know of"):
        join_experiment(made, lambda progress: None)


def test_causes_are_named_as_people_know_them() -> None:
    assert cause_of(-11) == "SIGSEGV"
    assert "memory runs out" in cause_of(-9)
    assert cause_of(3) == "exit code 3"
    assert not was_stopped(-9)
