"""What `harness plan` prints."""

from collections.abc import Mapping
from typing import Literal

import click
from rich.markup import escape
from rich.table import Table

from harness.cell_checks import CellCheck
from harness.cli.tables import console_for_results
from harness.disk_plan import disk_need, disk_words
from harness.plan import Plan
from harness.refused import problem_lines

GPU_SIZES_GIB = (8, 12, 16, 24, 40, 48, 80, 141)
SEVERITIES: tuple[tuple[Literal["warning", "error"], str], ...] = (("warning", "yellow"), ("error", "red"))


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
    for name in made.brings_code():
        console.print(f"[yellow]trust_remote_code:[/] Python that comes with {escape(name)} is run")
    largest = max((check.memory_gib for check in checks.values() if check.memory_gib is not None), default=None)
    if largest is not None:
        fitting = [size for size in GPU_SIZES_GIB if size >= largest]
        fits = f"fits one GPU of {fitting[0]} GB" if fitting else f"does not fit one GPU of {GPU_SIZES_GIB[-1]} GB"
        console.print(f"Memory of the largest cell: about {largest:.1f} GiB (estimate); {fits}")
    need = disk_need(made.config, {cell.id: cell for cell in made.cells}, checks, made.folder)
    if need is not None:
        console.print(f"Checkpoints (keep: {made.config.checkpoints.keep}): {disk_words(need)}")
    for severity, style in SEVERITIES:
        for line in problem_lines(checks, severity, len(checks)):
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
