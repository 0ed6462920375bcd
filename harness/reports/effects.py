"""What every swept field does to the criterion, by itself and in pairs, with training seeds as the noise."""

import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from harness.configurations import configuration_name
from harness.records import CellResult
from harness.stats import CONFIDENCE

VARIANT = "variant"


class Run(NamedTuple):
    """One trained cell with its place in the sweep."""

    cell: str
    """Its name."""
    group: str
    seed: int | None
    place: dict[str, str]
    """Swept field -> value, as it is shown."""
    value: float
    """Of the criterion."""


class Level(NamedTuple):
    """All that one value of a swept field was measured at."""

    value: str
    mean: float
    low: float | None
    """Bounds of the mean's 95 % interval over training seeds; None where no configuration has two seeds."""
    high: float | None
    lowest: float
    """Of its cells."""
    highest: float
    num_cells: int


class Effect(NamedTuple):
    """The criterion at every value of one field, over the same settings of all other fields."""

    field: str
    is_numeric: bool
    levels: tuple[Level, ...]
    """In the order of the numbers, else of the file."""
    runs: tuple[Run, ...]
    """The cells that the means are of."""
    num_settings: int
    """Settings of the other fields in which every value was measured: only they count."""
    num_left_out: int
    """Settings in which some value is missing."""
    seed_deviation: float | None
    """Standard deviation between seeds of one configuration, pooled."""

    @property
    def size(self) -> float:
        """Highest mean less the lowest."""
        means = [level.mean for level in self.levels]
        return max(means) - min(means)


class PairMean(NamedTuple):
    """The criterion at one value of each of two fields."""

    first: str
    second: str
    mean: float
    num_cells: int


class PairEffect(NamedTuple):
    """The criterion at every combination of two fields' values, over the same settings of all other fields."""

    first: str
    second: str
    means: tuple[PairMean, ...]
    interaction: float
    """Most that a combination differs from what the two fields add up to: 0 where each works the same at any value of the other."""


def swept_fields(grid: Mapping[str, Sequence[Any]], variants: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Swept field -> its values as they are shown; variants are one field where there is no grid."""
    fields = {name: _ordered(values) for name, values in grid.items() if len(values) > 1}
    names = tuple(variants)
    return fields or ({VARIANT: names} if not grid and len(names) > 1 else {})


def runs_of(
    results: Iterable[CellResult], grid: Mapping[str, Sequence[Any]], variants: Iterable[str], criterion: str
) -> list[Run]:
    """Every finished cell of the sweep in which the criterion was measured; variants beside a grid are no part of it."""
    names = set(variants)
    found = []
    for result in results:
        measured = result.metrics_with(criterion).get(criterion)
        name = configuration_name(result)
        if result.seed is None or measured is None or bool(grid) == (name in names):
            continue
        place = {key: shown(result.overrides[key]) for key in grid if key in result.overrides}
        if len(place) == len(grid):
            found.append(Run(result.name, result.group, result.seed, place or {VARIANT: name}, measured.value))
    return found


def shown(value: object) -> str:
    """A swept value as tables and axes show it."""
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def main_effects(runs: Sequence[Run], fields: Mapping[str, Sequence[str]]) -> list[Effect]:
    """The effect of every field that was measured at two values or more."""
    deviation = seed_deviation(runs)
    effects = (_effect(field, values, runs, deviation) for field, values in fields.items())
    return [effect for effect in effects if effect]


def pair_effects(runs: Sequence[Run], fields: Mapping[str, Sequence[str]]) -> list[PairEffect]:
    """The joint effect of every two fields, the strongest interaction first."""
    pairs = (_pair_effect(pair, fields, runs) for pair in itertools.combinations(fields, 2))
    return sorted((pair for pair in pairs if pair), key=lambda pair: -pair.interaction)


class SeedDeviation(NamedTuple):
    """How much training again with another seed changes the criterion."""

    deviation: float
    degrees_of_freedom: int


def seed_deviation(runs: Sequence[Run]) -> SeedDeviation | None:
    """Standard deviation within configurations, pooled over them; None where no configuration has two seeds."""
    groups: dict[str, list[float]] = {}
    for run in runs:
        groups.setdefault(run.group, []).append(run.value)
    freedom = sum(len(values) - 1 for values in groups.values())
    if not freedom:
        return None
    squares = sum(float(((np.asarray(v) - np.mean(v)) ** 2).sum()) for v in groups.values())
    return SeedDeviation(math.sqrt(squares / freedom), freedom)


def _ordered(values: Sequence[Any]) -> tuple[str, ...]:
    return tuple(shown(value) for value in (sorted(values) if _are_numbers(values) else values))


def _are_numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def numbers_of(values: Sequence[str]) -> list[float] | None:
    """The shown values as numbers; None where one of them is none."""
    try:
        return [float(value) for value in values]
    except ValueError:
        return None


def _complete(runs: Sequence[Run], fields: Sequence[str]) -> tuple[dict[tuple[str, ...], dict[str, list[Run]]], int]:
    """Combination of the fields' values -> configuration -> runs, over settings with every combination; and how many lack one.

    A combination that was measured nowhere, such as a learning rate at which everything diverged, is not asked for.
    """
    settings: dict[tuple[tuple[str, str], ...], list[Run]] = {}
    for run in runs:
        others = tuple((key, value) for key, value in run.place.items() if key not in fields)
        settings.setdefault(others, []).append(run)

    def combination(run: Run) -> tuple[str, ...]:
        return tuple(run.place[field] for field in fields)

    needed = {combination(run) for run in runs}
    complete = [group for group in settings.values() if {combination(run) for run in group} == needed]
    cells: dict[tuple[str, ...], dict[str, list[Run]]] = {}
    for run in itertools.chain.from_iterable(complete):
        cells.setdefault(combination(run), {}).setdefault(run.group, []).append(run)
    return cells, len(settings) - len(complete)


def _mean(groups: Mapping[str, Sequence[Run]]) -> float:
    """Mean of the configurations' means, so that one with more seeds doesn't count for more."""
    return float(np.mean([np.mean([run.value for run in runs]) for runs in groups.values()]))


def _effect(field: str, values: Sequence[str], runs: Sequence[Run], seeds: SeedDeviation | None) -> Effect | None:
    cells, left_out = _complete(runs, [field])
    if len(cells) < 2:
        return None
    known = [value for value in values if (value,) in cells]
    levels = tuple(_level(value, cells[value,], seeds) for value in known)
    used = tuple(run for groups in cells.values() for found in groups.values() for run in found)
    return Effect(
        field=field,
        is_numeric=numbers_of(known) is not None,
        levels=levels,
        runs=used,
        num_settings=len({tuple((k, v) for k, v in run.place.items() if k != field) for run in used}),
        num_left_out=left_out,
        seed_deviation=seeds.deviation if seeds else None,
    )


def _level(value: str, groups: Mapping[str, Sequence[Run]], seeds: SeedDeviation | None) -> Level:
    mean = _mean(groups)
    every = [run.value for runs in groups.values() for run in runs]
    margin = None
    if seeds:
        # Of a mean of means: each configuration's part shrinks with its own seeds.
        error = seeds.deviation * math.sqrt(sum(1 / len(runs) for runs in groups.values())) / len(groups)
        margin = error * float(stats.t.ppf(0.5 + CONFIDENCE / 2, seeds.degrees_of_freedom))
    return Level(
        value=value,
        mean=mean,
        low=None if margin is None else mean - margin,
        high=None if margin is None else mean + margin,
        lowest=min(every),
        highest=max(every),
        num_cells=len(every),
    )


def _pair_effect(pair: tuple[str, str], fields: Mapping[str, Sequence[str]], runs: Sequence[Run]) -> PairEffect | None:
    first, second = pair
    cells, _ = _complete(runs, pair)
    rows, columns = ({combination[i] for combination in cells} for i in (0, 1))
    if min(len(rows), len(columns)) < 2:
        return None
    means = tuple(
        PairMean(a, b, _mean(cells[a, b]), sum(len(found) for found in cells[a, b].values()))
        for a in fields[first]
        for b in fields[second]
        if (a, b) in cells
    )
    return PairEffect(first, second, means, _interaction(means))


def _interaction(means: Sequence[PairMean]) -> float:
    """Largest residual of the additive model, which is fitted to the combinations that there are."""
    rows = sorted({mean.first for mean in means})
    columns = sorted({mean.second for mean in means})
    design = np.zeros((len(means), len(rows) + len(columns)))
    for i, mean in enumerate(means):
        design[i, rows.index(mean.first)] = 1
        design[i, len(rows) + columns.index(mean.second)] = 1
    values = np.array([mean.mean for mean in means])
    fitted = design @ np.linalg.lstsq(design, values, rcond=None)[0]
    return float(np.abs(values - fitted).max())
