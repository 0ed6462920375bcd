"""Charts of the report as Vega-Lite specifications."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from harness.ranking import Ranking
from harness.records import CellResult, TracePoint

Spec = dict[str, Any]
MAX_POINTS = 150
# Okabe and Ito's palette, told apart with any colour vision; then it repeats with other dashes.
PALETTE = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C8C00", "#888888"]
GREY = "#8a8f98"


def _themed(chart: Any) -> Spec:
    """Transparent, with greys that can be read on light and on dark."""
    spec: Spec = (
        chart.configure(background="transparent")
        .configure_view(stroke=None)
        .configure_axis(
            labelColor=GREY, titleColor=GREY, gridColor=GREY, gridOpacity=0.2, domainColor=GREY, tickColor=GREY
        )
        .configure_legend(labelColor=GREY, titleColor=GREY, labelLimit=320)
        .configure_header(labelColor=GREY, titleColor=GREY)
        .to_dict()
    )
    return spec


def ranking_chart(ranking: Ranking) -> Spec:
    """Criterion with 95 % interval of every configuration, exclusions and references included."""
    entries = [(row.name, "best set" if row.in_best_set else "ranked", row.metrics) for row in ranking.rows]
    entries += [(row.name, "not ranked", row.metrics) for row in ranking.excluded]
    entries += [(row.name, "reference", row.metrics) for row in ranking.references]
    rows = [
        {
            "name": name,
            "kind": kind,
            "value": m[ranking.criterion].value,
            "low": m[ranking.criterion].low,
            "high": m[ranking.criterion].high,
        }
        for name, kind, m in entries
        if ranking.criterion in m
    ]
    kinds = ["best set", "ranked", "not ranked", "reference"]
    base = alt.Chart(alt.Data(values=rows)).encode(
        y=alt.Y("name:N", sort=[row["name"] for row in rows], title=None, axis=alt.Axis(labelLimit=320)),
        color=alt.Color(
            "kind:N", title=None,
            scale=alt.Scale(domain=kinds, range=["#009E73", "#0072B2", GREY, "#E69F00"]),
        ),
        tooltip=[alt.Tooltip("name:N"), alt.Tooltip("value:Q", format=".3f"), alt.Tooltip("low:Q", format=".3f"), alt.Tooltip("high:Q", format=".3f")],
    )  # fmt: skip
    rule = base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", title=ranking.criterion), x2="high:Q")
    point = base.mark_point(filled=True, size=90, opacity=1).encode(
        x="value:Q", shape=alt.Shape("kind:N", title=None, scale=alt.Scale(domain=kinds))
    )
    return _themed((rule + point).properties(width="container", height=alt.Step(26)))


def curves_chart(traces: Mapping[str, Sequence[TracePoint]]) -> Spec | None:
    """Training and evaluation loss of every cell on one logarithmic axis; a click on the legend hides or shows cells."""
    rows = []
    for name, points in traces.items():
        for metric, label in (("loss", "train"), ("eval_loss", "eval")):
            series = [(p.step, p.values[metric]) for p in points if isinstance(p.values.get(metric), float)]
            stride = max(1, len(series) // MAX_POINTS)
            rows += [
                {"cell": name, "step": step, "loss": max(float(value), 1e-5), "of": label}
                for step, value in series[::stride]
            ]
    if not rows:
        return None
    names = list(traces)
    chosen = alt.selection_point(fields=["cell"], bind="legend", toggle="true")
    chart = (
        alt.Chart(alt.Data(values=rows))
        .mark_line(strokeWidth=1.8)
        .encode(
            x=alt.X("step:Q", title="optimizer step"),
            y=alt.Y("loss:Q", title="loss (nats per token, log scale)", scale=alt.Scale(type="log")),
            color=alt.Color("cell:N", sort=names, scale=alt.Scale(domain=names, range=[PALETTE[i % len(PALETTE)] for i in range(len(names))]),
                            legend=alt.Legend(orient="bottom", columns=2, title="click: show one cell; shift-click: more; double-click: all")),
            strokeDash=alt.StrokeDash("of:N", sort=["eval", "train"], title=None, scale=alt.Scale(domain=["eval", "train"], range=[[1, 0], [3, 3]])),
            opacity=alt.condition(chosen, alt.value(0.95), alt.value(0.06)),
            tooltip=["cell:N", "of:N", "step:Q", alt.Tooltip("loss:Q", format=".4f")],
        )
        .add_params(chosen)
        .properties(width="container", height=340)
    )  # fmt: skip
    return _themed(chart)


def tradeoff_chart(results: Sequence[CellResult], criterion: str, other: str) -> Spec | None:
    """Criterion against another metric, one point a run: what a gain costs."""
    rows = [
        {"cell": r.name, "x": r.metrics()[other].value, "y": r.metrics()[criterion].value}
        for r in results
        if criterion in r.metrics() and other in r.metrics()
    ]
    if len(rows) < 2 or criterion == other:
        return None
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X("x:Q", title=other), y=alt.Y("y:Q", title=criterion), tooltip=["cell:N", "x:Q", "y:Q"]
    )
    points = base.mark_circle(size=90, color=PALETTE[0], opacity=0.9)
    labels = base.mark_text(align="left", dx=8, dy=-6, fontSize=11, color=GREY).encode(text="cell:N")
    return _themed((points + labels).properties(width="container", height=260))
