"""Writes report.html, report.md and report.json."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from harness.config import ExperimentConfig
from harness.ranking import Ranking
from harness.records import CellResult, Estimate, Finding
from harness.reports.content import Content, gather
from harness.reports.drawing import drawn_svg, vega_bundle
from harness.reports.figures import Spec, curves_chart, ranking_chart, tradeoff_chart
from harness.reports.markdown import as_markdown
from harness.store import ExperimentFolder, write_text

MAIN_METRICS = ("template_adherence.all", "retention.accuracy", "held_out.bits_per_byte")
TRADEOFF_METRIC = "retention.accuracy"
STATIC_WIDTH = 700


def write_reports(
    config: ExperimentConfig, folder: ExperimentFolder, ranking: Ranking, cells: Sequence[CellResult],
    references: Sequence[CellResult], findings: Mapping[str, Sequence[Finding]],
) -> list[Path]:  # fmt: skip
    """The three files, from records alone."""
    content = gather(config, folder, ranking, cells, references, findings)
    write_text(folder.report("html"), as_html(content))
    write_text(folder.report("md"), as_markdown(content))
    machine = {
        "ranking": ranking.model_dump(mode="json"),
        "answer": content.answer,
        "findings": {cell: [f.model_dump(mode="json") for f in found] for cell, found in findings.items()},
        "environment": content.environment,
    }
    write_text(folder.report("json"), json.dumps(machine, indent=1))
    return [folder.report(suffix) for suffix in ("html", "md", "json")]


def _static(spec: Spec | None) -> Markup:
    """The chart as SVG, for viewers and printers that run no scripts."""
    if spec is None:
        return Markup("")
    fixed = json.loads(json.dumps(spec).replace('"width": "container"', f'"width": {STATIC_WIDTH}'))
    return drawn_svg(fixed)


def _cell(estimate: Estimate | None, signed: bool = False) -> Markup:
    if estimate is None:
        return Markup('<td class="n"></td>')
    form = "+.3f" if signed else ".3f"
    unscored = f", {estimate.unscored} unscored" if estimate.unscored else ""
    text = f'{estimate.value:{form}}<span class="interval">[{estimate.low:{form}}, {estimate.high:{form}}]{unscored}</span>'
    return Markup(f'<td class="n">{text}</td>')  # numbers only


def _metric_name(name: str) -> Markup:
    """The name, free to break after its dot and its underscores."""
    return Markup("<wbr>").join(re.split(r"(?<=[._])", name))


def _fired(findings: Sequence[Finding]) -> Markup:
    shown = {f.check: f.severity for f in findings if f.is_warning}
    return Markup(", ").join(
        Markup('<span class="{}">{}</span>').format(severity, _metric_name(check)) for check, severity in shown.items()
    )


def as_html(content: Content) -> str:
    """One self-contained page; everything that a model or a user wrote is escaped."""
    everyone = [*content.cells, *content.references]
    specs = {
        "ranking": ranking_chart(content.ranking),
        "curves": curves_chart(content.traces),
        "tradeoff": tradeoff_chart(everyone, content.ranking.criterion, TRADEOFF_METRIC),
    }
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string((Path(__file__).parent / "report.html.jinja").read_text(encoding="utf-8"))
    known = {name for result in everyone for name in result.metrics()}
    return template.render(
        c=content,
        cell=_cell,
        fired=_fired,
        metric_name=_metric_name,
        everyone=everyone,
        main_metrics=[m for m in dict.fromkeys((content.ranking.criterion, *MAIN_METRICS)) if m in known],
        swept=list(dict.fromkeys(key for result in content.cells for key in result.overrides)),
        has_curves=specs["curves"] is not None,
        has_tradeoff=specs["tradeoff"] is not None,
        tradeoff_metric=TRADEOFF_METRIC,
        static={name: _static(spec) for name, spec in specs.items()},
        yaml=yaml.safe_dump(json.loads(content.config.model_dump_json(exclude={"tracking"})), sort_keys=False),
        bundle=vega_bundle(),
        # "<" can't end the script element early, whatever a cell is called.
        specs=json.dumps({name: spec for name, spec in specs.items() if spec}).replace("<", "\\u003c"),
    )
