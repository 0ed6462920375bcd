"""Orders configurations by one declared criterion and shows ties as ties. Reads records only."""

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.config import RankingConfig
from harness.errors import ConfigError
from harness.gates import Candidate, clusters_of, parse_gate, per_example
from harness.records import CellResult, Estimate, Exclusion, Finding, Ranking, RankingRow, ReferenceRow
from harness.stats import bootstrap_means, estimate, holm, minimum_detectable_difference, rank_intervals

LOWER_IS_BETTER = ("nll", "bits_per_byte")
SEEDS_UNKNOWN = (
    "Seed variance unknown: every configuration was trained with one seed, so this is a ranking of these checkpoints, "
    "not of these configurations. List more `seeds` to rank configurations."
)
SEEDS_FEW = (
    "Intervals resample training seeds and test examples together; with {} seeds a single winner is seldom found."
)
SELECTED = "The best score was selected on the examples it is stated for, so it is optimistic."


class _Config(NamedTuple):
    """One configuration with the runs of all its seeds."""

    name: str
    results: list[CellResult]
    scores: NDArray[np.float64]
    """(num_seeds, num_items), more is better."""


def rank(
    experiment: str,
    config: RankingConfig,
    cells: Sequence[CellResult],
    references: Sequence[CellResult],
    findings: Mapping[str, Sequence[Finding]],
) -> Ranking:
    """The ranking of an experiment.

    Args:
        experiment: its name.
        config: criterion, gates, error level.
        cells: results of all cells, failed ones included.
        references: results of the references; the first is the base that gates compare with.
        findings: cell id -> findings.

    Raises: ConfigError: a gate can't be parsed, or no cell has the criterion.
    """
    gates = [parse_gate(text) for text in config.gates]
    base = next((reference for reference in references if reference.status == "finished"), None)
    eligible: list[CellResult] = []
    excluded: list[Exclusion] = []
    for cell in cells:
        reasons = _reasons(cell, findings.get(cell.cell, ()), base, gates, config.by)
        if reasons:
            excluded.append(
                Exclusion(
                    cell=cell.cell,
                    name=cell.name,
                    reason="; ".join(reasons),
                    mlflow_run_id=cell.mlflow_run_id,
                    metrics=cell.metrics(),
                    findings=tuple(findings.get(cell.cell, ())),
                )
            )
        else:
            eligible.append(cell)
    _check_criterion(config.by, cells)
    configs, items = _configs(eligible, config.by)
    rows, difference = _rows(configs, items, config, findings) if configs else ((), None)
    return Ranking(
        experiment=experiment,
        criterion=config.by,
        gates=config.gates,
        rows=rows,
        excluded=tuple(excluded),
        references=tuple(ReferenceRow(name=r.name, metrics=r.metrics()) for r in references if r.status == "finished"),
        num_examples=len(items),
        minimum_detectable_difference=difference,
        caveats=_caveats(configs),
    )


def _reasons(
    cell: CellResult, findings: Sequence[Finding], base: CellResult | None, gates: Sequence[object], criterion: str
) -> list[str]:
    if cell.status == "failed":
        return [f"failed while {cell.stage}: {cell.error}"]
    candidate = Candidate(cell, findings, base)
    reasons = [reason for gate in gates if callable(gate) and (reason := gate(candidate))]
    if not per_example(cell, criterion):
        reasons.append(f"{criterion} was not measured")
    return reasons


def _check_criterion(criterion: str, cells: Sequence[CellResult]) -> None:
    known = sorted({name for cell in cells for name in cell.metrics()})
    if known and criterion not in known:
        raise ConfigError(f"ranking.by {criterion!r} is no metric of this experiment; choose one of {', '.join(known)}")


def _configs(eligible: Sequence[CellResult], criterion: str) -> tuple[list[_Config], list[tuple[str, str]]]:
    """Configurations in descending order of their mean, and the (id, cluster) of the items that all of them share."""
    if not eligible:
        return [], []
    sign = -1.0 if criterion.rpartition(".")[2] in LOWER_IS_BETTER else 1.0
    scores = {cell.cell: per_example(cell, criterion) for cell in eligible}
    shared = sorted(set.intersection(*(set(values) for values in scores.values())))
    clusters = clusters_of(eligible[0], criterion)
    groups: dict[str, list[CellResult]] = {}
    for cell in eligible:
        groups.setdefault(cell.group, []).append(cell)
    configs = [
        _Config(
            results[0].name.rpartition(",seed=")[0] or results[0].name,
            results,
            sign * np.array([[scores[result.cell][item] for item in shared] for result in results]),
        )
        for results in groups.values()
    ]
    configs.sort(key=lambda c: -float(c.scores.mean()))
    return configs, [(item, clusters.get(item, item)) for item in shared]


def _rows(
    configs: Sequence[_Config],
    items: Sequence[tuple[str, str]],
    config: RankingConfig,
    findings: Mapping[str, Sequence[Finding]],
) -> tuple[tuple[RankingRow, ...], float | None]:
    clusters = [cluster for _, cluster in items]
    draws = _draws(configs, clusters, config.resamples)  # (resamples, num_configs)
    better = _better_pairs(configs, draws, config.alpha)
    intervals = rank_intervals(len(configs), better)
    order = sorted(
        range(len(configs)),
        key=lambda k: (-round(float(configs[k].scores.mean()), 12), _tie_break(configs[k], findings)),
    )
    sign = -1.0 if config.by.rpartition(".")[2] in LOWER_IS_BETTER else 1.0
    best = order[0]
    rows = tuple(
        RankingRow(
            rank=position + 1,
            rank_interval=intervals[k],
            in_best_set=intervals[k][0] == 1,
            cell=configs[k].results[0].cell,
            cells=tuple(result.cell for result in configs[k].results),
            name=configs[k].name,
            seed_count=len(configs[k].results),
            mlflow_run_ids=tuple(result.mlflow_run_id for result in configs[k].results),
            metrics=_pooled_metrics(configs[k].results),
            findings=tuple(f for result in configs[k].results for f in findings.get(result.cell, ())),
            difference_to_best=None if k == best else _difference(configs, draws, k, best, sign),
            train_seconds=sum(result.train.seconds for result in configs[k].results if result.train) or None,
        )
        for position, k in enumerate(order)
    )
    if len(configs) < 2:
        return rows, None
    first, second = (configs[k].scores.mean(axis=0) for k in order[:2])
    return rows, minimum_detectable_difference(first, second)


def _draws(configs: Sequence[_Config], clusters: Sequence[str], resamples: int) -> NDArray[np.float64]:
    """Bootstrap means of every configuration: the same draw of examples for all, seeds drawn for each."""
    rng = np.random.default_rng(0)
    rows = np.concatenate([c.scores for c in configs])  # (all runs, num_items)
    means = bootstrap_means(rows, clusters, resamples=resamples, seed=0)  # (resamples, all runs)
    columns, start = [], 0
    for c in configs:
        count = len(c.results)
        weights = rng.multinomial(count, np.full(count, 1 / count), resamples) / count
        columns.append((means[:, start : start + count] * weights).sum(axis=1))
        start += count
    return np.stack(columns, axis=1)


def _better_pairs(configs: Sequence[_Config], draws: NDArray[np.float64], alpha: float) -> list[tuple[int, int]]:
    """Pairs (i, j) in which i is better than j at the family-wise level, by Holm over two-sided bootstrap p-values."""
    p_values = {}
    for i, j in itertools.combinations(range(len(configs)), 2):
        difference = draws[:, i] - draws[:, j]
        tail = min((difference <= 0).sum() + 1, (difference >= 0).sum() + 1) / (len(difference) + 1)
        p_values[i, j] = float(min(1.0, 2 * tail))
    means = [float(c.scores.mean()) for c in configs]
    return [
        (i, j) if means[i] > means[j] else (j, i)
        for (i, j), p in holm(p_values).items()
        if p < alpha and means[i] != means[j]
    ]


def _tie_break(config: _Config, findings: Mapping[str, Sequence[Finding]]) -> tuple[int, float, float]:
    """Fewer warnings, then less training time, then fewer trainable parameters."""
    warnings = sum(
        f.outcome == "fired" and f.severity != "info" for r in config.results for f in findings.get(r.cell, ())
    )
    trained = [result.train for result in config.results if result.train]
    return warnings, sum(t.seconds for t in trained), sum(t.num_trainable_parameters for t in trained)


def _difference(configs: Sequence[_Config], draws: NDArray[np.float64], k: int, best: int, sign: float) -> Estimate:
    low, high = np.quantile(sign * (draws[:, k] - draws[:, best]), [0.025, 0.975])
    value = sign * float(configs[k].scores.mean() - configs[best].scores.mean())
    return Estimate(value=value, low=float(low), high=float(high), n=configs[k].scores.shape[1])


def _pooled_metrics(results: Sequence[CellResult]) -> dict[str, Estimate]:
    """Estimates of a configuration: those of its run, or of the means over its seeds' runs."""
    if len(results) == 1:
        return results[0].metrics()
    pooled = {}
    for name in results[0].metrics():
        runs = [per_example(result, name) for result in results]
        shared = sorted(set.intersection(*(set(run) for run in runs)))
        unscored = max(result.metrics()[name].unscored for result in results if name in result.metrics())
        if shared:
            pooled[name] = estimate([float(np.mean([run[item] for run in runs])) for item in shared], unscored)
    return pooled


def _caveats(configs: Sequence[_Config]) -> tuple[str, ...]:
    if not configs:
        return ()
    fewest = min(len(c.results) for c in configs)
    seeds = SEEDS_UNKNOWN if fewest == 1 else SEEDS_FEW.format(fewest)
    return (seeds, SELECTED) if len(configs) > 1 else (seeds,)
