"""The SFTConfig of a cell: the user's settings, the harness's duties and what the hardware decides."""

import math
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from trl import SFTConfig

from harness.checkpoint_config import Keep
from harness.config import RunConfig, num_processes
from harness.errors import TrainError

NUM_EVALUATIONS = 10


def sft_arguments(
    config: RunConfig, seed: int, num_rows: int, folder: Path, *, is_resumed: bool, keep: Keep = "best+last"
) -> SFTConfig:
    """TRL's settings as they will be in force.

    Raises: TrainError: TRL refuses the settings.
    """
    on_gpu = torch.cuda.is_available()
    training = config.training
    every = evaluation_interval(config, num_rows)
    defaults: dict[str, Any] = {
        # Every optimizer step is logged: the warning signs are read from the curve.
        "logging_steps": 1,
        "eval_strategy": "steps",
        "eval_steps": every,
        # Step 0 shows where the base stood.
        "eval_on_start": not is_resumed,
        "save_strategy": training.get("eval_strategy", "steps") if training.get("eval_strategy") != "no" else "steps",
        # Below 1 it is a share of all steps, as `eval_steps` may be.
        "save_steps": every,
        # Two: the best and the last. Until the cell is done they are needed, whatever is kept then.
        "save_total_limit": None if keep == "all" else 2,
        "metric_for_best_model": "eval_loss",
        "greater_is_better": False,
        "bf16": on_gpu and torch.cuda.is_bf16_supported() and not training.get("fp16", False),
        "use_cpu": not on_gpu,
        "dataloader_pin_memory": on_gpu,
        "disable_tqdm": True,
        # Else early stopping would lose count on resume.
        "restore_callback_states_from_checkpoint": config.early_stopping_patience is not None,
    }
    owned: dict[str, Any] = {
        "output_dir": str(folder),
        "seed": seed,
        "report_to": "none",
        "logging_nan_inf_filter": False,
        # The labels already say what is supervised; these two would have TRL derive them again.
        "assistant_only_loss": False,
        "completion_only_loss": False,
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return SFTConfig(**{**defaults, **training, **owned})
    except (TypeError, ValueError) as error:
        raise TrainError(f"TRL refuses the settings of training: {error}") from error


def evaluation_interval(config: RunConfig, num_rows: int) -> float:
    """Optimizer steps between two evaluations: as the user says (below 1: a share of all), else such that there are ten."""
    every: float = config.training.get("eval_steps") or max(
        1, math.ceil(config.planned_steps(num_rows, num_processes()) / NUM_EVALUATIONS)
    )
    return every


def lora_config(config: RunConfig) -> LoraConfig | None:
    """PEFT's settings of a cell; None for a full fine-tune.

    Raises: TrainError: PEFT refuses them.
    """
    if config.adapter is None:
        return None
    try:
        return LoraConfig(task_type="CAUSAL_LM", **config.adapter)
    except (TypeError, ValueError) as error:
        raise TrainError(f"PEFT refuses the settings of adapter: {error}") from error
