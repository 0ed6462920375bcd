"""What `harness data` and `harness template` look at: an experiment, a file, a model or a template."""

from collections.abc import Sequence
from pathlib import Path

from harness.config import DataConfig, RunConfig, TemplateConfig
from harness.data.formats import Conversation
from harness.data.report import DataReport, Lengths, Measure, report_file, score_points
from harness.data.splits import load_splits, text_of
from harness.data.tokenize import IGNORED, tokenize
from harness.errors import ConfigError
from harness.eval_config import SourceConfig
from harness.grid import Cell
from harness.models.ifd import shared_ifd_scores
from harness.models.load import load_tokenizer, tokenizer_at
from harness.models.template_check import TemplateReport, check_template
from harness.models.templates import BUILT_IN, template_file, template_text
from harness.plan import plan_training
from harness.preflight import data_report
from harness.records import Record
from harness.resources import bundled

EMBEDDED_BASE = "embedded:base"
IFD_ROWS = 500
EXPERIMENT_SUFFIXES = (".yaml", ".yml")


def is_experiment(target: str) -> bool:
    """Whether a name on the command line is an experiment file or a bundled one."""
    is_bundled = "/" not in target and (bundled("experiments") / f"{target}.yaml").is_file()
    return Path(target).suffix in EXPERIMENT_SUFFIXES or (is_bundled and not Path(target).exists())


def inspect_template(
    target: str, tokenizer_name: str | None = None, overrides: Sequence[str] = ()
) -> list[TemplateReport]:
    """Reports on a built-in template, a `.jinja` file, a model's own, or every template of an experiment.

    Args:
        target: what to look at.
        tokenizer_name: model or folder whose tokenizer is used; by default the experiment's or model's own, else the
            embedded base's.
        overrides: `--set` of an experiment.

    Raises: HarnessError: there is no such thing.
    """
    if is_experiment(target):
        cells = plan_training(target, overrides).cells
        distinct = {(cell.config.template.name, cell.config.model.name): cell for cell in reversed(cells)}
        return [_of_cell(cell, tokenizer_name) for cell in reversed(distinct.values())]
    path = template_file(target)
    if path is None and target.endswith((".jinja", ".j2")):
        raise ConfigError(
            f"{target}: there is no such template file; check the path, or name one of {', '.join(BUILT_IN)}"
        )
    name = tokenizer_name or (EMBEDDED_BASE if path else target)
    tokenizer = tokenizer_at(name)
    if path is not None:
        tokenizer.chat_template = template_text(TemplateConfig(name=target))
    elif tokenizer_name:
        tokenizer.chat_template = tokenizer_at(target).chat_template
    return [check_template(tokenizer, target, name)]


def _of_cell(cell: Cell, tokenizer_name: str | None) -> TemplateReport:
    template, model = cell.config.template.name, cell.config.model
    tokenizer = tokenizer_at(tokenizer_name or model.name, None if tokenizer_name else model)
    text = template_text(cell.config.template)
    if text is not None:
        tokenizer.chat_template = text
    return check_template(tokenizer, template, tokenizer_name or model.name)


def inspect_data(
    target: str, against: str | None = None, tokenizer_name: str | None = None, overrides: Sequence[str] = ()
) -> DataReport:
    """A report on the rows of an experiment (as its first cell sees them), a file, a folder or a Hub dataset.

    Args:
        target: what to look at.
        against: held-out rows to look for in it.
        tokenizer_name: model or folder whose tokenizer counts tokens of a file; by default the embedded base's.
        overrides: `--set` of an experiment.

    Raises: HarnessError: there is no such thing, or it can't be read.
    """
    held_out = (SourceConfig(path=against),) if against else ()
    if not is_experiment(target):
        if overrides:
            raise ConfigError(f"--set overrides fields of an experiment, but {target} is none; name its YAML file")
        config = DataConfig(train=(SourceConfig(path=target),))
        return report_file(config, held_out, _text_lengths(tokenizer_name or EMBEDDED_BASE))
    made = plan_training(target, overrides)
    first = made.cells[0]
    if held_out:
        return report_file(first.config.data, held_out, _text_lengths(tokenizer_name or first.config.model.name))
    return data_report(first, made.folder)


def with_ifd(report: DataReport, target: str, overrides: Sequence[str] = ()) -> DataReport:
    """The report with the instruction-following difficulty of a sample of the training rows, by the untouched base.

    Raises: HarnessError: the target is no experiment, or its base can't be loaded.
    """
    if not is_experiment(target):
        raise ConfigError(f"--ifd needs a model: name an experiment instead of {target}")
    made = plan_training(target, overrides)
    config = made.cells[0].config
    splits = load_splits(config.data)
    rows = splits.train[:IFD_ROWS]
    known = [score for score in shared_ifd_scores(config, rows, made.folder.tokenized) if score is not None]
    return report.model_copy(update={"scores": {**report.scores, **score_points({"ifd": known})}})


def _text_lengths(tokenizer_name: str) -> Measure:
    """Counts the tokens of the text of rows, without any template."""

    def measure(rows: Sequence[Conversation]) -> Lengths:
        tokenizer = tokenizer_at(tokenizer_name)
        tokens: list[int] = []
        for start in range(0, len(rows), 1000):
            texts = [text_of(row) for row in rows[start : start + 1000]]
            tokens += [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
        return Lengths(tokenizer_name, tokens)

    return measure


class Piece(Record):
    """Part of a row as the model sees it."""

    text: str
    """Special tokens visible."""
    is_supervised: bool


class MaskedRow(Record):
    """One row, cut where the loss mask changes."""

    where: str
    pieces: tuple[Piece, ...]
    is_truncated: bool


def masked_rows(target: str, count: int, overrides: Sequence[str] = ()) -> list[MaskedRow]:
    """The first training rows of an experiment's first cell as the model sees them.

    Raises: HarnessError: the target is no experiment, or its rows can't be rendered.
    """
    if not is_experiment(target):
        raise ConfigError(f"--mask needs a template and a model: name an experiment instead of {target}")
    config: RunConfig = plan_training(target, overrides).cells[0].config
    splits = load_splits(config.data)
    rows = splits.train[:count]
    tokenizer, tokens = load_tokenizer(config, plain_rows=splits.is_plain)
    found = []
    for row in rows:
        done = tokenize(
            row, tokenizer, tokens, assistant_only=config.trains_on_answers_only, max_length=config.max_length
        )
        runs: list[tuple[list[int], bool]] = []
        for token, label in zip(done.input_ids, done.labels, strict=True):
            if not runs or runs[-1][1] != (label != IGNORED):
                runs.append(([], label != IGNORED))
            runs[-1][0].append(token)
        pieces = tuple(Piece(text=tokenizer.decode(ids), is_supervised=is_supervised) for ids, is_supervised in runs)
        found.append(MaskedRow(where=row.where, pieces=pieces, is_truncated=done.is_truncated))
    return found
