"""Gates, ties, exclusions and error rates of the ranking."""

import numpy as np
import pytest

from harness.config import RankingConfig
from harness.errors import ConfigError
from harness.gates import Candidate, parse_gate
from harness.rank_cells import rank
from harness.ranking import Ranking
from harness.records import CellResult, SuiteResult
from tests.helpers import cell_result, coin, error_finding, suite_result

CONFIG = RankingConfig(by="held_out.exact_match", gates=(), resamples=2000)


def held_out(values: list[float | None]) -> SuiteResult:
    return suite_result("held_out", {"exact_match": values})


def ranked(cells: list[CellResult], config: RankingConfig = CONFIG, **findings: object) -> Ranking:
    return rank("x", config, cells, [], {f"id-{name}": found for name, found in findings.items()})


def test_clear_winner_stands_alone() -> None:
    result = ranked([cell_result("bad", held_out(coin(0.3, 300, 1))), cell_result("good", held_out(coin(0.9, 300, 1)))])
    assert [row.name for row in result.rows] == ["good", "bad"]
    assert [row.rank_interval for row in result.rows] == [(1, 1), (2, 2)]
    assert [row.in_best_set for row in result.rows] == [True, False]
    assert result.rows[1].difference_to_best is not None
    assert result.rows[1].difference_to_best.high < 0


def test_near_equals_are_tied() -> None:
    result = ranked([cell_result("a", held_out(coin(0.80, 200, 1))), cell_result("b", held_out(coin(0.82, 200, 2)))])
    assert [row.rank_interval for row in result.rows] == [(1, 2), (1, 2)]
    assert all(row.in_best_set for row in result.rows)


def test_lower_is_better_for_nll() -> None:
    config = RankingConfig(by="held_out.nll", gates=())
    cells = [
        cell_result(name, suite_result("held_out", {"nll": [level + i / 100 for i in range(50)]}))
        for name, level in (("high", 3.0), ("low", 1.0))
    ]
    result = ranked(cells, config)
    assert result.rows[0].name == "low"
    assert result.rows[0].metrics["held_out.nll"].value == pytest.approx(1.245)
    assert result.rows[1].difference_to_best is not None
    assert result.rows[1].difference_to_best.value == pytest.approx(2.0)


def test_failed_cell_and_missing_metric_are_excluded_with_their_reason() -> None:
    cells = [
        cell_result("ok", held_out(coin(0.5, 50, 1))),
        cell_result("broken", status="failed"),
        cell_result("other", suite_result("retention", {"accuracy": [1.0] * 50})),
    ]
    result = ranked(cells)
    assert {row.name: row.reason for row in result.excluded} == {
        "broken": "failed while training: it broke",
        "other": "held_out.exact_match was not measured",
    }


def test_unscored_examples_are_no_zeros() -> None:
    values: list[float | None] = [1.0] * 40 + [None] * 10
    result = ranked([cell_result("a", held_out(values))])
    assert result.rows[0].metrics["held_out.exact_match"].value == 1.0
    assert result.rows[0].metrics["held_out.exact_match"].unscored == 10
    assert result.num_examples == 40


def test_seeds_are_pooled_into_one_row() -> None:
    cells = [cell_result(f"a,seed={s}", held_out(coin(0.7, 100, s)), group="a", seed=s) for s in range(3)]
    result = ranked(cells)
    assert [(row.name, row.seed_count) for row in result.rows] == [("a", 3)]
    assert "with 3 seeds" in result.caveats[0]
    assert result.num_seeds == 3


def test_seed_noise_widens_the_comparison() -> None:
    """Two configurations whose seeds scatter more than they differ are tied; without the scatter they are not."""

    def grid(scatter: float) -> list[CellResult]:
        shifts = (-scatter, 0.0, scatter)
        return [
            cell_result(f"{name},seed={s}", held_out(coin(p + shifts[s], 1000, 7)), group=name, seed=s)
            for name, p in (("a", 0.60), ("b", 0.66))
            for s in range(3)
        ]

    assert [row.in_best_set for row in ranked(grid(0.0)).rows] == [True, False]
    assert [row.in_best_set for row in ranked(grid(0.12)).rows] == [True, True]


def test_configuration_that_lost_a_seed_says_so() -> None:
    cells = [cell_result(f"a,seed={s}", held_out(coin(0.7, 100, s)), group="a", seed=s) for s in range(3)]
    failed = cells[2].model_copy(update={"status": "failed", "stage": "training", "error": "it broke", "suites": ()})
    result = ranked([*cells[:2], failed])
    assert any("a is ranked on 2 of 3 seeds" in caveat for caveat in result.caveats)
    assert not any("of 3 seeds" in caveat for caveat in ranked(cells).caveats)


def test_one_seed_says_so() -> None:
    cells = [cell_result(name, held_out(coin(0.5, 50, 1))) for name in "ab"]
    assert "Seed variance unknown" in ranked(cells).caveats[0]


def test_tie_is_ordered_by_warnings() -> None:
    scores = held_out(coin(0.5, 100, 1))
    warning = error_finding().model_copy(update={"severity": "warning"})
    result = ranked([cell_result("warned", scores), cell_result("quiet", scores)], warned=[warning])
    assert [row.name for row in result.rows] == ["quiet", "warned"]
    assert [row.rank_interval for row in result.rows] == [(1, 2), (1, 2)]


def test_equal_configurations_are_seldom_told_apart() -> None:
    """Family-wise error over 60 grids of 4 equal configurations, items resampled: at most 10 % (nominal 5 %)."""
    claims = 0
    for trial in range(60):
        rng = np.random.default_rng(trial)
        difficulty = rng.random(120)
        cells = [cell_result(str(k), held_out((rng.random(120) < difficulty).astype(float).tolist())) for k in range(4)]
        claims += not all(row.in_best_set for row in ranked(cells, CONFIG.model_copy(update={"resamples": 1000})).rows)
    assert claims <= 6


def test_criterion_that_nobody_has_is_an_error() -> None:
    with pytest.raises(ConfigError, match="was not measured.*did you mean held_out.exact_match"):
        ranked([cell_result("a", held_out([1.0] * 10))], RankingConfig(by="held_out.bleu", gates=()))


BASE = cell_result("base", suite_result("retention", {"accuracy": coin(0.95, 200, 3)}), seed=None)


@pytest.mark.parametrize(
    ("gate", "reason"),
    [
        ("retention.accuracy >= 0.5", ""),
        ("retention.accuracy >= 0.99", "retention.accuracy is 0.9"),
        ("retention.accuracy.low >= 0.99", "retention.accuracy.low is 0."),
        ("retention.accuracy < 0.99", ""),
        ("held_out.chrf >= 0.1", "held_out.chrf was not measured"),
        ("retention.accuracy not_worse_than base by 0.05", ""),
        ("no error findings", ""),
    ],
)
def test_gates(gate: str, reason: str) -> None:
    candidate = Candidate(BASE, (), BASE)
    found = parse_gate(gate)(candidate)
    assert found == "" if not reason else reason in found


def test_error_finding_fails_its_gate_and_forgetting_the_other() -> None:
    assert "diverged: The loss went up" in parse_gate("no error findings")(Candidate(BASE, (error_finding(),), None))
    forgot = cell_result("f", suite_result("retention", {"accuracy": coin(0.5, 200, 3)}))
    assert "is worse than the base by more than 0.05" in parse_gate("retention.accuracy not_worse_than base by 0.05")(
        Candidate(forgot, (), BASE)
    )


@pytest.mark.parametrize(
    ("rise", "reason"), [(0.0, ""), (0.3, "retention.nll is worse than the base by more than 0.1: difference +0.3")]
)
def test_higher_nll_is_worse(rise: float, reason: str) -> None:
    base, cell = (
        cell_result(name, suite_result("retention", {"nll": [1 + i / 100 + more for i in range(50)]}))
        for name, more in (("base", 0.0), ("cell", rise))
    )
    found = parse_gate("retention.nll not_worse_than base by 0.1")(Candidate(cell, (), base))
    assert found.startswith(reason) and bool(found) == bool(reason)


def test_few_examples_do_not_pass_the_gate() -> None:
    few = cell_result("few", suite_result("retention", {"accuracy": [1.0] * 5}))
    found = parse_gate("retention.accuracy not_worse_than base by 0.05")(Candidate(few, (), few))
    assert "on 5 examples; 6 are needed" in found


def test_gate_that_is_none_shows_how_to_write_one() -> None:
    with pytest.raises(ConfigError, match="'sounds good' is no gate; write"):
        parse_gate("sounds good")


def test_a_large_grid_can_have_a_winner() -> None:
    cells = [cell_result(str(k), held_out(coin(0.30 + 0.025 * k, 800, 5))) for k in range(24)]
    rows = ranked(cells).rows
    assert rows[0].name == "23"
    assert rows[-1].rank_interval[0] > 12


@pytest.mark.parametrize("num_shared", [0, 4])
def test_too_few_shared_examples_claim_nothing(num_shared: int) -> None:
    good, bad = cell_result("a", held_out([1.0] * 20)), cell_result("b", held_out([0.0] * 20))
    suite = bad.suites[0]
    scores = tuple(
        s if int(s.example_id[1:]) < num_shared else s.model_copy(update={"example_id": f"x{s.example_id}"})
        for s in suite.scores
    )
    result = ranked([good, bad.model_copy(update={"suites": (suite.model_copy(update={"scores": scores}),)})])
    assert [(row.name, row.rank_interval) for row in result.rows] == [("a", (1, 2)), ("b", (1, 2))]
    assert result.rows[1].difference_to_best is None
    assert result.minimum_detectable_difference is None
    assert f"Only {num_shared} examples were scored for every cell" in result.caveats[0]


def test_a_cell_is_compared_with_its_own_base() -> None:
    def on(base: str, cell: CellResult) -> CellResult:
        return cell.model_copy(update={"base": base})

    strong, weak = (suite_result("retention", {"accuracy": coin(p, 200, 3)}) for p in (0.95, 0.30))
    config = RankingConfig(by="retention.accuracy", gates=("retention.accuracy not_worse_than base by 0.02",))
    cells = [on("A", cell_result("a", strong)), on("B", cell_result("b", weak))]
    bases = [on("A", cell_result("base: A", strong, seed=None)), on("B", cell_result("base: B", weak, seed=None))]
    assert not rank("x", config, cells, bases, {}).excluded
