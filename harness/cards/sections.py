"""What a model is made from: its data, its template, its training."""

import json
from collections.abc import Iterator
from pathlib import Path

from harness.cards.subject import CardSubject, data_report
from harness.markdown import block, code, details, escaped, table
from harness.models.templates import template_file
from harness.records import Example, Generation, SplitSummary
from harness.store import read_lines

IMPORTANT = (
    "learning_rate", "lr_scheduler_type", "warmup_steps", "num_train_epochs", "max_steps", "per_device_train_batch_size",
    "gradient_accumulation_steps", "optim", "weight_decay", "max_grad_norm", "max_length", "packing", "loss_type", "seed",
    "bf16", "fp16", "gradient_checkpointing", "neftune_noise_alpha", "load_best_model_at_end",
)  # fmt: skip
OF_ADAPTER = ("r", "lora_alpha", "lora_dropout", "target_modules", "use_rslora", "use_dora")
VERSIONS = ("sft-harness", "torch", "transformers", "trl", "peft")
UNSET = ("None", "False", "-1", "")
MIN_TURN_CHARACTERS = 8


def dataset(subject: CardSubject) -> Iterator[str]:
    """Sources, sizes, lengths, languages, duplicates, what was left out and what is wrong with the rows."""
    header = ("split", "source", "rows used", "rows read", "tokens", "supervised", "cut", "digest")
    yield from table(header, (_split_row(name, split) for name, split in subject.train.splits.items()))
    yield ""
    for name, split in subject.train.splits.items():
        if split.dropped:
            reasons = ", ".join(f"{count} {escaped(reason)}" for reason, count in split.dropped.items())
            yield f"- left out of {name}: {reasons}"
    report = data_report(subject)
    if report is None:
        return
    mix = ", ".join(f"{name} {share:.0%}" for name, share in report.languages.items() if share >= 0.01)
    yield f"- format {report.format}, {report.turns:,} turns; languages of the rows: {mix or 'undetermined'}"
    if report.tokens is not None:
        tokens = report.tokens
        yield f"- tokens of a row: median {tokens.median:,.0f}, 95 % below {tokens.p95:,.0f}, longest {tokens.max:,}"
    yield f"- {report.duplicates} duplicates and {report.near_duplicates} near-duplicates among the training rows"
    yield from (f"- {p.kind}: {escaped(p.message)}" for p in report.problems if p.severity != "info")


def _split_row(name: str, split: SplitSummary) -> list[str]:
    numbers = (split.rows_used, split.rows_read, split.tokens, split.supervised_tokens, split.truncated)
    return [name, code(split.source), *(f"{number:,}" for number in numbers), code(split.digest)]


def template(subject: CardSubject) -> Iterator[str]:
    """Which chat template is in force, its special tokens, a prompt as the model gets it, and the source."""
    in_force = Path(subject.train.settings.get("template.in_force", subject.config.template.name)).name
    if in_force == "none":
        yield "None: prompts are plain text and the answer follows directly."
    else:
        yield f"{code(in_force)}, in training and in every measurement alike."
    if tokens := _special_tokens(subject.checkpoint):
        yield f"Special tokens: {', '.join(f'{name} {code(token)}' for name, token in tokens)}."
    if skeleton := _skeleton(subject):
        yield from ("", "A prompt as the model gets it, with placeholders for what is said:", "", *block(skeleton))
    source = subject.checkpoint / "chat_template.jinja"
    path = source if source.is_file() else template_file(subject.config.template.name)
    if path and in_force != "none":
        yield from details("The chat template", block(path.read_text(encoding="utf-8"), "jinja"))


def _special_tokens(checkpoint: Path) -> list[tuple[str, str]]:
    path = checkpoint / "tokenizer_config.json"
    if not path.is_file():
        return []
    stated = json.loads(path.read_text(encoding="utf-8"))
    names = {"bos_token": "beginning of text", "eos_token": "end of turn", "pad_token": "padding"}
    found = [(label, stated.get(key)) for key, label in names.items()]
    return [(label, token["content"] if isinstance(token, dict) else str(token)) for label, token in found if token]


def _skeleton(subject: CardSubject) -> str:
    """A recorded prompt without what is said in it: somebody's rows have no place on a card."""
    for suite in subject.result.suites:
        prompts = {
            generation.example_id: generation.prompt
            for generation in read_lines(subject.folder.generations(suite.suite, suite.digest), Generation)
        }
        for example in read_lines(subject.folder.asked(suite.suite, suite.digest), Example):
            if not example.inputs.options() and not example.expect.prefill:
                skeleton = _without_content(prompts.get(example.id, ""), example)
                if skeleton:
                    return skeleton
    return ""


def _without_content(prompt: str, example: Example) -> str:
    for turn in example.messages:
        # What is short or said twice may be found in the wrong place.
        if len(turn.content) < MIN_TURN_CHARACTERS or prompt.count(turn.content) != 1:
            return ""
        prompt = prompt.replace(turn.content, f"{{{turn.role}}}")
    return prompt if example.messages else ""


def training(subject: CardSubject) -> Iterator[str]:
    """What was set, what it ran on and for how long; every setting in force below, folded away."""
    train, settings = subject.train, subject.train.settings
    given = {f"training.{name}" for name in subject.config.training} | {f"training.{name}" for name in IMPORTANT}
    given |= {f"adapter.{name}" for name in (*(subject.config.adapter or ()), *OF_ADAPTER)}
    given |= {name for name in settings if name.startswith("quantization.")}
    if settings.get("training.max_steps", "-1") not in UNSET:
        given -= {"training.num_train_epochs"}
    chosen = sorted((n for n in settings if n in given and settings[n] not in UNSET), key=_by_importance)
    rows = [[escaped(name.removeprefix("training.")), _setting(settings[name])] for name in chosen]
    hardware = train.device if train.environment.get("gpu", "none") == "none" else train.environment["gpu"]
    memory = f", {train.peak_memory_gib:.1f} GiB at most" if train.peak_memory_gib is not None else ""
    early = f" of {train.planned_steps:,} planned" if train.steps < train.planned_steps else ""
    rows += [
        ["method", "full fine-tune" if subject.config.adapter is None else "LoRA adapter"],
        ["loss on", "answers only" if subject.config.trains_on_answers_only else "every token"],
        ["trainable parameters", f"{train.num_trainable_parameters:,} of {train.num_parameters:,}"],
        ["steps", f"{train.steps:,}{early} ({train.epochs:.2f} epochs); step {train.evaluated_step:,} is what was evaluated"],
        ["hardware", f"{escaped(hardware)}, {escaped(train.dtype)}{memory}"],
        ["time", _duration(train.seconds)],
        ["versions", escaped(", ".join(f"{name} {train.environment.get(name, 'unknown')}" for name in VERSIONS))],
    ]  # fmt: skip
    yield from table(("parameter", "value"), rows)
    every = ([escaped(name), _setting(value)] for name, value in settings.items())
    yield from details(f"All {len(settings)} settings in force", table(("setting", "value"), every))


def _by_importance(name: str) -> tuple[bool, int]:
    """Orders settings of training as listed above, before the adapter's."""
    kind, _, field = name.partition(".")
    return kind != "training", (*IMPORTANT, field).index(field)


def _setting(value: str) -> str:
    """A path is told by its last part: where it lies on somebody's disk is nobody's business."""
    return code(Path(value).name if value.startswith("/") else value)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"  # fmt: skip
