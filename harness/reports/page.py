"""The report as one self-contained HTML page."""

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from harness.records import Estimate
from harness.reports.answers import as_island, island
from harness.reports.charts import Chart
from harness.reports.content import Content
from harness.reports.decision import experiment_argument
from harness.reports.drawing import Drawing, drawable, vega_bundle
from harness.reports.grouped import clear_of_warnings, signs, tallies
from harness.reports.tables import adherence_tables, reasons, split_rows
from harness.reports.visible import cut, some, visible

FOLDER = Path(__file__).parent / "page"
MAX_STATIC_SVG = 400_000
"""Characters: a drawing larger than that is left to the script."""
SECONDS_PER_MINUTE, SECONDS_PER_HOUR = 60, 3600


def as_html(content: Content, charts: Mapping[str, Chart], drawings: Mapping[str, Drawing]) -> str:
    """One page that needs no network; everything that a model or a user wrote is escaped, and no other script can run."""
    environment = _environment()
    script = _source("report.js")
    bundle = vega_bundle()
    return environment.get_template("report.html.jinja").render(
        c=content,
        ranking=content.ranking,
        charts=charts,
        static={name: _static(name, drawing.svg) for name, drawing in drawings.items()},
        signs=signs(content.findings),
        tallies=tallies(content.findings),
        clear=clear_of_warnings(content.findings),
        reasons=reasons(content.ranking.excluded),
        adherence=adherence_tables(content.cells, content.references),
        splits=split_rows(content.cells),
        swept=list(dict.fromkeys(key for result in content.cells for key in result.overrides)),
        argument=experiment_argument(content.config),
        yaml=yaml_of(content),
        css=_source("report.css"),
        bundle=bundle,
        script=script,
        security=_security(bundle, script),
        specs=island({chart.id: drawable(chart.spec) for chart in charts.values()}),
        answers=as_island(content.browser),
    )


def yaml_of(content: Content) -> str:
    """The experiment file with its overrides applied; where runs are logged is nobody else's business."""
    return yaml.safe_dump(
        json.loads(content.config.model_dump_json(exclude={"tracking"})), sort_keys=False, allow_unicode=True
    )


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
    )  # fmt: skip
    environment.filters |= {"breakable": _breakable, "code": _with_code, "cut": cut, "some": some, "duration": duration}
    environment.globals |= {"cell": _cell, "place": _place}
    return environment


def _source(name: str) -> Markup:
    return Markup((FOLDER / name).read_text(encoding="utf-8"))


def _security(*scripts: str) -> str:
    """The page's own scripts may run, and nothing may be fetched: a second line of defence behind the escaping."""
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{value}'" for value in hashes)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def _static(name: str, svg: str) -> Markup:
    """The chart as SVG, for viewers and printers that run no scripts; names inside it are the chart's own."""
    drawn = str(svg).replace("<svg ", '<svg aria-hidden="true" ', 1)
    drawn = re.sub(r'(id="|url\(#|href="#)(?=[A-Za-z_])', rf"\g<1>{name}-", drawn)
    return Markup(drawn) if len(drawn) <= MAX_STATIC_SVG else Markup("")


def _cell(estimate: Estimate | None, *, signed: bool = False) -> Markup:
    """A table's cell with a value, its interval and what could not be scored: numbers only."""
    if estimate is None:
        return Markup('<td class="n"><span class="soft">–</span></td>')
    form = "+.3f" if signed else ".3f"
    unscored = f", {estimate.unscored} unscored" if estimate.unscored else ""
    interval = f"[{estimate.low:{form}}, {estimate.high:{form}}]{unscored}"
    return Markup(f'<td class="n">{estimate.value:{form}} <span class="interval">{interval}</span></td>')


def _place(interval: tuple[int, int]) -> str:
    low, high = interval
    return f"{low}" if low == high else f"{low}–{high}"


def _breakable(text: str) -> Markup:
    """The text, free to break after what joins names; numbers stay whole."""
    return Markup("<wbr>").join(re.split(r"(?<=[_,=/])|(?<=\.)(?=[^\d])", visible(text)))


def _with_code(text: str) -> Markup:
    """The text with what stands between backticks set as code."""
    parts = visible(text).split("`")
    return Markup("").join(Markup("<code>{}</code>").format(part) if i % 2 else part for i, part in enumerate(parts))


def duration(seconds: Any) -> str:
    """`42 s`, `12 min` or `3.4 h`."""
    if seconds < 2 * SECONDS_PER_MINUTE:
        return f"{seconds:.0f} s"
    return f"{seconds / SECONDS_PER_MINUTE:.0f} min" if seconds < 2 * SECONDS_PER_HOUR else f"{seconds / SECONDS_PER_HOUR:.1f} h"  # fmt: skip
