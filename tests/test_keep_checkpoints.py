"""Checkpoints: which are whole, what becomes of broken ones, and what the policy leaves of a cell that is done."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from harness.checkpoints import last_whole, saved_checkpoints, set_aside, tidy, what_is_wrong
from harness.cli.main import main
from harness.data.splits import load_splits
from harness.errors import TrainError
from harness.grid import Cell
from harness.pipeline import run_pack
from harness.plan import plan_experiment
from harness.records import CellResult, TracePoint, TrainResult
from harness.store import CellFolder, read_lines, read_record
from harness.tracking.base import NullTracker
from harness.train import trainer as trainers
from harness.train.sft import train
from tests.helpers import write_orders

YAML = """\
name: kept
model: {name: embedded:base}
template: {name: chatml}
data: {train: orders.jsonl, limit: 16}
training:
  learning_rate: 2e-3
  max_steps: 6
  per_device_train_batch_size: 4
  max_length: 96
  gradient_checkpointing: false
  eval_steps: 2
evals: [{suite: held_out, limit: 4, max_new_tokens: 4}]
ranking: {by: held_out.nll, gates: []}
tracking: {system_metrics: false}
launch: {workers: 1}
"""


def trained(cell: Cell, folder: CellFolder, **options: Any) -> TrainResult:
    return train(cell, folder, NullTracker(), load_splits(cell.config.data), **options)


def names(folder: CellFolder) -> list[str]:
    return sorted(path.name for path in folder.checkpoints.iterdir() if path.is_dir())


def losses(folder: CellFolder) -> dict[int, float]:
    points = [point for point in read_lines(folder.trace, TracePoint) if "loss" in point.values]
    assert [point.step for point in points] == list(range(1, len(points) + 1))
    return {point.step: float(point.values["loss"]) for point in points}


def killed(cell: Cell, folder: CellFolder, *, at: int) -> None:
    real = trainers.ProbingTrainer.training_step

    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == at:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(trainers.ProbingTrainer, "training_step", step)
        trained(cell, folder)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `kept.yaml`, a cell that was killed after its fifth step, and the same one trained to its end."""
    folder = tmp_path_factory.mktemp("kept")
    write_orders(folder / "orders.jsonl")
    (folder / "kept.yaml").write_text(YAML)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        cell = plan_experiment("kept.yaml").cells[0]
        trained(cell, CellFolder(folder / "whole"), keep="all")
        killed(cell, CellFolder(folder / "cut"), at=5)
    return folder


@pytest.fixture
def cut(interrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CellFolder:
    """A copy of the killed cell, which has checkpoints of steps 2 and 4."""
    shutil.copytree(interrupted, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return CellFolder(tmp_path / "work" / "cut")


def shorten(path: Path, by: int = 100) -> None:
    path.write_bytes(path.read_bytes()[:-by])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(bytes(content))


BREAKS: dict[str, tuple[Callable[[Path], None], str]] = {
    "no state": (lambda c: (c / "trainer_state.json").unlink(), "trainer_state.json is missing"),
    "half a state": (lambda c: shorten(c / "trainer_state.json"), "trainer_state.json can't be read"),
    "state of another step": (
        lambda c: (c / "trainer_state.json").write_text('{"global_step": 3}'),
        "trainer_state.json is not of step 4",
    ),
    "half the weights": (lambda c: shorten(c / "model.safetensors"), "model.safetensors: "),
    "no weights": (lambda c: (c / "model.safetensors").unlink(), "it holds no weights"),
    "half an optimizer": (lambda c: shorten(c / "optimizer.pt"), "optimizer.pt: "),
    "bad optimizer": (lambda c: flip(c / "optimizer.pt"), "optimizer.pt: "),
    "empty scheduler": (lambda c: (c / "scheduler.pt").write_bytes(b""), "scheduler.pt: "),
    "a missing shard": (
        lambda c: (c / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-2.safetensors"}}'),
        "model-2.safetensors is missing",
    ),
}


@pytest.mark.parametrize("name", list(BREAKS))
def test_broken_checkpoint_is_set_aside_and_the_one_before_it_is_used(
    cut: CellFolder, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    harm, said = BREAKS[name]
    harm(cut.checkpoints / "checkpoint-4")
    found = last_whole(cut, what_is_wrong)
    assert found is not None
    assert found.name == "checkpoint-2"
    assert names(cut) == ["broken-checkpoint-4", "checkpoint-2"]
    assert f"is not whole ({said}" in caplog.text


def test_whole_checkpoint_has_nothing_wrong(cut: CellFolder) -> None:
    assert [what_is_wrong(path) for path in saved_checkpoints(cut)] == ["", ""]


def test_resumed_curve_is_the_same_where_not_every_step_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_orders(tmp_path / "orders.jsonl")
    (tmp_path / "kept.yaml").write_text(YAML.replace("  eval_steps: 2", "  eval_steps: 2\n  logging_steps: 3"))
    cell = plan_experiment("kept.yaml").cells[0]
    whole, cut = CellFolder(tmp_path / "whole"), CellFolder(tmp_path / "cut")
    trained(cell, whole)
    killed(cell, cut, at=5)
    trained(cell, cut)
    curves = [
        [(point.step, point.values["loss"]) for point in read_lines(folder.trace, TracePoint) if "loss" in point.values]
        for folder in (whole, cut)
    ]
    assert curves[0] == curves[1]
    # The last save before the kill was at 4, where the mean of a step that has its own point begins.
    assert [step for step, _ in curves[0]] == [2, 3, 4, 6]


def test_broken_checkpoints_stay_until_the_cell_is_done(cut: CellFolder) -> None:
    for path in saved_checkpoints(cut):
        set_aside(path, "for a test")
    assert names(cut) == ["broken-checkpoint-2", "broken-checkpoint-4"]
    tidy(cut, "best+last")
    assert names(cut) == []


@pytest.mark.parametrize(
    "harm",
    [
        lambda c: shorten(c / "model.safetensors"),
        lambda c: (c / "optimizer.pt").unlink(),
        # Nothing to be seen from outside: it fails when it is loaded.
        lambda c: shutil.copy(c / "scheduler.pt", c / "optimizer.pt"),
        lambda c: (c / "trainer_state.json").write_text('{"global_step": 4'),
    ],
    ids=["weights", "no optimizer", "loads as something else", "half a state"],
)
def test_training_goes_on_from_the_one_before_with_the_same_curve(
    cut: CellFolder, harm: Callable[[Path], object]
) -> None:
    harm(cut.checkpoints / "checkpoint-4")
    result = trained(plan_experiment("kept.yaml").cells[0], cut)
    assert result.steps == 6
    whole = losses(CellFolder(cut.path.parent / "whole"))
    assert losses(cut) == pytest.approx(whole, abs=1e-6)
    assert result.checkpoints["last"] == "checkpoints/checkpoint-6"


def test_checkpoints_are_not_to_blame_for_another_version_of_transformers(cut: CellFolder) -> None:
    before = names(cut)
    for path in saved_checkpoints(cut):
        step = path.name.rpartition("-")[2]
        (path / "trainer_state.json").write_text(f'{{"global_step": {step}, "surprise": 1}}')
    with pytest.raises(TrainError, match="another version of transformers"):
        trained(plan_experiment("kept.yaml").cells[0], cut)
    assert names(cut) == before


def test_two_that_cannot_be_loaded_are_given_back(cut: CellFolder) -> None:
    """Nothing is seen from outside, and it can't be both files: a library, a driver, memory of another kind."""
    before = names(cut)
    for path in saved_checkpoints(cut):
        shutil.copy(path / "scheduler.pt", path / "optimizer.pt")
    with pytest.raises(TrainError, match="can't be loaded"):
        trained(plan_experiment("kept.yaml").cells[0], cut)
    assert names(cut) == before


def test_all_keeps_every_checkpoint_and_the_policy_is_no_part_of_a_cell(interrupted: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(interrupted)
    whole = CellFolder(interrupted / "whole")
    tidy(whole, "all")
    assert names(whole) == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]
    assert all((path / "optimizer.pt").exists() for path in saved_checkpoints(whole))
    ids = {plan_experiment("kept.yaml", [f"checkpoints.keep={keep}"]).cells[0].id for keep in ("all", "none")}
    assert ids == {plan_experiment("kept.yaml").cells[0].id}


def test_best_and_last_keep_their_weights_alone(cut: CellFolder) -> None:
    set_aside(cut.checkpoints / "checkpoint-4", "for a test")
    shards = cut.checkpoints / "checkpoint-2" / "optimizer_0"  # FSDP's
    shards.mkdir()
    (shards / "__0_0.distcp").touch()
    tidy(cut, "best+last")
    assert names(cut) == ["checkpoint-2"]
    left = {path.name for path in (cut.checkpoints / "checkpoint-2").iterdir()}
    assert not left & {"optimizer.pt", "optimizer_0", "scheduler.pt", "rng_state.pth"}
    assert {"model.safetensors", "config.json", "tokenizer.json", "trainer_state.json"} <= left
    assert what_is_wrong(cut.checkpoints / "checkpoint-2", trains_on=False) == ""


def harness(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, list(arguments), catch_exceptions=False)
    return done.exit_code, done.output + done.stderr


@pytest.fixture(scope="module")
def weightless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that kept no weights."""
    folder = tmp_path_factory.mktemp("none")
    write_orders(folder / "orders.jsonl")
    (folder / "kept.yaml").write_text(f"{YAML}checkpoints: {{keep: none}}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        code, said = harness("run", "kept.yaml")
    assert code == 0, said
    return folder


def the_cell(folder: Path) -> CellFolder:
    return next(CellFolder(path.parent) for path in folder.glob("mlruns/harness/kept/cells/*/train.json"))


def test_none_leaves_no_weights_of_a_cell_that_is_done(weightless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(weightless)
    cell = the_cell(weightless)
    assert not list(weightless.glob("mlruns/**/*.safetensors"))
    assert read_record(cell.result, CellResult).status == "finished"
    code, ranking = harness("rank", "kept.yaml", "--json")
    assert (code, len(json.loads(ranking)["rows"])) == (0, 1)
    # Nothing is trained again.
    before = (cell.path / "train.json").stat().st_mtime_ns
    assert harness("run", "kept.yaml")[0] == 0
    assert (cell.path / "train.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("command", [("export", "TO"), ("promote", "--as", "roses"), ("chat",)])
def test_weights_that_were_deleted_are_told_in_one_sentence(
    weightless: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.chdir(weightless)
    name, *rest = command
    options = [str(tmp_path / "out") if part == "TO" else part for part in rest]
    code, said = harness(name, read_record(the_cell(weightless).result, CellResult).cell, *options)
    assert code == 2
    assert "the weights were deleted once the cell was evaluated, as `checkpoints: {keep: none}` says" in said
    assert "Traceback" not in said


def test_another_suite_can_not_be_asked_without_weights(
    weightless: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(weightless, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    code, said = harness("evaluate", "kept.yaml", "--set", "evals=[{suite: held_out, limit: 3, max_new_tokens: 4}]")
    assert code == 2
    assert "no other suite can be asked of it" in said
    # What was known before is known still.
    assert read_record(the_cell(tmp_path / "work").result, CellResult).status == "finished"


def test_checkpoint_that_broke_after_training_is_trained_again_from_the_one_before(
    weightless: Path, interrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(weightless, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    cell = the_cell(tmp_path / "work")
    shutil.copytree(interrupted / "whole" / "checkpoints", cell.checkpoints)
    shutil.copy(interrupted / "whole" / "trace.jsonl", cell.trace)
    shorten(cell.checkpoints / "checkpoint-6" / "model.safetensors")
    spec = json.loads(cell.spec.read_text()) | {"keep": "best+last"}
    cell.spec.write_text(json.dumps(spec))
    before = read_record(cell.result, CellResult)
    cell.result.unlink()
    for path in cell.path.glob("suites/*.json"):
        path.unlink()
    assert run_pack([cell.path]) == 0
    after = read_record(cell.result, CellResult)
    assert after.metrics()["held_out.nll"].value == pytest.approx(before.metrics()["held_out.nll"].value, abs=1e-4)
    assert what_is_wrong(cell.checkpoints / "checkpoint-6", trains_on=False) == ""
