"""report.json: all that the report says, for scripts. `docs/report.md` describes it."""

import json
from pathlib import Path
from typing import Any

from harness.ranking import Ranking
from harness.records import CellResult, Finding, NonFinite, Record
from harness.reports.content import Content
from harness.reports.decision import Step

SCHEMA_FILE = Path(__file__).parent / "report.schema.json"
SCHEMA_VERSION = 1


class RunSummary(Record):
    """One trained cell, seed by seed."""

    cell: str
    name: str
    seed: int | None
    status: str
    """finished or failed."""
    error: str
    """Why it failed, with the stage; else empty."""
    overrides: dict[str, Any]
    """Swept fields and their values."""
    mlflow_run_id: str
    metrics: dict[str, float]
    """`suite.metric` -> mean over the examples."""
    steps: int | None
    train_loss: float | NonFinite | None
    eval_loss: float | NonFinite | None
    train_seconds: float | None
    peak_memory_gib: float | None


class DataUsed(Record):
    """One split that cells were trained, validated or tested on."""

    split: str
    source: str
    digest: str
    rows: int
    cells: tuple[str, ...]
    """Their ids."""


class CostSummary(Record):
    """Cost of one configuration, all its seeds together."""

    name: str
    cells: tuple[str, ...]
    device: str
    device_hours: float
    tokens_per_run: float
    peak_memory_gib: float | None


class Report(Record):
    """All that the report says; a field may be added, but a change that breaks readers raises the version."""

    schema_version: int
    experiment: str
    question: str
    answer: str
    """In one sentence, with its uncertainty."""
    best_set: tuple[str, ...]
    """Names of the configurations that nothing ranked is surely better than, the highest value first."""
    next_steps: tuple[Step, ...]
    ranking: Ranking
    findings: dict[str, tuple[Finding, ...]]
    """Id of the cell -> every check, those that didn't fire too."""
    runs: tuple[RunSummary, ...]
    costs: tuple[CostSummary, ...]
    data: tuple[DataUsed, ...]
    found_before_training: tuple[str, ...]
    environment: dict[str, str]
    """Versions, platform and git commit."""
    experiment_file: dict[str, Any]
    """With its overrides applied."""


def as_report(content: Content) -> Report:
    """The record behind report.json."""
    ranking = content.ranking
    return Report(
        schema_version=SCHEMA_VERSION,
        experiment=ranking.experiment,
        question=content.question,
        answer=content.answer,
        best_set=tuple(row.name for row in ranking.rows if row.in_best_set),
        next_steps=tuple(content.next_steps),
        ranking=ranking,
        findings={cell.cell: tuple(content.findings[cell.name]) for cell in content.cells},
        runs=tuple(_run(cell) for cell in content.cells),
        costs=tuple(
            CostSummary(
                name=cost.name, cells=cost.cells, device=cost.device, device_hours=cost.device_hours,
                tokens_per_run=cost.tokens, peak_memory_gib=cost.peak_memory_gib,
            )
            for cost in content.costs
        ),
        data=_data(content),
        found_before_training=tuple(content.checks),
        environment=content.environment,
        experiment_file=json.loads(content.config.model_dump_json(exclude={"tracking"})),
    )  # fmt: skip


def _run(cell: CellResult) -> RunSummary:
    train = cell.train
    return RunSummary(
        cell=cell.cell, name=cell.name, seed=cell.seed, status=cell.status,
        error="" if cell.status == "finished" else f"{cell.stage}: {cell.error}",
        overrides=cell.overrides, mlflow_run_id=cell.mlflow_run_id,
        metrics={name: estimate.value for name, estimate in cell.metrics().items()},
        steps=train.steps if train else None, train_loss=train.train_loss if train else None,
        eval_loss=train.eval_loss if train else None, train_seconds=train.seconds if train else None,
        peak_memory_gib=train.peak_memory_gib if train else None,
    )  # fmt: skip


def _data(content: Content) -> tuple[DataUsed, ...]:
    """Every set of rows once."""
    cells: dict[tuple[str, str, str, int], list[str]] = {}
    for cell in content.cells:
        for name, split in cell.train.splits.items() if cell.train else ():
            cells.setdefault((name, split.source, split.digest, split.rows_used), []).append(cell.cell)
    return tuple(
        DataUsed(split=split, source=source, digest=digest, rows=rows, cells=tuple(names))
        for (split, source, digest, rows), names in cells.items()
    )


def report_schema() -> str:
    """The JSON Schema of report.json."""
    schema = Report.model_json_schema(mode="serialization")
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}, indent=1) + "\n"


if __name__ == "__main__":
    import sys

    sys.stdout.write(report_schema())
