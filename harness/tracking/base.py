"""What a training process needs of a tracker."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

from harness.cell_checks import CellCheck
from harness.records import CellResult, Generation, SplitSummary, SuiteResult, TracePoint, TrainResult
from harness.store import CellFolder

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]
STATUS_OF: Mapping[str, RunStatus] = {"finished": "FINISHED", "failed": "FAILED", "killed": "KILLED"}
"""How a run ends, by the status of its cell."""


class Tracker(Protocol):
    """One run of one cell or reference."""

    @property
    def run_id(self) -> str:
        """Id of the run at the tracker; empty where there is none."""

    @property
    def owes(self) -> bool:
        """Whether an earlier process may have left out something that its folder records."""

    def start_over(self) -> None:
        """From here on everything is sent again, so that nothing is left out."""

    def log_params(self, params: Mapping[str, str]) -> None:
        """Settings, once each."""

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Values at a step; never blocks."""

    def log_trace(self, points: Iterable[TracePoint], ended: float) -> None:
        """Curves that were recorded, the last point at this time."""

    def log_check(self, check: CellCheck, data_report: Path) -> None:
        """What preflight found, and the report on the rows where there is one."""

    def log_splits(self, splits: Mapping[str, SplitSummary]) -> None:
        """The datasets that went in."""

    def log_train(self, result: TrainResult, folder: Path) -> None:
        """Checkpoints and totals."""

    def log_suite(self, result: SuiteResult, generations: Sequence[Generation]) -> None:
        """Estimates, and the table of generations with their scores."""

    def log_failing(self, folder: CellFolder, results: Sequence[SuiteResult]) -> None:
        """Answers that failed, as traces with their scores."""

    def log_failure(self, result: CellResult) -> None:
        """Where and why the cell failed or was stopped."""

    def log_records(self, folder: CellFolder, result: CellResult) -> None:
        """All that findings, rankings and reports are made from, so that they can be made anywhere."""

    def close(self, status: RunStatus, ended: float | None = None) -> None:
        """Delivers what is waiting and ends the run with a status that is true, now or at a time since the epoch."""


class NullTracker:
    """Keeps nothing."""

    owes = False

    def __init__(self, run_id: str = "") -> None:
        self.run_id = run_id

    def start_over(self) -> None: ...
    def log_params(self, params: Mapping[str, str]) -> None: ...
    def log_metrics(self, values: Mapping[str, float], step: int) -> None: ...
    def log_trace(self, points: Iterable[TracePoint], ended: float) -> None: ...
    def log_check(self, check: CellCheck, data_report: Path) -> None: ...
    def log_splits(self, splits: Mapping[str, SplitSummary]) -> None: ...
    def log_train(self, result: TrainResult, folder: Path) -> None: ...
    def log_suite(self, result: SuiteResult, generations: Sequence[Generation]) -> None: ...
    def log_failing(self, folder: CellFolder, results: Sequence[SuiteResult]) -> None: ...
    def log_failure(self, result: CellResult) -> None: ...
    def log_records(self, folder: CellFolder, result: CellResult) -> None: ...
    def close(self, status: RunStatus, ended: float | None = None) -> None: ...
