"""The card of a trained model, in the Hub's format: data, training, measurements, limits."""

import re
from collections.abc import Iterator
from pathlib import Path

from harness.cell_checks import CellCheck
from harness.config import RunConfig
from harness.data.files import FILE_SUFFIXES
from harness.data.report import DataReport
from harness.gates import shown
from harness.grid import CellSpec
from harness.records import CellResult, Finding
from harness.store import CellFolder, read_record

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
SHOWN_TRAINING = (
    "learning_rate", "lr_scheduler_type", "warmup_steps", "num_train_epochs", "max_steps", "per_device_train_batch_size",
    "gradient_accumulation_steps", "optim", "weight_decay", "max_grad_norm", "max_length", "packing", "loss_type", "seed",
)  # fmt: skip


def model_card(result: CellResult, folder: CellFolder, findings: tuple[Finding, ...], *, merged: bool) -> str:
    """The whole README.md of a model, its metadata block included.

    Args:
        result: of the cell.
        folder: of the cell.
        findings: its warning signs, which become the known limitations.
        merged: whether an adapter was merged into the base.
    """
    from huggingface_hub import ModelCard, ModelCardData

    spec = read_record(folder.spec, CellSpec)
    config = spec.cell.config
    is_adapter = config.adapter is not None and not merged
    data = ModelCardData(
        base_model=config.model.name if is_hub_id(config.model.name) else None,
        library_name="peft" if is_adapter else "transformers",
        pipeline_tag="text-generation",
        tags=["sft", "sft-harness", *(["lora"] if config.adapter is not None else [])],
        datasets=[source.path for source in config.data.train if is_hub_id(source.path)] or None,
    )
    lines = [
        f"# {spec.experiment}: {result.name}",
        "",
        f"Fine-tuned from `{config.model.name}` with [sft-harness](https://pypi.org/project/sft-harness/), experiment "
        f"`{spec.experiment}`, cell `{result.cell}`.",
        *_how_to_load(result, is_adapter=is_adapter),
        *_section("Dataset characteristics", _dataset(result, folder)),
        *_section("Training parameters", _training(result)),
        *_section("Performance metrics", _metrics(result)),
        *_section("Known limitations", _limits(result, findings)),
    ]
    text = _without_folders("\n".join(lines), config)
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}\n"))


def is_hub_id(name: str) -> bool:
    """Whether a model or dataset is named by its Hub id, not by a file or folder."""
    return REPOSITORY.fullmatch(name) is not None and not name.endswith(FILE_SUFFIXES) and not Path(name).exists()


def _without_folders(text: str, config: RunConfig) -> str:
    """The text with files named from their own folder on: where they lie on somebody's disk is nobody's business."""
    sources = [
        source for part in (config.data.train, config.data.validation, config.data.test) for source in part or ()
    ]
    named = [Path(name).expanduser() for name in (config.model.name, *(source.path for source in sources))]
    folders = {str(path.parent) for path in named if path.is_absolute()} | {str(Path.cwd()), str(Path.home())}
    for folder in sorted(folders - {"/"}, key=len, reverse=True):
        text = text.replace(f"{folder}/", "")
    return text


def _section(title: str, lines: Iterator[str]) -> list[str]:
    return ["", f"## {title}", "", *lines]


def _how_to_load(result: CellResult, *, is_adapter: bool) -> Iterator[str]:
    assert result.train is not None, "only trained cells have a card"
    yield from ("", "Load it from the folder or repository that this file lies in:", "", "```python")
    # With an adapter, transformers takes the generation config of the base, which knows nothing of the end of a turn.
    needs, given = (", GenerationConfig", ", generation_config=stops") if is_adapter else ("", "")
    yield f"from transformers import AutoModelForCausalLM, AutoTokenizer{needs}"
    yield ""
    yield 'tokenizer = AutoTokenizer.from_pretrained("FOLDER")'
    yield f'model = AutoModelForCausalLM.from_pretrained("FOLDER"){"  # needs peft" if is_adapter else ""}'
    if is_adapter:
        yield 'stops = GenerationConfig.from_pretrained("FOLDER")'
    if result.train.settings.get("template.in_force") == "none":
        yield 'inputs = tokenizer("...", return_tensors="pt")'
    else:
        yield 'turns = [{"role": "user", "content": "..."}]'
        yield 'inputs = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)'
    yield f"output = model.generate(**inputs{given}, max_new_tokens=256)"
    yield 'print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))'
    yield "```"


def _dataset(result: CellResult, folder: CellFolder) -> Iterator[str]:
    assert result.train is not None, "only trained cells have a card"
    for name, split in result.train.splits.items():
        yield (
            f"- {name}: `{split.source}`, {split.rows_used} of {split.rows_read} rows used, {split.tokens} tokens, "
            f"{split.supervised_tokens} of them supervised, {split.truncated} rows cut; digest `{split.digest}`"
        )
        if split.dropped:
            yield f"  - left out: {', '.join(f'{count} {reason}' for reason, count in split.dropped.items())}"
    report = _data_report(folder)
    if report is not None:
        languages = ", ".join(f"{code} {share:.0%}" for code, share in list(report.languages.items())[:5])
        yield f"- format {report.format}; languages {languages}; {report.duplicates} duplicates, {report.near_duplicates} near-duplicates"
        yield from (f"- {problem.kind}: {problem.message}" for problem in report.problems if problem.severity != "info")


def _data_report(folder: CellFolder) -> DataReport | None:
    if not folder.check.exists():
        return None
    path = Path(read_record(folder.check, CellCheck).data_report)
    return read_record(path, DataReport) if path.is_file() else None


def _training(result: CellResult) -> Iterator[str]:
    train = result.train
    assert train is not None, "only trained cells have a card"
    yield "| parameter | value |"
    yield "|---|---|"
    settings = train.settings
    for name in SHOWN_TRAINING:
        if f"training.{name}" in settings:
            yield f"| {name} | {settings[f'training.{name}']} |"
    for name in ("r", "lora_alpha", "lora_dropout", "target_modules", "use_rslora", "use_dora"):
        if f"adapter.{name}" in settings:
            yield f"| adapter.{name} | {settings[f'adapter.{name}']} |"
    yield f"| template | {Path(settings.get('template.name', '')).name} |"
    yield f"| trainable parameters | {train.num_trainable_parameters:,} of {train.num_parameters:,} |"
    yield f"| steps | {train.steps} ({train.epochs:.2f} epochs, {train.seconds:.0f} s on {train.device}) |"
    versions = {
        name: train.environment.get(name, "unknown") for name in ("sft-harness", "torch", "transformers", "trl", "peft")
    }
    yield f"| versions | {', '.join(f'{name} {version}' for name, version in versions.items())} |"


def _metrics(result: CellResult) -> Iterator[str]:
    metrics = result.metrics()
    if not metrics:
        yield "Not evaluated."
        return
    yield "| metric | value (95 % interval) | n |"
    yield "|---|---|---|"
    for name, value in metrics.items():
        yield f"| {name} | {shown(value)} | {value.n} |"


def _limits(result: CellResult, findings: tuple[Finding, ...]) -> Iterator[str]:
    fired = [finding for finding in findings if finding.is_warning]
    yield from (
        f"- {finding.check} ({finding.severity}): {finding.message} {finding.advice}".rstrip() for finding in fired
    )
    unsure = [finding.check for finding in findings if finding.outcome == "insufficient"]
    if unsure:
        yield f"- not enough evidence to judge: {', '.join(unsure)}"
    if not fired:
        yield "- no warning sign was found by the checks that ran; that is no proof that there is none"
    suites = ", ".join(suite.suite for suite in result.suites) or "no suite"
    yield f"- measured on {suites} only, with greedy decoding and one training seed"
