"""Tables of the report that are more than a list of records."""

from collections.abc import Sequence
from typing import NamedTuple

from harness.configurations import configuration_name
from harness.ranking import Exclusion
from harness.records import CellResult, Estimate, SplitSummary

ADHERENCE = "template_adherence"


class SliceValue(NamedTuple):
    """One metric in one slice: the mean over a configuration's seeds, with the widest of their intervals."""

    value: float
    low: float
    high: float
    n: int


class AdherenceTable(NamedTuple):
    """How well each configuration keeps to the template, by kind of prompt."""

    suite: str
    columns: list[str]
    rows: list[tuple[str, list[SliceValue | None]]]
    """Name and one value a column."""


class SplitRows(NamedTuple):
    """What became of the rows of all splits, and the cells that share it."""

    cells: list[str]
    splits: dict[str, SplitSummary]


class Reason(NamedTuple):
    """Why cells are not ranked."""

    reason: str
    names: list[str]


def adherence_tables(cells: Sequence[CellResult], references: Sequence[CellResult]) -> list[AdherenceTable]:
    """One table for each suite of adherence, under whatever name it goes."""
    labels = {suite.suite: None for r in (*cells, *references) for suite in r.suites if suite.is_kind(ADHERENCE)}
    return [table for label in labels if (table := _adherence(label, cells, references)).rows]


def _adherence(label: str, cells: Sequence[CellResult], references: Sequence[CellResult]) -> AdherenceTable:
    groups: dict[str, list[dict[str, Estimate]]] = {}
    for result in (*cells, *references):
        for suite in result.suites:
            if suite.suite == label:
                name = result.name if result.seed is None else configuration_name(result)
                groups.setdefault(name, []).append({**suite.metrics, **suite.slice_metrics})
    known = list(dict.fromkeys(name for runs in groups.values() for run in runs for name in run))
    columns = [name for name in known if name in ("all", "probes")]
    columns += [name for name in known if name.startswith("all.")]
    return AdherenceTable(
        suite=label,
        columns=columns,
        rows=[
            (name, [_pooled([run[c] for run in runs if c in run]) for c in columns]) for name, runs in groups.items()
        ],
    )


def _pooled(estimates: Sequence[Estimate]) -> SliceValue | None:
    if not estimates:
        return None
    value = sum(estimate.value for estimate in estimates) / len(estimates)
    low, high = min(estimate.low for estimate in estimates), max(estimate.high for estimate in estimates)
    return SliceValue(value, low, high, min(estimate.n for estimate in estimates))


def split_rows(cells: Sequence[CellResult]) -> list[SplitRows]:
    """What the cells were trained, validated and tested on; cells with the very same rows together."""
    found: list[SplitRows] = []
    for cell in cells:
        if cell.train is None:
            continue
        splits = cell.train.splits
        same = next((entry for entry in found if entry.splits == splits), None)
        if same is None:
            found.append(SplitRows([cell.name], splits))
        else:
            same.cells.append(cell.name)
    return found


def reasons(excluded: Sequence[Exclusion]) -> list[Reason]:
    """Every reason for not being ranked once, with the cells that it keeps out."""
    found: dict[str, list[str]] = {}
    for row in excluded:
        found.setdefault(row.reason, []).append(row.name)
    return [Reason(reason, names) for reason, names in found.items()]
