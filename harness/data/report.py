"""What a dataset holds and what is wrong with it."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from harness.config import DataConfig, SourceConfig
from harness.data.formats import Conversation, Fault, convert
from harness.data.leakage import exact_duplicates, near_duplicates, overlap
from harness.data.quality import (
    RowScores,
    foreign_template_tokens,
    language_mix,
    looks_truncated,
    row_scores,
    unfilled_placeholders,
)
from harness.data.sources import BrokenRow, read_rows
from harness.data.splits import Splits, answer_of, instruction_of, question_of
from harness.errors import DataError
from harness.records import Dropped, Record, Severity

DataProblemKind = Literal[
    "broken_row", "preference_pairs", "unknown_format", "missing_assistant_turn", "empty_answer", "role_order",
    "unfilled_placeholder", "foreign_template_tokens", "truncated_answer", "no_supervised_token", "template_rejected",
    "duplicate", "near_duplicate", "overlap",
]  # fmt: skip
MAX_EXAMPLES = 20
HISTOGRAM_BINS = 12
MEANINGS: Mapping[str, str] = {
    "broken_row": "can't be read as a row of the format",
    "preference_pairs": "hold two answers (chosen/rejected), which SFT can't train on",
    "unknown_format": "have columns of no known format",
    "missing_assistant_turn": "don't end with an assistant's turn",
    "empty_answer": "have an empty assistant turn",
    "role_order": "have turns in an order that no chat has",
    "unfilled_placeholder": "hold a placeholder that nobody filled",
    "foreign_template_tokens": "hold a chat template's control tokens as plain text",
    "duplicate": "repeat another row",
    "near_duplicate": "are nearly the same as another row",
}


class DataProblem(Record):
    """One kind of fault and where it is."""

    kind: DataProblemKind
    count: int
    examples: tuple[int, ...]
    """Row numbers, from 0, at most 20."""
    message: str
    severity: Severity = "warning"


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


class DataReport(Record):
    """Everything that `harness data` says about a dataset."""

    source: str
    format: str
    rows: int
    usable: int
    turns: int
    roles: dict[str, int]
    tokens: TokenSummary | None = None
    duplicates: int = 0
    """Rows that repeat an earlier one, letter case and blanks aside."""
    near_duplicates: int = 0
    """Rows that are nearly an earlier one, repetitions aside."""
    overlap: OverlapSummary | None = None
    problems: tuple[DataProblem, ...] = ()
    languages: dict[str, float] = {}
    scores: dict[str, tuple[float, float, float]] = {}
    """Quality score -> 5 %, 50 % and 95 % point."""
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

    Raises: DataError: a file can't be read at all.
    """
    name = ", ".join(source.path for source in config.train)
    broken: list[BrokenRow] = []
    faults: list[Fault] = []
    rows: list[Conversation] = []
    formats: list[str] = []
    total = 0
    for source in config.train:
        read = read_rows(source)
        broken += read.broken
        total += len(read.rows) + len(read.broken)
        try:
            converted = convert(read.rows, config.format, text=config.text, group_by=config.group_by)
        except DataError as error:
            formats.append("preference" if "preference data" in str(error) else "unknown")
            faults += [_unusable(row.index, row.where, formats[-1], str(error)) for row in read.rows]
            continue
        formats.append(converted.format)
        rows += converted.rows
        faults += converted.faults
    held_out = [
        row for source in against for row in convert(read_rows(source).rows, config.format, text=config.text).rows
    ]
    problems = _fault_problems(broken, faults)
    return _report(_Source(name, "+".join(dict.fromkeys(formats)), total, rows, held_out), measure, problems)


def report_splits(splits: Splits, source: str, measure: Measure | None) -> DataReport:
    """A report on the rows that a cell is trained on, against the rows that it is validated and tested on."""
    held_out = [*splits.validation, *splits.test]
    counts = Counter(item.reason for item in splits.dropped)
    total = len(splits.train) + sum(item.split == "train" for item in splits.dropped)
    named = _Source(source, "+".join(splits.formats), total, splits.train, held_out)
    made = _report(named, measure, dropped_problems(splits.dropped))
    sizes = {"train": len(splits.train), "validation": len(splits.validation), "test": len(splits.test)}
    return made.model_copy(update={"splits": sizes, "dropped": dict(counts)})


def _unusable(index: int, where: str, format: str, message: str) -> Fault:
    return Fault(
        index=index, where=where, kind="preference_pairs" if format == "preference" else "broken_row", message=message
    )


class _Source(NamedTuple):
    name: str
    format: str
    num_rows: int
    """Broken ones and those left out counted too."""
    rows: Sequence[Conversation]
    held_out: Sequence[Conversation]


def _report(source: _Source, measure: Measure | None, problems: Sequence[DataProblem]) -> DataReport:
    rows = source.rows
    texts = [f"{question_of(row)}\n{answer_of(row)}" for row in rows]
    copies, alike = exact_duplicates(texts), near_duplicates(texts)
    repeated = sorted(index for group in copies for index in group[1:])
    near = sorted({index for group in alike for index in group[1:]} - set(repeated))
    lengths = measure(rows) if measure and rows else None
    found = [
        *problems,
        *_text_problems(rows),
        *_cut_problems(lengths),
        *_counted("duplicate", [rows[i].index for i in repeated], severity="info"),
        *_counted("near_duplicate", [rows[i].index for i in near], severity="info"),
    ]
    against = _overlap(rows, texts, source.held_out) if source.held_out else None
    if against and (worst := max(against.exact, against.near, against.ngram13)):
        found.append(
            DataProblem(
                kind="overlap", count=worst, examples=(),
                # Answers in a fixed form share many words without being copies.
                severity="warning" if against.exact or against.near else "info",
                message=f"of {against.held_out} held-out rows {against.exact} are asked word for word in training, {against.near} "
                f"nearly so, and {against.ngram13} share 13 words in a row with a training row",
            )
        )  # fmt: skip
    return DataReport(
        source=source.name, format=source.format, rows=source.num_rows, usable=len(rows), turns=sum(max(1, len(row.messages)) for row in rows),
        roles=dict(Counter(turn.role for row in rows for turn in row.messages)),
        tokens=_summary(lengths) if lengths else None, duplicates=len(repeated), near_duplicates=len(near),
        overlap=against, problems=tuple(found), languages=language_mix(texts) if rows else {},
        scores=_score_points(rows),
    )  # fmt: skip


def _overlap(rows: Sequence[Conversation], texts: Sequence[str], held_out: Sequence[Conversation]) -> OverlapSummary:
    """Exact and near by what is asked; 13-grams by all that is said."""
    asked = overlap([_asked(row) for row in held_out], [_asked(row) for row in rows])
    whole = overlap([f"{question_of(row)}\n{answer_of(row)}" for row in held_out], texts)
    return OverlapSummary(
        held_out=len(held_out), exact=len(asked.exact), ngram13=len(whole.ngram13), near=len(set(asked.near) - set(asked.exact))
    )  # fmt: skip


def _asked(row: Conversation) -> str:
    return instruction_of(row) or answer_of(row)


def _counted(
    kind: DataProblemKind, numbers: Iterable[int], message: str = "", severity: Severity = "warning"
) -> list[DataProblem]:
    found = sorted(numbers)
    if not found:
        return []
    said = message or f"{len(found)} rows {MEANINGS[kind]}"
    return [
        DataProblem(kind=kind, count=len(found), examples=tuple(found[:MAX_EXAMPLES]), message=said, severity=severity)
    ]


def _fault_problems(broken: Sequence[BrokenRow], faults: Sequence[Fault]) -> list[DataProblem]:
    by_kind: dict[DataProblemKind, list[tuple[int, str]]] = {}
    for item in broken:
        by_kind.setdefault("broken_row", []).append((item.index, item.reason))
    for fault in faults:
        by_kind.setdefault(fault.kind, []).append((fault.index, fault.message))
    problems = []
    for kind, items in by_kind.items():
        index, first = min(items)
        message = f"{len(items)} rows {MEANINGS[kind]}; row {index}: {first}"
        severity: Severity = "error" if kind in ("broken_row", "preference_pairs") else "warning"
        problems += _counted(kind, [number for number, _ in items], message, severity)
    return problems


def dropped_problems(dropped: Sequence[Dropped]) -> list[DataProblem]:
    """One problem for each reason why rows were left out that somebody should know about."""
    kinds: tuple[DataProblemKind, ...] = (
        "missing_assistant_turn", "empty_answer", "role_order", "truncated_answer", "no_supervised_token", "template_rejected",
        "overlap",
    )  # fmt: skip
    problems = []
    for kind in kinds:
        items = [item for item in dropped if item.reason == kind]
        if items:
            message = f"{len(items)} rows are left out ({kind}); {items[0].where}: {items[0].message}"
            problems.append(DataProblem(kind=kind, count=len(items), examples=(), message=message))
    return problems


def _text_problems(rows: Sequence[Conversation]) -> list[DataProblem]:
    """Faults that can be read off the text."""
    placeholders: dict[int, str] = {}
    foreign: dict[int, tuple[str, ...]] = {}
    cut: list[int] = []
    for row in rows:
        said = [row.prompt, row.completion] if row.is_plain else [turn.content for turn in row.messages]
        text = "\n".join(said)
        if slots := unfilled_placeholders(text):
            placeholders[row.index] = slots[0]
        if tokens := foreign_template_tokens(text):
            foreign[row.index] = tokens
        if looks_truncated(said[-1]):
            cut.append(row.index)
    most = [token for token, _ in Counter(token for tokens in foreign.values() for token in tokens).most_common(4)]
    kinds = ", ".join(slot for slot, _ in Counter(placeholders.values()).most_common(4))
    return [
        *_counted(
            "unfilled_placeholder",
            placeholders,
            f"{len(placeholders)} rows {MEANINGS['unfilled_placeholder']}: {kinds}",
        ),
        *_counted(
            "foreign_template_tokens",
            foreign,
            f"{len(foreign)} rows {MEANINGS['foreign_template_tokens']}: {' '.join(most)}",
        ),
        *_counted("truncated_answer", cut, f"{len(cut)} answers seem to stop in the middle of a sentence", "info"),
    ]


def _cut_problems(lengths: Lengths | None) -> list[DataProblem]:
    if lengths is None or not lengths.truncated:
        return []
    message = f"{lengths.truncated} rows are cut at max_length {lengths.max_length}"
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


def _score_points(rows: Sequence[Conversation]) -> dict[str, tuple[float, float, float]]:
    if not rows:
        return {}
    scores = np.array([row_scores(instruction_of(row), answer_of(row)) for row in rows])  # (rows, scores)
    low, middle, high = np.quantile(scores, [0.05, 0.5, 0.95], axis=0)
    points = zip(RowScores._fields, low, middle, high, strict=True)
    return {name: (float(a), float(b), float(c)) for name, a, b, c in points}
