"""Tables for a terminal, and the JSON that scripts rely on."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Literal

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness.cell_checks import CellCheck
from harness.comparability import sentence
from harness.experiment import problem_lines
from harness.gates import shown
from harness.plan import Plan
from harness.ranking import Ranking
from harness.records import Estimate, Finding, Generation, SuiteResult, warning_names
from harness.store import read_lines
from harness.targets import FoundCell

GPU_SIZES_GIB = (8, 12, 16, 24, 40, 48, 80, 141)
SEVERITIES: tuple[tuple[Literal["warning", "error"], str], ...] = (("warning", "yellow"), ("error", "red"))
RANK_AND_NAME, NUMBER = 24, 12
"""Characters of the first two columns at least, and of a value with its margin."""
SHOWN_METRICS = ("held_out.exact_match", "template_adherence.all", "retention.accuracy")


def console_for_results() -> Console:
    """A console for stdout that leaves numbers as they are."""
    return Console(highlight=False)


def plan_table(made: Plan, checks: Mapping[str, CellCheck]) -> None:
    """One row a cell, then what is wrong."""
    console = console_for_results()
    table = Table(box=None, pad_edge=False)
    facts = {
        "rows": "rows",
        "steps": "steps",
        "trainable": "num_trainable_parameters",
        "GiB": "memory_gib",
        "time": "seconds",
    }
    known = {
        name: field for name, field in facts.items() if any(getattr(c, field) is not None for c in checks.values())
    }
    for name in ("id", "cell", "seed", *(() if known else ("differs in",))):
        table.add_column(name, overflow="fold")
    for name in known:
        table.add_column(name, justify="right", no_wrap=True)
    for cell in made.cells:
        differs = ", ".join(f"{key}={value}" for key, value in cell.overrides.items())
        values = [_fact(name, getattr(checks[cell.id], field)) for name, field in known.items()] or [escape(differs)]
        table.add_row(cell.id, escape(cell.name), str(cell.seed), *values)
    console.print(table)
    count = len(made.cells)
    console.print(
        f"{count} cell{'s' if count != 1 else ''} in {len(made.packs)} packs; references: {', '.join(r.name for r in made.references) or 'none'}"
    )
    largest = max((check.memory_gib for check in checks.values() if check.memory_gib is not None), default=None)
    if largest is not None:
        fitting = [size for size in GPU_SIZES_GIB if size >= largest]
        fits = f"fits one GPU of {fitting[0]} GB" if fitting else f"does not fit one GPU of {GPU_SIZES_GIB[-1]} GB"
        console.print(f"Memory of the largest cell: about {largest:.1f} GiB (estimate); {fits}")
    for severity, style in SEVERITIES:
        for line in problem_lines(checks, severity):
            click.echo(
                f"{click.style('problem:' if severity == 'error' else 'warning:', fg=style, bold=True)} {line}",
                err=True,
            )


def _fact(name: str, value: float | None) -> str:
    if value is None:
        return ""
    if name == "time":
        return f"{value / 60:.0f} min" if value >= 90 else f"{value:.0f} s"
    return f"{value:.1f}" if name == "GiB" else f"{value:,.0f}"


def ranking_json(ranking: Ranking) -> str:
    """The contract of `rank --json`."""

    def metrics(values: Mapping[str, Estimate]) -> dict[str, object]:
        return {name: value.model_dump(mode="json") for name, value in values.items()}

    def findings(values: Sequence[Finding]) -> list[dict[str, object]]:
        return [
            f.model_dump(mode="json", include={"check", "outcome", "severity", "message", "advice"}) for f in values
        ]

    rows = [
        {
            "rank": row.rank, "rank_interval": list(row.rank_interval), "in_best_set": row.in_best_set, "cell": row.cell,
            "name": row.name, "seed_count": row.seed_count, "mlflow_run_ids": list(row.mlflow_run_ids),
            "metrics": metrics(row.metrics), "findings": findings(row.findings),
        }
        for row in ranking.rows
    ]  # fmt: skip
    excluded = [
        {
            "cell": e.cell,
            "name": e.name,
            "reason": e.reason,
            "metrics": metrics(e.metrics),
            "findings": findings(e.findings),
        }
        for e in ranking.excluded
    ]
    references = [{"name": r.name, "metrics": metrics(r.metrics)} for r in ranking.references]
    content = {
        "experiment": ranking.experiment, "criterion": ranking.criterion, "rows": rows, "excluded": excluded,
        "references": references, "num_examples": ranking.num_examples, "caveats": list(ranking.caveats),
        "not_comparable": [difference.model_dump(mode="json") for difference in ranking.not_comparable],
        "minimum_detectable_difference": ranking.minimum_detectable_difference,
    }  # fmt: skip
    return json.dumps(content, indent=2)


def ranking_table(ranking: Ranking) -> None:
    """The ranking, what was excluded and why, and what to know before believing it."""
    console = console_for_results()
    metrics = tuple(dict.fromkeys((ranking.criterion, *SHOWN_METRICS)))
    measured = [entry.metrics for entry in ranking.rows] + [entry.metrics for entry in ranking.excluded]
    measured += [entry.metrics for entry in ranking.references]
    known = _that_fit([metric for metric in metrics if any(metric in values for values in measured)], console.width)
    console.print(
        f"\n[bold]{escape(ranking.experiment)}[/bold] ranked by {ranking.criterion} on {ranking.num_examples} examples"
    )
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("rank", justify="right", no_wrap=True)
    table.add_column("cell", overflow="fold", min_width=16)
    for metric in known:
        table.add_column(re.sub(r"(?<=[.])", "\n", metric), justify="right", no_wrap=True)
    for row in ranking.rows:
        low, high = row.rank_interval
        place = f"{low}" if low == high else f"{low}-{high}"
        style = "green" if row.in_best_set else None
        table.add_row(place, escape(row.name), *_values(row.metrics, known), style=style)
    for excluded in ranking.excluded:
        table.add_row("-", escape(excluded.name), *_values(excluded.metrics, known), style="dim")
    for reference in ranking.references:
        table.add_row("ref", escape(reference.name), *_values(reference.metrics, known), style="cyan")
    console.print(table)
    _notes(console, ranking)


def _that_fit(metrics: Sequence[str], width: int) -> list[str]:
    """The first metrics, the criterion before all, whose columns leave room for rank and name."""
    left = width - RANK_AND_NAME
    shown: list[str] = []
    for metric in metrics:
        left -= max(NUMBER, *(len(part) + 1 for part in metric.split("."))) + 2
        if left >= 0 or not shown:
            shown.append(metric)
    return shown


def _notes(console: Console, ranking: Ranking) -> None:
    best = [row.name for row in ranking.rows if row.in_best_set]
    if len(best) == 1:
        console.print(f"\nBest: [green]{escape(best[0])}[/green]")
    elif best:
        console.print(f"\nBest set (no sure difference between them): [green]{escape(', '.join(best))}[/green]")
    else:
        console.print("\n[yellow]No cell passed the gates.[/yellow]")
    for row in ranking.rows:
        if fired := warning_names(row.findings):
            console.print(f"- [yellow]{escape(row.name)}[/yellow]: {fired}")
    for excluded in ranking.excluded:
        why = warning_names(excluded.findings) or _short(excluded.reason)
        console.print(f"- not ranked: {escape(excluded.name)}: {escape(why)}")
    if ranking.minimum_detectable_difference is not None:
        console.print(
            f"[dim]Smallest difference that {ranking.num_examples} examples can show between the two best: "
            f"{ranking.minimum_detectable_difference:.3f}[/dim]"
        )
    for difference in ranking.not_comparable:
        console.print(f"[yellow]Not quite comparable:[/yellow] {escape(sentence(difference))}", soft_wrap=True)
    for caveat in ranking.caveats:
        console.print(f"[dim]{escape(caveat)}[/dim]")


def _short(reason: str, limit: int = 160) -> str:
    return reason if len(reason) <= limit else f"{reason[: limit - 1]}…"


def _values(metrics: Mapping[str, Estimate], names: Sequence[str]) -> list[str]:
    return [
        f"{metrics[n].value:.3f} ±{(metrics[n].high - metrics[n].low) / 2:.3f}" if n in metrics else "" for n in names
    ]


def print_outcome(made: Plan, ranking: Ranking) -> None:
    """The end of `harness run`: ranking, report, UI."""
    ranking_table(ranking)
    console = console_for_results()
    console.print(f"\nReport: {made.folder.report('html')}", soft_wrap=True)
    console.print(f"Runs:   harness ui {made.config.name}   (or plain `mlflow ui` in this folder)", soft_wrap=True)


def findings_table(findings: Sequence[Finding]) -> None:
    """Every check with its outcome, message and advice."""
    console = console_for_results()
    styles = {"error": "red", "warning": "yellow", "info": "cyan"}
    for finding in findings:
        fired = finding.outcome == "fired"
        label = f"[{styles[finding.severity]}]{finding.severity}[/]" if fired else f"[dim]{finding.outcome}[/]"
        console.print(f"[bold]{finding.check}[/bold]: {label}. {escape(finding.message)}", soft_wrap=True)
        if fired and finding.advice:
            console.print(f"  {escape(finding.advice)}", soft_wrap=True)


def _loss(value: float | str | None) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _by_weight(finding: Finding) -> int:
    return ("error", "warning", "info").index(finding.severity) if finding.outcome == "fired" else 3


def cell_page(found: FoundCell, num_generations: int) -> None:
    """All about one cell."""
    console, result = console_for_results(), found.result
    console.print(
        f"[bold]{escape(result.name)}[/bold] ({result.cell}) {result.status}; MLflow run {result.mlflow_run_id}"
    )
    for key, value in result.overrides.items():
        console.print(f"  {escape(key)} = {escape(str(value))}")
    if result.status == "failed":
        console.print(f"[red]failed while {escape(result.stage)}: {escape(result.error)}[/red]")
    if result.train:
        train = result.train
        console.print(
            f"Trained {train.steps} steps ({train.epochs:.1f} epochs) in {train.seconds:.0f} s on {train.device}; train loss {_loss(train.train_loss)}, eval loss {_loss(train.eval_loss)} (best {_loss(train.best_eval_loss)} at step {train.best_step})"
        )
        if train.stopped_on:
            console.print(f"[yellow]{escape(train.stopped_on)}[/yellow]")
    for name, estimate in result.metrics().items():
        console.print(
            f"  {name}: {shown(estimate)} n={estimate.n}"
            + (f", {estimate.unscored} unscored" if estimate.unscored else "")
        )
    _print_slices(console, result.suites)
    # What fired first, the worst on top; the order of the checks otherwise.
    findings_table(sorted(found.findings, key=_by_weight))
    for suite in result.suites:
        console.print(f"[bold]{suite.suite}[/bold], {num_generations} of its generations:")
        lines = read_lines(found.folder.generations(suite.suite, suite.digest), Generation)
        for generation in [line for line in lines if line.sample == 0][:num_generations]:
            text = f"  {generation.example_id} ({generation.stop_reason}): {generation.text!r}"
            console.print(escape(text), soft_wrap=True)
    console.print(f"Folder: {found.folder.path}", soft_wrap=True)


def _print_slices(console: Console, suites: Sequence[SuiteResult]) -> None:
    """How well each kind of prompt keeps to the template; the single checks have too many to read."""
    for suite in suites:
        if suite.is_kind("template_adherence"):
            for name, estimate in suite.slice_metrics.items():
                if name.startswith(("all.", "probes.")):
                    console.print(escape(f"    {name}: {shown(estimate)} n={estimate.n}"))
