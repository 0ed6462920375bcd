"""More seeds for the best configurations: which were chosen, when and why, and the cells that this makes."""

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from itertools import count, islice

from harness.config import RankingConfig, RunConfig
from harness.errors import ConfigError
from harness.grid import Cell, reseeded
from harness.ranking import Ranking
from harness.records import Record
from harness.store import ExperimentFolder, read_record


class Choice(Record):
    """One best set that was to be confirmed."""

    chosen_at: str
    """ISO 8601, UTC."""
    criterion: str
    why: str
    seeds: dict[str, tuple[int, ...]]
    """Group of a configuration -> the seeds that it was given."""


class Confirmation(Record):
    """All that were chosen so far: the experiment's `confirm.json`."""

    choices: tuple[Choice, ...] = ()


def read_confirmation(folder: ExperimentFolder) -> Confirmation:
    """What was chosen in an experiment; nothing where `harness run --confirm` was never asked for."""
    return read_record(folder.confirmation, Confirmation) if folder.confirmation.exists() else Confirmation()


def confirming_cells(
    cells: Sequence[Cell], confirmation: Confirmation, fingerprint: Callable[[RunConfig], str]
) -> tuple[Cell, ...]:
    """The cells with the seeds that were chosen beside those of the file; a configuration that has changed has none.

    Args:
        cells: of the file.
        confirmation: what was chosen.
        fingerprint: digest of the data and template that a cell will read.
    """
    found = []
    for group, (first, used) in _seeds(cells).items():
        chosen = (seed for choice in confirmation.choices for seed in choice.seeds.get(group, ()))
        new = [seed for seed in dict.fromkeys(chosen) if seed not in used]
        found += [reseeded(first, seed, fingerprint(first.config)) for seed in new]
    return tuple(found)


def _seeds(cells: Iterable[Cell]) -> dict[str, tuple[Cell, set[int]]]:
    """Group -> its first cell, and the seeds of all of them."""
    found: dict[str, tuple[Cell, set[int]]] = {}
    for cell in cells:
        if cell.seed is not None:
            found.setdefault(cell.group, (cell, set()))[1].add(cell.seed)
    return found


def choose(cells: Sequence[Cell], ranking: Ranking, config: RankingConfig) -> Choice | None:
    """The seeds that the best set still lacks; None where it lacks none.

    Raises: ConfigError: there is no best set, or nothing in it was trained.
    """
    best = [row for row in ranking.rows if row.in_best_set]
    if not best:
        raise ConfigError(
            "--confirm: no configuration passed the gates, so there is no best set to confirm; "
            "`harness rank` gives the reasons, and ranking.gates is where to loosen them"
        )
    groups = {cell.id: cell.group for cell in cells}
    chosen = {groups[row.cell]: row.name for row in best if row.cell in groups}
    if not chosen:
        raise ConfigError("--confirm: nothing in the best set was trained here, so there are no seeds to add")
    known = _seeds(cells)
    lacking = {group: _new_seeds(known[group][1], config.confirm_seeds) for group in chosen}
    seeds = {group: new for group, new in lacking.items() if new}
    if not seeds:
        return None
    names = ", ".join(chosen[group] for group in seeds)
    why = (
        f"in the best set of {len(best)} of {len(ranking.rows)} by {ranking.criterion}, with fewer than {config.confirm_seeds} "
        f"seeds: {names}"
    )
    return Choice(
        chosen_at=datetime.now(UTC).isoformat(timespec="seconds"), criterion=ranking.criterion, why=why, seeds=seeds
    )


def _new_seeds(used: set[int], wanted: int) -> tuple[int, ...]:
    """The smallest seeds that were not used yet, until there are so many."""
    return tuple(islice((seed for seed in count() if seed not in used), max(0, wanted - len(used))))
