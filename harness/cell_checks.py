"""What preflight finds out about a cell."""

from collections.abc import Iterable
from typing import Literal

from harness.records import Record, Shown


class CheckProblem(Record):
    """One thing that preflight found wrong with a cell."""

    severity: Literal["warning", "error"]
    message: Shown


class CellCheck(Record):
    """What preflight found out about a cell; fields are None where it couldn't get that far."""

    cell: str
    name: str
    problems: tuple[CheckProblem, ...] = ()
    rows: int | None = None
    """Training rows that can be learned from."""
    supervised_tokens: int | None = None
    steps: int | None = None
    """Optimizer steps on one device, packing aside."""
    num_trainable_parameters: int | None = None
    memory_gib: float | None = None
    """Estimated, on one device."""
    saved_gib: float | None = None
    """Weights of one checkpoint, estimated."""
    optimizer_gib: float | None = None
    """The optimizer's state beside them, estimated."""
    seconds: float | None = None
    """Estimated time of training, where a probe was timed."""
    data_report: str = ""
    """Digest that names the report on its rows in the folder of the experiment."""

    def messages(self, severity: Literal["warning", "error"]) -> tuple[str, ...]:
        """The problems of one severity."""
        return tuple(problem.message for problem in self.problems if problem.severity == severity)


def cells_by_message(checks: Iterable[CellCheck], severity: Literal["warning", "error"]) -> dict[str, list[str]]:
    """Every message of a severity once, with the names of the cells that have it."""
    cells: dict[str, list[str]] = {}
    for check in checks:
        for message in check.messages(severity):
            cells.setdefault(message, []).append(check.name)
    return cells
