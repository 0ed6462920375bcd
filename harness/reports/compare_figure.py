"""Pictures of a comparison: losses over supervised tokens, and differences as small bars."""

from collections.abc import Mapping, Sequence

import altair as alt
from markupsafe import Markup

from harness.compared import Curve, MetricDifference
from harness.reports.figures import GREY, PALETTE, Spec
from harness.reports.visible import cut, visible

LEAST_LOSS = 1e-5
"""What a logarithmic axis draws a loss of zero as."""
MAX_LABEL = 60
BAR_WIDTH, BAR_HEIGHT = 120, 16


def colours(names: Sequence[str]) -> dict[str, str]:
    """Name of a run -> its colour, the same in every picture and table."""
    return {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(names)}


def curves_chart(curves: Sequence[Curve], names: Sequence[str]) -> Spec | None:
    """Train and eval loss of every run over supervised tokens; a click on the legend shows one run alone."""
    labels = {name: cut(visible(name), MAX_LABEL) for name in names}
    rows = [
        {"run": labels[curve.run], "seed": str(curve.seed), "of": curve.of, "tokens": round(tokens), "loss": max(loss, LEAST_LOSS)}
        for curve in curves
        for tokens, loss in curve.points
    ]  # fmt: skip
    if not rows:
        return None
    drawn = [name for name in names if any(curve.run == name for curve in curves)]
    palette = colours(names)
    chosen = alt.selection_point(fields=["run"], bind="legend", toggle="true")
    chart = (
        alt.Chart(alt.Data(values=rows))
        .mark_line(strokeWidth=1.8)
        .encode(
            x=alt.X("tokens:Q", title="supervised tokens seen", axis=alt.Axis(format="~s", tickCount=6)),
            y=alt.Y("loss:Q", title="loss (nats per token, log scale)", scale=alt.Scale(type="log"), axis=alt.Axis(format="~g", tickCount=6)),
            color=alt.Color("run:N", title=None, scale=alt.Scale(domain=[labels[name] for name in drawn], range=[palette[name] for name in drawn]),
                            legend=alt.Legend(orient="bottom", columns=2, symbolType="stroke", symbolStrokeWidth=3, labelLimit=320)),
            strokeDash=alt.StrokeDash("of:N", title=None, scale=alt.Scale(domain=["eval", "train"], range=[[1, 0], [3, 3]]),
                                      legend=alt.Legend(orient="bottom", symbolType="stroke")),
            detail="seed:N",
            opacity=alt.condition(chosen, alt.value(0.95), alt.value(0.08)),
            tooltip=["run:N", "seed:N", "of:N", alt.Tooltip("tokens:Q", format=","), alt.Tooltip("loss:Q", format=".4g")],
        )
        .add_params(chosen)
        .properties(width="container", height=320)
        .configure(background="transparent")
        .configure_view(stroke=None)
        .configure_axis(labelColor=GREY, titleColor=GREY, gridColor=GREY, gridOpacity=0.2, domainColor=GREY, tickColor=GREY)
        .configure_legend(labelColor=GREY, titleColor=GREY)
    )  # fmt: skip
    spec: Spec = chart.to_dict()
    return spec


def widest(metrics: Mapping[str, MetricDifference]) -> dict[tuple[str, bool], float]:
    """(suite, whether less is better) -> the largest bound, for metrics that share a scale."""
    found: dict[tuple[str, bool], float] = {}
    for name, m in metrics.items():
        key = name.partition(".")[0], m.lower_is_better
        found[key] = max(found.get(key, 0.0), abs(m.difference), abs(m.low or 0.0), abs(m.high or 0.0))
    return found


def difference_bar(name: str, found: MetricDifference, scales: Mapping[tuple[str, bool], float], colour: str) -> Markup:
    """The interval of a difference around zero; the better side is always on the right of the line for a."""
    limit = scales[name.partition(".")[0], found.lower_is_better] or 1.0
    sign = -1 if found.lower_is_better else 1
    middle, half = BAR_WIDTH / 2, BAR_WIDTH / 2 - 6

    def place(value: float) -> float:
        return middle + sign * value / limit * half

    low, high = (place(found.difference if bound is None else bound) for bound in (found.low, found.high))
    left, right = min(low, high), max(low, high)
    parts = (
        f'<line x1="{middle}" x2="{middle}" y1="0" y2="{BAR_HEIGHT}" stroke="{GREY}"/>'
        f'<line x1="{left:.1f}" x2="{right:.1f}" y1="8" y2="8" stroke="{colour}" stroke-width="3"/>'
        f'<circle cx="{place(found.difference):.1f}" cy="8" r="4" fill="{colour}"/>'
    )
    size = f'width="{BAR_WIDTH}" height="{BAR_HEIGHT}" viewBox="0 0 {BAR_WIDTH} {BAR_HEIGHT}"'
    return Markup(f'<svg class="bar" {size} aria-hidden="true">{parts}</svg>')  # numbers and our own colours only
