"""What a finished experiment says about each of its runs: findings, place in the ranking, note; sent where it changed."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from harness.ranking import Ranking
from harness.records import CellResult, Finding, Record, warning_names
from harness.resources import digest
from harness.store import ExperimentFolder, read_record, write_record
from harness.tracking.connection import client, deliver
from harness.tracking.notes import NOTE_TAG, cell_note, reference_note, row_of
from harness.tracking.ownership import MAX_TAG_LENGTH
from harness.tracking.writer import UNSAFE_NAME

SWEEP_COLUMNS = 8
# MLflow's own colors come from the run id, and neighbours often share one. These are told apart by the color-blind too
# (Okabe and Ito, https://jfly.uni-koeln.de/color/; yellow, which white swallows, left out).
COLOR_TAG = "mlflow.runColor"
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
REFERENCE_COLOR = "#7f7f7f"


class Told(Record):
    """What MLflow was told of every run, so that it isn't told again: a store of 500 runs would take minutes."""

    digests: dict[str, str]


class Outcome(NamedTuple):
    """What is said about one run."""

    tags: Mapping[str, str]
    findings: Sequence[Finding]
    sweep: Mapping[str, str]
    """Swept fields that this cell left at the file's value."""


def log_outcomes(
    folder: ExperimentFolder, ranking: Ranking, results: Sequence[CellResult], findings: Mapping[str, Sequence[Finding]]
) -> None:
    """Tells MLflow about every run of cells and references, as far as it doesn't know yet."""
    told = read_record(folder.told, Told).digests if folder.told.exists() else {}
    swept = swept_fields(results)
    known = dict(told)
    for place, result in enumerate(results):
        if not result.mlflow_run_id:
            continue
        color = REFERENCE_COLOR if result.seed is None else COLORS[place % len(COLORS)]
        outcome = _outcome(ranking, result, findings.get(result.cell, ()), swept, color)
        said = digest([outcome.tags, [finding.model_dump() for finding in outcome.findings], outcome.sweep])
        if told.get(result.mlflow_run_id) == said:
            continue
        if _send(result.mlflow_run_id, outcome, is_new=result.mlflow_run_id not in told):
            known[result.mlflow_run_id] = said
    if known != told:
        write_record(folder.told, Told(digests=known))


def swept_fields(results: Sequence[CellResult]) -> list[str]:
    """Fields that cells set, each once, those that most of them set first."""
    counts: dict[str, int] = {}
    for result in results:
        for key in result.overrides:
            counts[key] = counts.get(key, 0) + 1
    return sorted(counts, key=lambda key: -counts[key])


def swept_everywhere(results: Sequence[CellResult]) -> list[str]:
    """The swept fields that every trained cell has a value of."""
    trained = [result for result in results if result.train is not None]
    return [
        key
        for key in swept_fields(trained)
        if all(key in result.overrides or (result.train and key in result.train.settings) for result in trained)
    ]


def compared_fields(results: Sequence[CellResult]) -> list[str]:
    """The swept fields that are worth a column: those that every cell has, or that several cells set."""
    everywhere = swept_everywhere(results)
    shared = [key for key in swept_fields(results) if sum(key in result.overrides for result in results) > 1]
    return list(dict.fromkeys([*everywhere, *shared]))


def _outcome(
    ranking: Ranking, result: CellResult, findings: Sequence[Finding], swept: Sequence[str], color: str
) -> Outcome:
    settings = result.train.settings if result.train else {}
    return Outcome(
        {**dict(_tags(ranking, result, findings)), COLOR_TAG: color},
        findings,
        {key: settings[key] for key in swept if key not in result.overrides and key in settings},
    )


def _tags(ranking: Ranking, result: CellResult, findings: Sequence[Finding]) -> Iterator[tuple[str, str]]:
    if result.seed is None:
        yield NOTE_TAG, reference_note(ranking, result)
        return
    for finding in findings:
        said = f"{finding.severity}: {finding.message}" if finding.outcome == "fired" else finding.outcome
        yield f"harness.finding.{finding.check}", said[:MAX_TAG_LENGTH]
    yield "harness.warnings", warning_names(findings) or "none"
    row = row_of(ranking, result.cell)
    yield "harness.rank", str(row.rank) if row else "not ranked"
    yield "harness.in_best_set", str(row is not None and row.in_best_set).lower()
    yield NOTE_TAG, cell_note(ranking, result, findings)


def _send(run_id: str, outcome: Outcome, *, is_new: bool) -> bool:
    """Whether MLflow took it."""
    from mlflow.entities import Metric, Param, RunTag

    tags = [RunTag(key, value) for key, value in outcome.tags.items()]
    params = [Param(UNSAFE_NAME.sub("_", f"sweep.{key}"), value) for key, value in outcome.sweep.items()]
    numbers = {key: number for key, text in outcome.sweep.items() if (number := _number(text)) is not None}
    metrics = [Metric(UNSAFE_NAME.sub("_", f"sweep/{key}"), value, 0, 0) for key, value in numbers.items()]

    def send() -> None:
        store = client()
        data = None if is_new else store.get_run(run_id).data
        # One that had failed when it was told of first has its settings only now.
        known = {*data.params, *data.metrics} if data else set()
        fresh_params = [param for param in params if param.key not in known]
        fresh_metrics = [metric for metric in metrics if metric.key not in known]
        store.log_batch(run_id, tags=tags, params=fresh_params, metrics=fresh_metrics)
        if outcome.findings:
            content = {"findings": [finding.model_dump(mode="json") for finding in outcome.findings]}
            store.log_dict(run_id, content, "findings.json")

    return deliver("findings", send)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
