"""The user's own settings, as advice quotes them."""

from harness.diagnose.evidence import Evidence
from harness.diagnose.numbers import finite

MAX_GRAD_NORM = 1.0
"""transformers' default."""


def number(evidence: Evidence, name: str) -> float | None:
    """A setting such as `training.max_steps`; None where it isn't known or isn't a number."""
    try:
        return float(evidence.settings[name])
    except (KeyError, ValueError):
        return None


def learning_rate(evidence: Evidence) -> float | None:
    """The highest learning rate: as set, else as the schedule logged it."""
    scheduled = [point.value for point in finite(evidence.learning_rate)]
    return number(evidence, "training.learning_rate") or max(scheduled, default=0.0) or None


def now(evidence: Evidence, name: str) -> str:
    """` (now 4)` behind the name of a setting, or nothing where it isn't known."""
    value = evidence.settings.get(name, "None")
    return "" if value == "None" else f" (now {value})"


def lower_rate(evidence: Evidence) -> str:
    """`Lower learning_rate from 0.2 to between 0.02 and 0.07`."""
    rate = learning_rate(evidence)
    if rate is None:
        return "Lower learning_rate to between a tenth and a third"
    return f"Lower learning_rate from {rate:.2g} to between {rate / 10:.1g} and {rate / 3:.1g}"


def higher_rate(evidence: Evidence) -> str:
    """`Raise learning_rate from 5e-06 to between 2e-05 and 5e-05`."""
    rate = learning_rate(evidence)
    if rate is None:
        return "Raise learning_rate to 3 to 10 times what it was"
    return f"Raise learning_rate from {rate:.2g} to between {3 * rate:.1g} and {10 * rate:.1g}"


def calmer(evidence: Evidence) -> str:
    """What keeps a training from blowing up, in one sentence."""
    clipping = number(evidence, "training.max_grad_norm")
    clip = (
        "keep max_grad_norm at 1.0"
        if clipping in (None, MAX_GRAD_NORM)
        else f"set max_grad_norm (now {clipping:g}) to 1.0"
    )
    return f"{lower_rate(evidence)}, warm up longer{now(evidence, 'training.warmup_steps')}, {clip}."


def more_epochs(evidence: Evidence) -> str:
    """`train longer than num_train_epochs: 3`."""
    limit = number(evidence, "training.max_steps") or -1
    if limit > 0:
        return f"train longer than max_steps: {limit:g}"
    epochs = evidence.settings.get("training.num_train_epochs")
    return f"train longer than num_train_epochs: {epochs}" if epochs else "train more epochs"


def fewer_epochs(evidence: Evidence) -> str:
    """`train fewer epochs than 3`."""
    epochs = evidence.settings.get("training.num_train_epochs")
    return f"train fewer epochs than {epochs}" if epochs else "train fewer epochs"
