"""Quality against what it costs, and against other metrics, as pictures."""

from collections.abc import Mapping, Sequence

from harness.gates import sign_of
from harness.ranking import Ranking
from harness.reports.cost import Cost
from harness.reports.figures import Picture, counted, short_number
from harness.reports.scatter import Axis, Point, pareto, scatter

MAX_NAMED = 8
"""With more rows than that, points are labelled with their rank."""
LABELLED_FIRST = ("Pareto front", "reference", "others", "not ranked")
MEASURES = {
    "time": "{device} {unit} of training, all seeds",
    "tokens": "tokens trained on, a run",
    "memory": "peak memory of a device, GiB",
}


def cost_picture(ranking: Ranking, costs: Sequence[Cost], measure: str) -> Picture | None:
    """The criterion against one of `MEASURES`; None where fewer than two rows have it or all have the same."""
    by_cell = {cell: cost for cost in costs for cell in cost.cells}
    unit, hour = ("minutes", 60) if max((cost.device_hours for cost in costs), default=0) < 1 else ("hours", 1)
    known = {
        cell: {"time": hour * cost.device_hours, "tokens": cost.tokens, "memory": cost.peak_memory_gib}[measure]
        for cell, cost in by_cell.items()
    }
    spent = {cell: value for cell, value in known.items() if value is not None}
    if len(set(spent.values())) < 2:
        return None
    title = MEASURES[measure].format(device=costs[0].device, unit=unit)
    notes = {cell: f"{short_number(cost.tokens)} tokens, {cost.seconds:.0f} s over {counted(cost.num_seeds, 'seed')}" for cell, cost in by_cell.items()}  # fmt: skip
    return _against(ranking, spent, Axis(title, is_less_better=True, may_be_log=True), notes)


def tradeoff_picture(ranking: Ranking, other: str) -> Picture | None:
    """The criterion against another metric, references included; None where fewer than two rows have both."""
    if other == ranking.criterion:
        return None
    values = {row.cell: row.metrics[other].value for row in ranking.rows if other in row.metrics}
    values |= {row.cell: row.metrics[other].value for row in ranking.excluded if other in row.metrics}
    values |= {row.name: row.metrics[other].value for row in ranking.references if other in row.metrics}
    return _against(ranking, values, Axis(other, is_less_better=sign_of(other) < 0), {})


def _against(ranking: Ranking, x_of: Mapping[str, float], x: Axis, notes: Mapping[str, str]) -> Picture | None:
    """Ranked rows, of which the best are the front; excluded ones and references beside them."""
    y = Axis(ranking.criterion, is_less_better=sign_of(ranking.criterion) < 0)

    def at(key: str, value: float) -> tuple[float, float]:
        return (-1 if x.is_less_better else 1) * x_of[key], (-1 if y.is_less_better else 1) * value

    ranked = [row for row in ranking.rows if row.cell in x_of and ranking.criterion in row.metrics]
    is_front = pareto([at(row.cell, row.metrics[ranking.criterion].value) for row in ranked])
    is_named = len(ranking.rows) + len(ranking.excluded) <= MAX_NAMED
    points = [
        Point(row.name, row.name if is_named else f"rank {row.rank}" if front else "", "Pareto front" if front else "others",
              x_of[row.cell], row.metrics[y.title].value, notes.get(row.cell, ""))
        for row, front in zip(ranked, is_front, strict=True)
    ]  # fmt: skip
    points += [
        Point(row.name, row.name if is_named else "", "not ranked", x_of[row.cell], row.metrics[y.title].value, notes.get(row.cell, ""))
        for row in ranking.excluded
        if row.cell in x_of and y.title in row.metrics
    ]  # fmt: skip
    points += [
        Point(row.name, row.name, "reference", x_of[row.name], row.metrics[y.title].value)
        for row in ranking.references
        if row.name in x_of and y.title in row.metrics
    ]
    if len(points) < 2:
        return None
    points.sort(key=lambda point: LABELLED_FIRST.index(point.kind))
    return Picture(f"{y.title} against {x.title}", _words(points, x, y), scatter(points, x, y))


def _words(points: Sequence[Point], x: Axis, y: Axis) -> str:
    front = sorted((point for point in points if point.kind == "Pareto front"), key=lambda point: point.x)
    said = [f"{y.title} against {x.title} of {counted(len(points), 'row')}."]
    if front:
        listed = "; ".join(f"{p.name} ({y.title} {p.y:.3f} at {short_number(p.x)})" for p in front[:5])
        more = f"; and {len(front) - 5} more" if len(front) > 5 else ""
        said.append(
            f"No ranked row is better in both than {'this one' if len(front) == 1 else 'these'}: {listed}{more}."
        )
    others = [point for point in points if point.kind == "reference"]
    said += [f"Reference {p.name}: {y.title} {p.y:.3f} at {short_number(p.x)}." for p in others[:3]]
    return " ".join(said)
