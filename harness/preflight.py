"""Checks every cell before any training: can it learn what it is meant to from what it is given?"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from harness.cell_checks import CellCheck, CheckProblem
from harness.config import RunConfig
from harness.data.formats import Conversation
from harness.data.prepare import PreparedSplit
from harness.data.report import DataReport, Lengths, report_splits
from harness.data.sources import local_paths
from harness.data.splits import Splits, data_fingerprint, load_splits
from harness.data.template_source import TemplateProblem
from harness.errors import HarnessError
from harness.grid import Cell
from harness.hardware import smallest_gpu_gib, visible_gpus
from harness.models.footprint import Footprint, footprint, has_bitsandbytes
from harness.models.load import LoadedTokenizer, load_config, load_tokenizer, model_fingerprint
from harness.models.prepared import prepare
from harness.models.template_check import check_template
from harness.models.templates import MaskVerdict, template_key, template_text, verify_mask
from harness.resources import digest
from harness.store import ExperimentFolder, once

NUM_VERIFIED = 40
Check = Callable[[Cell], Iterator[CheckProblem]]


def check_light(cell: Cell) -> CellCheck:
    """What can be checked without transformers: local data, the template file, hardware for quantization."""
    return _check(cell, [_hardware, _packing, _files])


def check_deep(cell: Cell, folder: ExperimentFolder) -> CellCheck:
    """Everything, with the model's config and tokenizer and all rows tokenized as training will see them."""
    found = _Facts()
    checks: list[Check] = [_hardware, _packing, lambda c: _adapter_and_memory(c, found), _files]
    check = _check(cell, [*checks, lambda c: _rows_and_template(c, folder, found)])
    return check.model_copy(update=found.as_fields(cell.config))


class _Facts:
    """What the checks find out along the way."""

    def __init__(self) -> None:
        self.train: PreparedSplit | None = None
        self.footprint: Footprint | None = None
        self.data_report = ""

    def as_fields(self, config: RunConfig) -> dict[str, object]:
        train, memory = self.train, self.footprint
        return {
            "rows": len(train) if train else None,
            "supervised_tokens": train.counts.supervised_tokens if train else None,
            "steps": config.planned_steps(len(train)) if train else None,
            "num_trainable_parameters": memory.num_trainable_parameters if memory else None,
            "memory_gib": round(memory.total_gib, 2) if memory else None,
            "saved_gib": memory.saved_gib if memory else None,
            "optimizer_gib": memory.optimizer_gib if memory else None,
            "data_report": self.data_report,
        }


def _check(cell: Cell, checks: Sequence[Check]) -> CellCheck:
    """All that the checks find; rows that can't be read are complained of once."""
    problems: list[CheckProblem] = []
    for check in checks:
        try:
            problems += check(cell)
        except HarnessError as error:
            problems.append(CheckProblem(severity="error", message=str(error)))
            if check is _files:
                break
    return CellCheck(cell=cell.id, name=cell.name, problems=tuple(dict.fromkeys(problems)))


def _warning(message: str) -> CheckProblem:
    return CheckProblem(severity="warning", message=message)


def _files(cell: Cell) -> Iterator[CheckProblem]:
    template_text(cell.config.template)
    data = cell.config.data
    sources = [source for part in (data.train, data.validation, data.test) for source in part or ()]
    if all(local_paths(source) is not None for source in sources):
        load_splits(data)
    yield from ()


def _hardware(cell: Cell) -> Iterator[CheckProblem]:
    if cell.config.quantization is None:
        return
    if not visible_gpus():
        yield CheckProblem(
            severity="error", message="quantization needs an NVIDIA GPU (bitsandbytes), and there is none here; run it on a "
            "machine with one or delete the section quantization",
        )  # fmt: skip
    elif not has_bitsandbytes():
        yield CheckProblem(
            severity="error",
            message="quantization needs bitsandbytes; install it with `pip install 'sft-harness[qlora]'`",
        )


def _rows_and_template(cell: Cell, folder: ExperimentFolder, found: _Facts) -> Iterator[CheckProblem]:
    config = cell.config
    load_config(config.model)
    splits = load_splits(config.data)
    loaded = load_tokenizer(config, plain_rows=splits.is_plain)
    tokens = loaded.tokens
    if tokens.mask == "refused" and config.trains_on_answers_only:
        yield CheckProblem(
            severity="error", message=f"template {config.template.name}: no loss mask can be had ({tokens.notes[-1]}); use another "
            "template, or train on every token with training.assistant_only_loss: false",
        )  # fmt: skip
        return
    yield from (_warning(note) for note in tokens.notes)
    if tokens.grammar is not None:
        wrong = [
            verdict
            for row in _some_rows(splits.train)
            if not (verdict := verify_mask(loaded.tokenizer, tokens, row.as_turns())).is_right
        ]
        named = check_template(loaded.tokenizer, config.template.name, config.model.name)
        yield from (_of_template(config, p) for p in named.problems if _matters(p, splits.train, wrong))
    if any(item.score == "ifd" for item in config.data.filter):
        yield _warning(
            "data.filter on ifd is applied when training begins; rows, steps and lengths here are without it"
        )
    found.train = prepare(config, "train", splits.train, loaded, folder.tokenized)
    prepare(config, "validation", splits.validation, loaded, folder.tokenized)
    path, report = _data_report(config, folder, splits, loaded)
    found.data_report = path.stem
    yield from (_warning(f"data: {problem.message}") for problem in report.problems if problem.severity != "info")
    lost = [
        item
        for item in found.train.counts.dropped
        if item.reason in ("truncated_answer", "no_supervised_token", "template_rejected")
    ]
    if lost:
        yield _warning(
            f"data: {len(lost)} of {found.train.counts.rows} training rows are left out because they can't be learned from; "
            f"{lost[0].where}: {lost[0].message}"
        )
    if tokens.num_added and config.adapter is not None and not _trains_embeddings(config):
        yield _warning(
            f"template {config.template.name} adds {tokens.num_added} tokens to the tokenizer, whose embeddings the adapter doesn't "
            "train; add modules_to_save: [embed_tokens, lm_head] or choose a template whose tokens the model knows"
        )


def _trains_embeddings(config: RunConfig) -> bool:
    adapter = config.adapter or {}
    named = f"{adapter.get('modules_to_save')} {adapter.get('target_modules')}"
    return "embed" in named or bool(adapter.get("trainable_token_indices"))


def _of_template(config: RunConfig, problem: TemplateProblem) -> CheckProblem:
    severity = "error" if problem.severity == "error" else "warning"
    return CheckProblem(
        severity=severity, message=f"template {Path(config.template.name).name}: {problem.message} ({problem.kind})"
    )


def _some_rows(rows: Sequence[Conversation]) -> Sequence[Conversation]:
    """Rows from all over the training split, to verify their masks."""
    return rows[:: max(1, len(rows) // NUM_VERIFIED)][:NUM_VERIFIED]


def _matters(problem: TemplateProblem, rows: Sequence[Conversation], wrong: Sequence[MaskVerdict]) -> bool:
    """Whether the rows have what the template gets wrong."""
    if problem.kind == "wrong_mask":
        return any(verdict.is_end_supervised for verdict in wrong)
    if problem.kind == "end_of_turn_not_supervised":
        return any(not verdict.is_end_supervised for verdict in wrong)
    if problem.kind in ("final_turn_left_open", "continue_final_message_broken"):
        return False
    return any(_has(problem, row) for row in rows)


def _has(problem: TemplateProblem, row: Conversation) -> bool:
    turns = row.messages
    thinks = any(turn.reasoning_content for turn in turns)
    if problem.kind in ("system_message_dropped", "system_message_refused"):
        return any(turn.role == "system" for turn in turns)
    if problem.kind == "tools_dropped":
        return bool(row.inputs.tools) or any(turn.tool_calls for turn in turns)
    if problem.kind == "thinking_dropped":
        return thinks
    if problem.kind == "not_prefix_preserving":
        return sum(turn.role == "assistant" for turn in turns) > 1 and (thinks or problem.severity != "info")
    return True


def _data_report(
    config: RunConfig, folder: ExperimentFolder, splits: Splits, loaded: LoadedTokenizer
) -> tuple[Path, DataReport]:
    """The report on a cell's rows and its file, made once for all cells that share them."""
    made_from = [
        data_fingerprint(config.data), config.data.model_dump(mode="json"), model_fingerprint(config.model),
        template_key(config.template), config.max_length, config.trains_on_answers_only,
    ]  # fmt: skip

    def measure(_: Sequence[Conversation]) -> Lengths:
        made = prepare(config, "train", splits.train, loaded, folder.tokenized)
        return Lengths(
            tokenizer=config.model.name, tokens=made.lengths(), supervised=made.supervised(), max_length=config.max_length,
            truncated=made.counts.truncated,
        )  # fmt: skip

    source = ", ".join(item.path for item in config.data.train)
    path = folder.data_report(digest(made_from))
    return path, once(path, DataReport, lambda: report_splits(splits, source, measure))


def data_report(cell: Cell, folder: ExperimentFolder) -> DataReport:
    """What a cell is trained, validated and tested on, and what is wrong with it.

    Raises: HarnessError: the rows, the model's tokenizer or the template can't be read.
    """
    splits = load_splits(cell.config.data)
    loaded = load_tokenizer(cell.config, plain_rows=splits.is_plain)
    return _data_report(cell.config, folder, splits, loaded)[1]


def _adapter_and_memory(cell: Cell, found: _Facts) -> Iterator[CheckProblem]:
    found.footprint = footprint(cell.config)
    needed, there = found.footprint.total_gib, smallest_gpu_gib()
    if there is not None and needed > there:
        yield _warning(
            f"it needs about {needed:.0f} GiB on a GPU of {there:.0f} GiB (weights {found.footprint.weights_gib:.0f}, optimizer "
            f"{found.footprint.optimizer_gib:.0f}, activations {found.footprint.activations_gib:.0f}); lower "
            "per_device_train_batch_size or max_length, or use an adapter or quantization"
        )


def _packing(cell: Cell) -> Iterator[CheckProblem]:
    """With packing, one sequence holds several documents; position ids tell attention where each begins."""
    training, model = cell.config.training, cell.config.model
    if training.get("packing") and training.get("packing_strategy", "bfd") == "wrapped":
        yield _warning("packing_strategy wrapped: documents share a sequence and see each other; bfd keeps them apart")
    elif (training.get("packing") or training.get("padding_free")) and model.trust_remote_code:
        yield _warning(
            "packing or padding_free with a model that brings its own code: its attention may let the documents of a sequence "
            "see each other; training measures that and says so"
        )
