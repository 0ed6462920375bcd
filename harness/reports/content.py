"""What the report says, before it is HTML, Markdown or JSON."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from harness.cell_checks import CellCheck, cells_by_message
from harness.comparability import sentence
from harness.config import ExperimentConfig
from harness.data.report import DataReport
from harness.ranking import Ranking
from harness.records import CellResult, Finding, TracePoint
from harness.reports.answers import Browser, browse
from harness.reports.cost import Cost, costs_of
from harness.reports.curves_figure import drawn_cells
from harness.reports.decision import Fact, Step, answer_sentence, facts, next_steps
from harness.reports.effects import Effect, PairEffect, main_effects, pair_effects, runs_of, swept_fields
from harness.reports.visible import some
from harness.store import ExperimentFolder, read_lines, read_record

QUESTION = "Which of these fine-tunes is better?"
MAX_MAIN_METRICS = 5


class DataSeen(NamedTuple):
    """A report on rows, and the cells that saw them."""

    cells: list[str]
    report: DataReport


class Content(NamedTuple):
    """Everything that a renderer needs."""

    config: ExperimentConfig
    ranking: Ranking
    cells: Sequence[CellResult]
    references: Sequence[CellResult]
    question: str
    answer: str
    facts: list[Fact]
    """The numbers behind the answer."""
    next_steps: list[Step]
    findings: dict[str, Sequence[Finding]]
    """Name of the cell -> what was found in it."""
    traces: dict[str, list[TracePoint]]
    """Name of the cell -> what its trainer logged; only of those whose curves are drawn."""
    browser: Browser
    metric_names: list[str]
    main_metrics: list[str]
    """Those that stand in the ranking's table."""
    differing: list[str]
    """Settings in force that differ between cells although nobody swept them."""
    environment: dict[str, str]
    checks: list[str]
    """What preflight warned of, with the cells that it warned of."""
    data: list[DataSeen]
    """Every set of rows that cells were trained on, that of the most cells first."""
    effects: list[Effect]
    pairs: list[PairEffect]
    costs: list[Cost]


def gather(
    config: ExperimentConfig, folder: ExperimentFolder, ranking: Ranking, cells: Sequence[CellResult],
    references: Sequence[CellResult], findings: Mapping[str, Sequence[Finding]],
) -> Content:  # fmt: skip
    """The content of a report, from records alone."""
    everyone = [*cells, *references]
    trained = [cell for cell in cells if cell.train]
    main = main_metrics(config, ranking, everyone)
    runs = runs_of(cells, config.grid, config.variants, ranking.criterion)
    fields = swept_fields(config.grid, config.variants)
    return Content(
        config=config,
        ranking=ranking,
        cells=cells,
        references=references,
        question=config.description or QUESTION,
        answer=answer_sentence(ranking),
        facts=facts(ranking),
        next_steps=next_steps(config, ranking, cells),
        findings={c.name: findings.get(c.cell, ()) for c in cells},
        traces={c.name: list(read_lines(folder.cell(c.cell).trace, TracePoint)) for c in drawn_cells(cells, ranking)},
        browser=browse(folder, everyone, main),
        metric_names=list(dict.fromkeys([*main, *(name for r in everyone for name in r.metrics())])),
        main_metrics=main,
        differing=[sentence(difference) for difference in ranking.not_comparable],
        environment=trained[0].train.environment if trained and trained[0].train else {},
        checks=_warned(folder, cells),
        data=_data_seen(folder, cells),
        effects=main_effects(runs, fields),
        pairs=pair_effects(runs, fields),
        costs=costs_of(cells, config.launch.processes_per_cell),
    )


def main_metrics(config: ExperimentConfig, ranking: Ranking, results: Sequence[CellResult]) -> list[str]:
    """The criterion, what is weighed against it, and adherence, retention and bits per byte under whatever name they go."""
    known = {name for result in results for name in result.metrics_with(ranking.criterion)}
    names = [ranking.criterion, *(ranking.secondary or config.ranking.secondary)]
    for kind, metric in (("template_adherence", "all"), ("retention", "accuracy"), ("held_out", "bits_per_byte")):
        labels = dict.fromkeys(suite.suite for r in results for suite in r.suites if suite.is_kind(kind))
        names += [f"{label}.{metric}" for label in labels]
    return [name for name in dict.fromkeys(names) if name in known][:MAX_MAIN_METRICS]


def _checks(folder: ExperimentFolder, cells: Sequence[CellResult]) -> list[tuple[CellResult, CellCheck]]:
    found = [(cell, folder.cell(cell.cell).check) for cell in cells]
    return [(cell, read_record(path, CellCheck)) for cell, path in found if path.exists()]


def _warned(folder: ExperimentFolder, cells: Sequence[CellResult]) -> list[str]:
    """Every warning once, with the cells that have it where it isn't all of them."""
    names = cells_by_message((check for _, check in _checks(folder, cells)), "warning")
    return [text if len(who) == len(cells) else f"{some(who)}: {text}" for text, who in names.items()]


def _data_seen(folder: ExperimentFolder, cells: Sequence[CellResult]) -> list[DataSeen]:
    names: dict[str, list[str]] = {}
    for cell, check in _checks(folder, cells):
        if check.data_report:
            names.setdefault(check.data_report, []).append(cell.name)
    seen = [(folder.data_report(digest), who) for digest, who in names.items()]
    found = [DataSeen(who, read_record(path, DataReport)) for path, who in seen if path.exists()]
    return sorted(found, key=lambda entry: -len(entry.cells))
