"""Rows of the ranking: order, ties, intervals, and each configuration against the base and the best."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from harness.config import RankingConfig
from harness.configurations import Configuration, Contest
from harness.crossed import SeedNoise, Spread, difference, mean_estimate, spread
from harness.forked import each
from harness.gates import clusters_of, per_example, scores_by_metric, sign_of
from harness.max_t import Comparisons, Selection, compare_all, minimum_detectable, selection
from harness.ranking import RankingRow
from harness.records import CellResult, Estimate, Finding
from harness.stats import MIN_PAIRS, Array, estimate, num_alike, rank_intervals, wilson_of_rate

SAME_COST = 1.2
"""Training times up to this ratio apart count as equal: timing is noisy."""


class Standing(NamedTuple):
    """The rows, and what they rest on."""

    rows: tuple[RankingRow, ...]
    spread: Spread | None
    """None where too few examples are shared to compare anything."""
    selection: Selection | None
    detectable: float | None
    agreement: str
    """What Holm's correction says of the same pairs."""


class _Ranked(NamedTuple):
    """All pairs compared."""

    spread: Spread
    comparisons: Comparisons
    better: list[tuple[int, int]]


def make_rows(
    contest: Contest,
    config: RankingConfig,
    findings: Mapping[str, Sequence[Finding]],
    bases: Mapping[str, CellResult],
) -> Standing:
    """Rows in their order: by the number of surely better ones, then by what breaks ties.

    Args:
        contest: at least one configuration.
        config: criterion, error level, draws.
        findings: cell id -> findings.
        bases: digest of a base model -> its result, untouched.
    """
    configurations = contest.configurations
    ranked = _compare(contest, config) if contest.can_compare else None
    intervals = rank_intervals(len(configurations), ranked.better if ranked else [])
    order = _order(configurations, [low for low, _ in intervals], findings)
    chosen = [k for k in order if intervals[k][0] == 1]
    picked = selection(ranked.spread, chosen, resamples=config.resamples) if ranked else None

    def row_at(position: int) -> RankingRow:
        k = order[position]
        configuration = configurations[k]
        row = RankingRow(
            rank=position + 1,
            rank_interval=intervals[k],
            in_best_set=intervals[k][0] == 1,
            cell=configuration.results[0].cell,
            cells=tuple(result.cell for result in configuration.results),
            name=configuration.name,
            seed_count=len(configuration.results),
            mlflow_run_ids=tuple(result.mlflow_run_id for result in configuration.results),
            metrics=_metrics(configuration, config.by, contest, ranked.spread.noise if ranked else None),
            findings=tuple(f for result in configuration.results for f in findings.get(result.cell, ())),
            train_seconds=sum(result.train.seconds for result in configuration.results if result.train) or None,
        )
        if ranked:
            row = row.model_copy(
                update=_compared(contest, config, ranked, k, order[0], bases, is_best=intervals[k][0] == 1)
            )
        return row.model_copy(update={"probability_best": float(picked.probability_best[k])}) if picked else row

    rows = list(each(row_at, len(order)))
    detectable = minimum_detectable(ranked.spread, order[0], order[1]) if ranked and len(order) > 1 else None
    agreement = _agreement(ranked, config.alpha) if ranked and len(order) > 1 else ""
    return Standing(_with_pareto(rows, config), ranked.spread if ranked else None, picked, detectable, agreement)


def _compare(contest: Contest, config: RankingConfig) -> _Ranked:
    scores, clusters = [c.scores for c in contest.configurations], contest.items.clusters
    found = spread(scores, clusters, contest.has_seeds)
    comparisons = compare_all(found, scores, clusters, alpha=config.alpha, resamples=config.resamples)
    return _Ranked(found, comparisons, comparisons.better(found.means, config.alpha))


def _agreement(ranked: _Ranked, alpha: float) -> str:
    holm = set(ranked.comparisons.better(ranked.spread.means, alpha, by_holm=True))
    ours = set(ranked.better)
    if holm == ours:
        return "Holm's correction, the cross-check, agrees"
    more = f" and {len(holm - ours)} others" if holm - ours else ""
    return f"Holm's correction, the cross-check, finds {len(ours & holm)} of the {len(ours)} sure differences{more}"


def _order(
    configurations: Sequence[Configuration], tiers: Sequence[int], findings: Mapping[str, Sequence[Finding]]
) -> list[int]:
    """Positions by tier, then fewer errors and warnings, less training time, fewer trainable parameters, higher score."""
    costs = _cost_classes([_per_run(c, "seconds") for c in configurations])

    def key(k: int) -> tuple[float, ...]:
        configuration = configurations[k]
        fired = {(f.severity, f.check) for r in configuration.results for f in findings.get(r.cell, ()) if f.is_warning}
        errors = sum(severity == "error" for severity, _ in fired)
        size = _per_run(configuration, "num_trainable_parameters")
        score = round(float(configuration.scores.mean()), 12)
        return tiers[k], errors, len(fired) - errors, costs[k], size, -score

    return sorted(range(len(configurations)), key=key)


def _per_run(configuration: Configuration, fact: str) -> float:
    values = [float(getattr(result.train, fact)) for result in configuration.results if result.train]
    return float(np.mean(values)) if values else 0.0


def _cost_classes(costs: Sequence[float]) -> list[int]:
    """Ranks of costs in which neighbours that hardly differ share one."""
    classes, current, last = dict[int, int](), 0, 0.0
    for k in sorted(range(len(costs)), key=lambda k: costs[k]):
        current += costs[k] > last * SAME_COST
        last = costs[k]
        classes[k] = current
    return [classes[k] for k in range(len(costs))]


def _compared(
    contest: Contest, config: RankingConfig, ranked: _Ranked, k: int, best: int, bases: Mapping[str, CellResult], *, is_best: bool
) -> dict[str, object]:  # fmt: skip
    """Of one row: simultaneous interval, difference to the base and to the best, the confirmed number."""
    configuration, sign, noise = contest.configurations[k], sign_of(config.by), ranked.spread.noise
    update: dict[str, object] = {
        "simultaneous_interval": _simultaneous(contest, ranked, k, sign),
        "difference_to_base": _to_base(contest, config, configuration, bases, noise),
    }
    if k != best:
        other = contest.configurations[best]
        update["difference_to_best"] = _difference(
            sign * configuration.scores, sign * other.scores, contest.items.clusters, noise, config,
            has_seeds=(configuration.is_trained, other.is_trained),
        )  # fmt: skip
    if contest.can_confirm and is_best:
        known = noise if configuration.is_trained else None
        update["confirmed"] = mean_estimate(sign * configuration.confirm, contest.confirm.clusters, known)
    return update


def _difference(
    ours: Array, theirs: Array, clusters: Sequence[str], noise: SeedNoise | None, config: RankingConfig, *,
    has_seeds: tuple[bool, bool],
) -> Estimate | None:  # fmt: skip
    found = difference(ours, theirs, clusters, noise, resamples=config.resamples, has_seeds=has_seeds)
    return Estimate(value=found.mean, low=found.low, high=found.high, n=ours.shape[1]) if found else None


def _to_base(
    contest: Contest, config: RankingConfig, configuration: Configuration, bases: Mapping[str, CellResult],
    noise: SeedNoise | None,
) -> Estimate | None:  # fmt: skip
    """On the choosing examples that the untouched base has a score for; it has no training seed."""
    base = bases.get(configuration.results[0].base) if configuration.is_trained else None
    scores = per_example(base, config.by) if base else {}
    places = [place for place, item in enumerate(contest.items.ids) if item in scores]
    theirs = np.array([[scores[contest.items.ids[place]] for place in places]])
    clusters = [contest.items.clusters[place] for place in places]
    ours = sign_of(config.by) * configuration.scores[:, places]
    return _difference(ours, theirs, clusters, noise, config, has_seeds=(True, False))


def _simultaneous(contest: Contest, ranked: _Ranked, k: int, sign: float) -> Estimate:
    """Interval of a row's mean whose bounds hold for all rows together."""
    values, reach = contest.configurations[k].scores, ranked.comparisons.critical
    variance = float(ranked.spread.covariance[k, k])
    mean, margin = float(sign * values.mean()), reach * float(np.sqrt(variance))
    low, high = mean - margin, mean + margin
    if np.isin(sign * values, (0.0, 1.0)).all():
        low, high = wilson_of_rate(mean, variance, values.shape[1], num_alike(contest.items.clusters), reach)
    return Estimate(value=mean, low=low, high=high, n=values.shape[1])


def _metrics(
    configuration: Configuration, criterion: str, contest: Contest, noise: SeedNoise | None
) -> dict[str, Estimate]:
    """Estimates over all seeds: the criterion on the examples that choose, the others on all of their suite."""
    results = configuration.results
    metrics = dict(results[0].metrics_with(criterion))
    if len(results) > 1 or _has_clusters(results[0]):
        metrics = _pooled(results, criterion)
    if len(contest.items.ids) >= MIN_PAIRS:
        values = sign_of(criterion) * configuration.scores
        known = noise if configuration.is_trained else None
        metrics[criterion] = mean_estimate(values, contest.items.clusters, known, configuration.unscored)
    return metrics


def _pooled(results: Sequence[CellResult], criterion: str) -> dict[str, Estimate]:
    """Estimates of the means over all runs, on the examples that each run has a score for."""
    measured = [result.metrics_with(criterion) for result in results]
    runs = [scores_by_metric(result) | {criterion: per_example(result, criterion)} for result in results]
    pooled = {}
    for name in measured[0]:
        shared = sorted(set.intersection(*(set(run.get(name, {})) for run in runs)))
        if shared:
            means = np.array([[run[name][item] for item in shared] for run in runs]).mean(axis=0)
            unscored, clusters = max(found[name].unscored for found in measured), clusters_of(results[0], name)
            pooled[name] = estimate(means.tolist(), unscored, [clusters.get(item, item) for item in shared])
    return pooled


def _has_clusters(result: CellResult) -> bool:
    return any(len(set(suite.clusters.values())) < len(suite.clusters) for suite in result.suites)


def _with_pareto(rows: Sequence[RankingRow], config: RankingConfig) -> tuple[RankingRow, ...]:
    """Marks the rows that no other one beats in one metric without losing in another."""
    names = weighed(rows, config)
    values = np.array([[sign_of(name) * row.metrics[name].value for name in names] for row in rows])
    values = values.round(12)  # means that are equal on paper may differ in their last bits

    def is_dominated(k: int) -> bool:
        no_worse, better = (values >= values[k]).all(axis=1), (values > values[k]).any(axis=1)
        return bool((no_worse & better).any())

    return tuple(row.model_copy(update={"is_pareto": not is_dominated(k)}) for k, row in enumerate(rows))


def weighed(rows: Sequence[RankingRow], config: RankingConfig) -> tuple[str, ...]:
    """The criterion and the secondary metrics that were measured for all rows."""
    asked = dict.fromkeys((config.by, *config.secondary))
    return tuple(name for name in asked if all(name in row.metrics for row in rows))
