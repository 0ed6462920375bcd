"""What a training logged, under whatever names its tool uses, as evidence."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from harness.diagnose.evidence import Evidence, Point
from harness.errors import DataError

MAX_STEP = 10**12
Curves = Mapping[str, Sequence[Point]]

# Our name -> what others call it, the best name first; compared in lower case, with `_` for any other mark.
NAMES: Mapping[str, tuple[str, ...]] = {
    "loss": ("loss", "train_loss", "training_loss", "loss_train", "loss_training", "train_loss_step"),
    "eval_loss": (
        "eval_loss", "validation_loss", "val_loss", "valid_loss", "loss_eval", "loss_val", "loss_validation", "dev_loss",
    ),
    "grad_norm": ("grad_norm", "train_grad_norm", "gradient_norm", "train_gradient_norm", "global_grad_norm"),
    "learning_rate": ("learning_rate", "train_learning_rate", "lr", "train_lr", "learning_rate_0", "lr_0"),
    "epoch": ("epoch", "train_epoch", "epochs"),
    "step": ("train_global_step", "trainer_global_step", "global_step", "current_steps", "step", "steps", "iteration", "iter"),
}  # fmt: skip
# Tools that export several runs at once write `run - metric`, and the spread of each beside it.
RUN_PREFIX = re.compile(r"^.* - (?=[^ ]+$)")
SPREAD = ("__min", "__max", "__step")


@dataclass(frozen=True, slots=True)
class Recording:
    """One training as its logs tell it."""

    curves: Curves
    """`loss`, `eval_loss`, `grad_norm`, `learning_rate` and `epoch`, as far as they were logged."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Under our names, such as `training.num_train_epochs`."""
    name: str = ""
    planned_steps: int | None = None
    is_finished: bool | None = None
    idle_seconds: float | None = None


@lru_cache(maxsize=4096)
def known_as(name: str) -> tuple[str, int] | None:
    """Our name for a metric or column and how good a match it is (0: best); None for one that no check reads."""
    lowered = RUN_PREFIX.sub("", name.strip()).lower()
    if lowered.endswith(SPREAD):
        return None
    plain = re.sub(r"\W+", "_", lowered).strip("_")
    for ours, theirs in NAMES.items():
        if plain in theirs:
            return ours, theirs.index(plain)
    # Trainer names the losses of several validation sets `eval_NAME_loss`.
    return ("eval_loss", len(NAMES["eval_loss"])) if re.fullmatch(r"eval_\w+_loss", plain) else None


def number(value: object) -> float | None:
    """The value as a number, NaN and infinity included; None where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def whole_step(value: object) -> int | None:
    """The value as an optimizer step; None where it can't be one."""
    found = number(value)
    if found is None or not math.isfinite(found) or not 0 <= found <= MAX_STEP:
        return None
    return round(found)


def curves_of_rows(rows: Iterable[Mapping[str, object]], where: str) -> Curves:
    """Curves from log entries or table rows, in the order of their steps.

    A step that is there twice, as after a resume, keeps its last value. Rows without a step continue the one before; where
    no row has one, the training losses are counted.

    Raises: DataError: two columns claim to be the same curve.
    """
    found: dict[str, dict[int, float]] = {}
    step = 0
    for row in rows:
        # The summary at the end of a training repeats its mean loss.
        if "train_runtime" in row:
            continue
        given = sorted((match[1], value) for name, value in row.items() if (match := known_as(name)) and match[0] == "step" and value not in (None, ""))  # fmt: skip
        known = next((at for _, value in given if (at := whole_step(value)) is not None), None)
        if given and known is None:
            continue
        values = {n: v for n, value in row.items() if _is_curve(n) and (v := number(value)) is not None}
        is_training = any((known_as(name) or ("", 0))[0] == "loss" for name in values)
        step = known if known is not None else step + is_training
        for name, value in values.items():
            found.setdefault(name, {})[step] = value
    return choose(found, where)


def _is_curve(name: str) -> bool:
    match = known_as(name)
    return match is not None and match[0] != "step"


def choose(found: Mapping[str, Mapping[int, float]], where: str) -> Curves:
    """Of everything that was logged, what the checks read, under our names.

    Raises: DataError: two columns claim to be the same curve.
    """
    best: dict[str, tuple[int, str]] = {}
    for name, values in found.items():
        match = known_as(name)
        if match is None or match[0] == "step" or not values:
            continue
        ours, rank = match
        if ours in best and best[ours][0] == rank:
            raise DataError(
                f"{where}: both {best[ours][1]!r} and {name!r} are the {ours}; keep the columns of one run only"
            )
        if ours not in best or rank < best[ours][0]:
            best[ours] = (rank, name)
    return {ours: [Point(step, found[name][step]) for step in sorted(found[name])] for ours, (_, name) in best.items()}


def evidence_of(recording: Recording) -> Evidence:
    """The evidence that a recording holds."""
    curves = recording.curves
    settings = dict(recording.settings)
    rates = curves.get("learning_rate", ())
    peak = max(rates, key=lambda point: point.value, default=None)
    # At its last value, the rate may still be warming up.
    if peak is not None and peak is not rates[-1]:
        settings.setdefault("training.learning_rate", f"{peak.value:.3g}")
    smoothing = number(settings.get("training.label_smoothing_factor", "0")) or 0.0
    is_grouped = "group" in settings.get("training.train_sampling_strategy", "random")
    return Evidence(
        loss=curves.get("loss", ()),
        grad_norm=curves.get("grad_norm", ()),
        eval_loss=curves.get("eval_loss", ()),
        learning_rate=rates,
        epochs=curves.get("epoch", ()),
        settings=settings,
        name=recording.name,
        planned_steps=recording.planned_steps,
        is_finished=recording.is_finished,
        idle_seconds=recording.idle_seconds,
        batches_are_alike=not is_grouped and settings.get("training.group_by_length", "False").lower() != "true",
        loss_is_nll=settings.get("training.loss_type", "nll") in ("nll", "None", "") and smoothing == 0,
    )
