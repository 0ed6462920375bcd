"""The curves of one training with what was found in them, as a Vega-Lite specification."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import altair as alt
import numpy as np

from harness.reports.figures import GREY, Spec
from harness.reports.run_marks import (
    BLUE,
    ORANGE,
    PINK,
    SKY,
    WIDTH,
    Band,
    Mark,
    Pairs,
    bands_layer,
    labels_layers,
    labels_of,
    lost_layers,
    points_layers,
    rules_layers,
)

MAX_DRAWN = 1500
MAX_TICKS = 10
MIN_SMOOTHED = 20
DOTS_UP_TO = 60
WIDE_RANGE = 8.0
TRAINING, SMOOTHED, EVALUATION = "training loss, as logged", "training loss, smoothed", "eval loss"


class RunCurves(NamedTuple):
    """Step and value of everything that is drawn; values may be NaN or infinite."""

    loss: Pairs
    eval_loss: Pairs
    grad_norm: Pairs
    learning_rate: Pairs


def run_chart(curves: RunCurves, bands: Sequence[Band] = (), marks: Sequence[Mark] = ()) -> Spec:
    """Loss on a logarithmic axis with phases and findings; below it the gradient norm and the learning rate, if known."""
    steps = [step for pairs in curves for step, _ in pairs] or [0]
    domain = [min(steps), max(*steps, min(steps) + 1)]
    small: list[tuple[str, Pairs, str, int]] = [
        ("gradient norm", curves.grad_norm, PINK, 110),
        ("learning rate", curves.learning_rate, GREY, 60),
    ]
    small = [panel for panel in small if len(panel[1]) > 1]
    panels = [_loss_panel(curves, bands, marks, domain, _steps(domain, is_last=not small))]
    panels += [_small_panel(panel, _steps(domain, is_last=panel is small[-1])) for panel in small]
    return _themed(alt.vconcat(*panels, spacing=14).resolve_scale(x="shared", color="independent"))


def _steps(domain: Sequence[int], *, is_last: bool) -> Any:
    """The horizontal axis; only the lowest panel names it."""
    first, last = domain
    axis = alt.Axis(values=list(range(first, last + 1))) if last - first <= MAX_TICKS else alt.Axis(tickCount=MAX_TICKS)
    axis.format = ",d"
    title = "optimizer step" if is_last else None
    return alt.X("step:Q", title=title, scale=alt.Scale(domain=[first, last], nice=False), axis=axis)


def _loss_panel(curves: RunCurves, bands: Sequence[Band], marks: Sequence[Mark], domain: Sequence[int], x: Any) -> Any:
    smoothed = _smoothed(curves.loss)
    drawn = {TRAINING: _thinned(curves.loss), SMOOTHED: _thinned(smoothed), EVALUATION: _thinned(curves.eval_loss)}
    drawn = {name: pairs for name, pairs in drawn.items() if pairs}
    positive = [value for pairs in drawn.values() for _, value in pairs if value > 0]
    # A logarithmic axis has no place for a loss of exactly zero.
    floor = min(positive, default=0.0)
    scale = alt.Scale(type="log", nice=False, padding=6) if positive else alt.Scale(domain=[-0.05, 1])
    title = "loss (log)" if positive else "loss"
    y = alt.Y("loss:Q", title=title, scale=scale, axis=alt.Axis(tickCount=6, format="~g"))
    colours = {TRAINING: SKY if smoothed else BLUE, SMOOTHED: BLUE, EVALUATION: ORANGE}
    colour = alt.Color(
        "of:N", title=None, scale=alt.Scale(domain=list(drawn), range=[colours[name] for name in drawn]),
        legend=alt.Legend(orient="top", symbolType="stroke", symbolStrokeWidth=3, symbolOpacity=1),
    )  # fmt: skip
    layers = [bands_layer(bands, x)] if bands else []
    for name, pairs in drawn.items():
        rows = [{"step": step, "loss": max(value, floor), "of": name} for step, value in pairs]
        is_faint = name == TRAINING and bool(smoothed)
        line = alt.Chart(alt.Data(values=rows)).mark_line(
            strokeWidth=1 if is_faint else 2.2, opacity=0.55 if is_faint else 1, clip=True,
            point=alt.OverlayMarkDef(size=28) if len(rows) <= DOTS_UP_TO and not is_faint else False,
        )  # fmt: skip
        tooltip = [alt.Tooltip("of:N", title="curve"), "step:Q", alt.Tooltip("loss:Q", format=".4g")]
        layers.append(line.encode(x=x, y=y, color=colour, tooltip=tooltip))
    layers += rules_layers(marks, x)
    layers += points_layers(marks, curves.loss, curves.eval_loss, x, y)
    layers += lost_layers((*curves.loss, *curves.eval_loss), x)
    layers += labels_layers(labels_of(bands, marks), domain, x)
    return alt.layer(*(layers or [_nothing(x)])).properties(width=WIDTH, height=360)


def _nothing(x: Any) -> Any:
    return alt.Chart(alt.Data(values=[])).mark_line().encode(x=x)


def _small_panel(panel: tuple[str, Pairs, str, int], x: Any) -> Any:
    title, pairs, colour, height = panel
    finite = [(step, value) for step, value in pairs if math.isfinite(value)]
    values = [value for _, value in finite if value > 0]
    is_wide = bool(values) and title != "learning rate" and max(values) > WIDE_RANGE * float(np.median(values))
    scale = alt.Scale(type="log", nice=False, padding=4) if is_wide else alt.Scale(zero=True)
    floor = min(values, default=0.0) if is_wide else -math.inf
    rows = [{"step": step, "value": max(value, floor)} for step, value in _thinned(finite)]
    line = alt.Chart(alt.Data(values=rows)).mark_line(color=colour, strokeWidth=1.2).encode(
        x=x, y=alt.Y("value:Q", title=f"{title}{' (log)' if is_wide else ''}", scale=scale, axis=alt.Axis(tickCount=3, format="~g")),
        tooltip=["step:Q", alt.Tooltip("value:Q", title=title, format=".4g")],
    )  # fmt: skip
    return alt.layer(line, *lost_layers(pairs, x)).properties(width=WIDTH, height=height)


def _smoothed(pairs: Pairs) -> Pairs:
    """Moving geometric mean over a thirtieth of the curve; nothing where there are few points."""
    positive = [(step, value) for step, value in pairs if math.isfinite(value) and value > 0]
    if len(positive) < MIN_SMOOTHED:
        return []
    half = max(1, len(positive) // 60)
    sums = np.concatenate([[0.0], np.cumsum(np.log([value for _, value in positive]))])
    low = np.maximum(np.arange(len(positive)) - half, 0)
    high = np.minimum(np.arange(len(positive)) + half + 1, len(positive))
    means = np.exp((sums[high] - sums[low]) / (high - low))
    return [(step, float(mean)) for (step, _), mean in zip(positive, means, strict=True)]


def _thinned(pairs: Iterable[tuple[int, float]]) -> Pairs:
    """The lowest and the highest of every stretch, so that no spike is lost; all of a short curve."""
    finite = [(step, value) for step, value in pairs if math.isfinite(value)]
    stride = math.ceil(2 * len(finite) / MAX_DRAWN)
    if stride < 3:
        return finite
    kept: set[tuple[int, float]] = {finite[0], finite[-1]}
    for start in range(0, len(finite), stride):
        stretch = finite[start : start + stride]
        kept |= {min(stretch, key=lambda pair: pair[1]), max(stretch, key=lambda pair: pair[1])}
    return sorted(kept)


def _themed(chart: Any) -> Spec:
    """Greys that can be read on light and on dark."""
    spec: Spec = (
        chart.configure(background="transparent", font="system-ui, Segoe UI, Roboto, Helvetica, Arial, sans-serif")
        .configure_view(stroke=None)
        .configure_axis(labelColor=GREY, titleColor=GREY, gridColor=GREY, gridOpacity=0.16, domainColor=GREY, tickColor=GREY, titleFontWeight="normal")
        # Panels begin at the same place, whatever their labels are.
        .configure_axisY(minExtent=56)
        .configure_legend(labelColor=GREY, titleColor=GREY, labelFontSize=12, labelLimit=320)
        .to_dict()
    )  # fmt: skip
    return spec
