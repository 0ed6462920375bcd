"""How often the ranking errs, beside the usual ways to compare: `python benchmarks/ranking_simulation.py`.

Simulates grids of configurations whose true quality is known. An item has a difficulty (logit, normal around 0.5 with sd
1.5), a configuration finds some items easier than another does (sd 0.5), and a training seed moves all items of its run
together. Scores are drawn anew for every run. Then it counts wrong claims, and what was said of the winner.

The full tables take about 6 minutes of one core and are written with `--write`; `--quick` takes half a minute (`--json` for scripts).
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats

from harness.crossed import mean_estimate, spread
from harness.max_t import compare_all, selection
from harness.stats import Array, holm, rank_intervals

ALPHA = 0.05
DIFFICULTY, INTERACTION, RESIDUAL = (0.5, 1.5), 0.5, 1.0
PAGE = Path(__file__).with_name("ranking_simulation.md")


class Grid(NamedTuple):
    """Configurations with known effects."""

    name: str
    seeds: tuple[int, ...]
    """Of each configuration."""
    num_items: int
    seed_points: float
    """Standard deviation that training seeds give the score, in points of 100."""
    effects: tuple[float, ...] = ()
    """True distance of each configuration from the first, in points; empty: all equal."""
    cluster_size: int = 1
    is_continuous: bool = False
    uneven: float = 1.0
    """Seed noise of the first configuration, as a multiple of the others'."""


EQUAL = (
    Grid("2 configurations x 2 seeds", (2,) * 2, 500, 1.6),
    Grid("2 x 2, much seed noise", (2,) * 2, 2000, 3.5),
    Grid("2 x 3", (3,) * 2, 1000, 1.6),
    Grid("8 x 2, no seed noise", (2,) * 8, 200, 0.0),
    Grid("8 x 2", (2,) * 8, 500, 1.6),
    Grid("12 x 3, few items", (3,) * 12, 200, 1.6),
    Grid("12 x 3", (3,) * 12, 1000, 1.7),
    Grid("12 x 3, much seed noise", (3,) * 12, 1000, 3.5),
    Grid("12 x 5", (5,) * 12, 1000, 1.7),
    Grid("6 x 1, items alone vary", (1,) * 6, 300, 0.0),
    Grid("8 configurations, 1 to 5 seeds", (5, 3, 3, 2, 2, 2, 1, 1), 500, 1.6),
    Grid("12, one with 4 seeds, 11 with one", (4, *(1,) * 11), 500, 1.6),
    Grid("8 x 3, clusters of 5", (3,) * 8, 500, 1.6, cluster_size=5),
    Grid("8 x 3, continuous scores", (3,) * 8, 500, 1.6, is_continuous=True),
    Grid("8 x 3, one with 3 times the seed noise", (3,) * 8, 1000, 1.6, uneven=3.0),
)
BETTER = (
    Grid("1 of 12 better by 6, 3 seeds", (3,) * 12, 1000, 1.7, (0.0, *(-6.0,) * 11)),
    Grid("1 of 12 better by 6, 5 seeds", (5,) * 12, 1000, 1.7, (0.0, *(-6.0,) * 11)),
    Grid("24 evenly 1 apart, 3 seeds", (3,) * 24, 1000, 1.7, tuple(-1.0 * k for k in range(24))),
    Grid("6 evenly 2 apart, 1 seed, no seed noise", (1,) * 6, 500, 0.0, tuple(-2.0 * k for k in range(6))),
)
QUICK_EQUAL = tuple(EQUAL[i] for i in (0, 4, 6, 7, 9, 12))
QUICK_BETTER = BETTER[:1]


def _slope() -> float:
    """Points of 100 that one logit moves the mean score by."""
    logits = np.random.default_rng(0).normal(DIFFICULTY[0], np.hypot(DIFFICULTY[1], INTERACTION), 200_000)
    p = 1 / (1 + np.exp(-logits))
    return float(100 * (p * (1 - p)).mean())


SLOPE = _slope()


class Drawn(NamedTuple):
    """One simulated grid."""

    scores: list[Array]
    """(num_seeds, num_items) a configuration."""
    clusters: list[str]
    truth: Array
    """(num_configs,): expected score, over seeds and items."""


def draw(grid: Grid, seed: int) -> Drawn:
    """Scores of one grid."""
    rng = np.random.default_rng([seed, grid.num_items, len(grid.seeds)])
    num_sources = -(-grid.num_items // grid.cluster_size)

    def per_item(mean: float, deviation: float) -> Array:
        return rng.normal(mean, deviation, num_sources).repeat(grid.cluster_size)[: grid.num_items]

    difficulty = per_item(*DIFFICULTY)
    scores, truth = [], []
    for k, num_seeds in enumerate(grid.seeds):
        effect = grid.effects[k] / SLOPE if grid.effects else 0.0
        deviation = grid.seed_points / SLOPE * (grid.uneven if k == 0 else 1.0)
        logits = difficulty + effect + per_item(0.0, INTERACTION) + rng.normal(0, deviation, (num_seeds, 1))
        if grid.is_continuous:
            logits = logits + rng.normal(0, RESIDUAL, logits.shape)
        chance = 1 / (1 + np.exp(-logits))  # (num_seeds, num_items)
        scores.append(chance if grid.is_continuous else (rng.random(chance.shape) < chance).astype(float))
        truth.append(_expected(effect, deviation, grid.is_continuous))
    return Drawn(scores, [str(i // grid.cluster_size) for i in range(grid.num_items)], np.array(truth))


def _expected(effect: float, deviation: float, is_continuous: bool) -> float:
    """Mean score over items and seeds, by quadrature."""
    spread_of_logits = np.sqrt(
        DIFFICULTY[1] ** 2 + INTERACTION**2 + deviation**2 + (RESIDUAL**2 if is_continuous else 0)
    )
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    values = 1 / (1 + np.exp(-(DIFFICULTY[0] + effect + spread_of_logits * nodes)))
    return float((weights * values).sum() / weights.sum())


Claims = list[tuple[int, int]]
"""Pairs (i, j) in which i is said to be better than j."""


def naive_claims(scores: Sequence[Array], *, one_seed: bool, corrected: bool) -> Claims:
    """Pairwise tests over items alone: McNemar's for single runs of 0 and 1, else the paired t test of the means over seeds."""
    rows = np.stack([s[0] if one_seed else s.mean(axis=0) for s in scores])  # (num_configs, num_items)
    p_values = {}
    for i in range(len(rows)):
        for j in range(i):
            if np.isin(rows, (0.0, 1.0)).all():
                gained, lost = int((rows[i] > rows[j]).sum()), int((rows[i] < rows[j]).sum())
                p_values[i, j] = min(1.0, 2 * float(stats.binom.cdf(min(gained, lost), gained + lost, 0.5)))
            else:
                gaps = rows[i] - rows[j]
                t = gaps.mean() / (gaps.std(ddof=1) / np.sqrt(len(gaps)))
                p_values[i, j] = 2 * float(stats.t.sf(abs(t), len(gaps) - 1))
    found = holm(p_values) if corrected else p_values
    means = rows.mean(axis=1)
    return [(i, j) if means[i] > means[j] else (j, i) for (i, j), p in found.items() if p < ALPHA]


class Outcome(NamedTuple):
    """What was said of one grid, held against the truth."""

    wrong: dict[str, bool]
    """Method -> whether it claims any order that is not so."""
    best_set: tuple[int, ...]
    best_set_is_true: bool
    """Whether it holds all of the truly best."""
    first_by_one_seed: bool
    """Whether the highest score of the first seed is a truly best one."""
    inflation_one_seed: float
    """Points by which the highest score of the first seed exceeds its truth."""
    inflation: float
    """The same of the highest mean over seeds."""
    optimism: float
    """Points by which the ranking says so."""
    inflation_confirmed: float
    """Points by which the winner's score on a third of the items, which did not choose it, exceeds its truth."""
    interval_covers: bool
    """Whether that score's interval holds its truth."""


def examine(drawn: Drawn, *, resamples: int, with_naive: bool = True) -> Outcome:
    """Ranks one grid by all methods."""
    scores, truth = drawn.scores, drawn.truth
    found = spread(scores, drawn.clusters)
    compared = compare_all(found, scores, drawn.clusters, alpha=ALPHA, resamples=resamples)
    ours = compared.better(found.means, ALPHA)
    claims = {"crossed, max-T": ours, "crossed, Holm": compared.better(found.means, ALPHA, by_holm=True)}
    if with_naive:
        claims |= {
            "1 seed": naive_claims(scores, one_seed=True, corrected=False),
            "1 seed, Holm": naive_claims(scores, one_seed=True, corrected=True),
            "items, Holm": naive_claims(scores, one_seed=False, corrected=True),
        }
    best = tuple(k for k, (low, _) in enumerate(rank_intervals(len(scores), ours)) if low == 1)
    winner, first_seed = int(found.means.argmax()), np.array([s[0].mean() for s in scores])
    cut = len(drawn.clusters) * 2 // 3
    chosen = int(np.argmax([s[:, :cut].mean() for s in scores]))
    noise = spread([s[:, :cut] for s in scores], drawn.clusters[:cut]).noise
    confirmed = mean_estimate(scores[chosen][:, cut:], drawn.clusters[cut:], noise)
    lucky = int(first_seed.argmax())
    return Outcome(
        {name: any(truth[i] <= truth[j] for i, j in pairs) for name, pairs in claims.items()},
        best,
        set(np.flatnonzero(truth == truth.max())) <= set(best),
        bool(truth[lucky] == truth.max()),
        100 * float(first_seed[lucky] - truth[lucky]),
        100 * float(found.means[winner] - truth[winner]),
        100 * selection(found, best, resamples=resamples).optimism,
        100 * (confirmed.value - float(truth[chosen])),
        confirmed.low <= truth[chosen] <= confirmed.high,
    )


def simulate(grid: Grid, num_grids: int, *, resamples: int = 2000, with_naive: bool = True) -> list[Outcome]:
    """Outcomes of many draws of one grid."""
    return [examine(draw(grid, seed), resamples=resamples, with_naive=with_naive) for seed in range(num_grids)]


def error_rate(outcomes: Sequence[Outcome], method: str = "crossed, max-T") -> float:
    """Share of grids in which a method makes any wrong claim."""
    return sum(outcome.wrong[method] for outcome in outcomes) / len(outcomes)


def coverage(outcomes: Sequence[Outcome]) -> float:
    """Share of grids in which the best set holds all of the truly best."""
    return sum(outcome.best_set_is_true for outcome in outcomes) / len(outcomes)


def _mean(outcomes: Sequence[Outcome], field: str) -> float:
    return float(np.mean([getattr(outcome, field) for outcome in outcomes]))


def tables(equal: dict[Grid, list[Outcome]], better: dict[Grid, list[Outcome]]) -> str:
    """Markdown of all that was found."""
    methods = ("1 seed", "1 seed, Holm", "items, Holm", "crossed, Holm", "crossed, max-T")
    num_grids = len(next(iter(equal.values())))
    lines = [
        f"Chance of at least one wrong claim among configurations that are all equal ({num_grids} grids a row, standard error "
        f"at 0.05: {np.sqrt(0.05 * 0.95 / num_grids):.3f}):", "",
        "| grid | items | seed sd, points | " + " | ".join(methods[:-1]) + " | **crossed, max-T** |",
        "|---|---|---|" + "---|" * len(methods),
    ]  # fmt: skip
    for grid, found in equal.items():
        rates = [f"{error_rate(found, name):.2f}" for name in methods[:-1]] + [f"**{error_rate(found):.3f}**"]
        lines.append(f"| {grid.name} | {grid.num_items} | {grid.seed_points:g} | {' | '.join(rates)} |")
    lines += [
        "", "What is said of the winner among equals, in points of 100: by how much its score is too high.", "",
        "| grid | items | 1 seed | all seeds | the ranking says | confirmed on other items | its 95 % interval holds the truth |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for grid, found in equal.items():
        figures = ("inflation_one_seed", "inflation", "optimism", "inflation_confirmed")
        values = " | ".join(f"{_mean(found, name):+.1f}" for name in figures)
        lines.append(f"| {grid.name} | {grid.num_items} | {values} | {_mean(found, 'interval_covers'):.2f} |")
    lines += [
        "", "Grids with a truth to find:", "",
        "| grid, points | items | seed sd, points | wrong claims | best set holds the truth | its mean size | a single winner | highest score of 1 seed is the truth |",
        "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for grid, found in better.items():
        size = float(np.mean([len(outcome.best_set) for outcome in found]))
        single = float(np.mean([len(outcome.best_set) == 1 for outcome in found]))
        lines.append(
            f"| {grid.name} | {grid.num_items} | {grid.seed_points:g} | {error_rate(found):.3f} | {coverage(found):.3f} | "
            f"{size:.1f} of {len(grid.seeds)} | {single:.2f} | {_mean(found, 'first_by_one_seed'):.2f} |"
        )
    return "\n".join(lines)


def summary(
    equal: dict[Grid, list[Outcome]], better: dict[Grid, list[Outcome]], seconds: float
) -> dict[str, float | int]:
    """The figures for scripts: pooled over all grids, and of the worst row."""
    everything = [outcome for found in equal.values() for outcome in found]
    both = [*equal.values(), *better.values()]
    return {
        "fwer": error_rate(everything),
        "fwer_worst": max(error_rate(found) for found in equal.values()),
        "coverage": coverage([outcome for found in both for outcome in found]),
        "coverage_worst": min(coverage(found) for found in both),
        "fwer_one_seed_mcnemar": error_rate(everything, "1 seed"),
        "fwer_one_seed_holm": error_rate(everything, "1 seed, Holm"),
        "fwer_items_only_holm": error_rate(everything, "items, Holm"),
        "inflation_one_seed_points": _mean(everything, "inflation_one_seed"),
        "inflation_points": _mean(everything, "inflation"),
        "optimism_points": _mean(everything, "optimism"),
        "inflation_confirmed_points": _mean(everything, "inflation_confirmed"),
        "grids": len(everything),
        "seconds": round(seconds, 1),
    }


def main() -> None:
    """Simulates and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer kinds of grids, 200 of each")
    parser.add_argument("--grids", type=int, help="simulated grids of each kind (default 1000, or 200)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON instead of the tables")
    parser.add_argument("--write", action="store_true", help=f"write the tables to {PAGE.name}")
    asked = parser.parse_args()
    num_grids, began = asked.grids or (200 if asked.quick else 1000), time.monotonic()
    equal = {grid: simulate(grid, num_grids) for grid in (QUICK_EQUAL if asked.quick else EQUAL)}
    better = {grid: simulate(grid, num_grids, with_naive=False) for grid in (QUICK_BETTER if asked.quick else BETTER)}
    found = tables(equal, better)
    print(json.dumps(summary(equal, better, time.monotonic() - began), indent=2) if asked.json else found)
    if asked.write:
        PAGE.write_text(
            f"# What the ranking gets wrong, and how often\n\nPrinted by `python benchmarks/ranking_simulation.py --write`.\n\n{found}\n"
        )


if __name__ == "__main__":
    main()
