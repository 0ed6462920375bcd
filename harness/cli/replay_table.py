"""What `harness replay` prints."""

from rich.markup import escape
from rich.table import Table

from harness.cli.terminal import SafeConsole
from harness.replay import Replay


def replay_page(done: Replay) -> None:
    """One row a cell, why those that were stopped were, the sum, and whether the best set would have been another one."""
    console = SafeConsole(highlight=False)
    console.print(f"\n[bold]{escape(done.experiment)}[/bold] replayed with stop_on {', '.join(done.stop_on)}")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("cell", overflow="fold", min_width=16)
    for name in ("steps", "stopped at", "steps saved", "seconds saved"):
        table.add_column(name, justify="right", no_wrap=True)
    for cell in done.cells:
        numbers = (
            ("-", "", "") if cell.step is None else (str(cell.step), str(cell.steps_saved), f"{cell.seconds_saved:.0f}")
        )
        style = None if cell.step is None else "yellow"
        table.add_row(escape(cell.name), f"{cell.steps}/{cell.planned_steps}", *numbers, style=style)
    console.print(table)
    for cell in done.cells:
        if cell.check is not None:
            truth = (
                f" It was stopped in truth, {cell.steps_already_saved} steps before its end."
                if cell.steps_already_saved
                else ""
            )
            line = f"- [yellow]{escape(cell.name)}[/yellow]: {cell.check}: {escape(cell.message)}{truth}"
            console.print(line, soft_wrap=True)
    share = done.steps_saved / done.steps if done.steps else 0.0
    console.print(
        f"Saved: {done.steps_saved} of {done.steps} steps ({share:.0%}), {done.seconds_saved:.0f} of {done.seconds:.0f} s of training"
    )
    best = escape(", ".join(done.best_set)) or "none"
    if done.best_set_changes:
        without = escape(", ".join(done.best_set_without_stopped)) or "none"
        console.print(f"[red]The best set would have been another one[/red]: {without} instead of {best}")
    else:
        console.print(f"The best set would have been the same: {best}")
