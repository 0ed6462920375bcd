"""Disks that are full, read-only or too small: told before a run, survived in the middle of one."""

import errno
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from harness.cell_checks import CellCheck
from harness.checkpoint_config import Keep
from harness.disk import GIB, disk_trouble
from harness.disk_plan import check_disk, disk_need
from harness.errors import StoreError, TrainError
from harness.follow import Following
from harness.grid import Cell
from harness.launch.base import PackJob, PackState
from harness.plan import Plan, plan_experiment
from harness.records import TracePoint
from harness.store import CellFolder, ExperimentFolder, read_lines, write_text
from tests.helpers import write_orders

YAML = """\
name: tiny
model: {name: embedded:base}
template: {name: chatml}
data: {train: orders.jsonl, limit: 16}
training:
  learning_rate: 2e-3
  max_steps: 4
  per_device_train_batch_size: 4
  max_length: 96
  gradient_checkpointing: false
  eval_steps: 2
variants:
  full: {}
  lora: {adapter: {r: 4, target_modules: all-linear}}
evals: [{suite: held_out, limit: 4, max_new_tokens: 4}]
ranking: {by: held_out.nll, gates: []}
launch: {workers: 1}
tracking: {system_metrics: false}
"""
MIB = 1 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 120 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=120m", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def leave_free(folder: Path, mib: int) -> Path:
    """Fills a file system but for so much; the file that does it."""
    ballast = folder / "ballast"
    ballast.unlink(missing_ok=True)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(folder).free - mib * MIB)
    return ballast


def harness(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def results(folder: Path) -> dict[str, dict]:
    found = [json.loads(path.read_text()) for path in folder.glob("mlruns/harness/tiny/cells/*/result.json")]
    return {result["name"]: result for result in found}


def statuses(folder: Path) -> dict[str, str]:
    with sqlite3.connect(folder / "mlflow.db") as database:
        return dict(database.execute("select name, status from runs"))


def test_disk_that_fills_up_fails_one_cell_and_is_continued_once_there_is_room(small_disk: Path) -> None:
    """A full fine-tune's checkpoint takes 22 MiB: the second finds no room, while the adapter's do."""
    (small_disk / "tiny.yaml").write_text(YAML)
    write_orders(small_disk / "orders.jsonl")
    ballast = leave_free(small_disk, 36)
    first = harness(small_disk, "run", "tiny.yaml")
    assert first.returncode == 1, first.stderr
    # Two of the full fine-tune's, with the optimizer's state, are there at once.
    assert "warning: the checkpoints will take about 44.3 MiB (keep: best+last)" in first.stderr
    failed = results(small_disk)["full"]
    assert (failed["status"], failed["stage"]) == ("failed", "training")
    assert failed["error"].startswith("the disk is full (")
    assert failed["error"].endswith("; free some space and run again")
    assert {name for name, result in results(small_disk).items() if result["status"] == "finished"} == {"base", "lora"}
    assert statuses(small_disk) == {"base": "FINISHED", "lora": "FINISHED", "full": "FAILED", "tiny (report)": "FAILED"}

    ballast.unlink()
    again = harness(small_disk, "run", "tiny.yaml")
    assert again.returncode == 0, again.stderr
    assert set(statuses(small_disk).values()) == {"FINISHED"}
    cell = small_disk / "mlruns/harness/tiny/cells" / results(small_disk)["full"]["cell"]
    steps = [point.step for point in read_lines(cell / "trace.jsonl", TracePoint) if "loss" in point.values]
    assert steps == [1, 2, 3, 4]
    ranking = json.loads(harness(small_disk, "rank", "tiny.yaml", "--json").stdout)
    assert {row["name"] for row in ranking["rows"]} == {"full", "lora"}


def test_run_on_a_full_disk_stops_before_it_begins(small_disk: Path) -> None:
    (small_disk / "tiny.yaml").write_text(YAML)
    write_orders(small_disk / "orders.jsonl")
    leave_free(small_disk, 0)
    done = harness(small_disk, "run", "tiny.yaml")
    assert done.returncode == 2
    assert "can't be written: the disk is full (0.0 MiB free at" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (small_disk / "mlruns").exists()


def test_disk_without_room_for_one_checkpoint_is_an_error_of_that_cell(small_disk: Path) -> None:
    (small_disk / "tiny.yaml").write_text(YAML)
    write_orders(small_disk / "orders.jsonl")
    leave_free(small_disk, 10)
    done = harness(small_disk, "plan", "tiny.yaml", "--deep", "--json")
    assert done.returncode == 2, done.stderr
    problems = {cell["name"]: cell["problems"] for cell in json.loads(done.stdout)["cells"]}
    assert problems["lora"] == []
    assert problems["full"][0].startswith("the disk is too small: one checkpoint takes about 22.0 MiB, and ")


def test_read_only_disk_is_told_even_to_root(small_disk: Path) -> None:
    if subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], capture_output=True, check=False).returncode:
        pytest.skip("it can't be made read-only here")
    with pytest.raises(
        StoreError, match=r"can't be written: the disk is read-only .*make it writable, or run in another"
    ):
        ExperimentFolder(small_disk / "mlruns" / "harness" / "tiny").check_writable()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full ("),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "the quota is used up ("),
        (OSError(errno.EROFS, "Read-only file system"), "the disk is read-only ("),
        (OSError(errno.EFBIG, "File too large"), "the disk is full ("),
        (sqlite3.OperationalError("database or disk is full"), "the disk is full ("),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"), "the disk is full ("),
        (RuntimeError("PytorchStreamWriter failed writing file data/1: file write failed"), "the disk is full ("),
        (OSError(errno.ENOENT, "No such file"), ""),
        (ValueError("a full stop"), ""),
    ],
)
def test_errors_of_a_disk_are_told_from_others(error: Exception, said: str, tmp_path: Path) -> None:
    assert disk_trouble(error, tmp_path).startswith(said)
    assert bool(disk_trouble(error, tmp_path)) is bool(said)
    wrapped = TrainError("training")
    wrapped.__cause__ = error
    assert disk_trouble(wrapped, tmp_path).startswith(said)
    circle = TrainError("training")
    circle.__cause__ = circle
    assert disk_trouble(circle, tmp_path) == ""


LIMITED = """
import resource, signal, sys
from pathlib import Path
from harness.records import TracePoint
from harness.store import append_lines, write_text

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (150, 150))
point = TracePoint(step=1, epoch=0.1, seconds=1.0, values={"loss": 1.0})
for work in (lambda: append_lines(Path("trace.jsonl"), [point] * 9), lambda: write_text(Path("whole.txt"), "x" * 300)):
    try:
        work()
    except Exception as error:
        print(type(error).__name__)
"""


def test_file_that_could_not_be_written_to_its_end_is_no_file_and_half_a_line_no_record(tmp_path: Path) -> None:
    write_text(tmp_path / "whole.txt", "before")
    done = subprocess.run([sys.executable, "-c", LIMITED], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["OSError", "StoreError"]
    assert (tmp_path / "whole.txt").read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["trace.jsonl", "whole.txt"]
    assert (tmp_path / "trace.jsonl").stat().st_size == 150
    assert [point.step for point in read_lines(tmp_path / "trace.jsonl", TracePoint)] == [1, 1]


def sized(made: Plan, gib: float) -> dict[str, CellCheck]:
    """Checks of cells whose weights take so much and whose optimizer twice that, for 100 steps."""
    return {
        cell.id: CellCheck(cell=cell.id, name=cell.name, steps=100, saved_gib=gib, optimizer_gib=2 * gib)
        for cell in made.cells
    }


@pytest.fixture
def made(write: Callable[..., Path]) -> Callable[[Keep], Plan]:
    write_orders(write(YAML.replace("  eval_steps: 2\n", ""), "tiny.yaml").parent / "orders.jsonl")
    return lambda keep: plan_experiment("tiny.yaml", [f"checkpoints.keep={keep}", "training.max_steps=100"])


@pytest.mark.parametrize(
    ("keep", "needed"),
    [
        # Two cells of two checkpoints' weights, and while one trains three with their optimizer: 4 + 9 - 2.
        ("best+last", 11.0),
        # Ten of each cell, whole.
        ("all", 60.0),
        # What one cell has while it trains.
        ("none", 9.0),
    ],
)
def test_estimate_counts_what_the_policy_keeps(made: Callable[[Keep], Plan], keep: Keep, needed: float) -> None:
    plan = made(keep)
    need = disk_need(plan.config, {cell.id: cell for cell in plan.cells}, sized(plan, 1.0), plan.folder)
    assert need is not None
    assert need.needed_gib == pytest.approx(needed)
    assert need.free_gib == pytest.approx(shutil.disk_usage(plan.folder.path.anchor).free / GIB, rel=0.9)


def test_cells_that_are_trained_already_need_nothing(made: Callable[[Keep], Plan]) -> None:
    plan = made("best+last")
    for cell in plan.cells:
        write_text(plan.folder.cell(cell.id).path / "train.json", "{}")
    assert disk_need(plan.config, {cell.id: cell for cell in plan.cells}, sized(plan, 1.0), plan.folder) is None


def test_no_word_is_said_where_there_is_room(made: Callable[[Keep], Plan]) -> None:
    plan = made("best+last")
    cells = {cell.id: cell for cell in plan.cells}
    assert not any(check.problems for check in check_disk(plan.config, cells, sized(plan, 1e-6), plan.folder).values())
    large = check_disk(plan.config, cells, sized(plan, 1e6), plan.folder).values()
    assert all(len(check.messages("error")) == len(check.messages("warning")) == 1 for check in large)


class _Crashing:
    """A launcher whose workers all die without a record."""

    threads = 1

    def launch(self, packs: Sequence[PackJob], environment: Mapping[str, str]) -> Iterator[PackState]:
        for index, _ in enumerate(packs):
            yield PackState(index, 1)


def test_cell_whose_end_finds_no_room_does_not_stop_the_others(
    made: Callable[[Keep], Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness import follow

    plan, written = made("best+last"), []

    def refuse(folder: CellFolder, cell: Cell, *_: object) -> None:
        written.append(cell.name)
        if cell.name == "full":
            raise StoreError("result.json can't be written (No space left on device)")

    monkeypatch.setattr(follow, "record_death", refuse)
    with pytest.raises(StoreError, match="No space left"):
        Following(plan, plan.cells, lambda progress: None).run(plan.cells, _Crashing())
    assert written == ["full", "lora", "full"]
