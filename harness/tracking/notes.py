"""What a run or an experiment is, as the Markdown note that MLflow shows above it."""

from collections.abc import Iterator, Sequence

from harness.gates import shown, signed
from harness.markdown import block, code, escaped, table
from harness.ranking import Ranking, RankingRow
from harness.records import CellResult, Finding
from harness.reports.decision import answer_sentence

NOTE_TAG = "mlflow.note.content"
MAX_ROWS = 30
MAX_NOTE = 8000


def whole_lines(lines: Sequence[str], limit: int = MAX_NOTE) -> str:
    """The text without the lines that MLflow has no room for."""
    text = "\n".join(lines)
    return text if len(text) <= limit else text[: limit - 4].rpartition("\n")[0] + "\n..."


def cell_note(ranking: Ranking, result: CellResult, findings: Sequence[Finding]) -> str:
    """What a cell is, its place in the ranking, its warning signs, and how to use its checkpoint."""
    swept = ", ".join(f"{key} = {value}" for key, value in result.overrides.items()) or "the settings of the file"
    lines = [
        f"Cell {code(result.cell)} of the experiment {code(ranking.experiment)}: {escaped(swept)}.",
        "",
        *_place(ranking, result.cell),
        *_warnings(findings),
    ]
    if result.train is not None:
        name = f"{ranking.experiment}/{result.cell}"
        commands = [f"harness export {name} FOLDER", f"harness promote {name} --as NAME", f"harness chat {name}"]
        lines += ["", "Its checkpoint as a folder, in the model registry, or to talk to:", "", *block("\n".join(commands), "bash")]  # fmt: skip
    return whole_lines(lines)


def reference_note(ranking: Ranking, result: CellResult) -> str:
    """What a reference is, and what it scored."""
    lines = [f"Reference {code(result.name)} of the experiment {code(ranking.experiment)}: not trained here, asked what the cells were asked."]  # fmt: skip
    value = result.metrics_with(ranking.criterion).get(ranking.criterion)
    return whole_lines([*lines, *(["", f"{ranking.criterion}: {shown(value)}, n = {value.n}."] if value else [])])


def _place(ranking: Ranking, cell: str) -> Iterator[str]:
    """A cell's row in words; the row of a configuration is that of all its seeds."""
    row = row_of(ranking, cell)
    if row is None:
        reason = next((item.reason for item in ranking.excluded if item.cell == cell), "no result")
        yield f"**Not ranked**: {escaped(reason)}."
        return
    yield from (f"- {line}" for line in evidence(ranking, row))


def row_of(ranking: Ranking, cell: str) -> RankingRow | None:
    """The row of the configuration that a cell is a seed of; None where it isn't ranked."""
    return next((row for row in ranking.rows if cell in row.cells), None)


def evidence(ranking: Ranking, row: RankingRow) -> Iterator[str]:
    """What speaks for a configuration, with its uncertainty, one line each."""
    first, last = row.rank_interval
    among = f"rank {row.rank} of {len(ranking.rows)}"
    tied = "in the best set" if row.in_best_set else "not in the best set"
    yield f"**{among}** (between {first} and {last}), {tied}"
    value = row.metrics[ranking.criterion]
    seeds = f"{row.seed_count} training seed{'s' if row.seed_count != 1 else ''}"
    yield f"{ranking.criterion}: **{shown(value)}**, n = {value.n}, {seeds}"
    if row.confirmed is not None:
        yield f"confirmed on {row.confirmed.n} examples that took no part in choosing: **{shown(row.confirmed)}**"
    if row.difference_to_base is not None:
        yield f"against the base: {signed(row.difference_to_base)}"
    if row.difference_to_best is not None:
        yield f"against the best: {signed(row.difference_to_best)}"
    for name in ranking.secondary:
        if name in row.metrics:
            yield f"{name}: {shown(row.metrics[name])}"
    yield f"gates passed: {', '.join(ranking.gates) or 'none were set'}"


def _warnings(findings: Sequence[Finding]) -> Iterator[str]:
    fired = [finding for finding in findings if finding.is_warning]
    if not fired:
        yield from ("", "No warning sign was found.")
        return
    yield from ("", "Warning signs:", "")
    for finding in fired:
        yield f"- **{finding.check}** ({finding.severity}): {escaped(f'{finding.message} {finding.advice}')}"


def experiment_note(ranking: Ranking, question: str, report: str, command: str) -> str:
    """The question, the answer, and the ranking as a table.

    Args:
        ranking: of the experiment.
        question: its description.
        report: where the UI shows the report.
        command: that makes the same again.
    """
    # One paragraph: of a note that is folded the UI shows the beginning alone.
    opening = f"**{escaped(question)}** " if question else ""
    lines = [opening + escaped(answer_sentence(ranking)), "", f"[The whole report]({report}).", ""]
    metrics = [ranking.criterion, *(m for m in ranking.secondary if any(m in row.metrics for row in ranking.rows))]
    lines += table(["rank", "cell", *metrics, "warnings"], _rows(ranking, metrics))
    left_out = len(ranking.rows) - MAX_ROWS
    if left_out > 0:
        lines += ["", f"{left_out} more rows are in the report."]
    lines += [
        "",
        *(f"- not ranked: {escaped(item.name)}: {escaped(item.reason)}" for item in ranking.excluded[:MAX_ROWS]),
    ]
    lines += ["", *(f"- {escaped(caveat)}" for caveat in ranking.caveats)]
    lines += ["", "To make it again:", "", *block(command, "bash")]
    return whole_lines(lines)


def _rows(ranking: Ranking, metrics: Sequence[str]) -> Iterator[list[str]]:
    for row in ranking.rows[:MAX_ROWS]:
        values = [shown(row.metrics[name]) if name in row.metrics else "" for name in metrics]
        fired = ", ".join(dict.fromkeys(finding.check for finding in row.findings if finding.is_warning))
        name = f"**{escaped(row.name)}**" if row.in_best_set else escaped(row.name)
        first, last = row.rank_interval
        yield [f"{row.rank} ({first}-{last})", name, *values, fired or "none"]
    for reference in ranking.references:
        values = [shown(reference.metrics[name]) if name in reference.metrics else "" for name in metrics]
        yield ["ref", escaped(reference.name), *values, ""]
