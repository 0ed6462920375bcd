"""What a display of a grid says of time left and of how cells ended."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.cli import progress
from harness.cli.progress import ProgressDisplay
from harness.follow import Progress
from harness.plan import Plan, plan_experiment
from harness.records import TracePoint
from harness.store import write_lines, write_text
from tests.conftest import TRAINED

VARIANTS = "variants:\n  full: {}\n"
GRID = TRAINED.replace(
    VARIANTS, "variants:\n  a: {}\n  b: {training.learning_rate: 0.002}\n  c: {training.learning_rate: 0.003}\n"
)


class Clock:
    now = 0.0


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: object) -> Iterator[Plan]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "roses.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    (tmp_path / "tiny.yaml").write_text(GRID.replace("DATA", str(tmp_path)))
    yield plan_experiment("tiny.yaml", ())


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr(progress.time, "monotonic", lambda: Clock.now)
    # The lines of every quarter of a minute are not waited for.
    monkeypatch.setattr(progress, "LINE_SECONDS", 1000.0)
    Clock.now = 0.0
    return Clock()


def is_at_step(made: Plan, index: int, step: int, seconds: float) -> None:
    folder = made.folder.cell(made.cells[index].id)
    folder.path.mkdir(parents=True, exist_ok=True)
    write_text(folder.state, '{"stage": "training", "planned_steps": 100}')
    write_lines(folder.trace, [TracePoint(step=step, epoch=0.5, seconds=seconds, values={"loss": 1.0})])


def shown(made: Plan, clock: Clock, capsys: pytest.CaptureFixture[str], ends: list[tuple[float, list[str]]]) -> str:
    """What is said at the end of a run whose cells have these states at these times."""
    with ProgressDisplay(made) as display:
        for now, states in ends:
            Clock.now = now
            named = dict(zip([cell.id for cell in made.cells], states, strict=True))
            display.update(Progress(made, named))
    return capsys.readouterr().err.splitlines()[-1]


def test_what_failed_does_not_count_as_the_time_of_a_cell(
    made: Plan, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    said = shown(made, clock, capsys, [
        (0, ["running", "running", "waiting", "waiting"]),
        (100, ["finished", "running", "running", "waiting"]),
        (102, ["finished", "running", "failed", "waiting"]),
    ])  # fmt: skip
    # One waits for 100 s, one runs as long as the first did; two workers.
    assert "failed after 2 s" in said
    assert "about 0:50 left" in said


def test_a_stopped_cell_is_called_stopped(made: Plan, clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    said = shown(made, clock, capsys, [
        (0, ["running", "reused", "reused", "reused"]),
        (3, ["stopped", "reused", "reused", "reused"]),
    ])  # fmt: skip
    assert "stopped after 3 s (4/4 done" in said
    assert "left" not in said


def test_the_pace_of_a_training_counts(made: Plan, clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    is_at_step(made, 1, 40, 80.0)
    said = shown(made, clock, capsys, [
        (0, ["running", "waiting", "reused", "reused"]),
        (10, ["finished", "running", "reused", "reused"]),
        (90, ["finished", "running", "reused", "stopped"]),
    ])  # fmt: skip
    # The first took 10 s; sixty steps of two seconds are left of the other.
    assert "about 2:00 left" in said
