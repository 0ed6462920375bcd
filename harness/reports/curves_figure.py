"""The losses of all cells on one logarithmic axis."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import altair as alt

from harness.configurations import configuration_name
from harness.ranking import Ranking
from harness.records import CellResult, TracePoint
from harness.reports.drawing import HOVERED
from harness.reports.effects import Effect, shown
from harness.reports.figures import INK, PAGE_WIDTH, PALETTE, Picture, counted, drawn, legend, themed

MAX_CELLS = 24
"""With more cells than that a colour stands for a configuration or a swept value, not for a cell."""
MAX_COLOURS = 16
MAX_DRAWN = 200
"""Cells whose curves are drawn, where there are more: at equal distances along the ranking, and then of those not ranked."""
MAX_POINTS, MAX_POINTS_OF_CURVE, MIN_POINTS_OF_CURVE = 16_000, 400, 40
STEPS, TOKENS, BEST = "optimizer step", "supervised tokens", "lowest eval"
LINES = "solid: evaluation, dashed: training, diamond: lowest evaluation"
CLICKS = "click in the legend: only this one; shift-click: more"
METRICS = {"train": "loss", "eval": "eval_loss"}
Series = list[tuple[int, float]]


class _Curve(NamedTuple):
    result: CellResult
    of: str
    points: Series


def curves_picture(
    results: Sequence[CellResult], traces: Mapping[str, Sequence[TracePoint]], effects: Sequence[Effect], num_cells: int
) -> Picture | None:
    """Training and evaluation loss of every cell; a choice below changes steps to supervised tokens.

    Args:
        results: of the cells that are drawn.
        traces: cell name -> what its trainer logged.
        effects: of the swept fields, one of which colours the curves of many cells.
        num_cells: of the experiment, drawn or not.
    """
    curves = [curve for result in results for curve in _curves(result, traces.get(result.name, ()))]
    if not curves:
        return None
    title, keys = _colour_keys([curve.result for curve in curves], effects)
    budget = max(MIN_POINTS_OF_CURVE, min(MAX_POINTS_OF_CURVE, MAX_POINTS // len(curves)))
    rows = [_datum(curve, keys[curve.result.name], budget) for curve in curves]
    spec = themed(_chart(rows, title), 360, curves=[*rows, *_best_steps(curves, keys)], title=[{}])
    some = (
        f" of {len(results)} of {num_cells:,} cells, evenly spread from first to last"
        if len(results) < num_cells
        else ""
    )
    return Picture(f"Training and evaluation loss{some}", _words(curves, num_cells), spec)


def drawn_cells(cells: Sequence[CellResult], ranking: Ranking) -> Sequence[CellResult]:
    """The cells whose curves are drawn: all of them, or where there are many every so many in the order of the ranking."""
    if len(cells) <= MAX_DRAWN:
        return cells
    place = {cell: (row.rank, number) for row in ranking.rows for number, cell in enumerate(row.cells)}
    ordered = sorted(cells, key=lambda cell: place.get(cell.cell, (len(ranking.rows) + 1, 0)))
    return [ordered[round(i * (len(ordered) - 1) / (MAX_DRAWN - 1))] for i in range(MAX_DRAWN)]


def _curves(result: CellResult, trace: Sequence[TracePoint]) -> Iterable[_Curve]:
    for of, metric in METRICS.items():
        points = [(p.step, float(v)) for p in trace if isinstance(v := p.values.get(metric), float)]
        # A logarithmic axis has no place for a loss of exactly zero.
        points = [(step, max(value, 1e-6)) for step, value in points]
        if points:
            yield _Curve(result, of, points)


def _colour_keys(results: Sequence[CellResult], effects: Sequence[Effect]) -> tuple[str, dict[str, str]]:
    """What a colour means, and cell name -> the name of its colour."""
    names = list(dict.fromkeys(result.name for result in results))
    configurations = {result.name: configuration_name(result) for result in results}
    if len(names) <= MAX_CELLS and len(set(configurations.values())) <= MAX_COLOURS:
        # Seeds of one configuration share a colour.
        return "configuration", configurations
    fields = [effect for effect in effects if len(effect.levels) <= MAX_COLOURS]
    if not fields:
        return "configuration", configurations
    field = max(fields, key=lambda effect: effect.size).field
    return field, {r.name: shown(r.overrides[field]) if field in r.overrides else "others" for r in results}


def thinned(points: Series, most: int) -> Series:
    """The lowest and the highest of every stretch, the first and the last point: no spike is lost."""
    stride = math.ceil(2 * len(points) / most)
    if stride < 3:
        return points
    kept = {points[0], points[-1]}
    for start in range(0, len(points), stride):
        stretch = points[start : start + stride]
        kept |= {min(stretch, key=lambda point: point[1]), max(stretch, key=lambda point: point[1])}
    return sorted(kept)


def _tokens_a_step(result: CellResult) -> float:
    """Supervised tokens of a mean step: of the training rows, times epochs, over steps."""
    train = result.train
    if train is None or not train.steps or "train" not in train.splits:
        return 0.0
    return train.splits["train"].supervised_tokens * train.epochs / train.steps


def _datum(curve: _Curve, key: str, most: int) -> dict[str, Any]:
    """One curve as one row, which the chart unfolds: the page stays small."""
    points = thinned(curve.points, most)
    return {
        "cell": curve.result.name, "key": key, "of": curve.of, "a_step": round(_tokens_a_step(curve.result), 3),
        "step": [step for step, _ in points], "loss": [float(f"{value:.4g}") for _, value in points],
    }  # fmt: skip


def _best_steps(curves: Sequence[_Curve], keys: Mapping[str, str]) -> list[dict[str, Any]]:
    """Where the evaluation loss was lowest, in each cell that was evaluated in between."""
    best = []
    for curve in curves:
        if curve.of == "eval" and len(curve.points) > 1:
            step, loss = min(curve.points, key=lambda point: point[1])
            best.append({"cell": curve.result.name, "key": keys[curve.result.name], "of": BEST,
                         "a_step": round(_tokens_a_step(curve.result), 3), "step": [step], "loss": [loss]})  # fmt: skip
    return best


def _ordered(keys: Iterable[str]) -> list[str]:
    found = list(dict.fromkeys(keys))
    try:
        return sorted(found, key=float)
    except ValueError:
        return found


def _chart(rows: Sequence[dict[str, Any]], title: str) -> Any:
    keys = _ordered(row["key"] for row in rows)
    # Names of the selection and of the choice, which expressions below speak of.
    chosen = alt.selection_point(name="chosen", fields=["key"], bind="legend", toggle="true")
    has_tokens = all(row["a_step"] for row in rows)
    along = alt.param(name="along", value=STEPS, bind=alt.binding_radio(options=[STEPS, TOKENS], name="Along: ") if has_tokens else alt.Undefined)  # fmt: skip
    base = _base(drawn("curves"), keys, title, chosen)
    is_crowded = len(rows) > 2 * MAX_CELLS
    # Of the stroke or the fill: opacity of a whole mark makes a picture of hundreds of lines take half a minute.
    faded = alt.condition(chosen, alt.value(0.9), alt.value(0.04))
    # Layers in the order of drawing: evaluation above training, hover points above all.
    layers = [
        base.transform_filter(alt.datum.of == of).mark_line(strokeWidth=width, strokeDash=dash).encode(strokeOpacity=faded, tooltip=["cell:N", alt.Tooltip("of:N", title="loss of")])
        for of, width, dash in (("train", 0.8 if is_crowded else 1.2, [3, 2]), ("eval", 1.2 if is_crowded else 2.2, [1, 0]))
    ]  # fmt: skip
    layers.append(
        base.transform_filter(alt.datum.of == BEST)
        .mark_point(filled=True, shape="diamond", size=70, opacity=1)
        .encode(fillOpacity=faded)
    )
    # A picture on paper goes without what is there to be hovered over; of many cells a page has no room for every point.
    seen = base.transform_filter(alt.datum.of != "train") if is_crowded else base
    seen = seen.properties(name=HOVERED).mark_point(filled=True, size=60).encode(
        opacity=alt.value(0),
        tooltip=["cell:N", alt.Tooltip("of:N", title="loss of"), "step:Q", alt.Tooltip("tokens:Q", title="supervised tokens", format=",.0f"),
                 alt.Tooltip("loss:Q", format=".4g")],
    )  # fmt: skip
    # The axis keeps room for its title, which a specification can't change; this one says what was chosen.
    named = drawn("title").mark_text(
        text=alt.expr("along"), x=alt.expr("width / 2"), y=alt.expr("height + 30"), fontSize=12, color=INK, opacity=0.85
    )
    return (
        alt.layer(*layers, seen, named)
        .add_params(chosen, along)
        .properties(title=alt.TitleParams([LINES, CLICKS], fontSize=11, color=INK))
    )


def _base(data: Any, keys: Sequence[str], title: str, chosen: Any) -> Any:
    """One point a step, with its place along the axis, its colour and whether it is faded."""
    colours = list(itertools.islice(itertools.cycle(PALETTE), len(keys)))
    ticks = alt.expr(f"{PAGE_WIDTH} < 500 ? 4 : 10")
    longest = max(map(len, keys))
    return (
        data.transform_flatten(["step", "loss"])
        .transform_calculate(tokens="datum.step * datum.a_step")
        .transform_calculate(at=f"along == '{TOKENS}' ? datum.tokens : datum.step")
        .encode(
            x=alt.X("at:Q", title=" ", axis=alt.Axis(format="~s", tickCount=ticks), scale=alt.Scale(nice=False)),
            y=alt.Y("loss:Q", title="loss, nats per token (log scale)", scale=alt.Scale(type="log", nice=False, padding=6),
                    axis=alt.Axis(tickCount=6, format="~g")),
            color=alt.Color("key:N", scale=alt.Scale(domain=list(keys), range=colours),
                            legend=legend(6 if longest < 12 else 2, title)),
            detail=["cell:N"],
        )
    )  # fmt: skip


def _words(curves: Sequence[_Curve], num_cells: int) -> str:
    cells = {curve.result.name for curve in curves}
    last = {curve.result.name: curve.points[-1][1] for curve in curves if curve.of == "eval"}
    lowest = {c.result.name: min(c.points, key=lambda point: point[1]) for c in curves if c.of == "eval"}
    said = [f"Training loss (dashed) and evaluation loss (solid) of {counted(len(cells), 'cell')} by optimizer step, on a logarithmic axis."]  # fmt: skip
    if len(cells) < num_cells:
        said.append(
            f"These are spread evenly over the order of the ranking, from the first to those not ranked; there are {num_cells:,}."
        )
    if lowest:
        name = min(lowest, key=lambda key: lowest[key][1])
        worst = max(last, key=lambda key: last[key])
        rising = sum(last[key] > 1.05 * lowest[key][1] for key in last)
        said.append(f"Lowest evaluation loss: {lowest[name][1]:.3g} at step {lowest[name][0]} of {name}; highest at the end: {last[worst]:.3g} of {worst}.")  # fmt: skip
        said.append(f"In {rising} of {len(last)} it ends more than 5 % above its own lowest.")
    return " ".join(said)
