"""What the report says, before it is HTML or Markdown."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from harness.cell_checks import CellCheck, cells_by_message
from harness.comparability import sentence
from harness.config import ExperimentConfig
from harness.data.report import DataReport
from harness.gates import per_example, shown
from harness.ranking import Ranking
from harness.records import CellResult, Finding, Generation, TracePoint
from harness.store import CellFolder, ExperimentFolder, read_lines, read_record

MAX_SHOWN_EXAMPLES = 12
MAX_TEXT = 600


class Answer(NamedTuple):
    """One row's generation for one example."""

    name: str
    text: str
    score: float | None
    stop_reason: str


class SideBySide(NamedTuple):
    """One example with everybody's answer."""

    example_id: str
    prompt: str
    answers: list[Answer]


class CellFindings(NamedTuple):
    """Findings of one cell, those that fired first."""

    name: str
    findings: list[Finding]


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
    answer: str
    next_steps: list[str]
    findings: list[CellFindings]
    traces: dict[str, list[TracePoint]]
    examples: list[SideBySide]
    metric_names: list[str]
    differing: list[str]
    """Settings in force that differ between cells although nobody swept them."""
    environment: dict[str, str]
    checks: list[str]
    """What preflight warned of, with the cells that it warned of."""
    data: list[DataSeen]
    """Every set of rows that cells were trained on."""


def gather(
    config: ExperimentConfig, folder: ExperimentFolder, ranking: Ranking, cells: Sequence[CellResult],
    references: Sequence[CellResult], findings: Mapping[str, Sequence[Finding]],
) -> Content:  # fmt: skip
    """The content of a report, from records alone."""
    everyone = [*cells, *references]
    trained = [cell for cell in cells if cell.train]
    return Content(
        config=config,
        ranking=ranking,
        cells=cells,
        references=references,
        answer=answer_sentence(ranking),
        next_steps=_next_steps(ranking, cells),
        findings=[CellFindings(c.name, _ordered(findings.get(c.cell, ()))) for c in cells],
        traces={c.name: list(read_lines(folder.cell(c.cell).trace, TracePoint)) for c in cells},
        examples=_side_by_side(folder, everyone, ranking.criterion),
        metric_names=list(dict.fromkeys([ranking.criterion, *(name for r in everyone for name in r.metrics())])),
        differing=[sentence(difference) for difference in ranking.not_comparable],
        environment=trained[0].train.environment if trained and trained[0].train else {},
        checks=_warned(folder, cells),
        data=_data_seen(folder, cells),
    )


def _checks(folder: ExperimentFolder, cells: Sequence[CellResult]) -> list[tuple[CellResult, CellCheck]]:
    found = [(cell, folder.cell(cell.cell).check) for cell in cells]
    return [(cell, read_record(path, CellCheck)) for cell, path in found if path.exists()]


def _warned(folder: ExperimentFolder, cells: Sequence[CellResult]) -> list[str]:
    """Every warning once, with the cells that have it where it isn't all of them."""
    names = cells_by_message((check for _, check in _checks(folder, cells)), "warning")
    return [text if len(who) == len(cells) else f"{', '.join(who)}: {text}" for text, who in names.items()]


def _data_seen(folder: ExperimentFolder, cells: Sequence[CellResult]) -> list[DataSeen]:
    names: dict[str, list[str]] = {}
    for cell, check in _checks(folder, cells):
        if check.data_report:
            names.setdefault(check.data_report, []).append(cell.name)
    return [DataSeen(who, read_record(Path(path), DataReport)) for path, who in names.items() if Path(path).exists()]


def answer_sentence(ranking: Ranking) -> str:
    """The answer in one sentence, with its uncertainty."""
    best = [row for row in ranking.rows if row.in_best_set]
    if not best:
        return "No cell passed the gates, so nothing is recommended."
    top = best[0]
    value = top.metrics[ranking.criterion]
    number = f"{ranking.criterion} {shown(value)}, n = {value.n}"
    if len(best) == 1:
        others = len(ranking.rows) - 1
        versus = (
            f"better than {'the other one' if others == 1 else f'each of the {others} others'}"
            if others
            else "the only one that passed the gates"
        )
        seeds = "" if top.seed_count > 1 or not others else ", as far as one seed can tell"
        return f"{top.name} is best: {versus}{seeds} ({number})."
    return f"{_listed([row.name for row in best])} can't be told apart; {top.name} has the highest value ({number})."


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _next_steps(ranking: Ranking, cells: Sequence[CellResult]) -> list[str]:
    steps = []
    best = [row for row in ranking.rows if row.in_best_set]
    if best and min(row.seed_count for row in best) < 3:
        steps.append(
            "Train the best set with 3 to 5 seeds before you trust the order: the noise of one seed isn't in these intervals."
        )
    if len(best) > 1 and ranking.minimum_detectable_difference is not None:
        steps.append(
            f"Differences below about {ranking.minimum_detectable_difference:.3f} can't be seen with {ranking.num_examples} examples; add some, or take the cheapest of the best set."
        )
    if any(cell.status == "failed" for cell in cells):
        steps.append("Some cells failed; their reasons are below. Mend them and run again: finished cells are kept.")
    if not best:
        steps.append("Read the reasons for exclusion below, or loosen the gates with `harness rank --gate`.")
    return steps


def _ordered(findings: Sequence[Finding]) -> list[Finding]:
    weight = {"error": 0, "warning": 1, "info": 2}
    return sorted(findings, key=lambda f: (f.outcome != "fired", weight[f.severity]))


def _side_by_side(folder: ExperimentFolder, results: Sequence[CellResult], criterion: str) -> list[SideBySide]:
    """The examples that divide the cells most, with every answer."""
    suite = criterion.partition(".")[0]
    scores = {r.cell: per_example(r, criterion) for r in results}
    generations = {r.cell: {g.example_id: g for g in _generations(folder.cell(r.cell), r, suite)} for r in results}
    shared = sorted({example for values in scores.values() for example in values})

    def spread(example: str) -> float:
        values = [s[example] for s in scores.values() if example in s]
        mean = sum(values) / len(values)
        return sum((value - mean) ** 2 for value in values) / len(values)

    chosen = sorted(shared, key=lambda example: -spread(example))[:MAX_SHOWN_EXAMPLES]
    found = []
    for example in chosen:
        given = [(r, generations[r.cell][example]) for r in results if example in generations[r.cell]]
        answers = [Answer(r.name, g.text[:MAX_TEXT], scores[r.cell].get(example), g.stop_reason) for r, g in given]
        if answers:
            found.append(SideBySide(example, given[0][1].prompt[-MAX_TEXT:], answers))
    return found


def _generations(folder: CellFolder, result: CellResult, suite: str) -> list[Generation]:
    """The first completion of every prompt."""
    files = [folder.generations(found.suite, found.digest) for found in result.suites if found.suite == suite]
    return [line for path in files for line in read_lines(path, Generation) if line.sample == 0]
