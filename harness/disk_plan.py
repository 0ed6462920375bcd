"""Whether the disk holds what an experiment will write."""

import math
from collections.abc import Mapping
from typing import NamedTuple

from harness.cell_checks import CellCheck, CheckProblem
from harness.checkpoint_config import Keep
from harness.config import ExperimentConfig, RunConfig
from harness.disk import GIB, free_bytes, size_words
from harness.grid import Cell
from harness.hardware import visible_gpus
from harness.store import ExperimentFolder

# Of a cell whose file doesn't say: it is saved at every evaluation, and evaluated ten times.
NUM_SAVES = 10
# While a cell trains: the best, the last, and the next until it is whole.
NUM_AT_ONCE = 3


class DiskNeed(NamedTuple):
    """What the checkpoints of an experiment take, by estimate, and what is free."""

    needed_gib: float
    free_gib: float


class _Cell(NamedTuple):
    once_gib: float
    """Of one checkpoint with its optimizer's state."""
    kept_gib: float
    """Once the cell is done."""
    peak_gib: float
    """While it trains."""


def disk_need(
    config: ExperimentConfig, cells: Mapping[str, Cell], checks: Mapping[str, CellCheck], folder: ExperimentFolder
) -> DiskNeed | None:
    """What the cells that are not trained yet will write; None where their sizes are not known."""
    sized = _sized(config, cells, checks, folder).values()
    if not sized:
        return None
    workers = config.launch.workers if isinstance(config.launch.workers, int) else max(1, len(visible_gpus()))
    while_training = sorted((cell.peak_gib - cell.kept_gib for cell in sized), reverse=True)[:workers]
    return DiskNeed(sum(cell.kept_gib for cell in sized) + sum(while_training), free_bytes(folder.path) / GIB)


def check_disk(
    config: ExperimentConfig, cells: Mapping[str, Cell], checks: Mapping[str, CellCheck], folder: ExperimentFolder
) -> Mapping[str, CellCheck]:
    """The checks, with an error for cells of which not one checkpoint fits, and a warning where not all of them do."""
    need = disk_need(config, cells, checks, folder)
    if need is None:
        return checks
    sized = _sized(config, cells, checks, folder)
    free = f"{size_words(need.free_gib)} are free at {folder.path}"
    found = dict(checks)
    for cell_id, cell in sized.items():
        if cell.once_gib > need.free_gib:
            text = f"the disk is too small: one checkpoint takes about {size_words(cell.once_gib)}, and {free}; free some space"
            found[cell_id] = _with(found[cell_id], CheckProblem(severity="error", message=text))
    if need.needed_gib > need.free_gib:
        keep = config.checkpoints.keep
        text = (
            f"the checkpoints will take about {size_words(need.needed_gib)} (keep: {keep}), and {free}; free some space"
            f"{'' if keep == 'none' else ', set checkpoints: {keep: none},'} or train adapters"
        )
        found |= {i: _with(check, CheckProblem(severity="warning", message=text)) for i, check in found.items()}
    return found


def _with(check: CellCheck, problem: CheckProblem) -> CellCheck:
    return check.model_copy(update={"problems": (*check.problems, problem)})


def _sized(
    config: ExperimentConfig, cells: Mapping[str, Cell], checks: Mapping[str, CellCheck], folder: ExperimentFolder
) -> Mapping[str, _Cell]:
    todo = {i: cell for i, cell in cells.items() if not (folder.cell(i).path / "train.json").exists()}
    sizes = {i: _size_of(cell.config, checks[i], config.checkpoints.keep) for i, cell in todo.items()}
    return {i: size for i, size in sizes.items() if size is not None}


def _size_of(config: RunConfig, check: CellCheck, keep: Keep) -> _Cell | None:
    if check.saved_gib is None or check.optimizer_gib is None:
        return None
    weights, whole = check.saved_gib, check.saved_gib + check.optimizer_gib
    saves = _num_saves(config, check.steps or 1)
    kept = {"all": whole * saves, "best+last": weights * min(2, saves), "none": 0.0}[keep]
    return _Cell(whole, kept, max(kept, whole * min(NUM_AT_ONCE, saves)))


def _num_saves(config: RunConfig, steps: int) -> int:
    """How often a cell is saved."""
    training = config.training
    if training.get("save_strategy", training.get("eval_strategy")) == "epoch":
        return math.ceil(float(training.get("num_train_epochs") or 3.0))
    every = float(training.get("save_steps") or training.get("eval_steps") or 0)
    if not every:
        return min(steps, NUM_SAVES)
    return max(1, math.ceil(1 / every if every < 1 else steps / every))


def disk_words(need: DiskNeed) -> str:
    """What is needed and what is there, in words."""
    return f"about {size_words(need.needed_gib)} of disk (estimate), {size_words(need.free_gib)} free"
