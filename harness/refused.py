"""Cells that preflight found to be impossible: what the user is told, and what stays on record."""

from collections.abc import Callable, Container, Mapping, Sequence
from typing import Literal

from harness.cell_checks import CellCheck, cells_by_message
from harness.errors import ConfigError
from harness.grid import Cell
from harness.plan import Plan
from harness.records import CellResult
from harness.store import write_record


def refused_cells(
    checks: Mapping[str, CellCheck], num_cells: int, warn: Callable[[str], None], *, strict: bool
) -> set[str]:
    """Cells that can't work; their siblings go on.

    Args:
        checks: of the cells that are to be trained.
        num_cells: of the experiment, with those that are done.
        warn: is told of each problem.
        strict: no problem is passed over.

    Raises: ConfigError: there are only such cells, or any problem at all where preflight is strict.
    """
    errors = {cell_id for cell_id, check in checks.items() if check.messages("error")}
    warned, wrong = (problem_lines(checks, severity, num_cells) for severity in ("warning", "error"))
    # Where others were trained before, they are ranked.
    if errors and (strict or len(errors) == num_cells):
        raise ConfigError("\n".join(wrong))
    if strict and warned:
        raise ConfigError("\n".join(warned))
    for line in (*warned, *(f"{text} (not trained)" for text in wrong)):
        warn(line)
    return errors


def problem_lines(checks: Mapping[str, CellCheck], severity: Literal["warning", "error"], num_cells: int) -> list[str]:
    """Every problem once, with the cells that have it where it isn't all of the experiment's."""
    cells = cells_by_message(checks.values(), severity)
    return [text if len(names) == num_cells else f"{some(names)}: {text}" for text, names in cells.items()]


def some(names: Sequence[str]) -> str:
    """One cell by its name, or how many there are."""
    return f"cell {names[0]}" if len(names) == 1 else f"{len(names)} cells ({names[0]}, ...)"


def _refusal(cell: Cell, check: CellCheck) -> CellResult:
    return CellResult(
        cell=cell.id, name=cell.name, group=cell.group, seed=cell.seed, base=cell.base, overrides=cell.overrides, status="failed",
        stage="checking the cell", error="; ".join(check.messages("error")),
    )  # fmt: skip


def keep_checks(made: Plan, todo: Sequence[Cell], checks: Mapping[str, CellCheck], refused: Container[str]) -> None:
    """Writes what was found, and how the refused cells ended."""
    for cell in (cell for cell in todo if cell.id in refused):
        write_record(made.folder.cell(cell.id).result, _refusal(cell, checks[cell.id]))
    for cell_id, check in checks.items():
        write_record(made.folder.cell(cell_id).check, check)
