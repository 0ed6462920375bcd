"""The ranking as a picture: values with their intervals, and beside them the ranks that each row can have."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import altair as alt

from harness.gates import shown
from harness.ranking import Exclusion, Ranking, RankingRow, ReferenceRow
from harness.records import Estimate
from harness.reports.figures import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PAGE_WIDTH,
    Picture,
    counted,
    drawn,
    label_limit,
    legend,
    names_shown,
    themed,
)

KINDS = {
    "best set": (GREEN, "circle"),
    "ranked": (BLUE, "square"),
    "not ranked": (GREY, "cross"),
    "reference": (ORANGE, "diamond"),
}
MAX_RANKED, MAX_NOT_RANKED = 100, 30
"""Rows that are drawn: a picture of a thousand is taller than browsers can draw."""
# Of the width: values to the left, ranks to the right.
VALUES, RANKS = "0.66 * width", "0.72 * width"


class _Row(NamedTuple):
    name: str
    kind: str
    estimate: Estimate
    ranks: tuple[int, int] | None = None
    rank: int | None = None


def ranking_picture(ranking: Ranking) -> Picture | None:
    """The criterion of every row with its interval; to the right the ranks that it can have."""
    rows = _rows(ranking)
    if not rows:
        return None
    values = [_datum(i, row) for i, row in enumerate(rows)]
    domain = [name for name, (_, _) in KINDS.items() if any(row.kind == name for row in rows)]
    base = drawn("rows").encode(
        y=alt.Y(
            "key:O", sort=[value["key"] for value in values], title=None,
            axis=alt.Axis(labelExpr=names_shown([row.name for row in rows], "datum.value"), labelLimit=label_limit(), ticks=False, domain=False, labelPadding=6),
        ),
        color=alt.Color("kind:N", scale=alt.Scale(domain=domain, range=[KINDS[kind][0] for kind in domain]), legend=legend(4)),
        tooltip=_tooltip(ranking.criterion),
    )  # fmt: skip
    shape = alt.Shape(
        "kind:N", scale=alt.Scale(domain=domain, range=[KINDS[kind][1] for kind in domain]), legend=legend(4)
    )
    has_ranks = len(ranking.rows) > 1
    panels = [_value_panel(base, shape, ranking.criterion, has_ranks)]
    if has_ranks:
        panels.append(_rank_panel(base, shape, len(ranking.rows)))
    step = 24 if len(rows) <= 16 else 18 if len(rows) <= 32 else 15
    chart = alt.layer(*panels).resolve_scale(x="independent").resolve_axis(x="independent")
    spec = themed(chart, step * len(rows) + 10, rows=values)
    first = f" of the first {MAX_RANKED} of {len(ranking.rows):,}" if len(ranking.rows) > MAX_RANKED else ""
    return Picture(f"{ranking.criterion} and possible ranks{first}", _words(ranking), spec)


def _words(ranking: Ranking) -> str:
    """What the picture shows."""
    best = [row for row in ranking.rows if row.in_best_set]
    said = [f"{ranking.criterion} of {counted(len(ranking.rows), 'ranked configuration')} with intervals and ranks."]
    if len(ranking.rows) > MAX_RANKED:
        said.append(f"The first {MAX_RANKED} are drawn; the table has them all.")
    if best:
        said.append(f"First: {best[0].name}, {shown(_estimate(best[0], ranking.criterion))}.")
        said.append(f"{counted(len(best), 'row')} in the best set" + (": " + ", ".join(row.name for row in best[:5]) if len(best) <= 5 else "") + ".")  # fmt: skip
    if len(ranking.rows) > 1:
        last = ranking.rows[-1]
        said.append(f"Last: {last.name}, {shown(_estimate(last, ranking.criterion))}.")
    if ranking.excluded:
        said.append(f"{counted(len(ranking.excluded), 'cell')} not ranked.")
    known = [row for row in ranking.references if ranking.criterion in row.metrics]
    said += [f"Reference {row.name}: {shown(row.metrics[ranking.criterion])}." for row in known[:3]]
    return " ".join(said)


def _estimate(row: RankingRow, criterion: str) -> Estimate:
    """With the bounds that hold for all rows together, where they are known."""
    return row.simultaneous_interval or row.metrics[criterion]


def _rows(ranking: Ranking) -> list[_Row]:
    criterion = ranking.criterion

    def others(found: Sequence[Exclusion] | Sequence[ReferenceRow], kind: str) -> list[_Row]:
        return [_Row(row.name, kind, row.metrics[criterion]) for row in found if criterion in row.metrics]

    ranked = [
        _Row(row.name, "best set" if row.in_best_set else "ranked", _estimate(row, criterion), row.rank_interval, row.rank)
        for row in ranking.rows[:MAX_RANKED]
        if criterion in row.metrics
    ]  # fmt: skip
    return [*ranked, *others(ranking.excluded, "not ranked")[:MAX_NOT_RANKED], *others(ranking.references, "reference")]


def _datum(position: int, row: _Row) -> dict[str, Any]:
    mark = {"key": position, "name": row.name, "kind": row.kind}
    found = mark | {
        "value": row.estimate.value,
        "low": row.estimate.low,
        "high": row.estimate.high,
        "n": row.estimate.n,
    }
    if row.ranks is None or row.rank is None:
        return found
    # A rank is a place of width 1, so that a sure rank is seen too.
    ranks = f"{row.ranks[0]}–{row.ranks[1]}" if row.ranks[0] != row.ranks[1] else str(row.ranks[0])
    return found | {"rank": row.rank, "from": row.ranks[0] - 0.45, "to": row.ranks[1] + 0.45, "ranks": ranks}


def _tooltip(criterion: str) -> list[Any]:
    return [
        alt.Tooltip("name:N", title="row"),
        alt.Tooltip("kind:N"),
        alt.Tooltip("value:Q", title=criterion, format=".3f"),
        alt.Tooltip("low:Q", format=".3f"),
        alt.Tooltip("high:Q", format=".3f"),
        alt.Tooltip("n:Q"),
        alt.Tooltip("ranks:N", title="possible ranks"),
    ]


def _value_panel(base: Any, shape: Any, criterion: str, has_ranks: bool) -> Any:
    scale = alt.Scale(zero=False, nice=True, range=[8, alt.expr(VALUES if has_ranks else "width")])
    ticks = alt.expr(f"{PAGE_WIDTH} < 500 ? 3 : 6")
    x = alt.X("low:Q", title=criterion, scale=scale, axis=alt.Axis(orient="bottom", tickCount=ticks, format="~g"))
    rule = base.mark_rule(strokeWidth=2).encode(x=x, x2="high:Q")
    point = base.mark_point(filled=True, size=70, opacity=1).encode(x=alt.X("value:Q", scale=scale), shape=shape)
    return alt.layer(rule, point)


def _rank_panel(base: Any, shape: Any, num_rows: int) -> Any:
    scale = alt.Scale(domain=[0.5, num_rows + 0.5], nice=False, zero=False, range=[alt.expr(RANKS), alt.expr("width")])
    every = max(1, -(-num_rows // 6))
    ticks = [1, *range(1 + every, num_rows + 1, every)] if every > 1 else list(range(1, num_rows + 1))
    axis = alt.Axis(orient="bottom", values=ticks, format="d", grid=num_rows > 1, labelOverlap=True)
    ranked = base.transform_filter("isValid(datum.rank)")
    bar = ranked.mark_rule(strokeWidth=6, opacity=0.45).encode(x=alt.X("from:Q", title="ranks", scale=scale, axis=axis), x2="to:Q")  # fmt: skip
    point = ranked.mark_point(filled=True, size=40, opacity=1).encode(x=alt.X("rank:Q", scale=scale), shape=shape)
    return alt.layer(bar, point)
