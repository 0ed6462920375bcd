"""What every configuration cost: time, tokens, memory."""

from collections.abc import Sequence
from typing import NamedTuple

from harness.configurations import configuration_name
from harness.records import CellResult, TrainResult

SECONDS_PER_HOUR = 3600


class Cost(NamedTuple):
    """Cost of one configuration. Time is the sum over its seeds; all else is of one run."""

    name: str
    cells: tuple[str, ...]
    """Ids of its finished cells, one a seed."""
    num_seeds: int
    seconds: float
    """Of training, all seeds together."""
    device_hours: float
    """The same times the devices of a cell, in hours."""
    device: str
    """CPU or GPU."""
    tokens: float
    """Tokens that a run was trained on, prompts included and repeated rows counted again: mean over seeds."""
    supervised_tokens: float
    """Those of them that the loss is of: mean over seeds."""
    tokens_per_second: float | None
    """Of training, evaluations in between included: all seeds' tokens over all seeds' seconds."""
    peak_memory_gib: float | None
    """Highest of any seed, on one device; None where it isn't measured."""
    num_trainable_parameters: int


def costs_of(cells: Sequence[CellResult], processes_per_cell: int) -> list[Cost]:
    """The cost of every configuration that was trained, in the order of the cells.

    Args:
        cells: results, of which those without training are passed over.
        processes_per_cell: devices that train one cell together.
    """
    groups: dict[str, list[tuple[CellResult, TrainResult]]] = {}
    for cell in cells:
        if cell.train is not None:
            groups.setdefault(cell.group, []).append((cell, cell.train))
    return [_cost(group, processes_per_cell) for group in groups.values()]


def _cost(trained: Sequence[tuple[CellResult, TrainResult]], processes_per_cell: int) -> Cost:
    cells, trains = [cell for cell, _ in trained], [train for _, train in trained]
    tokens = [tokens_seen(train) for train in trains]
    seconds = sum(train.seconds for train in trains)
    memory = [train.peak_memory_gib for train in trains if train.peak_memory_gib is not None]
    return Cost(
        name=configuration_name(cells[0]),
        cells=tuple(cell.cell for cell in cells),
        num_seeds=len(cells),
        seconds=seconds,
        device_hours=seconds * processes_per_cell / SECONDS_PER_HOUR,
        device="CPU" if trains[0].device == "cpu" else "GPU",
        tokens=sum(tokens) / len(tokens),
        supervised_tokens=sum(supervised_tokens_seen(train) for train in trains) / len(trains),
        tokens_per_second=sum(tokens) / seconds if seconds else None,
        peak_memory_gib=max(memory, default=None),
        num_trainable_parameters=max(train.num_trainable_parameters for train in trains),
    )


def tokens_seen(train: TrainResult) -> float:
    """As the trainer counted them; where it didn't, the training rows' tokens times the epochs."""
    counted = train.facts.get("tokens seen", "")
    return float(counted) if counted.isdigit() else train.splits["train"].tokens * train.epochs


def supervised_tokens_seen(train: TrainResult) -> float:
    """The training rows' supervised tokens times the epochs."""
    return train.splits["train"].supervised_tokens * train.epochs
