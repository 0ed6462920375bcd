"""Trains one cell with TRL's SFTTrainer."""

import logging
import time
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import EarlyStoppingCallback, PreTrainedModel, TrainerCallback, TrainerControl
from trl import SFTConfig, SFTTrainer

from harness.config import RunConfig, num_processes, process_rank
from harness.data.formats import Conversation
from harness.data.prepare import PreparedSplit
from harness.data.sources import fingerprint
from harness.data.splits import Splits
from harness.data.tokenize import Tokenized, as_columns
from harness.errors import TrainError, boundary
from harness.grid import Cell
from harness.models.generate import row_losses
from harness.models.load import LoadedModel, load_base
from harness.models.prepared import prepare
from harness.models.verify import documents_stay_apart
from harness.records import (
    Dropped,
    Probe,
    ProbeSplit,
    SplitName,
    SplitSummary,
    TracePoint,
    TrainResult,
    finite_or_name,
)
from harness.resources import digest
from harness.store import CellFolder, read_lines, write_lines
from harness.tracking.base import Tracker
from harness.train.arguments import evaluation_interval, lora_config, sft_arguments
from harness.train.callbacks import EvaluateAtEnd, TraceCallback
from harness.train.environment import environment, peak_memory_gib
from harness.train.facts import comparable_facts

logger = logging.getLogger(__name__)

MAX_PROBE_ROWS = 100


@dataclass(frozen=True, slots=True)
class TrainingRows:
    """Tokenized rows of a cell; the probe sets are evaluated row by row at every evaluation."""

    train: PreparedSplit
    validation: list[Tokenized]
    train_probe: list[Tokenized]
    summaries: Mapping[str, SplitSummary]


def prepare_rows(config: RunConfig, splits: Splits, loaded: LoadedModel, folder: CellFolder) -> TrainingRows:
    """Tokenizes, cuts and counts; lists what is dropped in `dropped.jsonl`.

    Raises: DataError: no row has a supervised token left.
    """
    summaries: dict[str, SplitSummary] = {}
    dropped = list(splits.dropped)

    def prepared(name: SplitName, rows: Sequence[Conversation]) -> PreparedSplit:
        made = prepare(config, name, rows, loaded, folder.tokenized)
        dropped.extend(made.counts.dropped)
        summaries[name] = _summary(config, name, rows, made, [item for item in dropped if item.split == name])
        _warn_of_losses(name, summaries[name], config.max_length)
        return made

    train, validation = prepared("train", splits.train), prepared("validation", splits.validation)
    if process_rank() == 0:
        write_lines(folder.dropped, dropped)
    size = min(len(validation), len(train), MAX_PROBE_ROWS)
    probe = [cut(row, config.max_length) for row in train.spread(size)]
    return TrainingRows(train, validation.rows(), probe, summaries)


def cut(row: Tokenized, max_length: int | None) -> Tokenized:
    """A row no longer than the validation rows are, for packing may have kept it whole, with something to predict."""
    start = row._replace(input_ids=row.input_ids[:max_length], labels=row.labels[:max_length])
    if max_length is None or start.num_supervised:
        return start
    return row._replace(input_ids=row.input_ids[-max_length:], labels=row.labels[-max_length:])


def _summary(
    config: RunConfig, name: SplitName, rows: Sequence[Conversation], made: PreparedSplit, dropped: Sequence[Dropped]
) -> SplitSummary:
    sources = getattr(config.data, name) or config.data.train
    return SplitSummary(
        source=", ".join(source.path for source in sources),
        digest=digest([[fingerprint(source) for source in sources], [row.id for row in rows]]),
        rows_read=len(rows),
        rows_used=len(made),
        truncated=made.counts.truncated,
        dropped_unsupervised=len(rows) - len(made),
        dropped=dict(Counter(item.reason for item in dropped)),
        tokens=made.counts.tokens,
        supervised_tokens=made.counts.supervised_tokens,
    )


def _warn_of_losses(name: str, summary: SplitSummary, max_length: int | None) -> None:
    if summary.truncated:
        logger.warning(
            "%s: %d of %d rows are cut at max_length %s", name, summary.truncated, summary.rows_read, max_length
        )
    if summary.dropped_unsupervised:
        logger.warning("%s: %d of %d rows have no supervised token and are left out",
                       name, summary.dropped_unsupervised, summary.rows_read)  # fmt: skip


def _warn_of_mixing(loaded: LoadedModel, rows: TrainingRows) -> None:
    if len(rows.train_probe) > 1 and not documents_stay_apart(loaded, rows.train_probe):
        logger.warning(
            "packing: with attention %s the documents of a sequence see each other; set model.attn_implementation to "
            "flash_attention_2, or turn packing off", getattr(loaded.model.config, "_attn_implementation", "unknown"),
        )  # fmt: skip


class ProbingTrainer(SFTTrainer):
    """An SFTTrainer whose evaluation keeps the NLL of every row, of validation and of a fixed part of the training rows.

    `eval_loss` is the NLL, a mean over all supervised tokens, of rows that are not packed. TRL's own is a mean of batch
    means of the training loss (smoothed, or DFT), which can't be compared between the cells of a grid.
    """

    def __init__(self, *args: Any, rows: TrainingRows, probes_path: Path, **kwargs: Any) -> None:
        self._rows = rows
        self._probes_path = probes_path
        super().__init__(*args, **kwargs)

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
                with self._probes_path.open("a", encoding="utf-8") as file:
                    file.write(f"{probe.model_dump_json()}\n")
        metrics[f"{metric_key_prefix}_runtime"] = time.monotonic() - started
        # In train mode, TRL would take the training metrics since the last log for those of this evaluation.
        self.model.eval()
        self.log(dict(metrics))
        self.control: TrainerControl = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def train(cell: Cell, folder: CellFolder, tracker: Tracker, splits: Splits) -> TrainResult:
    """Trains a cell from its last whole checkpoint, or from the base, and gives what came of it.

    Raises: TrainError: settings that can't work, or a loss that is not finite.
    """
    config = cell.config
    assert cell.seed is not None, "references are not trained"
    loaded = load_base(config, plain_rows=splits.train[0].is_plain)
    resume_from = _last_checkpoint(folder)
    arguments = sft_arguments(
        config, cell.seed, len(splits.train), folder.checkpoints, is_resumed=resume_from is not None
    )
    rows = prepare_rows(config, splits, loaded, folder)
    # The adapter's initial weights depend on it.
    torch.manual_seed(cell.seed)
    trainer = _trainer(config, loaded, arguments, rows, folder, tracker)
    # How many rows are left is known once TRL has packed them.
    num_rows = len(trainer.train_dataset)
    if arguments.packing:
        arguments.eval_steps = evaluation_interval(config, num_rows)
        arguments.save_steps = config.training.get("save_steps", arguments.eval_steps)
    if arguments.packing or arguments.padding_free:
        _warn_of_mixing(loaded, rows)
    settings = _settings(config, arguments, loaded)
    tracker.log_params(settings)
    tracker.log_splits(rows.summaries)
    seconds_before = _forget_after(folder, resume_from)
    logger.info("training %s: %d rows, %d supervised tokens, %d steps planned", cell.name, num_rows,
                rows.summaries["train"].supervised_tokens, config.planned_steps(num_rows, num_processes()))  # fmt: skip
    started = time.monotonic()
    with boundary(TrainError, "training"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    return _result(trainer, config, rows, folder, settings, seconds_before + time.monotonic() - started)


def _trainer(
    config: RunConfig,
    loaded: LoadedModel,
    arguments: SFTConfig,
    rows: TrainingRows,
    folder: CellFolder,
    tracker: Tracker,
) -> ProbingTrainer:
    adapter = lora_config(config)
    with boundary(TrainError, "setting up TRL's SFTTrainer"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ProbingTrainer(
            model=loaded.model,
            args=arguments,
            train_dataset=rows.train.training_columns(),
            eval_dataset=Dataset.from_dict(dict(as_columns(rows.validation))),
            processing_class=loaded.tokenizer,
            peft_config=adapter,
            callbacks=_callbacks(config, folder, tracker),
            rows=rows,
            probes_path=folder.probes,
        )


def _callbacks(config: RunConfig, folder: CellFolder, tracker: Tracker) -> list[TrainerCallback]:
    callbacks = [TraceCallback(folder, tracker, stop_on_non_finite=config.stop_on_non_finite), EvaluateAtEnd()]
    if config.early_stopping_patience is not None:
        callbacks.append(EarlyStoppingCallback(config.early_stopping_patience, config.early_stopping_threshold))
    return callbacks


def _last_checkpoint(folder: CellFolder) -> Path | None:
    """The newest checkpoint that was written to its end: the trainer writes its state last."""
    whole = [path.parent for path in folder.checkpoints.glob("checkpoint-*/trainer_state.json")]
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def _forget_after(folder: CellFolder, checkpoint: Path | None) -> float:
    """Drops what an interrupted training recorded after its last checkpoint, so that no step is there twice.

    Returns: seconds of training that are kept.
    """
    step = int(checkpoint.name.rpartition("-")[2]) if checkpoint else -1
    kept = [point for point in read_lines(folder.trace, TracePoint) if point.step <= step]
    if process_rank() > 0:
        return kept[-1].seconds if kept else 0.0
    write_lines(folder.trace, kept)
    write_lines(folder.probes, [probe for probe in read_lines(folder.probes, Probe) if probe.step <= step])
    return kept[-1].seconds if kept else 0.0


def _settings(config: RunConfig, arguments: SFTConfig, loaded: LoadedModel) -> dict[str, str]:
    """Every setting that was in force, under the names of its library."""
    settings = {f"model.{key}": str(value) for key, value in config.model.model_dump().items()}
    settings |= {f"template.{key}": str(value) for key, value in config.template.model_dump().items()}
    settings |= {f"data.{key}": str(value) for key, value in config.data.model_dump().items()}
    settings |= {f"training.{key}": str(value) for key, value in sorted(arguments.to_dict().items())}
    settings["training.assistant_only_loss"] = str(config.trains_on_answers_only)
    settings["training.completion_only_loss"] = str(config.trains_on_answers_only)
    adapter_config = lora_config(config)
    adapter = adapter_config.to_dict() if adapter_config is not None else {}
    settings |= {f"adapter.{key}": str(value) for key, value in sorted(adapter.items())}
    settings |= {f"quantization.{key}": str(value) for key, value in sorted((config.quantization or {}).items())}
    dtype = str(next(loaded.model.parameters()).dtype).removeprefix("torch.")
    in_force = "none" if loaded.tokenizer.chat_template is None else config.template.name
    return settings | {
        "model.dtype_in_force": dtype,
        "model.device": str(loaded.model.device),
        "template.in_force": in_force,
        "template.mask": loaded.tokens.mask,
    }


def _result(
    trainer: ProbingTrainer,
    config: RunConfig,
    rows: TrainingRows,
    folder: CellFolder,
    settings: Mapping[str, str],
    seconds: float,
) -> TrainResult:
    history = trainer.state.log_history
    evaluated = [(entry["step"], entry["eval_loss"]) for entry in history if "eval_loss" in entry]
    losses = [entry["loss"] for entry in history if "loss" in entry]
    best = min(
        (pair for pair in evaluated if pair[1] == pair[1] and pair[0] > 0), key=lambda pair: pair[1], default=None
    )
    checkpoints = sorted(folder.checkpoints.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    if not checkpoints:
        raise TrainError("the trainer saved no checkpoint; set training.save_strategy to steps or epoch")
    found = {"last": str(checkpoints[-1].relative_to(folder.path))}
    if best is not None and (folder.checkpoints / f"checkpoint-{best[0]}").is_dir():
        found["best"] = str((folder.checkpoints / f"checkpoint-{best[0]}").relative_to(folder.path))
    model: PreTrainedModel = trainer.model
    stood_on = environment()
    facts = comparable_facts(config, model, trainer.args, rows.summaries["train"], stood_on)
    seen = [entry["num_tokens"] for entry in history if "num_tokens" in entry]
    wants_best = trainer.args.load_best_model_at_end and "best" in found
    return TrainResult(
        steps=trainer.state.global_step,
        planned_steps=trainer.state.max_steps,
        epochs=float(trainer.state.epoch or 0.0),
        seconds=seconds,
        train_loss=finite_or_name(losses[-1]) if losses else "nan",
        best_step=best[0] if best else None,
        best_eval_loss=best[1] if best else None,
        eval_loss=finite_or_name(evaluated[-1][1]) if evaluated else None,
        checkpoints=found,
        evaluated="best" if wants_best else "last",
        splits=dict(rows.summaries),
        device=settings["model.device"],
        dtype=settings["model.dtype_in_force"],
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        num_trainable_parameters=sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        peak_memory_gib=peak_memory_gib(),
        settings=dict(settings),
        environment=stood_on,
        facts=facts | ({"tokens seen": str(int(seen[-1]))} if seen else {}),
        stopped_early=config.early_stopping_patience is not None
        and trainer.state.global_step < trainer.state.max_steps,
    )
