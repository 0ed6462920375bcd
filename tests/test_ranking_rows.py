"""What a row of the ranking says: intervals, differences, confirmation, ties, seeds, clusters, imported systems, JSON."""

import json

import numpy as np
import pytest
from scipy import stats

from harness.cli.ranking_table import ranking_json, ranking_table
from harness.config import RankingConfig
from harness.configurations import confirms
from harness.gates import Candidate, parse_gate
from harness.rank_cells import rank
from harness.ranking import Ranking
from harness.records import CellResult, SuiteResult
from tests.helpers import cell_result, coin, error_finding, suite_result, trained_for

CONFIG = RankingConfig(by="held_out.exact_match", gates=(), resamples=2000)


def held_out(values: list[float | None]) -> SuiteResult:
    return suite_result("held_out", {"exact_match": values})


def ranked(cells: list[CellResult], config: RankingConfig = CONFIG, **findings: object) -> Ranking:
    return rank("x", config, cells, [], {f"id-{name}": found for name, found in findings.items()})


def seeds_of(name: str, rates: list[float], n: int = 400, draw: int = 7) -> list[CellResult]:
    """One cell a rate, on the same items."""
    return [
        cell_result(f"{name},seed={i}", held_out(coin(p, n, draw)), group=name, seed=i) for i, p in enumerate(rates)
    ]


def trained(cell: CellResult, seconds: float, parameters: int = 1000) -> CellResult:
    """The cell with what its training cost."""
    train = trained_for(10).model_copy(update={"seconds": seconds, "num_trainable_parameters": parameters})
    return cell.model_copy(update={"train": train})


def test_examples_that_confirm_never_choose() -> None:
    """Scores that are right on the confirming examples alone win nothing there, and are not seen in the order."""
    keeps = [confirms(f"e{i}", 0.4) for i in range(400)]
    hidden = [1.0 if kept else 0.0 for kept in keeps]
    config = CONFIG.model_copy(update={"confirm_share": 0.4})
    result = ranked([cell_result("hidden", held_out(hidden)), cell_result("even", held_out(coin(0.5, 400, 1)))], config)
    assert [row.name for row in result.rows] == ["even", "hidden"]
    assert result.rows[1].metrics["held_out.exact_match"].value == 0.0
    assert (result.num_examples, result.num_confirm_examples) == (400 - sum(keeps), sum(keeps))
    even = [value for value, kept in zip(coin(0.5, 400, 1), keeps, strict=True) if kept]
    assert result.rows[0].confirmed is not None and result.rows[1].confirmed is None
    assert result.rows[0].confirmed.value == pytest.approx(np.mean(even))
    low, high = stats.binomtest(int(sum(even)), len(even)).proportion_ci(method="wilson")
    assert (result.rows[0].confirmed.low, result.rows[0].confirmed.high) == pytest.approx((low, high), abs=0.01)


def test_split_keeps_clusters_whole_and_is_the_same_everywhere() -> None:
    assert [confirms(f"e{i}", 0.33) for i in range(12)] == [bool(int(bit)) for bit in "000000001100"]
    assert 0.30 < np.mean([confirms(str(i), 1 / 3) for i in range(3000)]) < 0.37
    assert not any(confirms(str(i), 0.0) for i in range(100))


def test_too_few_examples_on_either_side_of_the_split_say_so() -> None:
    def of(n: int, share: float) -> Ranking:
        cells = [cell_result("a", held_out([1.0] * n)), cell_result("b", held_out([0.0] * n))]
        return ranked(cells, CONFIG.model_copy(update={"confirm_share": share}))

    assert [row.in_best_set for row in of(24, 0.5).rows] == [True, True]
    assert "beside" in of(24, 0.5).caveats[0]
    few = of(60, 0.1)
    assert [row.in_best_set for row in few.rows] == [True, False]
    assert few.rows[0].confirmed is None
    assert f"Only {few.num_confirm_examples} examples were kept for confirmation" in few.caveats[-1]


def test_optimism_is_stated_where_nothing_confirms() -> None:
    equal = [cell_result(str(k), held_out(coin(0.5, 300, k))) for k in range(8)]
    result = ranked(equal)
    # Eight independent rates of 300: 1.42 standard errors of 0.029.
    assert result.optimism == pytest.approx(1.42 * 0.029, abs=0.006)
    assert f"optimistic by about {result.optimism:.3f}" in result.caveats[1]
    clear = ranked([cell_result("a", held_out([1.0] * 200)), cell_result("b", held_out([0.0] * 200))])
    assert clear.optimism == pytest.approx(0.0, abs=1e-3)


def test_difference_to_the_base_is_paired_and_without_seed_noise_of_the_base() -> None:
    base = cell_result("base", held_out(coin(0.4, 400, 7)), seed=None)
    result = rank("x", CONFIG, [*seeds_of("a", [0.6, 0.6, 0.6]), *seeds_of("b", [0.5, 0.5, 0.5])], [base], {})
    found = result.rows[0].difference_to_base
    assert found is not None
    # No seed noise at all: the paired t test over items.
    expected = stats.ttest_rel(coin(0.6, 400, 7), coin(0.4, 400, 7)).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-3)
    noisy = rank("x", CONFIG, [*seeds_of("a", [0.5, 0.6, 0.7]), *seeds_of("b", [0.4, 0.5, 0.6])], [base], {})
    assert noisy.rows[0].difference_to_base is not None
    assert noisy.rows[0].difference_to_base.low < found.low - 0.05


def test_simultaneous_interval_is_wider_than_that_of_one_row() -> None:
    rows = ranked([cell_result(str(k), held_out(coin(0.5, 300, k))) for k in range(8)]).rows
    for row in rows:
        alone, together = row.metrics["held_out.exact_match"], row.simultaneous_interval
        assert together is not None
        assert together.low < alone.low < alone.value < alone.high < together.high
    assert sum(row.probability_best or 0 for row in rows) == pytest.approx(1)


def test_pareto_rows_are_those_that_nothing_beats_in_all() -> None:
    def cell(name: str, match: float, kept: float) -> CellResult:
        return cell_result(
            name, held_out(coin(match, 200, 1)), suite_result("retention", {"nll": [kept + 0.1, kept] * 50})
        )

    config = CONFIG.model_copy(update={"secondary": ("retention.nll", "retention.accuracy")})
    cells = [cell("sharp", 0.9, 2.0), cell("safe", 0.5, 1.0), cell("neither", 0.5, 2.0), cell("worst", 0.3, 3.0)]
    result = ranked(cells, config)
    assert {row.name for row in result.rows if row.is_pareto} == {"sharp", "safe"}
    assert result.secondary == ("retention.nll",)


def test_ties_are_listed_by_warnings_cost_and_size() -> None:
    warning = error_finding().model_copy(update={"severity": "warning"})
    cells = [
        trained(cell_result("warned", held_out(coin(0.52, 200, 1))), 1.0),
        trained(cell_result("slow", held_out(coin(0.53, 200, 2))), 99.0),
        trained(cell_result("large", held_out(coin(0.53, 200, 3))), 10.5, 5000),
        trained(cell_result("small", held_out(coin(0.50, 200, 4))), 11.0, 100),
    ]
    result = ranked(cells, warned=[warning])
    assert [row.name for row in result.rows] == ["small", "large", "slow", "warned"]
    assert "ties are listed by fewer warnings" in result.method


def test_many_seeds_of_one_lend_their_noise_to_single_ones() -> None:
    anchor = seeds_of("anchor", [0.50, 0.56, 0.62, 0.68])
    result = ranked([*anchor, cell_result("single", held_out(coin(0.78, 400, 7)))])
    assert [row.in_best_set for row in result.rows] == [True, True]
    assert "lent the noise of the others" in result.caveats[0]
    unknown = ranked([*anchor[:2], cell_result("single", held_out(coin(0.78, 400, 7)))])
    assert "Seed variance unknown: some configurations" in unknown.caveats[0]


def test_example_that_one_run_has_no_score_for_counts_for_nobody() -> None:
    whole: list[float | None] = coin(0.7, 100, 1)  # type: ignore[assignment]
    result = ranked([cell_result("a", held_out(whole)), cell_result("b", held_out([None] * 3 + whole[3:]))])
    assert result.num_examples == 97
    assert any("3 examples count for nobody" in caveat for caveat in result.caveats)
    assert result.rows[0].metrics["held_out.exact_match"].n == 97


def imported(name: str, values: list[float]) -> CellResult:
    cell = cell_result(name, held_out(values), group="same", seed=None)
    return cell.model_copy(update={"reference": "predictions", "overrides": {}})


def test_imported_predictions_are_ranked_as_they_are() -> None:
    """Hand-worked: exact McNemar tests of the pairs, by scipy."""
    answers = {name: coin(p, 300, 5) for name, p in (("gpt", 0.85), ("ours", 0.80), ("old", 0.60))}
    config = CONFIG.model_copy(update={"resamples": 10_000})
    result = rank("x", config, [imported(name, values) for name, values in answers.items()], [], {})
    assert [row.name for row in result.rows] == ["gpt", "ours", "old"]
    assert "These systems were imported" in result.caveats[0]
    assert not any("trained" in text or "seed" in text for text in (*result.caveats, result.method.split(";")[0]))
    for row in result.rows[1:]:
        gaps = np.array(answers[row.name]) - np.array(answers["gpt"])
        found = row.difference_to_best
        assert found is not None
        assert found.value == pytest.approx(gaps.mean())
        by_scipy = stats.ttest_1samp(gaps, 0).confidence_interval(0.95)
        assert (found.low, found.high) == pytest.approx((by_scipy.low, by_scipy.high), abs=0.01)
        p = stats.binomtest(int((gaps > 0).sum()), int((gaps != 0).sum())).pvalue
        assert (row.rank_interval[0] > 1) == (p < 0.01)


def clustered(num_clusters: int, size: int, rate: float) -> SuiteResult:
    """Examples of one cluster are all right or all wrong."""
    right = coin(rate, num_clusters, 3)
    suite = held_out([value for value in right for _ in range(size)])
    return suite.model_copy(update={"clusters": {f"e{i}": f"c{i // size}" for i in range(num_clusters * size)}})


def test_clusters_widen_intervals_and_gates() -> None:
    together, alone = cell_result("a", clustered(30, 10, 0.9)), cell_result("b", held_out(coin(0.9, 300, 3)))
    wide, narrow = (ranked([cell]).rows[0].metrics["held_out.exact_match"] for cell in (together, alone))
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)
    assert ranked([together]).num_clusters == 30
    gate = parse_gate("held_out.exact_match.low >= 0.8")
    assert "low is 0." in gate(Candidate(together, (), None))
    assert not gate(Candidate(alone, (), None))


def test_few_clusters_claim_nothing() -> None:
    cells = [cell_result("a", clustered(4, 50, 1.0)), cell_result("b", clustered(4, 50, 0.0))]
    result = ranked(cells)
    assert all(row.in_best_set for row in result.rows)
    assert "from 4 sources" in result.caveats[0]


def test_json_keeps_its_contract(capsys: pytest.CaptureFixture[str]) -> None:
    config = CONFIG.model_copy(update={"confirm_share": 0.3, "secondary": ()})
    cells = [*seeds_of("a", [0.6, 0.7]), *seeds_of("b", [0.5, 0.6]), cell_result("c", status="failed")]
    base = cell_result("base", held_out(coin(0.1, 400, 7)), seed=None)
    result = rank("x", config, cells, [base], {})
    found = json.loads(ranking_json(result))
    assert set(found) == {
        "experiment", "criterion", "secondary", "rows", "excluded", "references", "num_examples", "items", "clusters",
        "confirm_items", "seeds", "mde", "minimum_detectable_difference", "optimism", "method", "caveats", "not_comparable",
    }  # fmt: skip
    assert set(found["rows"][0]) == {
        "rank", "rank_interval", "in_best_set", "cell", "name", "seed_count", "mlflow_run_ids", "metrics", "findings",
        "confirmed", "difference_to_base", "difference_to_best", "simultaneous_interval", "probability_best", "is_pareto",
    }  # fmt: skip
    assert set(found["rows"][0]["confirmed"]) == {"value", "low", "high", "n", "unscored"}
    assert found["items"] + found["confirm_items"] == 400
    assert (found["seeds"], found["mde"]) == (2, found["minimum_detectable_difference"])
    ranking_table(result)
    printed = capsys.readouterr().out
    assert "Confirmed on" in printed and "Against the base: +" in printed and "Method: Step-down max-T" in printed
    assert max(len(line) for line in printed.splitlines()) <= 80


def test_a_cell_that_failed_is_told_by_its_reason_not_by_its_curves(capsys: pytest.CaptureFixture[str]) -> None:
    failed = cell_result("c", status="failed").model_copy(update={"error": "CUDA out of memory at batch 1"})
    warned = {failed.cell: [error_finding("diverged")]}
    ranking_table(rank("x", CONFIG, [*seeds_of("a", [0.6, 0.7]), failed], [], warned))
    assert "CUDA out of memory at batch 1" in " ".join(capsys.readouterr().out.split())


def test_ranking_a_large_grid_keeps_every_seed() -> None:
    cells = [cell for k in range(60) for cell in seeds_of(f"c{k}", [0.3 + k / 100] * 3, n=200)]
    result = ranked(cells)
    assert len(result.rows) == 60
    assert {row.seed_count for row in result.rows} == {3}
    assert result.rows[0].rank_interval[1] < 60
