"""What several commands print alike."""

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape

from harness.cli.terminal import SafeConsole
from harness.records import Finding


def console_for_results() -> Console:
    """A console for stdout that leaves numbers as they are."""
    return SafeConsole(highlight=False)


def findings_table(findings: Sequence[Finding]) -> None:
    """Every check with its outcome, message and advice."""
    console = console_for_results()
    # A reader's lines end at words; a script's are whole.
    is_whole = not console.is_terminal
    styles = {"error": "red", "warning": "yellow", "info": "cyan"}
    for finding in findings:
        fired = finding.outcome == "fired"
        label = f"[{styles[finding.severity]}]{finding.severity}[/]" if fired else f"[dim]{finding.outcome}[/]"
        console.print(f"[bold]{finding.check}[/bold]: {label}. {escape(finding.message)}", soft_wrap=is_whole)
        if fired and finding.advice:
            console.print(f"  {escape(finding.advice)}", soft_wrap=is_whole)
