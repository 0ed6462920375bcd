"""The `checkpoints` section of the experiment file: which trained weights stay on disk."""

from typing import Literal

from harness.eval_config import Section

Keep = Literal["best+last", "all", "none"]


class CheckpointsConfig(Section):
    """Which trained weights stay on disk."""

    keep: Keep = "best+last"
    """best+last: those two of every cell; all: every one that is saved, with its optimizer's state; none: nothing once a cell is evaluated."""
