"""What a dataset holds and what is wrong with it."""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from harness.config import DataConfig
from harness.data.formats import PREFERENCE, Conversation, convert
from harness.data.leakage import exact_duplicates, near_duplicates, overlap
from harness.data.problems import (
    DataProblem,
    DataProblemKind,
    Faulty,
    counted,
    dropped_problems,
    fault_problems,
    text_problems,
)
from harness.data.quality import RowScores, language_mix, row_scores
from harness.data.sources import Read, read_rows
from harness.data.splits import Splits, answer_of, instruction_of, text_of
from harness.errors import DataError
from harness.eval_config import SourceConfig
from harness.records import Record, Severity

logger = logging.getLogger(__name__)

HISTOGRAM_BINS = 12


class TokenSummary(Record):
    """Token lengths of rows."""

    tokenizer: str
    rendered: bool
    """True: rows as the model sees them, through the chat template; False: their text alone."""
    total: int
    mean: float
    median: float
    p95: float
    max: int
    histogram: tuple[tuple[int, int, int], ...]
    """(from, below, rows)"""
    max_length: int | None = None
    truncated: int = 0
    """Rows that are longer."""
    supervised_total: int | None = None
    """None where no loss mask was made."""
    supervised_mean: float | None = None


class OverlapSummary(Record):
    """Held-out rows that occur in the training rows."""

    held_out: int
    """Rows compared."""
    exact: int
    ngram13: int
    """Share 13 words in a row with a training row."""
    near: int
    """Ask nearly what a training row asks, those in `exact` apart."""


NOTHING_HELD_OUT = OverlapSummary(held_out=0, exact=0, ngram13=0, near=0)


class DataReport(Record):
    """Everything that `harness data` says about a dataset."""

    source: str
    format: str
    rows: int
    usable: int
    turns: int
    """Of usable rows; a prompt and its completion are two."""
    roles: dict[str, int]
    tokens: TokenSummary | None = None
    """None where no row is usable."""
    duplicates: int = 0
    """Rows that repeat an earlier one, letter case and blanks aside."""
    near_duplicates: int = 0
    """Rows that are nearly an earlier one, repetitions aside."""
    overlap: OverlapSummary = NOTHING_HELD_OUT
    problems: tuple[DataProblem, ...] = ()
    languages: dict[str, float] = {}
    scores: dict[str, tuple[float, float, float]] = {}
    """Quality score -> 5 %, 50 % and 95 % point of the rows that have it."""
    splits: dict[str, int] = {}
    dropped: dict[str, int] = {}
    """Rows that were left out, by reason."""

    @property
    def is_usable(self) -> bool:
        """Whether anything can be learned from it."""
        return self.usable > 0


class Lengths(NamedTuple):
    """Tokens of every row, and how many of them are supervised."""

    tokenizer: str
    tokens: Sequence[int]
    supervised: Sequence[int] | None = None
    max_length: int | None = None
    truncated: int = 0


Measure = Callable[[Sequence[Conversation]], Lengths]


def report_file(config: DataConfig, against: Sequence[SourceConfig] = (), measure: Measure | None = None) -> DataReport:
    """A report on the training sources of a data section as they are, broken rows and all.

    Args:
        config: where the rows are and how they are read.
        against: held-out rows to look for in them.
        measure: counts tokens.

    Raises: DataError: a file can't be read at all, the held-out rows can't be used, or `data.text` or `data.group_by` names
        no column.
    """
    rows: list[Conversation] = []
    faulty: list[Faulty] = []
    formats: list[str] = []
    total = 0
    for source in config.train:
        read = read_rows(source)
        found, usable, faults = _converted(config, read)
        formats.append(found)
        # Row numbers go on from source to source.
        rows += [row.model_copy(update={"index": total + row.index}) for row in usable] if total else usable
        faulty += [item._replace(index=total + item.index) for item in faults]
        total += len(read.rows) + len(read.broken)
    held_out = [row for source in against for row in _held_out(source, config)]
    name = ", ".join(source.path for source in config.train)
    named = _Source(name, "+".join(dict.fromkeys(formats)), total, rows, held_out)
    return _report(named, measure, fault_problems(faulty, total))


def _converted(config: DataConfig, read: Read) -> tuple[str, list[Conversation], list[Faulty]]:
    """Format, usable rows and faulty ones of a source; where its rows have no format, all of them are faulty."""
    broken = [Faulty(item.index, "broken_row", item.reason) for item in read.broken]
    if not read.rows:
        return "unknown", [], broken
    try:
        converted = convert(read.rows, config.format, text=config.text, group_by=config.group_by)
    except DataError as error:
        if PREFERENCE in str(error):
            return "preference", [], [*broken, *_all(read, "preference_pairs", PREFERENCE)]
        if config.text is not None or config.group_by is not None:
            raise
        return "unknown", [], [*broken, *_all(read, "unknown_format", str(error))]
    return converted.format, converted.rows, [*broken, *(Faulty(f.index, f.kind, f.message) for f in converted.faults)]


def _all(read: Read, kind: DataProblemKind, message: str) -> list[Faulty]:
    return [Faulty(row.index, kind, message) for row in read.rows]


def _held_out(source: SourceConfig, config: DataConfig) -> list[Conversation]:
    read = read_rows(source)
    if not read.rows:
        raise DataError(f"{source.path}: there are no rows to compare with; check the path")
    converted = convert(read.rows, config.format, text=config.text)
    if left := len(read.broken) + len(converted.faults):
        logger.warning("%s: %d of %d held-out rows can't be read and are not compared",
                       source.path, left, len(read.rows) + len(read.broken))  # fmt: skip
    return converted.rows


def report_splits(splits: Splits, source: str, measure: Measure | None) -> DataReport:
    """A report on the rows that a cell is trained on, against the rows that it is validated and tested on."""
    held_out = [*splits.validation, *splits.test]
    counts = Counter(item.reason for item in splits.dropped)
    total = len(splits.train) + sum(item.split == "train" for item in splits.dropped)
    named = _Source(source, "+".join(splits.formats), total, splits.train, held_out)
    made = _report(named, measure, dropped_problems(splits.dropped))
    sizes = {"train": len(splits.train), "validation": len(splits.validation), "test": len(splits.test)}
    return made.model_copy(update={"splits": sizes, "dropped": dict(counts)})


class _Source(NamedTuple):
    name: str
    format: str
    num_rows: int
    """Broken ones and those left out counted too."""
    rows: Sequence[Conversation]
    held_out: Sequence[Conversation]


def _report(source: _Source, measure: Measure | None, problems: Sequence[DataProblem]) -> DataReport:
    rows = source.rows
    texts = [text_of(row) for row in rows]
    copies, alike = exact_duplicates(texts), near_duplicates(texts)
    repeated = sorted(index for group in copies for index in group[1:])
    near = sorted({index for group in alike for index in group[1:]} - set(repeated))
    lengths = measure(rows) if measure and rows else None
    against = _overlap(rows, texts, source.held_out) if source.held_out and rows else NOTHING_HELD_OUT
    found = [
        *problems,
        *text_problems(rows),
        *_cut_problems(lengths),
        *counted("duplicate", [rows[i].index for i in repeated], len(rows), severity="info"),
        *counted("near_duplicate", [rows[i].index for i in near], len(rows), severity="info"),
        *_overlap_problems(against),
    ]
    return DataReport(
        source=source.name, format=source.format, rows=source.num_rows, usable=len(rows), turns=sum(map(_num_turns, rows)),
        roles=dict(Counter(turn.role for row in rows for turn in row.messages)),
        tokens=_summary(lengths) if lengths else None, duplicates=len(repeated), near_duplicates=len(near),
        overlap=against, problems=tuple(found), languages=language_mix(texts) if rows else {},
        scores=_row_points(rows),
    )  # fmt: skip


def _num_turns(row: Conversation) -> int:
    return 1 + bool(row.prompt) if row.is_plain else len(row.messages)


def _overlap(rows: Sequence[Conversation], texts: Sequence[str], held_out: Sequence[Conversation]) -> OverlapSummary:
    """Exact and near by what is asked; 13-grams by all that is said."""
    asked = overlap([_asked(row) for row in held_out], [_asked(row) for row in rows])
    whole = overlap([text_of(row) for row in held_out], texts)
    return OverlapSummary(
        held_out=len(held_out), exact=len(asked.exact), ngram13=len(whole.ngram13), near=len(set(asked.near) - set(asked.exact))
    )  # fmt: skip


def _asked(row: Conversation) -> str:
    return instruction_of(row) or answer_of(row)


def _overlap_problems(found: OverlapSummary) -> list[DataProblem]:
    worst = max(found.exact, found.near, found.ngram13)
    if not worst:
        return []
    message = (
        f"of {found.held_out} held-out rows {found.exact} are asked word for word in training, {found.near} nearly so, and "
        f"{found.ngram13} share 13 words in a row with a training row"
    )
    # Answers in a fixed form share many words without being copies.
    severity: Severity = "warning" if found.exact or found.near else "info"
    return [DataProblem(kind="overlap", count=worst, examples=(), message=message, severity=severity)]


def _cut_problems(lengths: Lengths | None) -> list[DataProblem]:
    if lengths is None or not lengths.truncated:
        return []
    message = f"{lengths.truncated} of {len(lengths.tokens)} rows are cut at max_length {lengths.max_length}"
    return [DataProblem(kind="truncated_answer", count=lengths.truncated, examples=(), message=message)]


def _summary(lengths: Lengths) -> TokenSummary:
    tokens = np.asarray(lengths.tokens)  # (rows,)
    edges = np.unique(np.linspace(0, tokens.max() + 1, HISTOGRAM_BINS + 1).astype(int))
    counts, _ = np.histogram(tokens, bins=edges)
    return TokenSummary(
        tokenizer=lengths.tokenizer,
        rendered=lengths.supervised is not None,
        total=int(tokens.sum()),
        mean=float(tokens.mean()),
        median=float(np.median(tokens)),
        p95=float(np.quantile(tokens, 0.95)),
        max=int(tokens.max()),
        histogram=tuple((int(a), int(b), int(n)) for a, b, n in zip(edges[:-1], edges[1:], counts, strict=True)),
        max_length=lengths.max_length,
        truncated=lengths.truncated,
        supervised_total=sum(lengths.supervised) if lengths.supervised is not None else None,
        supervised_mean=float(np.mean(lengths.supervised)) if lengths.supervised else None,
    )


def _row_points(rows: Sequence[Conversation]) -> dict[str, tuple[float, float, float]]:
    measured = [row_scores(instruction_of(row), answer_of(row)) for row in rows]
    columns = {name: [getattr(item, name) for item in measured] for name in RowScores._fields}
    return score_points({name: [value for value in values if value is not None] for name, values in columns.items()})


def score_points(scores: Mapping[str, Sequence[float]]) -> dict[str, tuple[float, float, float]]:
    """The 5 %, 50 % and 95 % point of every score that any row has."""
    points = {}
    for name, known in scores.items():
        if known:
            low, middle, high = np.quantile(known, [0.05, 0.5, 0.95])
            points[name] = (float(low), float(middle), float(high))
    return points
