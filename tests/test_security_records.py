"""Damaged records are named, whatever is damaged in them and whichever command reads them."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from harness.cli.main import main
from harness.errors import StoreError
from harness.recorded import recorded_plan
from harness.store import experiment_folder

DAMAGE: Mapping[str, Callable[[bytes], bytes]] = {
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda _: b"",
    "not text": lambda _: b"\xff\x00\xfe{",
    "another record": lambda _: b'{"a": [1, 2]}',
    "a list": lambda _: b"[]",
    "nested": lambda _: b'{"cell": ' + b"[" * 100_000,
}


@pytest.fixture
def copied(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The records of a finished experiment, with a store of their own, in the working folder."""
    shutil.copytree(trained, tmp_path / "work", ignore=shutil.ignore_patterns("checkpoints", "artifacts", "[0-9]*"))
    shutil.copytree(
        trained / "mlruns" / "harness", tmp_path / "work" / "mlruns" / "harness",
        ignore=shutil.ignore_patterns("checkpoints"), dirs_exist_ok=True,
    )  # fmt: skip
    monkeypatch.chdir(tmp_path / "work")
    yield tmp_path / "work" / "mlruns" / "harness" / "tiny"
    os.environ.pop("MLFLOW_TRACKING_URI", None)


def harness(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def cell_of(folder: Path, name: str) -> Path:
    return next(path.parent for path in sorted(folder.glob(f"cells/*/{name}")))


def assert_named(done: Result, path: Path) -> None:
    """What is said names the file, and is no traceback."""
    assert isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code == 2, done.output
    told = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert str(path) in told[0]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_result_is_named_by_every_command(copied: Path, damage: str) -> None:
    path = cell_of(copied, "result.json") / "result.json"
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    for arguments in (
        ("rank", "tiny"),
        ("rank", "tiny.yaml"),
        ("report", "tiny.yaml"),
        ("replay", "tiny.yaml"),
        ("run", "tiny.yaml"),
    ):
        assert_named(harness(*arguments), path)
    assert harness("list").exit_code == 0


@pytest.mark.parametrize("damage", ["truncated", "nested"])
def test_a_damaged_experiment_is_refused_and_had_from_the_store(copied: Path, damage: str) -> None:
    path = copied / "experiment.json"
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    with pytest.raises(StoreError, match=f"^{path} isn't a readable ExperimentRecord"):
        recorded_plan(experiment_folder("tiny"))
    assert harness("rank", "tiny").exit_code == 0
    assert harness("list").exit_code == 0
    # The file of the experiment still says what it is.
    assert harness("rank", "tiny.yaml").exit_code == 0


@pytest.mark.parametrize("damage", ["truncated", "nested"])
def test_a_damaged_note_of_what_waits_keeps_nobody_from_ranking(copied: Path, damage: str) -> None:
    path = cell_of(copied, "result.json") / "undelivered.json"
    path.write_bytes(DAMAGE[damage](b'{"what": ["metrics"], "store": "sqlite:///x", "status": "FINISHED"}'))
    assert_named(harness("sync", "tiny"), path)
    assert harness("rank", "tiny.yaml").exit_code == 0


@pytest.mark.parametrize("name", ["cell.json", "train.json", "preflight.json", "verification.json", "findings.json", "trace.jsonl", "probes.jsonl"])  # fmt: skip
@pytest.mark.parametrize("damage", ["truncated"])
def test_a_damaged_file_beside_a_result_ends_in_no_traceback(copied: Path, name: str, damage: str) -> None:
    path = cell_of(copied, "train.json") / name
    path.write_bytes(DAMAGE[damage](path.read_bytes() if path.exists() else b'{"a": 1}'))
    for arguments in (("rank", "tiny.yaml"), ("report", "tiny.yaml")):
        done = harness(*arguments)
        assert done.exception is None or isinstance(done.exception, SystemExit), (arguments, done.exception)
        assert done.exit_code in (0, 2), done.output
        assert done.exit_code == 0 or name in done.stderr
