"""TRL's SFTTrainer with an evaluation that keeps the NLL of every row."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import TrainerControl
from trl import SFTTrainer

from harness.data.tokenize import Tokenized
from harness.errors import TrainError
from harness.models.generate import row_losses
from harness.models.out_of_memory import is_out_of_memory
from harness.records import Probe, ProbeSplit, finite_or_name
from harness.store import append_lines
from harness.train.batches import BatchNotes
from harness.train.callbacks import logged_tokens
from harness.train.rows import TrainingRows

logger = logging.getLogger(__name__)


class BrokenCheckpointError(TrainError):
    """A checkpoint looks whole and can't be loaded."""


@contextmanager
def _loading(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise BrokenCheckpointError(f"its {what} can't be loaded: {type(error).__name__}: {error}") from error


class ProbingTrainer(SFTTrainer):
    """An SFTTrainer whose evaluation keeps the NLL of every row, of validation and of a fixed part of the training rows.

    `eval_loss` is the NLL, a mean over all supervised tokens, of rows that are not packed. TRL's own is a mean of batch
    means of the training loss (smoothed, or DFT), which can't be compared between the cells of a grid.
    """

    def __init__(self, *args: Any, rows: TrainingRows, probes_path: Path, **kwargs: Any) -> None:
        self._rows = rows
        self._probes_path = probes_path
        self.notes = BatchNotes()
        self._total_train_tokens = 0
        super().__init__(*args, **kwargs)

    def _load_from_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        with _loading("weights"):
            super()._load_from_checkpoint(*args, **kwargs)

    def _load_optimizer_and_scheduler(self, *args: Any, **kwargs: Any) -> None:
        with _loading("optimizer's state"):
            super()._load_optimizer_and_scheduler(*args, **kwargs)

    def _load_rng_state(self, *args: Any, **kwargs: Any) -> None:
        try:
            super()._load_rng_state(*args, **kwargs)
        except (
            Exception
        ) as error:  # whatever pickle and torch raise; weights and optimizer are worth more than equal dropout
            logger.warning("the random numbers of the checkpoint can't be restored (%s); dropout draws others", error)

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Notes which rows the step is taken on."""
        if not (self.args.packing or self.args.padding_free):
            self.notes.note(self.state.global_step + 1, inputs)
        # Else the trainer itself counts there, and otherwise.
        keeps_count = self.args.include_num_input_tokens_seen == "no"
        if not keeps_count and not self._total_train_tokens:
            self._total_train_tokens = logged_tokens(self.state)
        if keeps_count:
            # TRL counts from zero after a resume; of what counts, a checkpoint keeps the trainer's state alone.
            self._total_train_tokens = max(self._total_train_tokens, int(self.state.num_input_tokens_seen))
        loss = super().training_step(model, inputs, *args, **kwargs)
        if keeps_count:
            self.state.num_input_tokens_seen = self._total_train_tokens
        return loss

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Probes both sets, logs `eval_loss` and `train_probe_loss`, and writes one line a set to `probes.jsonl`."""
        metrics: dict[str, float] = {}
        started = time.monotonic()
        probed: tuple[tuple[ProbeSplit, list[Tokenized], str], ...] = (
            ("validation", self._rows.validation, metric_key_prefix),
            ("train_probe", self._rows.train_probe, "train_probe"),
        )
        for split, rows, prefix in probed:
            with self.compute_loss_context_manager():
                losses = row_losses(
                    self.model, rows, pad_token_id=self.processing_class.pad_token_id,
                    batch_size=self.args.per_device_eval_batch_size,
                )  # fmt: skip
            tokens = sum(loss.num_tokens for loss in losses)
            metrics[f"{prefix}_loss"] = sum(loss.nll * loss.num_tokens for loss in losses) / tokens
            metrics[f"{prefix}_mean_token_accuracy"] = sum(loss.num_right for loss in losses) / tokens
            if self.is_world_process_zero():
                probe = Probe(
                    step=self.state.global_step,
                    split=split,
                    nll=tuple(finite_or_name(loss.nll) for loss in losses),
                    tokens=tuple(loss.num_tokens for loss in losses),
                )
                append_lines(self._probes_path, [probe])
        metrics[f"{metric_key_prefix}_runtime"] = time.monotonic() - started
        # In train mode, TRL would take the training metrics since the last log for those of this evaluation.
        self.model.eval()
        self.log(dict(metrics))
        self.control: TrainerControl = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics
