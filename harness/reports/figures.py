"""What the charts of the report share: colours, shapes, sizes, words."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import altair as alt

from harness.reports.drawing import drawable

Spec = dict[str, Any]
# Okabe and Ito's palette, told apart with any colour vision; then it repeats with other shapes.
PALETTE = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C8C00", "#888888"]
BLUE, ORANGE, GREEN, PINK, SKY, RED = PALETTE[:6]
SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left"]
GREY = "#8a8f98"
INK = "currentColor"
"""The colour of the page's text, on light and on dark; black where a picture stands by itself."""
FONT = "Arial, Helvetica, Liberation Sans, sans-serif"
SETTING = re.compile(r"(?<![^,])[^,=]+=")
WIDE_RANGE = 8.0
"""A field whose largest value is so many times its smallest is drawn on a logarithmic axis."""
# The width that the page gives the chart; a static picture has one of its own.
PAGE_WIDTH = "(containerSize()[0] || 700)"


class Picture(NamedTuple):
    """A chart with what it says."""

    title: str
    alt: str
    spec: Spec


def drawn(name: str) -> Any:
    """A chart whose data are given to `themed`: Altair checks data that it holds itself, value by value."""
    return alt.Chart(alt.NamedData(name=name))


def themed(chart: Any, height: int, **data: Sequence[Mapping[str, Any]]) -> Spec:
    """The specification: transparent, as wide as the page allows, with text that can be read on light and on dark.

    Args:
        chart: the chart.
        height: of its inside, in pixels.
        data: the rows of each name that the chart speaks of.
    """
    soft = {"labelColor": INK, "titleColor": INK, "labelFontSize": 11, "titleFontSize": 12, "titleFontWeight": "normal"}
    spec: Spec = (
        chart.properties(width="container", height=height)
        # The whole picture has words of its own; thousands of marks need none.
        .configure(background="transparent", font=FONT, aria=False)
        .configure_view(stroke=None)
        .configure_axis(
            **soft, labelOpacity=0.85, titleOpacity=0.85, gridColor=GREY, gridOpacity=0.2, domainColor=GREY, tickColor=GREY
        )
        .configure_legend(**soft, labelLimit=320, titleLimit=320, symbolSize=90, symbolOpacity=1)
        .configure_title(color=INK, fontSize=12, fontWeight="normal", anchor="start")
        .to_dict()
    )  # fmt: skip
    return spec | {"autosize": {"type": "fit-x", "contains": "padding"}, "datasets": data}


def legend(columns: int, title: str | None = None) -> Any:
    """A legend below the chart, with fewer columns on a phone."""
    narrow = max(1, columns // 2)
    return alt.Legend(
        orient="bottom", title=title, columns=alt.expr(f"{PAGE_WIDTH} < 500 ? {narrow} : {columns}"), labelLimit=260
    )


def names_shown(names: Sequence[str], key: str) -> str:
    """Expression that gives a row's name for an axis; on a phone the values of `rate=0.1,r=8` without their fields.

    Args:
        names: of the rows.
        key: expression that gives a row's position among them.
    """
    safe = drawable(list(names))
    short = [SETTING.sub("", name) if name.count("=") > 1 else name for name in safe]
    full, brief = (json.dumps(found, ensure_ascii=False) for found in (safe, short))
    return f"{PAGE_WIDTH} < 500 ? {brief}[{key}] : {full}[{key}]"


def label_limit(share: float = 0.32) -> Any:
    """Pixels that the names beside a chart may take: a share of its width, 300 at most."""
    return alt.expr(f"min(300, {share} * {PAGE_WIDTH})")


def is_wide(values: Sequence[float]) -> bool:
    """Whether values need a logarithmic axis."""
    return min(values) > 0 and max(values) / min(values) >= WIDE_RANGE


def counted(number: int, singular: str, plural: str = "") -> str:
    """`1 cell`, `2 cells`."""
    return f"{number} {singular if number == 1 else plural or singular + 's'}"


def short_number(value: float) -> str:
    """`1.2k`, `3.4M`: at most three digits and a letter."""
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g}{letter}"
    return f"{value:.3g}" if math.isfinite(value) else str(value)
