"""Effects of swept fields and costs, against numbers worked out by hand."""

import math
from typing import Any

import pytest

from harness.records import CellResult, Estimate, SplitSummary, SuiteResult, TrainResult
from harness.reports.cost import costs_of
from harness.reports.effects import main_effects, pair_effects, runs_of, seed_deviation, swept_fields

GRID: dict[str, list[Any]] = {"training.learning_rate": [1e-3, 1e-4], "adapter.r": [4, 8]}
CRITERION = "held_out.exact_match"


def cell(value: float, seed: int = 0, name: str = "", train: TrainResult | None = None, **place: Any) -> CellResult:
    """A cell whose criterion is `value`, at `rate` and `r`."""
    overrides = {"training.learning_rate": place["rate"], "adapter.r": place["r"]} if place else {}
    group = name or f"learning_rate={place['rate']},r={place['r']}"
    estimate = Estimate(value=value, low=value, high=value, n=100)
    suite = SuiteResult(suite="held_out", version=1, digest="d", metrics={"exact_match": estimate}, scores=(), clusters={}, slices={}, seconds=1.0)  # fmt: skip
    return CellResult(cell=f"{group}-{seed}", name=f"{group},seed={seed}", group=group, seed=seed, overrides=overrides,
                      status="finished", suites=(suite,), train=train)  # fmt: skip


def grid_of_four() -> list[CellResult]:
    """0.9 and 0.7 at 1e-3, 0.5 and 0.1 at 1e-4; two seeds, each 0.02 from its mean."""
    means = {(1e-3, 4): 0.9, (1e-3, 8): 0.7, (1e-4, 4): 0.5, (1e-4, 8): 0.1}
    return [cell(mean + shift, seed, rate=rate, r=r) for (rate, r), mean in means.items() for seed, shift in ((0, -0.02), (1, 0.02))]  # fmt: skip


def effects_of(cells: list[CellResult]) -> list[Any]:
    return main_effects(runs_of(cells, GRID, (), CRITERION), swept_fields(GRID, ()))


def test_main_effect_is_the_mean_over_the_other_field() -> None:
    rate, rank = effects_of(grid_of_four())
    assert [(level.value, level.num_cells) for level in rate.levels] == [("0.0001", 4), ("0.001", 4)]
    assert [level.mean for level in rate.levels] == pytest.approx([0.3, 0.8])
    assert [level.mean for level in rank.levels] == pytest.approx([0.7, 0.4])
    assert rate.size == pytest.approx(0.5)
    assert (rate.levels[0].lowest, rate.levels[0].highest) == pytest.approx((0.08, 0.52))
    assert (rate.num_settings, rate.num_left_out) == (2, 0)


def test_interval_comes_from_seeds_alone() -> None:
    # Within each of 4 configurations: 2 x 0.02**2 on 1 degree of freedom, pooled sqrt(0.0008); a level's mean is of 2
    # configurations with 2 seeds each, so its error is sqrt(0.0008 / 4); t(0.975, 4) = 2.776445.
    level = effects_of(grid_of_four())[0].levels[0]
    assert level.high - level.mean == pytest.approx(2.776445 * math.sqrt(0.0008 / 4), rel=1e-6)
    assert effects_of(grid_of_four())[0].seed_deviation == pytest.approx(math.sqrt(0.0008))


def test_one_seed_gives_no_interval() -> None:
    cells = [result for result in grid_of_four() if result.seed == 0]
    assert seed_deviation(runs_of(cells, GRID, (), CRITERION)) is None
    assert effects_of(cells)[0].levels[0].low is None


def test_setting_with_a_missing_value_is_left_out() -> None:
    cells = [result for result in grid_of_four() if not result.group.startswith("learning_rate=0.0001,r=8")]
    rate = effects_of(cells)[0]
    assert [level.mean for level in rate.levels] == pytest.approx([0.5, 0.9])
    assert (rate.num_settings, rate.num_left_out) == (1, 1)


def test_value_that_was_measured_nowhere_is_not_asked_for() -> None:
    grid = GRID | {"training.learning_rate": [1e-3, 1e-4, 1.0]}
    effects = main_effects(runs_of(grid_of_four(), grid, (), CRITERION), swept_fields(grid, ()))
    assert [level.value for level in effects[0].levels] == ["0.0001", "0.001"]


def test_configuration_with_more_seeds_counts_no_more() -> None:
    cells = [*grid_of_four(), cell(0.9, 2, rate=1e-3, r=4), cell(0.9, 3, rate=1e-3, r=4)]
    assert effects_of(cells)[0].levels[1].mean == pytest.approx(0.8)


def test_pair_means_and_interaction() -> None:
    # Additive fit: grand mean 0.55, rates -/+ 0.25, ranks +/- 0.15, so 0.45 at (1e-4, 4) where 0.5 was measured.
    (pair,) = pair_effects(runs_of(grid_of_four(), GRID, (), CRITERION), swept_fields(GRID, ()))
    assert [(m.first, m.second, m.num_cells) for m in pair.means] == [
        ("0.0001", "4", 2), ("0.0001", "8", 2), ("0.001", "4", 2), ("0.001", "8", 2),
    ]  # fmt: skip
    assert [m.mean for m in pair.means] == pytest.approx([0.5, 0.1, 0.9, 0.7])
    assert pair.interaction == pytest.approx(0.05)


def test_variants_are_one_field_where_there_is_no_grid() -> None:
    cells = [cell(0.4, name="small"), cell(0.8, name="large")]
    variants = ("small", "large")
    (effect,) = main_effects(runs_of(cells, {}, variants, CRITERION), swept_fields({}, variants))
    assert (effect.field, [level.value for level in effect.levels]) == ("variant", ["small", "large"])


def test_variants_beside_a_grid_are_no_part_of_it() -> None:
    cells = [*grid_of_four(), cell(0.0, name="other")]
    runs = runs_of(cells, GRID, ("other",), CRITERION)
    assert len(runs) == 8


def trained(seconds: float, memory: float | None) -> TrainResult:
    split = SplitSummary(source="t", digest="d", rows_read=10, rows_used=10, truncated=0, dropped_unsupervised=0, tokens=1000, supervised_tokens=300)  # fmt: skip
    return TrainResult(
        steps=20, planned_steps=20, epochs=2.0, seconds=seconds, train_loss=0.1, best_step=None, best_eval_loss=None, eval_loss=None,
        checkpoints={"last": "checkpoint-20"}, splits={"train": split}, device="cuda:0", dtype="bfloat16", num_parameters=500,
        num_trainable_parameters=50, peak_memory_gib=memory, settings={}, environment={},
    )  # fmt: skip


def test_cost_sums_time_and_takes_the_highest_memory_over_seeds() -> None:
    cells = [
        cell(0.5, 0, rate=1e-3, r=4, train=trained(1800, 3.0)),
        cell(0.5, 1, rate=1e-3, r=4, train=trained(5400, 4.0)),
    ]
    (cost,) = costs_of(cells, processes_per_cell=2)
    assert (cost.name, cost.num_seeds, cost.seconds, cost.device) == ("learning_rate=0.001,r=4", 2, 7200, "GPU")
    assert cost.device_hours == pytest.approx(4.0)
    assert (cost.tokens, cost.supervised_tokens) == (2000, 600)
    assert cost.tokens_per_second == pytest.approx(4000 / 7200)
    assert (cost.peak_memory_gib, cost.num_trainable_parameters) == (4.0, 50)


def test_cell_without_training_costs_nothing_known() -> None:
    assert costs_of([cell(0.5, rate=1e-3, r=4)], 1) == []
