"""One training's chart with its findings, as a self-contained page or as a picture."""

import copy
import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from harness.records import Finding
from harness.reports.drawing import drawable, drawn_png, drawn_svg, vega_bundle
from harness.reports.figures import GREY, Spec
from harness.reports.run_marks import SEVERITY_COLOURS, WIDTH
from harness.store import write_text

SEVERITIES = ("error", "warning", "info")
PNG_COLUMNS = 145
PNG_LINE = 17


class RunPage(NamedTuple):
    """What is shown of one training."""

    title: str
    facts: str
    """Steps, epochs, last losses: one line."""
    chart: Spec
    findings: Sequence[Finding]
    more: Sequence[str]
    """What would tell more, one line each."""

    @property
    def fired(self) -> list[Finding]:
        """Findings that fired, the worst first."""
        fired = [finding for finding in self.findings if finding.outcome == "fired"]
        return sorted(fired, key=lambda finding: SEVERITIES.index(finding.severity))


def as_html(page: RunPage) -> str:
    """One page that needs no network; all text that comes from a log is escaped."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    source = (Path(__file__).parent / "run_page.html.jinja").read_text(encoding="utf-8")
    chart = drawable(page.chart)
    environment.filters["code"] = _with_code
    html = environment.from_string(source).render(
        title=page.title, facts=page.facts, findings=page.findings, fired=page.fired, more=page.more,
        static=drawn_svg(chart),
        bundle=vega_bundle(),
        # What a training is called can't end the script element early.
        spec=Markup(json.dumps(chart).replace("<", "\\u003c")),
    )  # fmt: skip
    return html.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")


def _with_code(text: str) -> Markup:
    """The text with what stands between backticks set as code."""
    parts = text.split("`")
    return Markup("").join(Markup("<code>{}</code>").format(part) if i % 2 else part for i, part in enumerate(parts))


def as_png(page: RunPage) -> bytes:
    """The chart with the findings written below it, on white."""
    spec = copy.deepcopy(page.chart)
    spec["config"]["background"] = "white"
    spec["title"] = {"text": page.title, "subtitle": page.facts, "anchor": "start", "fontSize": 17, "subtitleColor": GREY, "offset": 12}  # fmt: skip
    spec["vconcat"] = [*spec["vconcat"], _written(page.fired)]
    spec["padding"] = 18
    return drawn_png(spec)


def _written(fired: Sequence[Finding]) -> Spec:
    """The findings as lines of text, each with the colour of its severity."""
    rows: list[dict[str, object]] = []
    for finding in fired:
        lines = textwrap.wrap(f"{finding.check} ({finding.severity}): {finding.message}", PNG_COLUMNS) or [
            finding.check
        ]
        rows += [
            {"text": text, "first": i == 0, "colour": SEVERITY_COLOURS[finding.severity]}
            for i, text in enumerate(lines)
        ]
    rows = rows or [{"text": "No warning sign fired.", "first": True, "colour": "#009E73"}]
    placed = [{**row, "y": 10 + PNG_LINE * i} for i, row in enumerate(rows)]
    y = {"field": "y", "type": "quantitative", "axis": None, "scale": {"domain": [0, PNG_LINE * (len(rows) + 1)], "reverse": True}}  # fmt: skip
    text = {"mark": {"type": "text", "align": "left", "baseline": "middle", "fontSize": 12.5, "color": "#1c2024"}, "encoding": {"x": {"value": 16}, "y": y, "text": {"field": "text"}}}  # fmt: skip
    dot = {
        "transform": [{"filter": "datum.first"}], "mark": {"type": "point", "filled": True, "size": 90, "opacity": 1},
        "encoding": {"x": {"value": 4}, "y": y, "color": {"field": "colour", "type": "nominal", "scale": None}},
    }  # fmt: skip
    return {"data": {"values": placed}, "width": WIDTH, "height": PNG_LINE * (len(rows) + 1), "layer": [text, dot]}


def write_page(page: RunPage, path: Path) -> None:
    """Writes the page (`.html`) or the picture (`.png`)."""
    if path.suffix == ".png":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(as_png(page))
    else:
        write_text(path, as_html(page))
