"""Cells grouped into configurations, with their scores on the examples that choose and on those that confirm."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from harness.gates import clusters_of, per_example, sign_of
from harness.records import CellResult
from harness.stats import MIN_PAIRS, Array, num_independent

MIN_SIDE = 20
"""Examples that either side of the split must have: below, nothing is claimed or confirmed."""


class Items(NamedTuple):
    """Examples that every configuration has a score for."""

    ids: tuple[str, ...]
    clusters: tuple[str, ...]

    @property
    def num_clusters(self) -> int:
        """Independent examples."""
        return len(set(self.clusters))

    @property
    def num_independent(self) -> float:
        """As many clusters of equal size would tell as much."""
        return num_independent(self.clusters)


class Configuration(NamedTuple):
    """One configuration with the runs of all its seeds."""

    name: str
    results: tuple[CellResult, ...]
    scores: Array
    """(num_seeds, num_items), of the examples that choose, more is better."""
    confirm: Array
    """(num_seeds, num_confirm_items), of those that confirm, more is better."""
    unscored: int
    """Examples of the whole suite without a score, of the run that has most."""

    @property
    def is_trained(self) -> bool:
        """Whether another training seed would have given another result; imported predictions are as they are."""
        return self.results[0].seed is not None


class Contest(NamedTuple):
    """What is to be ranked, and on what."""

    configurations: tuple[Configuration, ...]
    items: Items
    """That choose."""
    confirm: Items
    num_lost: int
    """Examples that some configurations have a score for, and some have none."""
    confirm_share: float

    @property
    def can_compare(self) -> bool:
        """Whether the examples are enough to claim anything."""
        fewest = MIN_SIDE if self.confirm_share else MIN_PAIRS
        return len(self.items.ids) >= fewest and self.items.num_independent >= MIN_PAIRS

    @property
    def can_confirm(self) -> bool:
        """Whether enough examples were kept apart to state a number on."""
        return len(self.confirm.ids) >= MIN_SIDE and self.confirm.num_independent >= MIN_PAIRS

    @property
    def has_seeds(self) -> list[bool]:
        """Of each configuration, whether it was trained."""
        return [configuration.is_trained for configuration in self.configurations]

    @property
    def num_seeds(self) -> int:
        """Fewest of any configuration that was trained; 0 where none was."""
        return min((len(c.results) for c in self.configurations if c.is_trained), default=0)


def confirms(cluster: str, share: float) -> bool:
    """Whether the examples of a cluster are kept for confirmation: the same in every experiment and on every machine."""
    digest = hashlib.sha256(f"confirm:{cluster}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < share


def configuration_name(result: CellResult) -> str:
    """A cell's name without its seed."""
    return result.name.rpartition(",seed=")[0] or result.name


def make_contest(eligible: Sequence[CellResult], criterion: str, confirm_share: float) -> Contest:
    """Configurations, scored on the examples that all of them share.

    They are in the order of their names and seeds, so that the order in which cells are listed changes no draw.
    """
    groups: dict[str, list[CellResult]] = {}
    for cell in sorted(eligible, key=lambda cell: (configuration_name(cell), cell.seed or 0, cell.cell)):
        groups.setdefault(cell.group if cell.seed is not None else cell.cell, []).append(cell)
    scores = {cell.cell: per_example(cell, criterion) for cell in eligible}
    clusters: dict[str, str] = {}
    for cell in eligible:
        clusters |= clusters_of(cell, criterion)
    measured = set().union(*scores.values())
    shared = sorted(measured.intersection(*scores.values()))
    sides: dict[bool, list[str]] = {True: [], False: []}
    for item in shared:
        sides[confirms(clusters.get(item, item), confirm_share)].append(item)
    sign = sign_of(criterion)

    def configuration(results: Sequence[CellResult]) -> Configuration:
        runs = [scores[result.cell] for result in results]
        most = max(results, key=lambda result: result.metrics_with(criterion)[criterion].unscored)
        return Configuration(
            name=configuration_name(results[0]),
            results=tuple(results),
            scores=sign * _matrix(runs, sides[False]),
            confirm=sign * np.array([[run[item] for item in sides[True]] for run in runs]),
            unscored=most.metrics_with(criterion)[criterion].unscored,
        )

    items, confirm = (
        Items(tuple(sides[side]), tuple(clusters.get(item, item) for item in sides[side])) for side in (False, True)
    )
    configurations = tuple(configuration(results) for results in groups.values())
    return Contest(configurations, items, confirm, len(measured) - len(shared), confirm_share)


def _matrix(runs: Sequence[Mapping[str, float]], items: Sequence[str]) -> Array:
    """Scores of the shared items; the mean of each run's own items where too few are shared to compare anything."""
    if len(items) < MIN_PAIRS:
        return np.array([[float(np.mean(list(run.values())))] for run in runs])
    return np.array([[run[item] for item in items] for run in runs])
