"""Points of quality against something else, with the Pareto front marked and labels that don't overlap."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import altair as alt

from harness.reports.figures import BLUE, GREEN, GREY, INK, ORANGE, PAGE_WIDTH, Spec, drawn, is_wide, legend, themed

HEIGHT = 300
# Labels are placed for a narrow page, so that they don't overlap on a wide one either.
NARROW, WIDE, LETTER, LINE = 250, 620, 6.2, 13
MAX_LABEL = 26
MANY = 30
MIN_OWN, FAR = 4, 0.6
"""With so many points a reference that is further off than this share of their span is drawn at the border."""
PLACES = {"right": ("left", 8, 0), "left": ("right", -8, 0), "above": ("center", 0, -12), "below": ("center", 0, 13)}
KINDS = {"Pareto front": (GREEN, "circle"), "others": (BLUE, "square"), "not ranked": (GREY, "cross"), "reference": (ORANGE, "diamond")}  # fmt: skip


class Point(NamedTuple):
    """One row of the experiment."""

    name: str
    label: str
    """Drawn beside it; empty for none."""
    kind: str
    """One of `KINDS`."""
    x: float
    y: float
    note: str = ""
    """Said in the tooltip."""


class Axis(NamedTuple):
    """What is drawn along one direction."""

    title: str
    is_less_better: bool = False
    may_be_log: bool = False
    """Whether a wide range of values is drawn on a logarithmic scale."""


def pareto(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Whether no other point is at least as high in both and higher in one."""
    return [
        not any(a >= x and b >= y and (a > x or b > y) for a, b in points)
        for x, y in points
    ]  # fmt: skip


def _drawn(values: Sequence[float], is_reference: Sequence[bool]) -> list[float]:
    """Where points are drawn along one axis: a reference far away from all others stands at the border, to leave them room."""
    own = [value for value, is_other in zip(values, is_reference, strict=True) if not is_other]
    if len(own) < MIN_OWN or max(own) == min(own):
        return list(values)
    span = max(own) - min(own)
    return [min(max(value, min(own) - FAR * span), max(own) + FAR * span) for value in values]


def scatter(points: Sequence[Point], x: Axis, y: Axis) -> Spec:
    """One point a row, the first ones on top and labelled first; the front is joined by a dashed line."""
    is_log = x.may_be_log and is_wide([point.x for point in points])
    is_reference = [point.kind == "reference" for point in points]
    at_x, at_y = (_drawn(of, is_reference) for of in ([p.x for p in points], [p.y for p in points]))
    is_far = [(a, b) != (p.x, p.y) for p, a, b in zip(points, at_x, at_y, strict=True)]
    labels = [f"{p.label} (far off)" if far and p.label else p.label for p, far in zip(points, is_far, strict=True)]
    places = _places(labels, at_x, at_y, is_log)
    values = [
        point._asdict() | {"at_x": a, "at_y": b, "label": label, "place": place}
        for point, a, b, label, place in zip(points, at_x, at_y, labels, places, strict=True)
    ]
    kinds = [kind for kind in KINDS if any(point.kind == kind for point in points)]
    scale = alt.Scale(type="log", nice=False, padding=14) if is_log else alt.Scale(zero=False, nice=True, padding=14)
    ticks = alt.expr(f"{PAGE_WIDTH} < 500 ? 4 : 8")
    base = drawn("rows").encode(
        x=alt.X("at_x:Q", title=_title(x), scale=scale, axis=alt.Axis(tickCount=ticks, format="~s" if is_log else "~g", labelOverlap=True)),
        y=alt.Y("at_y:Q", title=_title(y), scale=alt.Scale(zero=False, nice=True, padding=14), axis=alt.Axis(tickCount=6, format="~g")),
    )  # fmt: skip
    front = base.transform_filter(alt.datum.kind == "Pareto front")
    line = front.mark_line(strokeDash=[4, 3], strokeWidth=1.5, color=GREEN, opacity=0.8)
    marks = base.mark_point(filled=True, size=80 if len(points) <= MANY else 40, opacity=0.95).encode(
        color=alt.Color("kind:N", scale=alt.Scale(domain=kinds, range=[KINDS[kind][0] for kind in kinds]), legend=legend(4)),
        shape=alt.Shape("kind:N", scale=alt.Scale(domain=kinds, range=[KINDS[kind][1] for kind in kinds]), legend=legend(4)),
        tooltip=[alt.Tooltip("name:N", title="row"), alt.Tooltip("kind:N"), alt.Tooltip("y:Q", title=y.title, format=".4g"),
                 alt.Tooltip("x:Q", title=x.title, format=".4g"), alt.Tooltip("note:N", title="more")],
    )  # fmt: skip
    return themed(alt.layer(line, marks, *_label_layers(base, values)), HEIGHT, rows=values[::-1])


def _title(axis: Axis) -> str:
    return f"{axis.title} (less is better)" if axis.is_less_better else axis.title


def _label_layers(base: Any, values: Sequence[dict[str, Any]]) -> list[Any]:
    """A layer for each side on which a label stands: alignment belongs to a mark, not to a datum."""
    layers = []
    for place, (align, dx, dy) in PLACES.items():
        if any(value["place"] == place for value in values):
            text = base.transform_filter(alt.datum.place == place).mark_text(
                align=align, baseline="middle", dx=dx, dy=dy, fontSize=11, color=INK, limit=MAX_LABEL * LETTER
            )
            layers.append(text.encode(text="label:N"))
    return layers


def _places(labels: Sequence[str], at_x: Sequence[float], at_y: Sequence[float], is_log: bool) -> list[str]:
    """On which side of its point every label stands; empty where it would lie on another point or label."""
    import numpy as np

    def scaled(values: Sequence[float], is_log: bool) -> Any:
        array = np.log(np.asarray(values)) if is_log else np.asarray(values, dtype=float)
        span = float(array.max() - array.min())
        return (array - array.min()) / span if span else np.full(len(array), 0.5)

    xs = scaled(at_x, is_log)
    ys = HEIGHT - 28 - scaled(at_y, False) * (HEIGHT - 56)
    taken = {width: [(14 + x * (width - 28), y, 12.0, 12.0) for x, y in zip(xs, ys, strict=True)] for width in (NARROW, WIDE)}  # fmt: skip
    found = []
    for i, label in enumerate(labels):
        place = next((p for p in PLACES if label and _is_free(p, i, len(label), taken)), "")
        if place:
            for width, boxes in taken.items():
                boxes.append(_box(place, boxes[i], len(label), width)[0])
        found.append(place)
    return found


_Box = tuple[float, float, float, float]
"""Centre and size."""


def _box(place: str, at: _Box, letters: int, width: int) -> tuple[_Box, bool]:
    """Where a label lies, and whether that is inside the picture."""
    align, dx, dy = PLACES[place]
    size = min(letters, MAX_LABEL) * LETTER
    shift = {"left": size / 2, "right": -size / 2, "center": 0.0}[align]
    x, y = at[0] + dx + shift, at[1] + dy
    return (x, y, size, LINE), size / 2 <= x <= width - size / 2


def _is_free(place: str, i: int, letters: int, taken: dict[int, list[_Box]]) -> bool:
    for width, boxes in taken.items():
        (x, y, w, h), is_inside = _box(place, boxes[i], letters, width)
        others = [box for j, box in enumerate(boxes) if j != i]
        if not is_inside or any(2 * abs(x - a) < w + b and 2 * abs(y - c) < h + d for a, c, b, d in others):
            return False
    return True
