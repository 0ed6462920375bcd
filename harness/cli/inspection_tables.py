"""Pages of `harness data` and `harness template` for a terminal."""

from collections.abc import Sequence

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from harness.cli.terminal import SafeConsole
from harness.data.report import DataReport, TokenSummary
from harness.inspection import MaskedRow
from harness.models.template_check import TemplateReport
from harness.records import Severity

STYLES: dict[Severity, str] = {"error": "red", "warning": "yellow", "info": "dim"}
BAR = 30


def _console() -> Console:
    return SafeConsole(highlight=False)


def data_page(report: DataReport) -> None:
    """All about a dataset, worst things last, so that they stay on the screen."""
    console = _console()
    console.print(
        f"[bold]{escape(report.source)}[/bold]: {report.format}, {report.rows} rows, {report.turns} turns",
        soft_wrap=True,
    )
    table = Table.grid(padding=(0, 2))
    if report.roles:
        table.add_row("roles", ", ".join(f"{role} {count}" for role, count in report.roles.items()))
    if report.splits:
        table.add_row("splits", ", ".join(f"{name} {count}" for name, count in report.splits.items()))
    if report.dropped:
        table.add_row("left out", ", ".join(f"{count} {reason}" for reason, count in report.dropped.items()))
    if report.tokens:
        table.add_row("tokens", _tokens(report.tokens))
    table.add_row("duplicates", f"{report.duplicates} exact, {report.near_duplicates} near")
    if report.overlap.held_out:
        over = report.overlap
        table.add_row(
            "overlap",
            f"of {over.held_out} held-out rows: {over.exact} exact, {over.near} near, {over.ngram13} by 13-gram",
        )
    if report.languages:
        languages = list(report.languages.items())[:5]
        table.add_row("languages", ", ".join(f"{code} {share:.0%}" for code, share in languages if share >= 0.005))
    console.print(table)
    if report.tokens:
        _histogram(console, report.tokens)
    if report.scores:
        _scores(console, report)
    for problem in report.problems:
        rows = ", ".join(str(number) for number in problem.examples[:5])
        where = f" (rows {rows}{', ...' if problem.count > 5 else ''})" if rows else ""
        label = f"[{STYLES[problem.severity]}]{problem.kind}[/]"
        console.print(f"{label}: {escape(problem.message)}{where}", soft_wrap=True)
    if not report.problems:
        console.print("[green]nothing wrong found[/green]")


def _tokens(tokens: TokenSummary) -> str:
    text = f"mean {tokens.mean:.0f}, median {tokens.median:.0f}, 95 % {tokens.p95:.0f}, longest {tokens.max} ({tokens.tokenizer}"
    text += ", as rendered)" if tokens.rendered else ", text alone)"
    if tokens.max_length is not None:
        text += f"; {tokens.truncated} cut at max_length {tokens.max_length}"
    if tokens.supervised_mean is not None:
        text += f"; {tokens.supervised_mean:.0f} supervised a row, {tokens.supervised_total} in all"
    return text


def _histogram(console: Console, tokens: TokenSummary) -> None:
    most = max(count for _, _, count in tokens.histogram)
    for low, high, count in tokens.histogram:
        bar = "█" * round(BAR * count / most) if most else ""
        console.print(f"  {low:>6}-{high - 1:<6} {bar:<{BAR}} {count}")


def _scores(console: Console, report: DataReport) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("quality score", "5 %", "50 %", "95 %"):
        table.add_column(name, justify="left" if name == "quality score" else "right")
    for name, points in report.scores.items():
        table.add_row(name, *(f"{point:.2f}" for point in points))
    console.print(table)


def mask_page(rows: Sequence[MaskedRow]) -> None:
    """Rows as the model sees them: what the loss looks at is green and underlined, in a file or pipe in brackets."""
    console = _console()
    left, right = ("", "") if console.is_terminal else ("⟦", "⟧")
    for row in rows:
        console.print(f"[bold]{escape(row.where)}[/bold]{' (cut at max_length)' if row.is_truncated else ''}")
        text = Text()
        for piece in row.pieces:
            if piece.is_supervised:
                text.append(f"{left}{piece.text}{right}", style="green underline")
            else:
                text.append(piece.text, style="dim")
        console.print(text)
        console.print()
    shown = "Green and underlined" if console.is_terminal else f"In {left}brackets{right}"
    click.echo(f"{shown}: supervised. All else is seen, not learned.", err=True)


def template_page(report: TemplateReport) -> None:
    """What a template does, and what is wrong with it."""
    console = _console()
    verdict = "[green]verified[/green]" if report.mask_verified else "[red]not verified[/red]"
    renders = "renders" if report.renders else "[red]does not render[/red]"
    console.print(
        f"[bold]{escape(report.template)}[/bold] with {escape(report.tokenizer)}: {renders}; mask {report.mask}, {verdict}"
    )
    if report.end_of_turn:
        console.print(
            f"ends a turn with {escape(' or '.join(report.end_of_turn))}; asks with {escape(repr(report.generation_prompt))}",
            soft_wrap=True,
        )
    if report.supervised:
        left, right = ("", "") if console.is_terminal else ("⟦", "⟧")
        console.print(f"sample, supervised parts {'green' if console.is_terminal else f'in {left}brackets{right}'}:")
        console.print(_sample(report, left, right))
    for problem in report.problems:
        console.print(f"[{STYLES[problem.severity]}]{problem.kind}[/]: {escape(problem.message)}", soft_wrap=True)
    if report.renders and not report.problems:
        console.print("[green]nothing wrong found[/green]")


def _sample(report: TemplateReport, left: str, right: str) -> Text:
    text, position = Text(style="dim"), 0
    for part in report.supervised:
        found = report.sample.find(part.strip(), position)
        if found < 0:
            continue
        text.append(report.sample[position:found])
        text.append(f"{left}{part.strip()}{right}", style="not dim green underline")
        position = found + len(part.strip())
    text.append(report.sample[position:])
    return text
