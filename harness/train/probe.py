"""Times a few training steps of a cell without keeping anything of them."""

import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, TrainerCallback
from trl import SFTTrainer

from harness.data.splits import load_splits
from harness.errors import TrainError, boundary
from harness.grid import Cell
from harness.models.load import load_base
from harness.models.prepared import prepare
from harness.train.arguments import lora_config, sft_arguments

# The first ones warm caches up.
WARM_STEPS, TIMED_STEPS = 2, 4


class _Clock(TrainerCallback):
    """When every step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Waits for the GPU, else the time of launching would be measured."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.monotonic())


def seconds_per_step(cell: Cell, tokenized: Path) -> float:
    """Mean seconds of an optimizer step after the first two.

    Raises: HarnessError: the cell can't be trained.
    """
    config = cell.config
    assert cell.seed is not None, "references are not trained"
    splits = load_splits(config.data)
    loaded = load_base(config, plain_rows=splits.is_plain)
    rows = prepare(config, "train", splits.train, loaded, tokenized)
    short = {
        "max_steps": WARM_STEPS + TIMED_STEPS, "eval_strategy": "no", "eval_on_start": False, "save_strategy": "no",
        "load_best_model_at_end": False,
    }  # fmt: skip
    run = config.model_copy(update={"training": {**config.training, **short}})
    clock = _Clock()
    with tempfile.TemporaryDirectory() as folder, boundary(TrainError, "timing a few steps"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = SFTTrainer(
            model=loaded.model,
            args=sft_arguments(run, cell.seed, len(rows), Path(folder), is_resumed=True),
            train_dataset=rows.training_columns(),
            processing_class=loaded.tokenizer,
            peft_config=lora_config(config),
            callbacks=[clock],
        )
        # It prints to stdout, where results belong.
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    first, last = clock.ends[min(WARM_STEPS, len(clock.ends)) - 1], clock.ends[-1]
    return (last - first) / max(1, len(clock.ends) - WARM_STEPS)
