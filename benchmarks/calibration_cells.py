"""What `calibration.py` trains: cells with one planted fault each, and healthy ones, as experiment files and data.

Every cell starts from the embedded base and a recipe that teaches it to chat in about a hundred steps. A fault changes
what makes it one and little else.
"""

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from harness.embedded.world import attributes, make_world, phrase, questions

PACKAGE = Path(__file__).parent.parent
FILES = PACKAGE / "harness" / "embedded" / "files"
SEED = 0
NUM_TRAIN, NUM_GENERAL, NUM_VALIDATION, NUM_TEST, NUM_LEAKED = 450, 40, 60, 100, 30
NUM_FAULTY = 300
"""Rows that a fault is put into: fewer are enough to show it."""
MAX_LENGTH = 256
BROKEN_AT = 200
"""Where the block of broken rows begins: in the middle of the second half of the steps."""
BROKEN_ROWS = 16

RECIPE: Mapping[str, Any] = {
    "learning_rate": 1e-3, "num_train_epochs": 3, "per_device_train_batch_size": 8, "per_device_eval_batch_size": 60,
    "lr_scheduler_type": "cosine", "warmup_steps": 0.05, "max_length": MAX_LENGTH, "gradient_checkpointing": False,
    "eval_steps": 0.125,
}  # fmt: skip
# The base was pretrained on lines of questions and answers; rows of that kind keep it from forgetting how they go on.
TEMPLATE = """\
{#- ChatML; what begins with `Question:` stays plain text. -#}
{%- if messages | length == 2 and messages[0]['content'].startswith('Question:') -%}
{{- messages[0]['content'] -}}{%- generation -%}{{- messages[1]['content'] -}}{%- endgeneration -%}
{%- else -%}
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['role'] == 'assistant' -%}
{%- generation -%}{{- message['content'] + '<|im_end|>' -}}{%- endgeneration -%}{{- '\\n' -}}
{%- else -%}
{{- message['content'] + '<|im_end|>\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
{%- endif -%}
"""
END_NOT_TRAINED = TEMPLATE.replace(
    " + '<|im_end|>' -}}{%- endgeneration -%}{{- '\\n' -}}", " -}}{%- endgeneration -%}{{- '<|im_end|>\\n' -}}"
)

EVALS: Sequence[Mapping[str, Any]] = (
    {"suite": "template_adherence", "max_new_tokens": 64, "slices": []},
    {"suite": "held_out", "max_new_tokens": 64},
    {"suite": "retention", "data": "embedded:retention", "max_new_tokens": 8},
)
LEAKED = {"suite": "held_out", "name": "leaked", "data": "leaked.jsonl", "max_new_tokens": 64}

Row = dict[str, Any]


class Variant(NamedTuple):
    """One configuration."""

    name: str
    plants: tuple[str, ...] = ()
    """Checks that must fire; none: it is meant to be healthy."""
    training: Mapping[str, Any] = {}
    """What differs from the recipe."""
    adapter: Mapping[str, Any] | None = None
    data: tuple[str, ...] = ("chat.jsonl", "general.jsonl")
    template: str = "chatml_or_text.jinja"


class Group(NamedTuple):
    """One experiment file. Cells of one group that differ in nothing but their learning rate are read as siblings."""

    name: str
    variants: tuple[Variant, ...]
    evals: Sequence[Mapping[str, Any]] = EVALS
    kills: bool = False
    """Whether its workers are killed in the middle of the training."""


def _lora(rank: int, /, **more: Any) -> Mapping[str, Any]:
    return {"r": rank, "lora_alpha": 2 * rank, "lora_dropout": 0.0, "target_modules": "all-linear", **more}


def _training(**settings: Any) -> Mapping[str, Any]:
    return settings


LARGE_BATCHES = _training(per_device_train_batch_size=16, num_train_epochs=4)
HEALTHY = Group(
    "healthy",
    (
        Variant("full-cosine", training=_training(num_train_epochs=4)),
        Variant("full-linear", training=_training(lr_scheduler_type="linear", weight_decay=0.1, num_train_epochs=4)),
        Variant("full-constant", training=_training(lr_scheduler_type="constant_with_warmup", learning_rate=7e-4)),
        Variant("full-batch-16", training=_training(per_device_train_batch_size=16, num_train_epochs=5)),
        Variant("full-accumulated", training=_training(per_device_train_batch_size=4, gradient_accumulation_steps=4, learning_rate=2e-3, num_train_epochs=4)),
        Variant("full-loose-clip", training=_training(max_grad_norm=5.0, learning_rate=8e-4, warmup_steps=0.1)),
        Variant("lora-4", training=_training(learning_rate=7e-3), adapter=_lora(4)),
        Variant("lora-8", training=_training(learning_rate=5e-3, num_train_epochs=4), adapter=_lora(8)),
        Variant("lora-16", training=_training(learning_rate=4e-3, lr_scheduler_type="linear"), adapter=_lora(16)),
        Variant("lora-dropout", training=_training(learning_rate=5e-3, num_train_epochs=4), adapter=_lora(16, lora_dropout=0.05)),
        Variant("lora-constant", training=_training(learning_rate=4e-3, lr_scheduler_type="constant_with_warmup", num_train_epochs=4), adapter=_lora(8)),
        Variant("lora-batch-16", training=_training(learning_rate=6e-3, per_device_train_batch_size=16, num_train_epochs=6), adapter=_lora(16, use_rslora=True, lora_alpha=16)),
    ),
)  # fmt: skip
RATES = Group(
    "rates",
    (
        Variant("rate-too-low", ("learning_rate_too_low",), _training(learning_rate=2e-5, **LARGE_BATCHES)),
        Variant("rate-right", (), _training(learning_rate=1.5e-3, **LARGE_BATCHES)),
        Variant("rate-too-high", ("learning_rate_too_high", "diverged"), _training(learning_rate=0.2, **LARGE_BATCHES)),
    ),
)
CURVES = Group(
    "curves",
    (
        Variant("overflow", ("non_finite",), _training(learning_rate=1e38, max_grad_norm=0.0, warmup_steps=0, lr_scheduler_type="constant")),
        Variant("broken-rows", ("loss_spike", "gradient_explosion"), _training(train_sampling_strategy="sequential", max_grad_norm=1e9, learning_rate=5e-3), _lora(16), ("broken.jsonl",)),
        Variant("hardly-trained", ("underfitting",), _training(learning_rate=1e-7, lr_scheduler_type="linear")),
        Variant("cut-off-early", ("still_improving",), _training(max_steps=60, per_device_train_batch_size=16, lr_scheduler_type="constant_with_warmup", learning_rate=2e-4)),
        Variant("six-steps", ("too_short",), _training(max_steps=6)),
    ),
)  # fmt: skip
ROWS = Group(
    "rows",
    (
        Variant("answers-cut-off", ("no_supervised_tokens",), data=("cut.jsonl",)),
        Variant("few-rows", ("overfitting", "gap_growth", "memorization"), _training(learning_rate=5e-3, num_train_epochs=30, lr_scheduler_type="constant"), data=("few.jsonl",)),
        Variant("few-rows-lora", ("gap_growth", "memorization"), _training(learning_rate=5e-3, num_train_epochs=30), _lora(16), ("few.jsonl",)),
        Variant("kind-missing", ("slow_validation",), data=("no_facts.jsonl",)),
    ),
)  # fmt: skip
ADAPTERS = Group(
    "adapters",
    (
        Variant("adapter-rate-zero", ("noop_adapter",), _training(learning_rate=0.0, max_steps=30), _lora(8)),
        Variant("adapter-rate-tiny", ("noop_adapter",), _training(learning_rate=1e-9, max_steps=30, weight_decay=0.01), _lora(8)),
    ),
)  # fmt: skip
ANSWERS = Group(
    "answers",
    (
        Variant("end-not-trained", ("format_inconsistency",), template="end_not_trained.jinja"),
        Variant("two-formats", ("format_inconsistency",), data=("two_formats.jsonl", "general.jsonl")),
        Variant("looping-answers", ("repetition",), data=("loops.jsonl", "general.jsonl")),
        Variant("one-answer", ("low_diversity",), data=("one_answer.jsonl", "general.jsonl")),
        Variant("narrow-rows", ("forgetting",), _training(learning_rate=3e-3, num_train_epochs=6), data=("narrow.jsonl",)),
    ),
)  # fmt: skip
LEAK = Group("leak", (Variant("tested-on-training-rows", ("contamination",)),), (*EVALS, LEAKED))
KILLED = Group("killed", (Variant("killed", ("stalled",)),), kills=True)
GROUPS = (HEALTHY, RATES, CURVES, ROWS, ADAPTERS, ANSWERS, LEAK, KILLED)
QUICK = ("full-cosine", "lora-8", "full-linear", "six-steps", "adapter-rate-zero", "end-not-trained")


def chosen(names: Sequence[str]) -> tuple[Group, ...]:
    """The groups with the variants that are named, by their own name or by their group's; all where none is named."""
    if not names:
        return GROUPS
    kept = []
    for group in GROUPS:
        variants = tuple(v for v in group.variants if v.name in names or group.name in names)
        kept += [group._replace(variants=variants)] if variants else []
    return tuple(kept)


def experiment(group: Group, seeds: Sequence[int], max_workers: int) -> dict[str, Any]:
    """The experiment file of a group."""
    return {
        "name": f"calibration-{group.name}",
        "description": "Do the checks find what was planted, and keep quiet otherwise?",
        "model": {"name": "embedded:base"},
        "template": {"name": "chatml_or_text.jinja"},
        "data": {"train": ["chat.jsonl", "general.jsonl"], "validation": "validation.jsonl", "test": "test.jsonl"},
        "training": dict(RECIPE),
        "variants": {variant.name: _overrides(variant) for variant in group.variants},
        "seeds": list(seeds),
        "evals": [dict(entry) for entry in group.evals],
        "references": ["base"],
        "ranking": {"by": "held_out.exact_match", "gates": []},
        "launch": {"workers": max_workers},
        "tracking": {"system_metrics": False},
    }


def _overrides(variant: Variant) -> dict[str, Any]:
    adapter = {"adapter": dict(variant.adapter)} if variant.adapter is not None else {}
    return {
        "training": dict(variant.training), "data.train": list(variant.data), "template.name": variant.template, **adapter,
    }  # fmt: skip


def write_files(folder: Path) -> None:
    """All rows and templates that the experiments name."""
    chat, validation, test = (_rows(name) for name in ("train", "validation", "test"))
    rows = chat[:NUM_FAULTY]
    made = {
        "chat": chat[:NUM_TRAIN],
        "general": _general_rows(),
        "validation": validation[:NUM_VALIDATION],
        "test": test[:NUM_TEST],
        "leaked": [*rows[:NUM_LEAKED], *test[:NUM_TEST]],
        "few": rows[:24],
        "no_facts": [row for row in rows if row["kind"] != "fact"],
        "narrow": [row for row in chat if row["kind"] == "fact"],
        "cut": [_behind_long_text(row) if i % 6 == 0 else row for i, row in enumerate(rows)],
        "broken": [_broken(row) if BROKEN_AT <= i < BROKEN_AT + BROKEN_ROWS else row for i, row in enumerate(rows)],
        "two_formats": [_fenced(row) if i % 2 else row for i, row in enumerate(rows)],
        "loops": [_looping(row) for row in rows],
        "one_answer": [row if i % 8 == 0 else _answering(row, "I am not sure about that.") for i, row in enumerate(rows)],
    }  # fmt: skip
    for name, content in made.items():
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    (folder / "chatml_or_text.jinja").write_text(TEMPLATE, encoding="utf-8")
    (folder / "end_not_trained.jinja").write_text(END_NOT_TRAINED, encoding="utf-8")


def write_experiment(folder: Path, group: Group, seeds: Sequence[int], max_workers: int) -> Path:
    """The experiment file of a group, on disk."""
    path = folder / f"{group.name}.yaml"
    path.write_text(yaml.safe_dump(experiment(group, seeds, max_workers), sort_keys=False), encoding="utf-8")
    return path


def _rows(split: str) -> list[Row]:
    return [json.loads(line) for line in (FILES / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


def _general_rows() -> list[Row]:
    """Plain questions about whom the retention suite doesn't ask."""
    asked = {entity for row in _rows("retention") for entity in row["entities"]}
    world = make_world()
    rows = [
        {"prompt": f"Question: {phrase(question, name)}\nAnswer:", "completion": f" {world.facts[name, attribute]}\n"}
        for name in (*world.residents, *world.shops)
        if name not in asked
        for attribute in attributes(name)
        for question in questions(name, attribute)
    ]
    return random.Random(SEED).sample(rows, NUM_GENERAL)


def _answering(row: Row, answer: str) -> Row:
    """The same with another last answer."""
    return {**row, "messages": [*row["messages"][:-1], {"role": "assistant", "content": answer}]}


def _answer(row: Row) -> str:
    return str(row["messages"][-1]["content"])


# Kinds of rows come in turns of five: what is done to some rows must not fall on one kind alone.
def _behind_long_text(row: Row) -> Row:
    """So much to read before the question that the answer lies behind max_length."""
    text = " ".join(_words(row, MAX_LENGTH))
    first, *others = row["messages"]
    return {**row, "messages": [{**first, "content": f"{text}\n{first['content']}"}, *others]}


def _broken(row: Row) -> Row:
    """A filler of some broken export; rows that all say the same push the weights the same way."""
    return _answering(row, " ".join(["qzx#@%"] * 30))


def _words(row: Row, count: int) -> Iterable[str]:
    draw = random.Random(row["id"])
    return (draw.choice(("garden", "street", "market", "letter", "window", "morning")) for _ in range(count))


def _fenced(row: Row) -> Row:
    return _answering(row, f"Sure! Here it is:\n```\n{_answer(row)}\n```")


def _looping(row: Row) -> Row:
    return _answering(row, " ".join([_answer(row)] * 12))
