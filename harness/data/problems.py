"""What is wrong with the rows of a dataset, counted by kind."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from harness.data.formats import Conversation
from harness.data.quality import foreign_template_tokens, looks_truncated, unfilled_placeholders
from harness.records import Dropped, Record, Severity

DataProblemKind = Literal[
    "broken_row", "preference_pairs", "unknown_format", "missing_assistant_turn", "empty_answer", "role_order",
    "unfilled_placeholder", "foreign_template_tokens", "truncated_answer", "no_supervised_token", "template_rejected",
    "duplicate", "near_duplicate", "overlap",
]  # fmt: skip
MAX_EXAMPLES = 20
MEANINGS: Mapping[str, str] = {
    "broken_row": "can't be read as a row of the format",
    "preference_pairs": "hold two answers (chosen/rejected), which SFT can't train on",
    "unknown_format": "have columns of no known format",
    "truncated_answer": "have an answer that seems to stop in the middle of a sentence",
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
    """Row numbers, from 0, at most 20; several sources are counted through; empty where the message names a place."""
    message: str
    severity: Severity = "warning"


class Faulty(NamedTuple):
    """One row that can't be used, and why."""

    index: int  # type: ignore[assignment]  # hides tuple.index, as in data/sources.py
    kind: DataProblemKind
    message: str


def counted(
    kind: DataProblemKind, numbers: Iterable[int], total: int, *, detail: str = "", severity: Severity = "warning"
) -> list[DataProblem]:
    """One problem, or none where there are no rows with it."""
    found = sorted(numbers)
    if not found:
        return []
    message = f"{len(found)} of {total} rows {MEANINGS[kind]}{detail}"
    examples = tuple(found[:MAX_EXAMPLES])
    return [DataProblem(kind=kind, count=len(found), examples=examples, message=message, severity=severity)]


def fault_problems(faulty: Sequence[Faulty], total: int) -> list[DataProblem]:
    """One problem for each kind of rows that can't be used, with the first row's own fault."""
    by_kind: dict[DataProblemKind, list[Faulty]] = {}
    for item in faulty:
        by_kind.setdefault(item.kind, []).append(item)
    problems = []
    for kind, items in by_kind.items():
        first = min(items)
        severity: Severity = "error" if kind in ("broken_row", "preference_pairs", "unknown_format") else "warning"
        detail = f"; row {first.index}: {first.message}"
        problems += counted(kind, [item.index for item in items], total, detail=detail, severity=severity)
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


def text_problems(rows: Sequence[Conversation]) -> list[DataProblem]:
    """Faults that can be read off the text."""
    placeholders: list[tuple[int, tuple[str, ...]]] = []
    foreign: list[tuple[int, tuple[str, ...]]] = []
    cut: list[int] = []
    for row in rows:
        said = [row.prompt, row.completion] if row.is_plain else [turn.content for turn in row.messages]
        text = "\n".join(said)
        if slots := unfilled_placeholders(text):
            placeholders.append((row.index, slots))
        if tokens := foreign_template_tokens(text):
            foreign.append((row.index, tokens))
        if looks_truncated(said[-1]):
            cut.append(row.index)
    return [
        *_quoting("unfilled_placeholder", placeholders, len(rows)),
        *_quoting("foreign_template_tokens", foreign, len(rows)),
        *counted("truncated_answer", cut, len(rows), severity="info"),
    ]


def _quoting(kind: DataProblemKind, found: Sequence[tuple[int, tuple[str, ...]]], total: int) -> list[DataProblem]:
    """A problem that names what was found most often."""
    most = Counter(quote for _, quotes in found for quote in quotes).most_common(4)
    return counted(kind, [index for index, _ in found], total, detail=f": {' '.join(quote for quote, _ in most)}")
