"""Trains one cell with TRL's SFTTrainer."""

import logging
import time
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from datasets import Dataset
from transformers import EarlyStoppingCallback, PreTrainedModel, TrainerCallback, TrainerState
from trl import SFTConfig

from harness.checkpoint_config import Keep
from harness.checkpoints import BROKEN, STATE, checkpoint_step, last_whole, saved_checkpoints, set_aside, what_is_wrong
from harness.config import RunConfig, num_processes, process_rank
from harness.data.splits import Splits
from harness.data.tokenize import as_columns
from harness.diagnose.cell_reader import trace_evidence
from harness.diagnose.spikes import loss_spikes
from harness.errors import TrainError, boundary
from harness.grid import Cell
from harness.models.load import LoadedModel, load_base
from harness.models.out_of_memory import clear_memory, is_out_of_memory
from harness.models.verify import documents_stay_apart
from harness.records import Probe, TracePoint, TrainResult, finite_or_name
from harness.stopping import stop_if_asked, stopping_after_step
from harness.store import CellFolder, read_lines, write_lines
from harness.tracking.base import Tracker
from harness.train.arguments import evaluation_interval, lora_config, sft_arguments
from harness.train.callbacks import EvaluateAtEnd, LogAtCheckpoint, StopOnSignal, TraceCallback
from harness.train.environment import environment, peak_memory_gib
from harness.train.facts import comparable_facts
from harness.train.live import StopOnFinding, stop_of
from harness.train.out_of_memory import Retries, does_not_fit, recall_retries, retry_smaller
from harness.train.rows import TrainingRows, prepare_rows
from harness.train.trainer import BrokenCheckpointError, ProbingTrainer

logger = logging.getLogger(__name__)

MAX_SPIKES = 5


def train(cell: Cell, folder: CellFolder, tracker: Tracker, splits: Splits, *, keep: Keep = "best+last") -> TrainResult:
    """Trains a cell from its last whole checkpoint, or from the base, and gives what came of it.

    Where memory runs out it goes on with fewer rows at a time and the same effective batch; where a checkpoint can't be
    loaded, from the one before.

    Raises: TrainError: settings that can't work, a loss that is not finite, or no memory for a single row.
    """
    retries: Retries | None = None
    unloadable: Path | None = None
    while True:
        checkpoint = last_whole(folder, partial(_what_is_wrong, cell.config), may_rename=process_rank() == 0)
        retries = retries or recall_retries(cell.config, folder, is_resumed=checkpoint is not None)
        in_force = cell.model_copy(update={"config": retries.in_force(cell.config)})
        try:
            return retries.noted_in(_train(in_force, folder, tracker, splits, checkpoint, keep))
        except BrokenCheckpointError as error:
            if checkpoint is None or num_processes() > 1:
                raise
            if unloadable is not None:
                # It isn't the files: another version of a library, a driver. They are good again once that is mended.
                unloadable.with_name(f"{BROKEN}{unloadable.name}").rename(unloadable)
                raise
            unloadable = checkpoint
            set_aside(checkpoint, str(error))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            retries = retry_smaller(cell.config, folder, retries, _first_line(error))
        # Outside the handlers: their exceptions hold on to the model and the trainer.
        clear_memory()


def _first_line(error: BaseException) -> str:
    return (str(error.__cause__ or error).strip() or type(error).__name__).splitlines()[0]


def _train(
    cell: Cell, folder: CellFolder, tracker: Tracker, splits: Splits, resume_from: Path | None, keep: Keep
) -> TrainResult:
    config = cell.config
    assert cell.seed is not None, "references are not trained"
    loaded = _load(config, splits)
    arguments = sft_arguments(
        config, cell.seed, len(splits.train), folder.checkpoints, is_resumed=resume_from is not None, keep=keep
    )
    rows = prepare_rows(config, splits, loaded, folder)
    # The adapter's initial weights depend on it.
    torch.manual_seed(cell.seed)
    seconds_before = _forget_after(folder, resume_from)
    callbacks = _callbacks(config, folder, tracker, seconds_before)
    trainer = _trainer(config, loaded, arguments, rows, callbacks, folder.probes)
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
    logger.info("training %s: %d rows, %d supervised tokens, %d steps planned", cell.name, num_rows,
                rows.summaries["train"].supervised_tokens, config.planned_steps(num_rows, num_processes()))  # fmt: skip
    started = time.monotonic()
    with stopping_after_step(), boundary(TrainError, "training"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    if any(isinstance(item, StopOnSignal) and item.has_stopped for item in callbacks):
        stop_if_asked()
    _record_spikes(trainer, rows, folder, settings)
    return _result(trainer, config, rows, folder, settings, seconds_before + time.monotonic() - started)


def _record_spikes(
    trainer: ProbingTrainer, rows: TrainingRows, folder: CellFolder, settings: Mapping[str, str]
) -> None:
    """The rows of the steps whose loss stood out: very long or broken ones are the usual reason."""
    # The loss of several steps is their mean: which of them stood out is lost.
    if process_rank() > 0 or trainer.args.logging_steps != 1:
        return
    found = loss_spikes(trace_evidence(list(read_lines(folder.trace, TracePoint)), (), settings))
    worst = sorted(found, key=lambda spike: spike.sigmas, reverse=True)[:MAX_SPIKES]
    write_lines(folder.batches, trainer.notes.batches(sorted(spike.step for spike in worst), rows.train))


def _trainer(
    config: RunConfig,
    loaded: LoadedModel,
    arguments: SFTConfig,
    rows: TrainingRows,
    callbacks: list[TrainerCallback],
    probes_path: Path,
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
            callbacks=callbacks,
            rows=rows,
            probes_path=probes_path,
        )


def _callbacks(config: RunConfig, folder: CellFolder, tracker: Tracker, seconds_before: float) -> list[TrainerCallback]:
    callbacks: list[TrainerCallback] = [TraceCallback(folder, tracker, seconds_before=seconds_before)]
    if config.stop_on:
        callbacks.append(StopOnFinding(folder, config.stop_on))
    if config.early_stopping_patience is not None:
        callbacks.append(EarlyStoppingCallback(config.early_stopping_patience, config.early_stopping_threshold))
    return [*callbacks, EvaluateAtEnd(), StopOnSignal(), LogAtCheckpoint()]


def _load(config: RunConfig, splits: Splits) -> LoadedModel:
    """The base.

    Raises: TrainError: memory doesn't hold even the model, so that a smaller batch would not help.
    """
    try:
        return load_base(config, plain_rows=splits.is_plain)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainError(f"out of memory while loading the model: {does_not_fit(config, _first_line(error))}") from None


def _what_is_wrong(config: RunConfig, checkpoint: Path) -> str:
    """Why a training can't go on from a checkpoint; empty where it can."""
    if wrong := what_is_wrong(checkpoint):
        return wrong
    # transformers would begin with a new optimizer and say nothing; DeepSpeed's lies in a folder of its own.
    has_optimizer = any(checkpoint.glob("optimizer*")) or any(checkpoint.glob("global_step*"))
    if not has_optimizer and not config.training.get("save_only_model"):
        return "it holds no optimizer's state"
    try:
        TrainerState.load_from_json(str(checkpoint / STATE))
    except TypeError as error:
        raise TrainError(
            f"{checkpoint} was written by another version of transformers ({error}); install that one, or delete the cell's folder"
        ) from error
    except (ValueError, AttributeError) as error:
        return f"{STATE}: {error}"
    return ""


def _forget_after(folder: CellFolder, checkpoint: Path | None) -> float:
    """Drops what an interrupted training recorded after its last checkpoint, so that no step is there twice.

    Returns: seconds of training that are kept.
    """
    step = checkpoint_step(checkpoint) if checkpoint else -1
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
    ordered = {key: sorted(value) if isinstance(value, set) else value for key, value in sorted(adapter.items())}
    settings |= {f"adapter.{key}": str(value) for key, value in ordered.items()}
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
    checkpoints = saved_checkpoints(folder)
    if not checkpoints:
        raise TrainError("the trainer saved no checkpoint; set training.save_strategy to steps or epoch")
    found = {"last": str(checkpoints[-1].relative_to(folder.path))}
    # The trainer's own best, by `metric_for_best_model`, is the one that it never prunes.
    best_path = Path(trainer.state.best_model_checkpoint or "nowhere")
    if not best_path.is_dir() and best is not None:
        best_path = folder.checkpoints / f"checkpoint-{best[0]}"
    if best_path.is_dir():
        found["best"] = str(folder.checkpoints.relative_to(folder.path) / best_path.name)
    model: PreTrainedModel = trainer.model
    stood_on = environment()
    facts = comparable_facts(config, model, trainer.args, rows.summaries["train"], stood_on)
    stop = stop_of(trainer.callback_handler.callbacks)
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
        facts=facts | ({} if stop else _tokens_seen(config, trainer, rows)),
        stopped_early=config.early_stopping_patience is not None
        and trainer.state.global_step < trainer.state.max_steps
        and stop is None,
        stopped_on=stop.sentence if stop else "",
    )


def _tokens_seen(config: RunConfig, trainer: ProbingTrainer, rows: TrainingRows) -> dict[str, str]:
    """Epochs times tokens, for the trainer's own count starts anew on resume and depends on the order of the rows.

    Left out with early stopping, which makes cells differ by design; by the caller, where a check ended the training.
    """
    if config.early_stopping_patience is not None:
        return {}
    return {"tokens seen": str(round(float(trainer.state.epoch or 0.0) * rows.summaries["train"].tokens))}


def _warn_of_mixing(loaded: LoadedModel, rows: TrainingRows) -> None:
    if len(rows.train_probe) > 1 and not documents_stay_apart(loaded, rows.train_probe):
        logger.warning(
            "packing: with attention %s the documents of a sequence see each other; set model.attn_implementation to "
            "flash_attention_2, or turn packing off", getattr(loaded.model.config, "_attn_implementation", "unknown"),
        )  # fmt: skip
