"""How `benchmarks/calibration.py` counts what the checks found; nothing is trained here."""

from pathlib import Path

import pytest

from benchmarks.calibration import Case, Totals, details, report, tally, totals
from benchmarks.calibration_cells import GROUPS, chosen, experiment, write_experiment, write_files
from harness.diagnose.cell import CHECKS
from harness.diagnose.evidence import finding
from harness.plan import plan_experiment
from harness.records import Finding

FIGURES = dict.fromkeys(
    (
        "steps",
        "first_eval_loss",
        "best_eval_loss",
        "last_eval_loss",
        "last_loss",
        "exact_match",
        "adherence",
        "retention",
    )
)


def case(name: str, *findings: Finding, plants: tuple[str, ...] = (), is_healthy: bool = False) -> Case:
    return Case(name, 0, plants, is_healthy, findings, FIGURES, 1.0)


CASES = (
    case("found", finding("diverged", "fired", "up", "error"), plants=("diverged",)),
    case("too quiet", finding("diverged", "fired", "up", "info"), plants=("diverged",)),
    case("not seen", finding("diverged", "clear", "flat"), plants=("diverged",)),
    case("info is all it says", finding("gap_growth", "fired", "wide", "info"), plants=("gap_growth",)),
    case("calm", finding("diverged", "clear", "flat"), is_healthy=True),
    case("alarmed", finding("overfitting", "fired", "up", "warning"), finding("gap_growth", "fired", "", "info"), is_healthy=True),
    case("sick", finding("overfitting", "fired", "up", "warning")),
)  # fmt: skip


def test_a_planted_fault_counts_where_its_check_warns_or_can_only_inform() -> None:
    rows = {row.check: row for row in tally(CASES)}
    assert (rows["diverged"].planted, rows["diverged"].detected) == (3, 1)
    assert (rows["gap_growth"].planted, rows["gap_growth"].detected) == (1, 1)


def test_a_false_alarm_is_a_warning_on_a_healthy_cell() -> None:
    rows = {row.check: row for row in tally(CASES)}
    assert (rows["overfitting"].healthy, rows["overfitting"].warnings, rows["overfitting"].errors) == (2, 1, 0)
    assert rows["gap_growth"].warnings == 0


def test_totals_leave_out_cells_that_turned_out_not_to_be_healthy() -> None:
    assert totals(CASES) == Totals(planted=4, detected=2, healthy=2, alarmed=1, excluded=1)


@pytest.mark.parametrize(
    ("sums", "is_good"),
    [
        (Totals(60, 57, 36, 0, 0), True),  # 95 %
        (Totals(60, 56, 36, 0, 0), False),  # 93.3 %
        (Totals(60, 60, 50, 1, 0), True),  # 2 %
        (Totals(60, 60, 49, 1, 0), False),  # 2.04 %
    ],
)
def test_goals_are_95_percent_detected_and_2_percent_false_alarms(sums: Totals, is_good: bool) -> None:
    assert sums.is_good == is_good


def test_misses_and_false_alarms_are_told_one_by_one() -> None:
    lines = list(details(CASES))
    assert [line.split(":")[0] for line in lines] == ["missed", "missed", "false alarm", "left out, not healthy"]
    assert lines[1] == "missed: not seen seed 0: diverged: clear: flat"


def test_the_page_states_both_goals() -> None:
    page = report(CASES)
    assert "**2 of 4 planted faults detected** (50.0%)" in page
    assert "**1 of 2 healthy cells with a false alarm** (50.0%)" in page


def test_every_check_but_those_of_others_trainers_and_files_is_planted() -> None:
    planted = {check for group in GROUPS for variant in group.variants for check in variant.plants}
    # Our trainer logs one scale, a broken checkpoint can't be trained, and phases are a description.
    assert set(CHECKS) - planted == {"scale_mismatch", "saved_model", "loss_phases"}


def test_single_cells_and_whole_groups_can_be_chosen() -> None:
    picked = chosen(["six-steps", "adapters"])
    assert [[variant.name for variant in group.variants] for group in picked] == [
        ["six-steps"],
        ["adapter-rate-zero", "adapter-rate-tiny"],
    ]


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.name)
def test_every_experiment_can_be_planned(group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path)
    made = plan_experiment(str(write_experiment(tmp_path, group, (0, 1), 1)))
    seeds = [cell.seed for cell in made.cells]
    assert seeds == [0, 1] * len(group.variants)
    assert len(made.cells) == 2 * len(experiment(group, (0, 1), 1)["variants"])


def test_healthy_cells_have_no_sibling_at_another_learning_rate() -> None:
    variants = next(group.variants for group in GROUPS if group.name == "healthy")
    settings = [
        str((sorted((k, v) for k, v in variant.training.items() if k != "learning_rate"), variant.adapter))
        for variant in variants
    ]
    assert len(set(settings)) == len(settings)
