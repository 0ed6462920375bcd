"""What the checks of `stop_on` would have ended in a grid that is done, and what that would have cost and saved."""

import math
from collections.abc import Mapping, Sequence

from harness.cell_files import recorded_training
from harness.config import CurveCheck, RunConfig
from harness.diagnose.cell_reader import announced_steps, asked_settings
from harness.diagnose.evidence import as_float
from harness.diagnose.live import Watch, first_stop
from harness.errors import ConfigError
from harness.plan import Plan
from harness.rank_cells import rank
from harness.records import CellResult, Finding, Probe, Record, TracePoint, TrainResult
from harness.store import CellFolder, read_lines

DEFAULT_CHECKS: tuple[CurveCheck, ...] = RunConfig.model_fields["stop_on"].default


class ReplayedCell(Record):
    """One cell, told point by point to the checks that run while a cell trains."""

    cell: str
    name: str
    check: CurveCheck | None
    """Which check would have ended it; None where it would have gone on to its end."""
    step: int | None
    """Where."""
    message: str
    steps: int
    """Optimizer steps that it took."""
    planned_steps: int
    steps_saved: int
    """Of those that it took."""
    seconds: float
    seconds_saved: float
    steps_already_saved: int
    """Planned steps that it never took, for its training was ended early in truth."""


class Replay(Record):
    """What `stop_on` would have done to an experiment."""

    experiment: str
    stop_on: tuple[CurveCheck, ...]
    cells: tuple[ReplayedCell, ...]
    steps: int
    steps_saved: int
    steps_already_saved: int
    seconds: float
    seconds_saved: float
    best_set: tuple[str, ...]
    best_set_without_stopped: tuple[str, ...]
    """The same ranking with the stopped cells left out, for nobody knows what they would have answered."""
    best_set_changes: bool


def replay(
    made: Plan, extra_checks: Sequence[CurveCheck], *, cells: Sequence[CellResult], references: Sequence[CellResult],
    findings: Mapping[str, Sequence[Finding]],
) -> Replay:  # fmt: skip
    """Goes through the traces of an experiment's cells as if they were being trained, by the code that runs live.

    Args:
        made: the plan of the experiment.
        extra_checks: beside those that end a training by default.
        cells: results of all cells.
        references: results of the references.
        findings: cell id -> findings, for the gates of the ranking.

    Raises: ConfigError: nothing was trained.
    """
    if made.config.is_predictions_alone:
        raise ConfigError(
            f"{made.config.name}: nothing was trained here, for its rows are predictions alone; replay an experiment that trains"
        )
    checks = tuple(dict.fromkeys((*DEFAULT_CHECKS, *extra_checks)))
    replayed = [_replayed(made.folder.cell(result.cell), result, checks) for result in cells]
    stopped = {cell.cell for cell in replayed if cell.check is not None}

    def best_set(among: Sequence[CellResult]) -> tuple[str, ...]:
        ranking = rank(made.config.name, made.config.ranking, among, references, findings)
        return tuple(row.name for row in ranking.rows if row.in_best_set)

    before = best_set(cells)
    after = best_set([result for result in cells if result.cell not in stopped]) if stopped else before
    return Replay(
        experiment=made.config.name,
        stop_on=checks,
        cells=tuple(replayed),
        steps=sum(cell.steps for cell in replayed),
        steps_saved=sum(cell.steps_saved for cell in replayed),
        steps_already_saved=sum(cell.steps_already_saved for cell in replayed),
        seconds=sum(cell.seconds for cell in replayed),
        seconds_saved=sum(cell.seconds_saved for cell in replayed),
        best_set=before,
        best_set_without_stopped=after,
        best_set_changes=set(before) != set(after),
    )


def _replayed(folder: CellFolder, result: CellResult, checks: Sequence[CurveCheck]) -> ReplayedCell:
    points = list(read_lines(folder.trace, TracePoint))
    trained = recorded_training(folder, result)
    last = points[-1].step if points else 0
    planned = (trained.planned_steps if trained else announced_steps(folder)) or last
    watch = Watch(checks, planned, trained.settings if trained else asked_settings(folder))
    stop = first_stop(watch, points, list(read_lines(folder.probes, Probe)))
    seconds = points[-1].seconds if points else 0.0
    until = next((point.seconds for point in reversed(points) if stop and point.step <= stop.step), seconds)
    return ReplayedCell(
        cell=result.cell,
        name=result.name,
        check=stop.check if stop else None,
        step=stop.step if stop else None,
        message=stop.message if stop else "",
        steps=last,
        planned_steps=planned,
        steps_saved=last - stop.step if stop else 0,
        seconds=seconds,
        seconds_saved=seconds - until,
        steps_already_saved=planned - last if _was_stopped(points, trained) else 0,
    )


def _was_stopped(points: Sequence[TracePoint], trained: TrainResult | None) -> bool:
    """Whether a check ended the training in truth; one that was interrupted or ran out of memory saved nothing."""
    if trained is not None:
        return bool(trained.stopped_on)
    losses = [point.values["loss"] for point in points if "loss" in point.values]
    return bool(losses) and not math.isfinite(as_float(losses[-1]))
