"""A fast part of `benchmarks/parity.py`: the harness trains as a plain TRL script does, loss by loss."""

from pathlib import Path

import pytest
import torch

from benchmarks.parity import TECHNIQUES, TOLERANCE, Technique, distance, harness, plain_trl
from harness.records import TracePoint
from harness.store import CellFolder, read_lines

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="float32 on CPU is what can be compared bit by bit")
BY_NAME = {technique.name: technique for technique in TECHNIQUES}


def short(name: str) -> Technique:
    technique = BY_NAME[name]
    return technique._replace(training={**technique.training, "max_steps": 5})


@pytest.mark.parametrize(
    "name",
    [
        "full fine-tune",
        "LoRA, lora_dropout 0.1",
        "packing bfd",
        "packing wrapped, rows cut",
        "gradient accumulation 2x4",
        "prompt/completion turns",
    ],
)
def test_every_step_has_the_loss_of_a_plain_trl_script(name: str, tmp_path: Path) -> None:
    script = plain_trl(short(name), tmp_path / "script")
    ours = harness(short(name), tmp_path / "harness")
    assert len(script.losses) == 5
    assert max(distance(script, ours)) <= TOLERANCE, (script, ours)


def test_accumulated_batches_train_like_one_large_batch(tmp_path: Path) -> None:
    accumulated = harness(short("sgd, gradient accumulation 2x4"), tmp_path / "accumulated")
    large = harness(short("sgd, batch 8"), tmp_path / "large")
    assert max(distance(accumulated, large)) <= TOLERANCE


def test_packed_rows_longer_than_max_length_leave_the_train_probe_finite(tmp_path: Path) -> None:
    harness(short("packing wrapped, rows cut"), tmp_path)
    probed = [point.values.get("train_probe_loss") for point in read_lines(CellFolder(tmp_path).trace, TracePoint)]
    assert "nan" not in probed


def test_evaluations_are_spread_over_the_steps_that_packing_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.parity.OURS", {})
    packed = {"packing": True, "max_length": 128, "max_steps": -1, "num_train_epochs": 2}
    harness(Technique("packed epochs", packed), tmp_path)
    trace = list(read_lines(CellFolder(tmp_path).trace, TracePoint))
    evaluated = [point.step for point in trace if "eval_loss" in point.values]
    assert len(evaluated) >= 8, evaluated


def test_an_evaluation_takes_no_training_metrics_for_its_own(tmp_path: Path) -> None:
    harness(Technique("no logs", {"max_steps": 3, "logging_strategy": "no", "eval_steps": 3}), tmp_path)
    trace = list(read_lines(CellFolder(tmp_path).trace, TracePoint))
    evaluation = next(point for point in trace if point.step == 3)
    assert "eval_loss" in evaluation.values
    assert "entropy" not in evaluation.values
