"""What `harness show` prints of a cell, a reference or another system's predictions."""

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from harness.cli.tables import console_for_results, findings_table
from harness.compared_answers import asked_text
from harness.compared_runs import Part, criterion_of, part_of
from harness.gates import shown, sign_of
from harness.records import Finding, Generation, Score, SuiteResult, TrainResult
from harness.reports.visible import cut, cut_front, visible
from harness.results import ending
from harness.targets import FoundCell

PROMPT_LINES, PROMPT_CHARACTERS = 4, 300
"""Of a prompt's end."""
TEXT_LINES, TEXT_CHARACTERS = 6, 500
"""Of the beginning of an answer, and of what was expected."""


def cell_page(found: FoundCell, num_examples: int) -> None:
    """All about one cell; of every suite the examples that it did worst on."""
    console, result = console_for_results(), found.result
    kind = f"reference ({result.reference}), " if result.reference else ""
    run = f"; MLflow run {result.mlflow_run_id}" if result.mlflow_run_id else ""
    console.print(f"[bold]{escape(result.name)}[/bold] ({result.cell}) {kind}{result.status}{run}")
    for key, value in result.overrides.items():
        console.print(f"  {escape(key)} = {escape(str(value))}")
    if result.status != "finished":
        console.print(f"[red]{escape(ending(result))}[/red]")
    if result.train:
        _print_training(console, result.train)
    for name, estimate in result.metrics().items():
        console.print(
            f"  {name}: {shown(estimate)} n={estimate.n}"
            + (f", {estimate.unscored} unscored" if estimate.unscored else "")
        )
    _print_slices(console, result.suites)
    # What fired first, the worst on top; the order of the checks otherwise.
    findings_table(sorted(found.findings, key=_by_weight))
    part, criterion = part_of(found), criterion_of(found.folder)
    for suite in sorted(result.suites, key=lambda suite: not criterion.startswith(f"{suite.suite}.")):
        _print_examples(console, suite, part, _deciding(suite, criterion), num_examples)
    console.print(f"Folder: {found.folder.path}", soft_wrap=True)


def _print_training(console: Console, train: TrainResult) -> None:
    console.print(
        f"Trained {train.steps} steps ({train.epochs:.1f} epochs) in {train.seconds:.0f} s on {train.device}; train loss "
        f"{_loss(train.train_loss)}, eval loss {_loss(train.eval_loss)} (best {_loss(train.best_eval_loss)} at step {train.best_step})"
    )
    if train.stopped_on:
        console.print(f"[yellow]{escape(train.stopped_on)}[/yellow]")


def _loss(value: float | str | None) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _by_weight(finding: Finding) -> int:
    return ("error", "warning", "info").index(finding.severity) if finding.outcome == "fired" else 3


def _print_slices(console: Console, suites: Sequence[SuiteResult]) -> None:
    """How well each kind of prompt keeps to the template; the single checks have too many to read."""
    for suite in suites:
        if suite.is_kind("template_adherence"):
            for name, estimate in suite.slice_metrics.items():
                if name.startswith(("all.", "probes.")):
                    console.print(escape(f"    {name}: {shown(estimate)} n={estimate.n}"))


def _deciding(suite: SuiteResult, criterion: str) -> str:
    """The metric that tells good answers from bad ones: the criterion, or what it is a slice of; else the first."""
    name = criterion.removeprefix(f"{suite.suite}.")
    whole = next((metric for metric in suite.metrics if name == metric or name.startswith(f"{metric}.")), "")
    return whole if criterion.startswith(f"{suite.suite}.") and whole else next(iter(suite.metrics), "")


def _print_examples(console: Console, suite: SuiteResult, part: Part, metric: str, count: int) -> None:
    """The examples with the worst score first; those that couldn't be scored last."""
    answers = part.generations.get(suite.suite, {})
    scores: dict[str, list[Score]] = {example: [] for example in answers}
    for score in suite.scores:
        if score.example_id in scores and score.metric in suite.metrics:
            scores[score.example_id].append(score)
    order = sorted(answers, key=lambda example: _badness(suite, metric, scores[example]))[:count]
    if not order:
        return
    console.print(f"\n[bold]{escape(suite.suite)}[/bold], {len(order)} of {len(answers)} answers, the worst first:")
    for example in order:
        given = answers[example]
        ending = "end unknown" if given.stop_reason == "unknown" else given.stop_reason.replace("_", " ")
        verdict = ", ".join(_verdict(score) for score in scores[example])
        line = Text(f"{visible(example)}: ", style="bold")
        line.append(visible(f"{verdict}; {ending}" if verdict else ending), style="not bold")
        console.print(line)
        console.print(Padding(_example(suite, part, given), (0, 0, 0, 2)))


def _badness(suite: SuiteResult, metric: str, scores: Sequence[Score]) -> tuple[float, int]:
    """What sorts failed answers first: the deciding score, the lowest of the others where there is none, then failures."""
    values = {s.metric: sign_of(f"{suite.suite}.{s.metric}") * s.value for s in scores if s.value is not None}
    worst = values.get(metric, min(values.values(), default=float("inf")))
    return worst, -sum(bool(score.failure) for score in scores)


def _verdict(score: Score) -> str:
    value = "unscored" if score.value is None else f"{score.value:.3g}"
    return f"{score.metric} {value}" + (f" ({score.failure})" if score.failure else "")


def _example(suite: SuiteResult, part: Part, given: Generation) -> Table:
    """What was asked, what was expected and what was answered, as far as each is known."""
    asked = part.examples.get(suite.suite, {}).get(given.example_id)
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("asked", Text(_end_of(asked_text(asked) if asked else given.prompt)))
    if asked and asked.reference:
        table.add_row("expected", Text(_start_of(asked.reference)))
    answer = Text(_start_of(given.text)) if given.text else Text("(empty)", style="dim")
    table.add_row("answered", answer)
    return table


def _start_of(text: str) -> str:
    lines = visible(text).splitlines()
    more = len(lines) - TEXT_LINES
    shortened = cut("\n".join(lines[:TEXT_LINES]), TEXT_CHARACTERS)
    return shortened if more <= 0 else f"{shortened}\n… ({more} more lines)"


def _end_of(text: str) -> str:
    lines = visible(text).rstrip().splitlines()
    more = len(lines) - PROMPT_LINES
    shortened = cut_front("\n".join(lines[-PROMPT_LINES:]), PROMPT_CHARACTERS)
    return shortened if more <= 0 else f"({more} lines before) …\n{shortened}"
