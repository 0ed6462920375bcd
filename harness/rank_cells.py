"""Orders configurations by one declared criterion and shows ties as ties. Reads records only."""

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from harness.comparability import differences
from harness.config import RankingConfig
from harness.errors import ConfigError
from harness.gates import Candidate, Gate, clusters_of, parse_gate, per_example, sign_of
from harness.library_fields import did_you_mean
from harness.ranking import Exclusion, Ranking, RankingRow, ReferenceRow
from harness.records import CellResult, Estimate, Finding, untouched_bases
from harness.stats import MIN_PAIRS, estimate, holm, minimum_detectable_difference, paired_difference, rank_intervals

SEEDS_UNKNOWN = (
    "Seed variance unknown: every configuration was trained with one seed, so this is a ranking of these checkpoints, "
    "not of these configurations. List more `seeds` to rank configurations."
)
SEEDS_FEW = (
    "The order takes the noise of training seeds and of test examples into account; with {} seeds a single winner is seldom "
    "found. The intervals of single values are over examples alone."
)
TOO_FEW = (
    "Only {} examples were scored for every cell, and {} are needed to compare: no difference is claimed. Look for prompts that "
    "are too long for a model's context, or raise `limit`."
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
        references: results of the references; gates compare a cell with the one that shares its base.
        findings: cell id -> findings.

    Raises: ConfigError: a gate can't be parsed, or no cell has the criterion.
    """
    gates = [parse_gate(text) for text in config.gates]
    bases = untouched_bases(references)
    eligible: list[CellResult] = []
    excluded: list[Exclusion] = []
    for cell in cells:
        reasons = _reasons(cell, findings.get(cell.cell, ()), bases.get(cell.base), gates, config.by)
        if reasons:
            excluded.append(
                Exclusion(
                    cell=cell.cell,
                    name=cell.name,
                    reason="; ".join(reasons),
                    mlflow_run_id=cell.mlflow_run_id,
                    metrics=cell.metrics_with(config.by),
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
        references=tuple(
            ReferenceRow(name=r.name, metrics=r.metrics_with(config.by)) for r in references if r.status == "finished"
        ),
        num_examples=len(items),
        minimum_detectable_difference=difference,
        caveats=(*_caveats(configs, len(items)), *_unasked(cells, references)),
        not_comparable=differences(cells),
    )


def _reasons(
    cell: CellResult, findings: Sequence[Finding], base: CellResult | None, gates: Sequence[Gate], criterion: str
) -> list[str]:
    if cell.status == "failed":
        return [f"failed while {cell.stage}: {cell.error}"]
    candidate = Candidate(cell, findings, base)
    reasons = [reason for gate in gates if (reason := gate(candidate))]
    if not per_example(cell, criterion):
        reasons.append(f"{criterion} was not measured")
    return reasons


def _unasked(cells: Sequence[CellResult], references: Sequence[CellResult]) -> list[str]:
    """What couldn't be asked of whom, one sentence for all that share a reason."""
    names: dict[str, list[str]] = {}
    for result in (*cells, *references):
        for error in result.suite_errors.values():
            names.setdefault(f"could not be asked everything: {error}", []).append(result.name)
        if result.status == "failed" and result.reference is not None:
            names.setdefault(f"failed while {result.stage}: {result.error}", []).append(result.name)
    return [f"{', '.join(who)} {why}" for why, who in names.items()]


def _check_criterion(criterion: str, cells: Sequence[CellResult]) -> None:
    known = sorted({name for cell in cells for name in (*cell.metrics(), *cell.slice_metrics())})
    if known and criterion not in known:
        raise ConfigError(
            f"ranking.by {criterion!r} was not measured; `harness evaluate` asks trained cells the suites of the file as it is "
            f"now{did_you_mean(criterion, known)}"
        )


def _configs(eligible: Sequence[CellResult], criterion: str) -> tuple[list[_Config], list[tuple[str, str]]]:
    """Configurations in the order of the file, and the (id, cluster) of the items that all of them share."""
    if not eligible:
        return [], []
    sign = sign_of(criterion)
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
            sign * _score_matrix([scores[result.cell] for result in results], shared),
        )
        for results in groups.values()
    ]
    return configs, [(item, clusters.get(item, item)) for item in shared]


def _score_matrix(runs: Sequence[Mapping[str, float]], shared: Sequence[str]) -> NDArray[np.float64]:
    """Scores of the shared items; the mean of each run's own items where too few are shared to compare anything."""
    if len(shared) < MIN_PAIRS:
        return np.array([[float(np.mean(list(run.values())))] for run in runs])
    return np.array([[run[item] for item in shared] for run in runs])


def _rows(
    configs: Sequence[_Config],
    items: Sequence[tuple[str, str]],
    config: RankingConfig,
    findings: Mapping[str, Sequence[Finding]],
) -> tuple[tuple[RankingRow, ...], float | None]:
    clusters = [cluster for _, cluster in items]
    spread = _spread(configs, clusters) if len(items) >= MIN_PAIRS else None
    better = _better_pairs(configs, spread, config.alpha) if spread else []
    intervals = rank_intervals(len(configs), better)
    order = sorted(
        range(len(configs)),
        key=lambda k: (-round(float(configs[k].scores.mean()), 12), _tie_break(configs[k], findings)),
    )
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
            metrics=_pooled_metrics(configs[k].results, config.by),
            findings=tuple(f for result in configs[k].results for f in findings.get(result.cell, ())),
            difference_to_best=_difference(configs, clusters, spread, config, (k, best))
            if spread and k != best
            else None,
            train_seconds=sum(result.train.seconds for result in configs[k].results if result.train) or None,
        )
        for position, k in enumerate(order)
    )
    if len(configs) < 2 or not spread:
        return rows, None
    first, second = (configs[k].scores.mean(axis=0) for k in order[:2])
    return rows, minimum_detectable_difference(first, second)


class _Spread(NamedTuple):
    """How sure the means of the configurations are."""

    covariance: NDArray[np.float64]
    """(num_configs, num_configs), of the means."""
    degrees_of_freedom: float


def _spread(configs: Sequence[_Config], clusters: Sequence[str]) -> _Spread:
    """Variance of the means over examples (clusters) and over training seeds.

    Examples: sample covariance over cluster sums of the seed-averaged scores, factor G / (G - 1). Seeds: their variance
    within configurations, pooled over configurations, less what the examples alone explain, on the diagonal. With one seed
    everywhere the seed part is unknown and left out; the caveats say so.
    """
    means = np.stack([c.scores.mean(axis=0) for c in configs])  # (num_configs, num_items)
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    num_clusters = int(index.max()) + 1
    centered = means - means.mean(axis=1, keepdims=True)
    sums = np.stack([np.bincount(index, weights=row, minlength=num_clusters) for row in centered])
    covariance = sums @ sums.T * num_clusters / max(num_clusters - 1, 1) / means.shape[1] ** 2
    freedom_of_items = float(max(num_clusters - 1, 1))
    repeated = [c.scores for c in configs if len(c.scores) > 1]
    freedom = float(sum(len(scores) - 1 for scores in repeated))
    if not freedom:
        return _Spread(covariance, freedom_of_items)
    between = sum(float(((s.mean(axis=1) - s.mean()) ** 2).sum()) for s in repeated) / freedom
    deviations = [s - s.mean(axis=0) - s.mean(axis=1, keepdims=True) + s.mean() for s in repeated]
    residual = sum(float((d**2).sum()) for d in deviations) / (freedom * (means.shape[1] - 1))
    pure = max(between - residual / means.shape[1], 0.0)
    seeds = np.diag([pure / len(c.scores) for c in configs])
    return _Spread(covariance + seeds, min(freedom, freedom_of_items) if pure else freedom_of_items)


def _standard_error(spread: _Spread, i: int, j: int) -> float:
    c = spread.covariance
    return float(np.sqrt(max(c[i, i] + c[j, j] - 2 * c[i, j], 0.0)))


def _better_pairs(configs: Sequence[_Config], spread: _Spread, alpha: float) -> list[tuple[int, int]]:
    """Pairs (i, j) in which i is better than j at the family-wise level, by Holm over two-sided t tests."""
    means = [float(c.scores.mean()) for c in configs]
    p_values = {}
    for i, j in itertools.combinations(range(len(configs)), 2):
        error = _standard_error(spread, i, j)
        difference = abs(means[i] - means[j])
        # Scores without any spread differ surely or not at all.
        p_values[i, j] = (
            float(2 * stats.t.sf(difference / error, spread.degrees_of_freedom)) if error else float(not difference)
        )
    return [(i, j) if means[i] > means[j] else (j, i) for (i, j), p in holm(p_values).items() if p < alpha]


def _difference(
    configs: Sequence[_Config], clusters: Sequence[str], spread: _Spread, config: RankingConfig, pair: tuple[int, int]
) -> Estimate:
    """Difference of a configuration to the best: paired bootstrap with one seed each, else t with the seeds' variance."""
    k, best = pair
    sign = sign_of(config.by)
    ours, theirs = configs[k].scores.mean(axis=0), configs[best].scores.mean(axis=0)
    if max(len(configs[k].scores), len(configs[best].scores)) == 1:
        paired = paired_difference(sign * ours, sign * theirs, clusters, resamples=config.resamples)
        return Estimate(value=paired.mean, low=paired.low, high=paired.high, n=len(ours))
    value = sign * float(ours.mean() - theirs.mean())
    margin = _standard_error(spread, k, best) * float(stats.t.ppf(0.975, spread.degrees_of_freedom))
    return Estimate(value=value, low=value - margin, high=value + margin, n=len(ours))


def _tie_break(config: _Config, findings: Mapping[str, Sequence[Finding]]) -> tuple[int, float, float]:
    """Fewer warnings, then less training time, then fewer trainable parameters."""
    warnings = sum(f.is_warning for r in config.results for f in findings.get(r.cell, ()))
    trained = [result.train for result in config.results if result.train]
    return warnings, sum(t.seconds for t in trained), sum(t.num_trainable_parameters for t in trained)


def _pooled_metrics(results: Sequence[CellResult], criterion: str) -> dict[str, Estimate]:
    """Estimates of a configuration: those of its run, or of the means over its seeds' runs."""
    each = [result.metrics_with(criterion) for result in results]
    if len(results) == 1:
        return each[0]
    pooled = {}
    for name in each[0]:
        runs = [per_example(result, name) for result in results]
        shared = sorted(set.intersection(*(set(run) for run in runs)))
        unscored = max(metrics[name].unscored for metrics in each if name in metrics)
        if shared:
            pooled[name] = estimate([float(np.mean([run[item] for run in runs])) for item in shared], unscored)
    return pooled


def _caveats(configs: Sequence[_Config], num_examples: int) -> tuple[str, ...]:
    if not configs:
        return ()
    if num_examples < MIN_PAIRS:
        return (TOO_FEW.format(num_examples, MIN_PAIRS),)
    fewest = min(len(c.results) for c in configs)
    seeds = SEEDS_UNKNOWN if fewest == 1 else SEEDS_FEW.format(fewest)
    return (seeds, SELECTED) if len(configs) > 1 else (seeds,)
