"""What differs between the cells of an experiment although nobody swept it."""

import json
from collections.abc import Mapping, Sequence

from harness.ranking import Difference
from harness.records import CellResult

# A fact that a training has only where it ran out of memory, and what stands for it elsewhere.
BATCH_AFTER_OUT_OF_MEMORY = "batch after out of memory"
AS_STATED = {BATCH_AFTER_OUT_OF_MEMORY: "as stated"}

# Fact -> fields of a cell whose sweep explains that it differs.
PACKING = ("training.packing", "training.packing_strategy")
DATA = ("data", "template", "training.max_length", *PACKING, "training.assistant_only_loss",
        "training.completion_only_loss", "model.name")  # fmt: skip
LENGTH = ("training.num_train_epochs", "training.max_steps", "training.per_device_train_batch_size",
          "training.gradient_accumulation_steps", "early_stopping_patience", "early_stopping_threshold")  # fmt: skip
PRECISION = ("model.dtype", "model.name", "quantization", "adapter", "training.bf16", "training.fp16")
EXPLAINED_BY: Mapping[str, tuple[str, ...]] = {
    "rows used": DATA,
    "rows dropped": DATA,
    "supervised tokens": DATA,
    "tokens seen": (*DATA, *LENGTH, "training.padding_free"),
    "effective batch": ("training.per_device_train_batch_size", "training.gradient_accumulation_steps", "launch"),
    "attention": ("model.attn_implementation", "model.name"),
    "packing": (*PACKING, "training.padding_free"),
    "base dtype": PRECISION,
    "adapter dtype": PRECISION,
    "device": (),
    "gpu": (),
}


def differences(results: Sequence[CellResult]) -> tuple[Difference, ...]:
    """Every fact that differs between trained cells which agree in all swept fields that could explain it.

    Seeds differ by design and explain nothing.
    """
    trained = [result for result in results if result.train is not None]
    found = []
    for name in dict.fromkeys(name for result in trained for name in facts_of(result)):
        alike: dict[str, dict[str, list[str]]] = {}
        for result in trained:
            is_missing = name not in facts_of(result) and name not in AS_STATED
            if is_missing and result.train is not None and result.train.stopped_on:
                continue  # a check ended it early, so it saw fewer tokens by design
            explained = {key: value for key, value in result.overrides.items() if _explains(key, name)}
            values = alike.setdefault(json.dumps(explained, sort_keys=True), {})
            values.setdefault(facts_of(result).get(name, AS_STATED.get(name, "unknown")), []).append(result.name)
        for values in alike.values():
            if len(values) > 1:
                found.append(Difference(fact=name, values={value: tuple(names) for value, names in values.items()}))
    return tuple(found)


def facts_of(result: CellResult) -> Mapping[str, str]:
    """What should be the same for a fair comparison."""
    assert result.train is not None, "only trained cells have facts"
    return result.train.facts


def _explains(swept: str, fact: str) -> bool:
    """Whether a swept field accounts for a difference: it is one of the named fields, lies in it, or holds it."""
    return any(
        f"{swept}.".startswith(f"{field}.") or field.startswith(f"{swept}.") for field in EXPLAINED_BY.get(fact, ())
    )


def sentence(difference: Difference) -> str:
    """`rows used: 600 (lora, full), 598 (long)`."""
    parts = (f"{value} ({some(names)})" for value, names in difference.values.items())
    return f"{difference.fact}: {', '.join(parts)}"


def some(names: Sequence[str], shown: int = 3) -> str:
    """`a, b, c and 9 more`."""
    return ", ".join(names) if len(names) <= shown else f"{', '.join(names[:shown])} and {len(names) - shown} more"
