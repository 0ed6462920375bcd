"""Records as pandas frames: what notebooks and scripts work with."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness.compared import Comparison, MetricDifference
from harness.diagnose.evidence import as_float
from harness.ranking import Ranking, RankingRow
from harness.records import CellResult, Estimate, Finding, Generation, TracePoint
from harness.store import ExperimentFolder, read_lines

if TYPE_CHECKING:
    from pandas import DataFrame

Row = dict[str, Any]
FINDING_COLUMNS = ("check", "outcome", "severity", "message", "advice", "statistic", "threshold")
GENERATION_COLUMNS = (
    "example_id", "sample", "prompt", "text", "stop_reason", "prompt_tokens", "completion_tokens", "seconds",
)  # fmt: skip


def _frame(rows: Iterable[Row], columns: Sequence[str]) -> "DataFrame":
    """A frame that has these columns even without rows; others follow them."""
    from pandas import DataFrame

    listed = list(rows)
    others = dict.fromkeys(name for row in listed for name in row if name not in columns)
    return DataFrame.from_records(listed, columns=[*columns, *others])


def _estimates(values: Mapping[str, Estimate | None]) -> Row:
    """`name`, `name.low` and `name.high` of every estimate."""
    found: Row = {}
    for name, value in values.items():
        if value is not None:
            found |= {name: value.value, f"{name}.low": value.low, f"{name}.high": value.high}
    return found


def _who(result: CellResult) -> Row:
    return {"cell": result.cell, "name": result.name}


def runs_frame(results: Sequence[CellResult]) -> "DataFrame":
    """One row a cell or reference: swept fields, status, metrics with their intervals, cost."""
    columns = ("cell", "name", "kind", "group", "seed", "status", "error", "mlflow_run_id", "train_seconds", "steps",
               "peak_memory_gib")  # fmt: skip
    rows = [
        {
            **_who(result), "kind": result.reference or "cell", "group": result.group, "seed": result.seed,
            "status": result.status, "error": result.error, "mlflow_run_id": result.mlflow_run_id,
            "train_seconds": result.train.seconds if result.train else None,
            "steps": result.train.steps if result.train else None,
            "peak_memory_gib": result.train.peak_memory_gib if result.train else None,
            **result.overrides, **_estimates(result.metrics()),
        }
        for result in results
    ]  # fmt: skip
    return _frame(rows, columns)


def curves_frame(folder: ExperimentFolder, results: Sequence[CellResult]) -> "DataFrame":
    """Long: one row a cell, step and metric; what was not finite is NaN or infinite."""
    rows = (
        {**_who(result), "step": point.step, "epoch": point.epoch, "seconds": point.seconds,
         "supervised_tokens": _tokens(result, point), "metric": metric, "value": as_float(value)}
        for result in results
        for point in read_lines(folder.cell(result.cell).trace, TracePoint)
        for metric, value in point.values.items()
    )  # fmt: skip
    return _frame(rows, ("cell", "name", "step", "epoch", "seconds", "supervised_tokens", "metric", "value"))


def _tokens(result: CellResult, point: TracePoint) -> float | None:
    """Supervised tokens seen up to a step: the epochs times those of the training rows."""
    train = result.train.splits.get("train") if result.train else None
    return point.epoch * train.supervised_tokens if train else None


def scores_frame(results: Sequence[CellResult]) -> "DataFrame":
    """Long: one row a score; what could not be scored is NaN, with its failure."""
    rows = (
        {**_who(result), "suite": suite.suite, "metric": score.metric, "example_id": score.example_id,
         "cluster": suite.clusters[score.example_id], "score": score.value, "failure": score.failure}
        for result in results
        for suite in result.suites
        for score in suite.scores
    )  # fmt: skip
    return _frame(rows, ("cell", "name", "suite", "metric", "example_id", "cluster", "score", "failure"))


def generations_frame(folder: ExperimentFolder, results: Sequence[CellResult]) -> "DataFrame":
    """One row a completion, with the prompt as the model was given it."""
    rows = (
        {**_who(result), "suite": suite.suite, **generation.model_dump(include=set(GENERATION_COLUMNS))}
        for result in results
        for suite in result.suites
        for generation in read_lines(folder.holding(result).generations(suite.suite, suite.digest), Generation)
    )
    return _frame(rows, ("cell", "name", "suite", *GENERATION_COLUMNS))


def findings_frame(results: Sequence[CellResult], findings: Mapping[str, Sequence[Finding]]) -> "DataFrame":
    """One row a check of a cell, fired or not."""
    rows = (
        {**_who(result), **finding.model_dump(include=set(FINDING_COLUMNS))}
        for result in results
        for finding in findings.get(result.cell, ())
    )
    return _frame(rows, ("cell", "name", *FINDING_COLUMNS))


def ranking_frame(ranking: Ranking) -> "DataFrame":
    """One row a configuration, best first."""
    columns = ("rank", "rank_low", "rank_high", "in_best_set", "name", "cell", "seed_count")
    return _frame((_ranked(row) for row in ranking.rows), columns)


def _ranked(row: RankingRow) -> Row:
    differences = {"difference_to_base": row.difference_to_base, "difference_to_best": row.difference_to_best,
                   "confirmed": row.confirmed}  # fmt: skip
    return {
        "rank": row.rank, "rank_low": row.rank_interval[0], "rank_high": row.rank_interval[1],
        "in_best_set": row.in_best_set, "name": row.name, "cell": row.cell, "seed_count": row.seed_count,
        **_estimates(row.metrics), **_estimates(differences), "is_pareto": row.is_pareto,
        "warnings": [finding.check for finding in row.findings if finding.is_warning],
        "mlflow_run_ids": list(row.mlflow_run_ids),
    }  # fmt: skip


def excluded_frame(ranking: Ranking) -> "DataFrame":
    """One row a cell that was not ranked, with its reason."""
    rows = ({"name": e.name, "cell": e.cell, "reason": e.reason, **_estimates(e.metrics)} for e in ranking.excluded)
    return _frame(rows, ("name", "cell", "reason"))


def references_frame(ranking: Ranking) -> "DataFrame":
    """One row a reference."""
    return _frame(({"name": r.name, **_estimates(r.metrics)} for r in ranking.references), ("name",))


def differences_frame(comparison: Comparison, *, slices: bool) -> "DataFrame":
    """One row a metric (or a slice of one) of every pair."""
    rows = (
        {"run_a": pair.a, "run_b": pair.b, "metric": name, **found.model_dump()}
        for pair in comparison.pairs
        for name, found in (pair.slices if slices else pair.metrics).items()
    )
    return _frame(rows, ("run_a", "run_b", "metric", *MetricDifference.model_fields))


def settings_frame(comparison: Comparison) -> "DataFrame":
    """One row a setting that differs within a pair."""
    rows = (
        {"run_a": pair.a, "run_b": pair.b, "field": name, **found.model_dump()}
        for pair in comparison.pairs
        for name, found in pair.config_diff.items()
    )
    return _frame(rows, ("run_a", "run_b", "field", "a", "b", "source"))


def disagreements_frame(comparison: Comparison) -> "DataFrame":
    """One row an example on which the runs of a pair scored differently, the furthest apart first."""
    rows = (
        {"run_a": pair.a, "run_b": pair.b, "suite": found.suite, "metric": found.metric, "example_id": found.example_id,
         "prompt": found.prompt, "reference": found.reference, "difference": found.difference, "answer_a": found.a.text,
         "answer_b": found.b.text, "score_a": found.a.score, "score_b": found.b.score}
        for pair in comparison.pairs
        for found in pair.disagreements
    )  # fmt: skip
    return _frame(
        rows,
        ("run_a", "run_b", "suite", "metric", "example_id", "prompt", "reference", "difference", "answer_a", "answer_b",
         "score_a", "score_b"),
    )  # fmt: skip
