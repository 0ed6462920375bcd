"""Writes report.html, report.md, report.json and the charts as pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.config import ExperimentConfig
from harness.ranking import Ranking
from harness.records import CellResult, Finding
from harness.reports.charts import charts_of, drawn, write_static
from harness.reports.content import gather
from harness.reports.markdown import as_markdown
from harness.reports.page import as_html
from harness.reports.report_json import as_report
from harness.store import ExperimentFolder, write_text


def write_reports(
    config: ExperimentConfig, folder: ExperimentFolder, ranking: Ranking, cells: Sequence[CellResult],
    references: Sequence[CellResult], findings: Mapping[str, Sequence[Finding]],
) -> list[Path]:  # fmt: skip
    """The report as a page, as Markdown and as JSON, and its charts as pictures, from records alone.

    Returns: the files.
    """
    content = gather(config, folder, ranking, cells, references, findings)
    charts = charts_of(content)
    drawings = drawn(charts)
    write_text(folder.report("html"), as_html(content, charts, drawings))
    write_text(folder.report("md"), as_markdown(content))
    write_text(folder.report("json"), as_report(content).model_dump_json(indent=1))
    return [*(folder.report(suffix) for suffix in ("html", "md", "json")), *write_static(drawings, folder.path)]
