"""The SFTConfig of a cell: the user's settings, the harness's duties and what the hardware decides."""

import math
import warnings
from pathlib import Path
from typing import Any

import torch
from trl import SFTConfig

from harness.config import RunConfig
from harness.errors import TrainError

NUM_EVALUATIONS = 10


def sft_arguments(config: RunConfig, seed: int, num_rows: int, folder: Path, *, is_resumed: bool) -> SFTConfig:
    """TRL's settings as they will be in force.

    Raises: TrainError: TRL refuses the settings.
    """
    on_gpu = torch.cuda.is_available()
    training = config.training
    steps = planned_steps(training, num_rows)
    every = training.get("eval_steps") or max(1, math.ceil(steps / NUM_EVALUATIONS))
    defaults: dict[str, Any] = {
        # Every optimizer step is logged: the warning signs are read from the curve.
        "logging_steps": 1,
        "eval_strategy": "steps",
        "eval_steps": every,
        # Step 0 shows where the base stood.
        "eval_on_start": not is_resumed,
        "save_strategy": "steps",
        "save_steps": every,
        # Two: the best and the last.
        "save_total_limit": 2,
        "metric_for_best_model": "eval_loss",
        "greater_is_better": False,
        "bf16": on_gpu and torch.cuda.is_bf16_supported() and not training.get("fp16", False),
        "use_cpu": not on_gpu,
        "dataloader_pin_memory": on_gpu,
        "disable_tqdm": True,
    }
    owned: dict[str, Any] = {
        "output_dir": str(folder),
        "seed": seed,
        "report_to": "none",
        "logging_nan_inf_filter": False,
        # The labels already say what is supervised; these two would have TRL derive them again.
        "assistant_only_loss": False,
        "completion_only_loss": False,
        # Rows are shuffled by the sampler; shuffling here too would break the probe's order.
        "shuffle_dataset": False,
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return SFTConfig(**{**defaults, **training, **owned})
    except (TypeError, ValueError) as error:
        raise TrainError(f"TRL refuses the settings of training: {error}") from error


def planned_steps(training: dict[str, Any], num_rows: int) -> int:
    """Optimizer steps that a training will take on one device."""
    if int(training.get("max_steps") or -1) > 0:
        return int(training["max_steps"])
    batch = int(training.get("per_device_train_batch_size") or 8) * int(
        training.get("gradient_accumulation_steps") or 1
    )
    return math.ceil(math.ceil(num_rows / batch) * float(training.get("num_train_epochs") or 3.0))


def trains_on_answers_only(config: RunConfig) -> bool:
    """Whether the loss leaves prompts out: the default, unless the YAML turns TRL's field off."""
    return (
        config.training.get("assistant_only_loss") is not False
        and config.training.get("completion_only_loss") is not False
    )
