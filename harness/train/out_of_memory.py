"""Less of a batch at a time where memory doesn't hold it, with the same effective batch."""

import logging

from harness.comparability import BATCH_AFTER_OUT_OF_MEMORY
from harness.config import RunConfig, num_processes, process_rank
from harness.disk import size_words
from harness.errors import TrainError
from harness.hardware import smallest_gpu_gib
from harness.models.footprint import footprint
from harness.records import Record, TrainResult
from harness.store import CellFolder, read_record, write_record

logger = logging.getLogger(__name__)

ROWS, TIMES = "per_device_train_batch_size", "gradient_accumulation_steps"


class BatchSplit(Record):
    """How the batch of an optimizer step is taken: so many rows at a time, so many times."""

    rows: int
    times: int

    @property
    def smaller(self) -> "BatchSplit | None":
        """The same batch in parts of half the rows, or of their next divisor where there is no half; None for single rows."""
        fitting = [rows for rows in range(1, self.rows // 2 + 1) if self.rows % rows == 0]
        return BatchSplit(rows=fitting[-1], times=self.times * self.rows // fitting[-1]) if fitting else None

    def __str__(self) -> str:
        """As `4 x 2`."""
        return f"{self.rows} x {self.times}"


class Retries(Record):
    """What running out of memory has changed about a training."""

    stated: BatchSplit
    now: BatchSplit
    count: int = 0

    def in_force(self, config: RunConfig) -> RunConfig:
        """The cell's settings with the batch as it is taken now."""
        if not self.count:
            return config
        batch = {ROWS: self.now.rows, TIMES: self.now.times}
        return config.model_copy(update={"training": {**config.training, **batch}})

    def noted_in(self, result: TrainResult) -> TrainResult:
        """The result with the fact that the batch was taken otherwise than stated."""
        if not self.count:
            return result
        facts = {**result.facts, BATCH_AFTER_OUT_OF_MEMORY: f"{self.now} instead of {self.stated}"}
        return result.model_copy(update={"facts": facts})


def recall_retries(config: RunConfig, folder: CellFolder, *, is_resumed: bool) -> Retries:
    """What an interrupted training had come to; a training from the start begins with the batch as stated."""
    rows, times = int(config.training.get(ROWS) or 8), int(config.training.get(TIMES) or 1)
    stated = BatchSplit(rows=rows, times=times)
    if is_resumed and folder.retries.exists():
        return read_record(folder.retries, Retries)
    if process_rank() == 0:
        folder.retries.unlink(missing_ok=True)
    return Retries(stated=stated, now=stated)


def retry_smaller(config: RunConfig, folder: CellFolder, retries: Retries, reason: str) -> Retries:
    """What to try next, kept in the cell's folder; `reason` is the error's own sentence.

    Raises: TrainError: there is nothing left to try.
    """
    smaller = retries.now.smaller
    if num_processes() > 1:
        raise TrainError(_several_processes(retries.now, reason))
    if config.training.get("dataloader_drop_last"):
        raise TrainError(
            f"out of memory with {retries.now.rows} rows at a time ({reason}); with dataloader_drop_last a smaller batch has other steps: "
            f"lower {ROWS} and raise {TIMES} yourself, or drop that setting"
        )
    if smaller is None:
        raise TrainError(f"out of memory with one row at a time: {does_not_fit(config, reason)}")
    logger.warning(
        "out of memory with %d rows at a time (%s); going on with %d rows, %d times a step: the effective batch stays %d",
        retries.now.rows, reason, smaller.rows, smaller.times, smaller.rows * smaller.times,
    )  # fmt: skip
    tried = Retries(stated=retries.stated, now=smaller, count=retries.count + 1)
    write_record(folder.retries, tried)
    return tried


def _several_processes(now: BatchSplit, reason: str) -> str:
    smaller = now.smaller
    advice = (
        f"set {ROWS} to {smaller.rows} and {TIMES} to {smaller.times}, which is the same batch, and run again"
        if smaller
        else "lower max_length, or use an adapter, quantization or FSDP"
    )
    return (
        f"process {process_rank()} of {num_processes()} ran out of memory ({reason}), and one of several can't try again alone; "
        f"{advice}"
    )


def does_not_fit(config: RunConfig, reason: str) -> str:
    """What a training needs at least, by estimate, and what would make it need less."""
    least = footprint(config.model_copy(update={"training": {**config.training, ROWS: 1}}))
    there = smallest_gpu_gib()
    training = config.training
    advice = [f"lower training.max_length ({config.max_length or 'unlimited now'})"]
    if training.get("gradient_checkpointing") is False:
        advice.append("set training.gradient_checkpointing: true")
    if config.adapter is None:
        advice.append("train an adapter (LoRA)")
    elif config.quantization is None:
        advice.append("quantize the base (quantization: {load_in_4bit: true})")
    return (
        f"the estimate is {size_words(least.total_gib)} (weights {size_words(least.weights_gib)}, gradients {size_words(least.gradients_gib)}, "
        f"optimizer {size_words(least.optimizer_gib)}, activations {size_words(least.activations_gib)})"
        f"{f' on a GPU of {size_words(there)}' if there else ''}; {', or '.join(advice)} ({reason})"
    )
