"""Thinking, tool calls, early stopping, the best checkpoint and several processes, end to end."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from mlflow import MlflowClient

from harness.cli.main import main
from harness.records import CellResult, Generation
from harness.store import CellFolder

YAML = """\
name: techniques
model: {name: embedded:base}
template: {name: chatml_tools}
data:
  train: embedded:structured_train
  validation: embedded:structured_validation
  test: embedded:structured_test
  limit: 32
training:
  learning_rate: 2e-3
  max_steps: 6
  per_device_train_batch_size: 4
  gradient_checkpointing: false
  eval_steps: 1
  save_steps: 1
variants:
  plain: {}
  stopped:
    early_stopping_patience: 1
    early_stopping_threshold: 100.0
    training: {load_best_model_at_end: true}
  stopped between saves:
    early_stopping_patience: 2
    early_stopping_threshold: 100.0
    training: {save_steps: 6}
evals:
  - {suite: template_adherence, limit: 8, max_new_tokens: 16}
  - {suite: held_out, limit: 8, max_new_tokens: 16}
references: []
ranking: {by: held_out.bits_per_byte, gates: []}
launch: {workers: 2}
tracking: {system_metrics: false}
"""


def harness(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments), catch_exceptions=False)


def results(folder: Path, experiment: str) -> dict[str, CellResult]:
    files = (folder / "mlruns" / "harness" / experiment / "cells").glob("*/result.json")
    return {r.name: r for r in (CellResult.model_validate_json(path.read_text()) for path in files)}


def losses(folder: Path, experiment: str, cell: str) -> list[tuple[int, float]]:
    path = folder / "mlruns" / "harness" / experiment / "cells" / cell / "trace.jsonl"
    points = [json.loads(line) for line in path.read_text().splitlines()]
    return [(point["step"], point["values"]["loss"]) for point in points if "loss" in point["values"]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("techniques")
    (folder / "techniques.yaml").write_text(YAML)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        done = harness("run", "techniques.yaml")
        assert done.exit_code == 0, done.output
        yield folder


def test_calls_and_reasoning_are_rendered_asked_and_scored(folder: Path) -> None:
    cell = results(folder, "techniques")["plain"]
    assert {suite.suite for suite in cell.suites} == {"template_adherence", "held_out"}
    held_out = next(suite for suite in cell.suites if suite.suite == "held_out")
    nll = held_out.metrics["nll"]
    assert nll.n == 8
    assert nll.unscored == 0
    path = CellFolder(folder / "mlruns/harness/techniques/cells" / cell.cell).generations("held_out", held_out.digest)
    asked = [Generation.model_validate_json(line).prompt for line in path.read_text().splitlines()]
    assert any('"name": "check_stock"' in prompt for prompt in asked)
    assert all(prompt.endswith("<|im_start|>assistant\n") for prompt in asked)


def test_early_stopping_ends_training_and_the_best_checkpoint_is_evaluated(folder: Path) -> None:
    train = results(folder, "techniques")["stopped"].train
    assert train is not None
    assert train.stopped_early
    assert train.steps < train.planned_steps == 6
    assert train.evaluated == "best"
    assert results(folder, "techniques")["plain"].train.evaluated == "last"


def test_a_training_that_stops_between_two_saves_is_saved(folder: Path) -> None:
    train = results(folder, "techniques")["stopped between saves"].train
    assert train is not None
    assert train.steps == train.evaluated_step == 3
    assert train.checkpoints["last"].endswith("checkpoint-3")


def test_a_checkpoint_that_was_loaded_again_is_the_trained_one(folder: Path) -> None:
    for cell in results(folder, "techniques").values():
        path = folder / "mlruns/harness/techniques/cells" / cell.cell / "verification.json"
        items = {item["name"]: item for item in json.loads(path.read_text())["items"]}
        assert items["reloaded_nll"]["passed"]
        assert items["reloaded_nll"]["value"] < 1e-5


def test_cells_that_saw_other_tokens_are_flagged(folder: Path) -> None:
    ranking = json.loads(harness("rank", "techniques.yaml", "--json").output)
    assert "rows used" not in str(ranking["not_comparable"])


def test_cells_share_their_tokenized_rows(folder: Path) -> None:
    made = [path.name for path in (folder / "mlruns/harness/techniques/tokenized").iterdir() if path.is_dir()]
    assert len([name for name in made if name.startswith("train-")]) == 1


def test_two_processes_train_as_one_with_the_same_global_batch(folder: Path) -> None:
    options = ["--set", "training.per_device_train_batch_size=2", "--set", "launch.processes_per_cell=2"]
    options += ["--set", "launch.workers=1", "--set", "name=together", "--set", "variants={plain: {}}"]
    done = harness("run", "techniques.yaml", *options)
    assert done.exit_code == 0, done.output
    alone, together = results(folder, "techniques")["plain"], results(folder, "together")["plain"]
    one, two = losses(folder, "techniques", alone.cell), losses(folder, "together", together.cell)
    assert [step for step, _ in two] == [step for step, _ in one] == list(range(1, 7))
    assert max(abs(a - b) for (_, a), (_, b) in zip(one, two, strict=True)) < 1e-4
    assert alone.train.facts["effective batch"] == together.train.facts["effective batch"] == "4"
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("together")
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(run.info.run_name for run in runs) == ["plain", "together (report)"]
    run = next(run for run in runs if run.info.run_name == "plain")
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "loss")] == list(range(1, 7))
