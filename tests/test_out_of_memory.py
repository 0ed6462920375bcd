"""Memory that runs out while a cell trains or answers: what is tried, what is kept, what is said."""

import gc
import json
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.checkpoints import saved_checkpoints
from harness.comparability import BATCH_AFTER_OUT_OF_MEMORY, differences
from harness.data.splits import load_splits
from harness.errors import ModelError, TrainError
from harness.grid import Cell
from harness.models.generate import row_losses
from harness.models.out_of_memory import is_out_of_memory
from harness.plan import plan_experiment
from harness.records import Probe, TracePoint, TrainResult
from harness.store import CellFolder, read_lines
from harness.tracking.base import NullTracker
from harness.train import trainer as trainers
from harness.train.out_of_memory import BatchSplit
from harness.train.sft import train
from tests.helpers import cell_result, write_orders

YAML = """\
name: memory
model: {name: embedded:base}
template: {name: chatml}
data: {train: orders.jsonl, limit: 22}
training:
  learning_rate: 2e-3
  num_train_epochs: 2
  per_device_train_batch_size: 6
  max_length: 128
  gradient_checkpointing: false
  eval_steps: 2
"""
CUDA_FULL = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 10.00 GiB"
STEPS = 8


@pytest.fixture
def cell(write: Callable[..., Path]) -> Cell:
    write_orders(write(YAML, "memory.yaml").parent / "orders.jsonl")
    return plan_experiment("memory.yaml").cells[0]


def trained(cell: Cell, folder: Path) -> TrainResult:
    return train(cell, CellFolder(folder), NullTracker(), load_splits(cell.config.data))


def losses(folder: Path) -> list[tuple[int, float]]:
    points = read_lines(folder / "trace.jsonl", TracePoint)
    return [(point.step, float(point.values["loss"])) for point in points if "loss" in point.values]


def full_above(patch: pytest.MonkeyPatch, rows: int, from_step: int = 0, error: Exception | None = None) -> list[int]:
    """Memory holds so many rows of a training step, from a step on; returns the sizes that were too large."""
    real, refused = trainers.ProbingTrainer.training_step, []

    def step(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if len(inputs["input_ids"]) > rows and self.state.global_step >= from_step:
            refused.append(len(inputs["input_ids"]))
            raise error or torch.OutOfMemoryError(CUDA_FULL)
        return real(self, model, inputs, *args, **kwargs)

    patch.setattr(trainers.ProbingTrainer, "training_step", step)
    return refused


def test_batch_is_taken_in_parts_whose_product_is_the_same() -> None:
    def parts(rows: int, times: int) -> list[str]:
        split: BatchSplit | None = BatchSplit(rows=rows, times=times)
        found = []
        while split := split.smaller:
            found.append(str(split))
        return found

    assert parts(8, 1) == ["4 x 2", "2 x 4", "1 x 8"]
    assert parts(6, 2) == ["3 x 4", "1 x 12"]
    assert parts(5, 1) == ["1 x 5"]
    assert parts(1, 4) == []


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (torch.OutOfMemoryError(CUDA_FULL), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (ValueError("out of memory."), False),
    ],
)  # fmt: skip
def test_errors_of_memory_are_told_from_others(error: Exception, is_one: bool) -> None:
    assert is_out_of_memory(error) is is_one
    wrapped = TrainError("training")
    wrapped.__cause__ = error
    assert is_out_of_memory(wrapped) is is_one


def test_training_goes_on_with_the_same_losses(
    cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain = trained(cell, tmp_path / "plain")
    refused = full_above(monkeypatch, rows=2, from_step=5)
    small = trained(cell, tmp_path / "small")
    assert refused == [6, 3]
    expected, found = losses(tmp_path / "plain"), losses(tmp_path / "small")
    assert [step for step, _ in found] == [step for step, _ in expected] == list(range(1, STEPS + 1))
    assert max(abs(a - b) for (_, a), (_, b) in zip(expected, found, strict=True)) < 1e-4
    assert small.eval_loss == pytest.approx(plain.eval_loss, abs=1e-4)
    probes = [(probe.step, probe.split) for probe in read_lines(tmp_path / "small" / "probes.jsonl", Probe)]
    assert len(set(probes)) == len(probes)
    assert "going on with 3 rows, 2 times a step: the effective batch stays 6" in caplog.text
    # In force, beside what is the same.
    assert (small.settings["training.per_device_train_batch_size"], small.facts["effective batch"]) == ("1", "6")
    results = [
        cell_result(name).model_copy(update={"train": result}) for name, result in (("plain", plain), ("small", small))
    ]
    assert [(d.fact, d.values) for d in differences(results)] == [
        (BATCH_AFTER_OUT_OF_MEMORY, {"as stated": ("plain",), "1 x 6 instead of 6 x 1": ("small",)})
    ]


def test_training_goes_on_from_its_last_checkpoint(cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full_above(monkeypatch, rows=3, from_step=5)
    starts = []
    real = trainers.ProbingTrainer.train

    def spy(self: Any, resume_from_checkpoint: str | None = None) -> Any:
        starts.append(Path(resume_from_checkpoint or "base").name)
        return real(self, resume_from_checkpoint=resume_from_checkpoint)

    monkeypatch.setattr(trainers.ProbingTrainer, "train", spy)
    trained(cell, tmp_path / "cell")
    assert starts == ["base", "checkpoint-4"]


def test_killed_training_goes_on_with_the_smaller_batch(
    cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        full_above(patch, rows=3)
        real = trainers.ProbingTrainer._save_checkpoint

        def kill(self: Any, *args: Any) -> None:
            real(self, *args)
            if self.state.global_step == 4:
                raise KeyboardInterrupt

        patch.setattr(trainers.ProbingTrainer, "_save_checkpoint", kill)
        with pytest.raises(KeyboardInterrupt):
            trained(cell, tmp_path / "cell")
    refused = full_above(monkeypatch, rows=3)
    result = trained(cell, tmp_path / "cell")
    assert refused == []
    assert result.facts[BATCH_AFTER_OUT_OF_MEMORY] == "3 x 2 instead of 6 x 1"
    assert [step for step, _ in losses(tmp_path / "cell")] == list(range(1, STEPS + 1))


def test_nothing_of_the_failed_attempt_stays_in_memory(
    cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[weakref.ref[Any]] = []
    before: list[int] = []
    real = trainers.ProbingTrainer.train

    def spy(self: Any, **kwargs: Any) -> Any:
        gc.collect()
        before.append(sum(reference() is not None for reference in alive))
        alive.append(weakref.ref(next(self.model.parameters())))
        return real(self, **kwargs)

    full_above(monkeypatch, rows=2)
    monkeypatch.setattr(trainers.ProbingTrainer, "train", spy)
    trained(cell, tmp_path / "cell")
    assert before == [0, 0, 0]


def test_one_row_that_does_not_fit_is_given_up_with_the_estimate(
    cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = full_above(monkeypatch, rows=0)
    with pytest.raises(TrainError) as caught:
        trained(cell, tmp_path / "cell")
    assert refused == [6, 3, 1]
    text = str(caught.value)
    assert text.startswith("out of memory with one row at a time: the estimate is ")
    assert "MiB (weights 7.3 MiB, gradients 7.3 MiB, optimizer 14.6 MiB" in text
    assert "lower training.max_length (128), or set training.gradient_checkpointing: true, or train an adapter" in text


def test_other_errors_are_not_retried(cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = full_above(monkeypatch, rows=0, error=RuntimeError("device-side assert triggered"))
    with pytest.raises(TrainError, match="device-side assert"):
        trained(cell, tmp_path / "cell")
    assert len(refused) == 1


def test_one_of_several_processes_says_what_to_change(
    cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.train import out_of_memory

    monkeypatch.setattr(out_of_memory, "num_processes", lambda: 2)
    full_above(monkeypatch, rows=3)
    with pytest.raises(TrainError, match=r"process 0 of 2 ran out of memory .* per_device_train_batch_size to 3 and"):
        trained(cell, tmp_path / "cell")


class _Full(torch.nn.Module):
    """Holds so many rows."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows = rows
        self.weight = torch.nn.Parameter(torch.zeros(4, 4))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        if len(input_ids) > self.rows:
            raise RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."
            )
        return type("Output", (), {"logits": self.weight[input_ids]})


def test_evaluation_is_done_in_halves(caplog: pytest.LogCaptureFixture) -> None:
    from harness.data.tokenize import Tokenized

    rows = [Tokenized(f"r{n}", (1, 2, 3), (-100, 2, 3), False) for n in range(5)]
    with caplog.at_level("WARNING"):
        found = row_losses(_Full(1), rows, pad_token_id=0, batch_size=4)
    assert [loss.num_tokens for loss in found] == [2] * 5
    assert "out of memory with a batch of 4; trying 2" in caplog.text
    with pytest.raises(ModelError, match="out of memory with a single row"):
        row_losses(_Full(0), rows, pad_token_id=0, batch_size=4)


LIMITED = """
import json, resource, sys
from pathlib import Path
import harness.train.sft as sft
from harness.data.splits import load_splits
from harness.plan import plan_experiment
from harness.store import CellFolder
from harness.tracking.base import NullTracker
from harness.train import trainer

cell = plan_experiment("memory.yaml").cells[0]
real = trainer.ProbingTrainer.training_step
def step(self, model, inputs, *args, **kwargs):
    # What the process has, and less than a whole batch's logits on top of it.
    if len(inputs["input_ids"]) > 8:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (8 << 20), resource.RLIM_INFINITY))
    try:
        return real(self, model, inputs, *args, **kwargs)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
trainer.ProbingTrainer.training_step = step
result = sft.train(cell, CellFolder(Path("cell")), NullTracker(), load_splits(cell.config.data))
print(json.dumps(result.facts))
"""


def test_real_error_of_the_cpu_allocator_is_known(write: Callable[..., Path], tmp_path: Path) -> None:
    """A process that may not have more memory while it takes a batch of 64 rows: torch's own error, not a made-up one."""
    large = (
        YAML.replace("size: 6", "size: 64")
        .replace("limit: 22", "limit: 64")
        .replace("num_train_epochs: 2", "max_steps: 2")
    )
    write_orders(write(large, "memory.yaml").parent / "orders.jsonl", count=90)
    done = subprocess.run([sys.executable, "-c", LIMITED], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "DefaultCPUAllocator: can't allocate memory" in done.stderr
    assert json.loads(done.stdout.splitlines()[-1])[BATCH_AFTER_OUT_OF_MEMORY] == "8 x 8 instead of 64 x 1"
    assert [step for step, _ in losses(tmp_path / "cell")] == [1, 2]
    assert saved_checkpoints(CellFolder(tmp_path / "cell"))
