"""Rankings at their edges: unequal clusters, scores without any spread, few seeds, order of the cells, other questions."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.ranking_simulation import Grid, draw, error_rate, simulate
from harness import stats
from harness.comparison import compare
from harness.config import RankingConfig
from harness.crossed import SeedNoise, Spread, compare_two, mean_estimate, spread
from harness.errors import ConfigError
from harness.gates import Candidate, parse_gate
from harness.max_t import compare_all, minimum_detectable
from harness.rank_cells import rank
from harness.ranking import Ranking
from harness.records import CellResult, SuiteResult
from tests.comparisons import trained, write_cell
from tests.helpers import cell_result, coin, suite_result

CONFIG = RankingConfig(by="held_out.exact_match", gates=(), resamples=2000)
HUGE = ["huge"] * 500 + [str(i) for i in range(20)]
TWO_LARGE = [name for i in range(22) for name in [str(i)] * (100 if i < 2 else 10)]


def names(n: int) -> list[str]:
    return [str(i) for i in range(n)]


def held_out(values: list[float], clusters: list[str] | None = None) -> SuiteResult:
    suite = suite_result("held_out", {"exact_match": values})
    of = {f"e{i}": cluster for i, cluster in enumerate(clusters or [])}
    return suite.model_copy(update={"clusters": of or suite.clusters})


def ranked(cells: list[CellResult], config: RankingConfig = CONFIG) -> Ranking:
    return rank("x", config, cells, [], {})


def test_unequal_clusters_tell_as_much_as_fewer_equal_ones() -> None:
    assert stats.num_independent(names(300)) == 300
    assert stats.num_independent([str(i // 5) for i in range(60)]) == 12
    assert stats.num_independent(HUGE) == pytest.approx(520**2 / (500**2 + 20), abs=1e-6)
    assert spread([np.ones((1, 400))], TWO_LARGE).freedom_of_items == pytest.approx(400**2 / 22_000 - 1)


def test_errors_of_clusters_are_made_up_for_their_size() -> None:
    """Two clusters of 3 and 1 items: deviations 0.25 x 3 and -0.75 from the mean, by sqrt(1 - 3 / 4) and sqrt(1 - 1 / 4)."""
    found = stats.cluster_errors(np.array([[0.25, 0.25, 0.25, -0.75]]), ["a", "a", "a", "b"])
    assert found == pytest.approx(np.array([[0.75 / 4 / 0.5, -0.75 / 4 / np.sqrt(0.75)]]))


def test_large_clusters_make_no_false_claims() -> None:
    """Two equal systems, one effect a cluster: the usual sandwich with G - 1 degrees of freedom claims in 17 %."""
    wrong, cluster_of = 0, np.unique(TWO_LARGE, return_inverse=True)[1]
    for trial in range(200):
        rng = np.random.default_rng(trial)
        scores = [(rng.normal(size=22)[cluster_of] + rng.normal(size=(1, 400)) > 0) * 1.0 for _ in range(2)]
        compared = compare_all(spread(scores, TWO_LARGE), scores, TWO_LARGE, alpha=0.05, resamples=500)
        wrong += compared.adjusted[0] < 0.05
    assert wrong / 200 <= 0.11


def test_one_huge_cluster_compares_and_retains_nothing() -> None:
    good, bad = (cell_result(name, held_out([v] * 520, HUGE)) for name, v in (("good", 1.0), ("bad", 0.0)))
    result = ranked([good, bad])
    assert [row.in_best_set for row in result.rows] == [True, True]
    assert "tell as much as 1.1 of equal size" in result.caveats[0]
    assert compare_two(np.ones((1, 520)), np.zeros((1, 520)), HUGE) is None
    assert stats.non_inferiority([1.0] * 520, [1.0] * 520, HUGE, 0.02).verdict == "inconclusive"
    reason = parse_gate("held_out.exact_match not_worse_than base by 0.02")(Candidate(good, (), bad))
    assert "520 examples of 21 sources" in reason


def test_a_cluster_alone_counts_as_one_example() -> None:
    half = np.array([[1.0, 0.0] * 20])
    for found in (mean_estimate(half, ["a"] * 40, None), stats.estimate(half[0].tolist(), 0, ["a"] * 40)):
        assert found.low < 0.05 and found.high > 0.95


def test_all_right_is_not_kept_out_by_a_gate_for_clusters_of_unequal_size() -> None:
    """94 sources of 300 examples, as in the quickstart: they tell as much as 25 equal ones."""
    clusters = [f"c{i % 14}" for i in range(220)] + names(80)
    for values in ([1.0] * 300, [1.0] * 299 + [0.0]):
        for found in (stats.estimate(values, 0, clusters), mean_estimate(np.array([values]), clusters, None)):
            assert found.low > 0.95


def test_too_few_sources_confirm_nothing() -> None:
    """With this share, two clusters of 50 examples are kept."""
    clusters = [f"c{i // 50}" for i in range(600)]
    cells = [cell_result(name, held_out(coin(0.6, 600, k), clusters)) for k, name in enumerate("ab")]
    result = ranked(cells, CONFIG.model_copy(update={"confirm_share": 0.3}))
    assert 20 < result.num_confirm_examples <= 250
    assert all(row.confirmed is None for row in result.rows)
    assert "no number is confirmed" in result.caveats[-1]
    assert not any("The confirmed number is free" in caveat for caveat in result.caveats)


@pytest.mark.parametrize("size", [1, 5])
def test_scores_without_any_spread_are_no_surer_than_a_sign_test(size: int) -> None:
    """Six right of six, against none: 2 / 64 a pair, by Holm over 15 pairs."""
    clusters = [str(i // size) for i in range(6 * size)]
    scores = [np.full((1, 6 * size), float(k % 2)) for k in range(6)]
    found = compare_all(spread(scores, clusters), scores, clusters, alpha=0.05, resamples=1000)
    assert found.adjusted.min() == pytest.approx(15 * 2 / 64)


def test_equal_or_opposite_runs_of_several_seeds_are_not_known_exactly() -> None:
    same = compare_two(np.ones((2, 10)), np.ones((2, 10)), names(10))
    assert same is not None
    assert same.low < -0.2 and same.high > 0.2
    opposite = compare_two(np.ones((2, 10)), np.zeros((2, 10)), names(10))
    assert opposite is not None
    assert opposite.low < 0.9 and opposite.p_value == pytest.approx(2 / 2**10)


def test_simultaneous_intervals_of_perfect_rows_are_wider_than_single_ones() -> None:
    cells = [
        cell_result(f"c{k},seed={s}", held_out([1.0] * 30), group=f"c{k}", seed=s) for k in range(3) for s in range(2)
    ]
    result = ranked(cells)
    row = result.rows[0]
    assert row.simultaneous_interval is not None
    assert row.simultaneous_interval.low < row.metrics["held_out.exact_match"].low < 1.0
    assert result.minimum_detectable_difference is None


def test_seed_noise_of_two_repeated_configurations_is_known_beside_a_single_one() -> None:
    """Had it been left out, 67 % of such grids would claim a winner among equals."""
    grid = Grid("5 runs of 3", (2, 2, 1), 500, 3.5)
    assert spread(draw(grid, 0).scores, names(500)).noise is not None
    assert error_rate(simulate(grid, 60, resamples=500, with_naive=False)) <= 0.12


def test_fewer_seeds_need_larger_differences_to_be_found() -> None:
    """More than 2.8 standard errors, as the seeds' noise is hardly known; of many seeds no more than these."""
    items, error = np.array([[9e-4, 5e-4], [5e-4, 9e-4]]), np.sqrt(4e-4 + 8e-4)
    few, many = (Spread(np.zeros(2), items, 1e6, SeedNoise(5e-4, 1e-4, f), np.full(2, 0.5)) for f in (2, 1e5))
    least, usual = minimum_detectable(few, 0, 1), minimum_detectable(many, 0, 1)
    assert least is not None and usual is not None
    assert usual == pytest.approx(2.80159 * error, rel=1e-3)
    assert least > 1.2 * usual


@pytest.mark.parametrize(("seeds", "said"), [(3, "too few to lend"), (4, "taken to be that of the other")])
def test_comparison_says_whether_seeds_are_lent(
    seeds: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for seed in range(seeds):
        scores = {"held_out": {"exact_match": coin(0.7, 60, seed)}}
        write_cell("x", f"many,seed={seed}", scores, seed=seed, group="many", train=trained())
    write_cell("x", "single", {"held_out": {"exact_match": coin(0.5, 60, 9)}}, train=trained())
    assert any(said in note for note in compare(["many", "single"]).pairs[0].notes)


def test_order_of_the_cells_changes_no_digit() -> None:
    cells = [
        cell_result(f"c{k},seed={s}", held_out(coin(0.5 + k / 50, 80, 10 * k + s)), group=f"c{k}", seed=s)
        for k in range(4)
        for s in range(2)
    ]
    assert ranked(cells) == ranked(cells[::-1]) == ranked([*cells[3:], *cells[:3]])


def test_rows_asked_other_questions_are_said_to_be() -> None:
    cells = [cell_result(name, held_out(coin(0.6, 60, k))) for k, name in enumerate("abc")]
    other = held_out(coin(0.6, 60, 9)).model_copy(update={"digest": "other"})
    assert "asked of odd otherwise" in ranked([*cells, cell_result("odd", other)]).caveats[0]
    assert not any("otherwise" in caveat for caveat in ranked(cells).caveats)


def test_nothing_and_one_row_are_not_said_to_be_compared() -> None:
    cell = cell_result("a", held_out(coin(0.6, 60, 1)))
    assert ranked([cell]).method.startswith("One configuration")
    none = ranked([cell], CONFIG.model_copy(update={"gates": ("held_out.exact_match >= 2",)}))
    assert (none.rows, none.method[:16]) == ((), "No configuration")


@pytest.mark.parametrize("gate", ["a.b >= 1.2.3", "a.b >= .", "a.b not_worse_than base by ."])
def test_numbers_of_gates_that_are_none_are_user_errors(gate: str) -> None:
    with pytest.raises(ConfigError, match="is no gate"):
        parse_gate(gate)
