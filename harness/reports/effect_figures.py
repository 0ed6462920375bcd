"""What swept fields do to the criterion, as pictures."""

from collections.abc import Sequence
from typing import Any

import altair as alt

from harness.gates import sign_of
from harness.reports.effects import Effect, PairEffect, numbers_of
from harness.reports.figures import BLUE, GREY, PAGE_WIDTH, Picture, counted, drawn, is_wide, themed

MAX_STEPS = 12
"""With more values than that, an axis shows some of them."""

NUMBER = "format(datum.value, abs(datum.value) < 0.001 || abs(datum.value) >= 1e6 ? '~e' : '~g')"


def effect_picture(effect: Effect, criterion: str, bounds: tuple[float, float]) -> Picture:
    """Every cell as a faint dot, and the mean of every value with its interval.

    Args:
        effect: of one field.
        criterion: what is drawn upwards.
        bounds: lowest and highest value of all fields' charts, so that their effects can be compared by eye.
    """
    numbers = numbers_of([level.value for level in effect.levels])
    is_log = numbers is not None and is_wide(numbers)
    x = _field_axis(effect, is_log)
    low, high = bounds
    margin = 0.06 * (high - low) or 0.05
    y = alt.Scale(domain=[low - margin, high + margin], nice=False, zero=False)

    def place(value: str) -> dict[str, Any]:
        return {"at": float(value) if effect.is_numeric else value}

    dots = [
        place(run.place[effect.field]) | {"value": run.value, "cell": run.cell, "seed": run.seed} for run in effect.runs
    ]
    means = [place(level.value) | level._asdict() for level in effect.levels]
    faint = drawn("cells").mark_point(filled=True, size=28, color=GREY, opacity=0.55).encode(
        x=x, y=alt.Y("value:Q", title=criterion, scale=y, axis=alt.Axis(tickCount=5, format="~g")),
        tooltip=[alt.Tooltip("cell:N"), alt.Tooltip("seed:N"), alt.Tooltip("value:Q", title=criterion, format=".4f")],
    )  # fmt: skip
    base = drawn("means").encode(
        x=x,
        tooltip=[alt.Tooltip("at:N", title=effect.field), alt.Tooltip("mean:Q", format=".4f"), alt.Tooltip("low:Q", format=".4f"),
                 alt.Tooltip("high:Q", format=".4f"), alt.Tooltip("num_cells:Q", title="cells")],
    )  # fmt: skip
    layers = [faint]
    if effect.is_numeric:
        layers.append(base.mark_line(color=BLUE, strokeWidth=2).encode(y="mean:Q", tooltip=alt.value(None)))
    if effect.levels[0].low is not None:
        layers.append(base.mark_rule(color=BLUE, strokeWidth=4, opacity=0.55).encode(y="low:Q", y2="high:Q"))
    layers.append(base.mark_point(filled=True, shape="diamond", size=110, color=BLUE, opacity=1).encode(y="mean:Q"))
    title = f"Effect of {effect.field}"
    return Picture(title, _effect_words(effect, criterion), themed(alt.layer(*layers), 240, cells=dots, means=means))


def bounds_of(effects: Sequence[Effect]) -> tuple[float, float]:
    """Lowest and highest of all that their charts show."""
    shown = [run.value for effect in effects for run in effect.runs]
    shown += [bound for e in effects for level in e.levels for bound in (level.low, level.high) if bound is not None]
    return min(shown), max(shown)


def _field_axis(effect: Effect, is_log: bool) -> Any:
    if not effect.is_numeric:
        names = [level.value for level in effect.levels]
        return alt.X(
            "at:N",
            sort=names,
            title=effect.field,
            axis=alt.Axis(labelAngle=-30 if len(names) > 3 else 0, labelLimit=160),
        )
    values = [float(level.value) for level in effect.levels]
    ticks = values if len(values) <= MAX_STEPS else values[:: -(-len(values) // MAX_STEPS)]
    scale = alt.Scale(type="log", nice=False, padding=20) if is_log else alt.Scale(zero=False, nice=False, padding=20)
    axis = alt.Axis(values=ticks, labelExpr=NUMBER, labelOverlap=True, grid=False)
    return alt.X("at:Q", title=f"{effect.field}{' (log scale)' if is_log else ''}", scale=scale, axis=axis)


def _effect_words(effect: Effect, criterion: str) -> str:
    sign = sign_of(criterion)
    best = max(effect.levels, key=lambda level: sign * level.mean)
    worst = min(effect.levels, key=lambda level: sign * level.mean)
    interval = f" [{best.low:.3f}, {best.high:.3f}]" if best.low is not None and best.high is not None else ""
    each = ", ".join(f"{level.value}: {level.mean:.3f}" for level in effect.levels[:8])
    left_out = (
        f" {counted(effect.num_left_out, 'setting')} left out, where a value is missing." if effect.num_left_out else ""
    )
    seeds = (
        f"Intervals are over training seeds, which differ by {effect.seed_deviation:.3f} (standard deviation)."
        if effect.seed_deviation is not None
        else "One seed each: the noise of training isn't known."
    )
    return (
        f"Mean {criterion} by {effect.field}, over {counted(effect.num_settings, 'setting')} of the other fields: best at "
        f"{best.value} with {best.mean:.3f}{interval}, worst at {worst.value} with {worst.mean:.3f}; {each}. {seeds}{left_out}"
    )  # fmt: skip


def pair_picture(pair: PairEffect, criterion: str) -> Picture:
    """A table of colours: one field along, one down, the mean written into each place."""
    # The field with fewer values goes along, which leaves room for the numbers on a phone.
    sizes = {field: len({m[i] for m in pair.means}) for i, field in enumerate((pair.first, pair.second))}
    is_swapped = sizes[pair.first] < sizes[pair.second]
    along, down = (pair.first, pair.second) if is_swapped else (pair.second, pair.first)
    values = [
        {"along": m.first if is_swapped else m.second, "down": m.second if is_swapped else m.first, "mean": m.mean, "cells": m.num_cells}
        for m in pair.means
    ]  # fmt: skip
    order_along = list(dict.fromkeys(value["along"] for value in values))
    order_down = list(dict.fromkeys(value["down"] for value in values))
    base = drawn("means").encode(
        x=alt.X("along:O", sort=order_along, title=along, axis=alt.Axis(orient="top", labelAngle=0, labelLimit=120)),
        y=alt.Y("down:O", sort=order_down, title=down, axis=alt.Axis(labelLimit=alt.expr(f"min(220, 0.3 * {PAGE_WIDTH})"))),
    )  # fmt: skip
    chart = heatmap(base, "mean", criterion, ".3f", [mean.mean for mean in pair.means], [
        alt.Tooltip("along:N", title=along), alt.Tooltip("down:N", title=down), alt.Tooltip("mean:Q", title=criterion, format=".4f"),
        alt.Tooltip("cells:Q"),
    ])  # fmt: skip
    spec = themed(chart, 30 * len(order_down), means=values)
    return Picture(f"{pair.first} with {pair.second}", _pair_words(pair, criterion), spec)


def heatmap(base: Any, field: str, title: str, form: str, shown: Sequence[float], tooltip: Sequence[Any]) -> Any:
    """Coloured places with their numbers; dark ink on light places and the other way round."""
    low, high = min(shown), max(shown)
    middle = (low + high) / 2
    scale = alt.Scale(scheme="viridis", domain=[low, high] if high > low else [low - 0.5, high + 0.5])
    places = base.mark_rect(stroke=GREY, strokeWidth=0.4).encode(
        color=alt.Color(f"{field}:Q", scale=scale, legend=None), tooltip=list(tooltip)
    )
    # Where there is no room for the numbers, hovering and the page's table tell them.
    size = alt.expr("bandwidth('x') < 20 ? 0 : 11")
    ink = alt.condition(f"datum.{field} > {middle + 0.1 * (high - low)!r}", alt.value("#101418"), alt.value("#ffffff"))
    return alt.layer(places, base.mark_text(fontSize=size).encode(text=alt.Text(f"{field}:Q", format=form), color=ink)).properties(title=title)  # fmt: skip


def _pair_words(pair: PairEffect, criterion: str) -> str:
    sign = sign_of(criterion)
    best, worst = (choose(pair.means, key=lambda m: sign * m.mean) for choose in (max, min))
    return (
        f"Mean {criterion} by {pair.first} and {pair.second}: best {best.mean:.3f} at {pair.first} {best.first} with {pair.second} "
        f"{best.second}, worst {worst.mean:.3f} at {worst.first} with {worst.second}. A combination differs from the sum of both "
        f"effects by {pair.interaction:.3f} at most."
    )  # fmt: skip
