"""What is drawn over the curves of one training: phases as shaded bands, findings as rules and points, with labels."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import altair as alt

from harness.reports.figures import GREY, PALETTE

Pairs = Sequence[tuple[int, float]]
MarkKind = Literal["spike", "best", "error", "warning", "info"]

WIDTH = 940
BLUE, ORANGE, GREEN, PINK, SKY, RED = PALETTE[:6]
SEVERITY_COLOURS = {"error": RED, "warning": ORANGE, "info": BLUE}
BAND_OPACITIES = (0.04, 0.11)
MAX_LOST = 500
CHARACTER_WIDTH = 6.2
ROW_HEIGHT = 14


class Band(NamedTuple):
    """A phase of the training."""

    name: str
    first: int
    last: int


class Mark(NamedTuple):
    """Something that was found at a step."""

    step: int
    label: str
    kind: MarkKind


class Label(NamedTuple):
    """Text at the top of the chart, beside its step."""

    step: int
    text: str
    colour: str


def _chart(rows: Sequence[dict[str, Any]]) -> Any:
    return alt.Chart(alt.Data(values=list(rows)))


def bands_layer(bands: Sequence[Band], x: Any) -> Any:
    """Alternating shades."""
    rows = [
        {"step": band.first, "end": band.last, "phase": band.name, "shade": BAND_OPACITIES[i % 2]}
        for i, band in enumerate(bands)
    ]
    shade = alt.Opacity("shade:Q", scale=None)
    return (
        _chart(rows)
        .mark_rect(color=GREY)
        .encode(x=x, x2="end:Q", opacity=shade, tooltip=["phase:N", "step:Q", "end:Q"])
    )


def points_layers(marks: Sequence[Mark], loss: Pairs, eval_loss: Pairs, x: Any, y: Any) -> Iterable[Any]:
    """Spikes above the training loss, the best evaluation on its curve."""
    for kind, pairs, shape, colour, size in (
        ("spike", loss, "triangle-down", RED, 70),
        ("best", eval_loss, "diamond", GREEN, 130),
    ):
        at = {step: value for step, value in pairs if math.isfinite(value) and value > 0}
        rows = [
            {"step": m.step, "loss": at[m.step], "found": m.label} for m in marks if m.kind == kind and m.step in at
        ]
        if not rows:
            continue
        base = _chart(rows).encode(x=x, y=y, tooltip=["found:N", "step:Q"])
        offset = -7 if kind == "spike" else 0
        yield base.mark_point(shape=shape, filled=True, color=colour, size=size, opacity=1, yOffset=offset)
        if kind == "best":
            yield base.mark_text(dy=-15, fontSize=11, fontWeight="bold", color=colour).encode(text="found:N")


def rules_layers(marks: Sequence[Mark], x: Any) -> Iterable[Any]:
    """A rule at every step that a finding names."""
    rows = [
        {"step": mark.step, "found": mark.label, "colour": SEVERITY_COLOURS[mark.kind]}
        for mark in marks
        if mark.kind in SEVERITY_COLOURS
    ]
    if rows:
        colour = alt.Color("colour:N", scale=None, legend=None)
        yield (
            _chart(rows)
            .mark_rule(strokeDash=[4, 3], strokeWidth=1.3)
            .encode(x=x, color=colour, tooltip=["found:N", "step:Q"])
        )


def lost_layers(pairs: Iterable[tuple[int, float]], x: Any) -> Iterable[Any]:
    """A cross at the top of the chart for every value that is no number."""
    rows = [{"step": step, "logged": str(value)} for step, value in pairs if not math.isfinite(value)][:MAX_LOST]
    if rows:
        base = _chart(rows).encode(x=x, y=alt.value(0), tooltip=["logged:N", "step:Q"])
        yield base.mark_point(shape="cross", filled=True, angle=45, color=RED, size=70, opacity=1)


def labels_of(bands: Sequence[Band], marks: Sequence[Mark]) -> list[Label]:
    """The name of every phase, and of every check at the first step that it names."""
    first: dict[str, Mark] = {}
    for mark in marks:
        if mark.kind in SEVERITY_COLOURS:
            first.setdefault(mark.label, mark)
    named = [Label(mark.step, label, SEVERITY_COLOURS[mark.kind]) for label, mark in first.items()]
    return [*(Label(band.first, band.name, GREY) for band in bands), *named]


def labels_layers(labels: Sequence[Label], domain: Sequence[int], x: Any) -> Iterable[Any]:
    """Labels in as many rows as they need to stand clear of each other, on the left of their step where the right is full."""
    taken: list[list[tuple[float, float]]] = []
    placed: dict[str, list[dict[str, Any]]] = {"left": [], "right": []}
    for label in labels:
        pixel = WIDTH * (label.step - domain[0]) / (domain[1] - domain[0])
        width = CHARACTER_WIDTH * len(label.text) + 10
        align = "left" if pixel + width <= WIDTH else "right"
        span = (pixel, pixel + width) if align == "left" else (pixel - width, pixel)
        free = (i for i, row in enumerate(taken) if all(span[1] <= left or span[0] >= right for left, right in row))
        row = next(free, len(taken))
        if row == len(taken):
            taken.append([])
        taken[row].append(span)
        placed[align].append(
            {"step": label.step, "label": label.text, "y": 12 + ROW_HEIGHT * row, "colour": label.colour}
        )
    for align, rows in placed.items():
        if rows:
            colour = alt.Color("colour:N", scale=None, legend=None)
            base = _chart(rows).mark_text(align=align, dx=5 if align == "left" else -5, fontSize=11)
            yield base.encode(x=x, y=alt.Y("y:Q", scale=None), text="label:N", color=colour)
