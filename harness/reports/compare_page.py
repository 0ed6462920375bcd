"""A comparison as one self-contained page."""

import difflib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from harness.compared import Comparison, Disagreement, MetricDifference, PairComparison, SettingDifference
from harness.reports.compare_figure import colours, curves_chart, difference_bar, widest
from harness.reports.drawing import drawable, drawn_svg, vega_bundle
from harness.reports.figures import GREY, Spec
from harness.reports.visible import cut, cut_front, visible
from harness.store import write_text

STATIC_WIDTH = 700
MAX_TEXT = 6000
MAX_DIFF_TEXT = 3000
MIN_ALIKE = 0.2
"""Answers that share less than this are not marked: all would be."""
WORDS = re.compile(r"\s+|\w+|[^\w\s]")
SOURCES = {
    "asked": "Asked for in the experiment file",
    "in force": "In force (what the libraries made of it)",
    "fact": "What came of it",
    "environment": "Environment",
}


class MetricRow(NamedTuple):
    """One line of a table of differences."""

    suite: str
    name: str
    """Without the suite."""
    found: MetricDifference
    bar: Markup


def write_comparison(comparison: Comparison, path: Path) -> None:
    """Writes the page."""
    write_text(path, as_html(comparison))


def as_html(comparison: Comparison) -> str:
    """One page that needs no network; all text of users and models is escaped, and what would work unseen spelled out."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, finalize=_visible)
    source = (Path(__file__).parent / "compare_page.html.jinja").read_text(encoding="utf-8")
    names = [run.name for run in comparison.runs]
    chart = curves_chart(comparison.curves, names)
    return environment.from_string(source).render(
        c=comparison,
        colours=colours(names),
        metric_rows=_metric_rows,
        slice_rows=_slice_rows,
        grouped=_grouped,
        settings=_settings,
        value=_value,
        marked=_marked,
        front=lambda text: cut_front(text, MAX_TEXT),
        cut=lambda text: cut(text, MAX_TEXT),
        breakable=_breakable,
        number=_number,
        static=_static(chart),
        bundle=vega_bundle() if chart else Markup(""),
        # "<" can't end the script element early, whatever a run is called.
        spec=Markup(json.dumps(drawable(chart)).replace("<", "\\u003c")) if chart else "",
    )


def _visible(value: Any) -> Any:
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _static(chart: Spec | None) -> Markup:
    """The chart for viewers and printers that run no scripts."""
    return drawn_svg({**chart, "width": STATIC_WIDTH}) if chart else Markup("")


def _metric_rows(pair: PairComparison, palette: Mapping[str, str]) -> list[MetricRow]:
    return _rows(pair, pair.metrics, palette)


def _slice_rows(pair: PairComparison, palette: Mapping[str, str]) -> list[MetricRow]:
    """The criterion's suite first, in it the criterion's, then those that surely differ."""
    suite = pair.criterion.partition(".")[0]

    def order(name: str) -> tuple[bool, str, bool, bool]:
        own = name.partition(".")[0]
        return own != suite, own, not name.startswith(f"{pair.criterion}."), pair.slices[name].better is None

    return _rows(pair, {name: pair.slices[name] for name in sorted(pair.slices, key=order)}, palette)


def _rows(pair: PairComparison, metrics: Mapping[str, MetricDifference], palette: Mapping[str, str]) -> list[MetricRow]:
    scales = widest(metrics)
    rows = []
    for name, found in metrics.items():
        suite, _, rest = name.partition(".")
        rows.append(MetricRow(suite, rest, found, difference_bar(name, found, scales, _colour(pair, found, palette))))
    return rows


def _grouped(rows: Sequence[MetricRow]) -> list[tuple[str, list[MetricRow]]]:
    """Suite -> its rows, in their order."""
    return [(suite, list(group)) for suite, group in itertools.groupby(rows, key=lambda row: row.suite)]


def _colour(pair: PairComparison, found: MetricDifference, palette: Mapping[str, str]) -> str:
    return GREY if found.better is None else palette[pair.a if found.better == "a" else pair.b]


def _settings(pair: PairComparison) -> list[tuple[str, list[tuple[str, SettingDifference]]]]:
    """Heading -> the fields below it."""
    grouped = [
        (heading, [(key, value) for key, value in pair.config_diff.items() if value.source == source])
        for source, heading in SOURCES.items()
    ]
    return [(heading, fields) for heading, fields in grouped if fields]


def _value(value: object) -> str | Markup:
    if value is None:
        return Markup('<span class="soft">not set</span>')
    return visible(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _number(value: float | None, form: str = ".3f") -> str:
    return "" if value is None else f"{value:{form}}".replace("-", "−")


def _breakable(name: str) -> Markup:
    """The name, free to break after its dots, commas and underscores."""
    return Markup("<wbr>").join(re.split(r"(?<=[._,=/])", visible(name)))


def _marked(found: Disagreement) -> tuple[Markup, Markup]:
    """Both answers, escaped, with the words marked that the other one doesn't have in that place."""
    a, b = (visible(cut(answer.text, MAX_TEXT)) for answer in (found.a, found.b))
    if not a or not b or max(len(a), len(b)) > MAX_DIFF_TEXT:
        return escape(a), escape(b)
    ours, theirs = WORDS.findall(a), WORDS.findall(b)
    matcher = difflib.SequenceMatcher(None, ours, theirs, autojunk=False)
    if matcher.ratio() < MIN_ALIKE:
        return escape(a), escape(b)
    left: list[Markup] = []
    right: list[Markup] = []
    for tag, i, j, k, m in matcher.get_opcodes():
        left.append(_piece(ours[i:j], is_marked=tag != "equal"))
        right.append(_piece(theirs[k:m], is_marked=tag != "equal"))
    return Markup("").join(left), Markup("").join(right)


def _piece(words: Sequence[str], *, is_marked: bool) -> Markup:
    text = escape("".join(words))
    return Markup("<mark>{}</mark>").format(text) if is_marked and text else text
