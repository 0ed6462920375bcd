"""The checks on how well rows were learned and how far a training came, each on a curve worked out by hand."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import pytest

from harness.diagnose import fit, phases, progress, validation
from harness.diagnose.evidence import Evidence, Point
from harness.diagnose.memorized_curve import low_level, stair_steps
from tests.drawn_curves import JITTER, falling, points, probe, run, verdict


def test_fall_that_only_evaluations_show_is_no_underfitting() -> None:
    loss = [2 * (1 + JITTER[i]) for i in range(100)]
    assert verdict(fit.underfitting(run(loss))) == ("fired", "warning")
    assert verdict(fit.underfitting(run(loss, eval_loss=points([2.2, 2.0], every=100, first=0)))) == ("fired", "info")


def test_flat_loss_under_much_noise_is_insufficient() -> None:
    loss = (2 * np.exp(0.4 * np.random.default_rng(5).standard_normal(30))).tolist()
    assert fit.underfitting(run(loss)).outcome == "insufficient"


def test_validation_rows_that_gained_nothing_are_underfitting() -> None:
    rows = np.random.default_rng(6).uniform(1, 3, 40)
    same = [probe(0, rows.tolist()), probe(100, (rows + 0.01 * np.random.default_rng(7).standard_normal(40)).tolist())]
    flat = [2 * (1 + JITTER[i]) for i in range(100)]
    assert verdict(fit.underfitting(run(flat, validation=same))) == ("fired", "warning")
    assert fit.underfitting(run(falling(end=0.1), validation=same)).outcome == "clear"


def test_loss_that_begins_with_zeros_is_answered() -> None:
    assert fit.underfitting(run([0.0, 0.0, 0.0, *(1 + JITTER[i] for i in range(60))])).check == "underfitting"


def test_fall_within_the_noise_of_few_rows_is_insufficient() -> None:
    rows = np.random.default_rng(2).gamma(6, 0.2, 20)
    # Half of the rows fall by half, half rise by a third: -8 % in all, and -50 % to +33 % by row.
    after = rows * np.where(np.arange(20) % 2 == 0, 0.5, 1.34)
    found = fit.underfitting(
        run([2 * (1 + JITTER[i]) for i in range(100)], validation=[probe(0, rows.tolist()), probe(100, after.tolist())])
    )
    assert found.outcome == "insufficient"
    assert "within the noise of 20 rows" in found.message


def test_quick_small_drop_under_noise_is_found_in_a_long_run() -> None:
    draw = np.random.default_rng(4)
    long = (1.9 + 0.3 * np.exp(-np.arange(2000) / 60)) * np.exp(0.18 * draw.standard_normal(2000))
    assert not fit.underfitting(run(long.tolist())).is_warning


def test_small_fall_that_noise_hides_is_seldom_a_warning() -> None:
    def knows(seed: int) -> list[float]:
        noise = np.exp(0.15 * np.random.default_rng(seed).standard_normal(300))
        return [float(value) for value in (0.97 + 0.08 * np.exp(-np.arange(300) / 30)) * noise]

    found = [fit.underfitting(run(knows(seed))) for seed in range(40)]
    assert sum(each.is_warning for each in found) <= 8  # a fifth
    assert "too much to tell" in next(each.message for each in found if each.outcome == "insufficient")


def test_loss_that_rose_a_little_is_not_said_to_have_fallen() -> None:
    message = fit.underfitting(run([2 * (1 + JITTER[i] + 0.0003 * i) for i in range(100)])).message
    assert "The training loss rose by 2%" in message
    assert "fall of at most" not in message


def test_overfitting_without_any_training_loss_invents_none() -> None:
    def alone(values: Sequence[float]) -> Evidence:
        return Evidence(loss=[], grad_norm=[], eval_loss=points(values, every=100, first=100))

    mild = fit.overfitting(alone([1.6, 1.4, 1.3, 1.35, 1.45, 1.6, 1.8]))
    assert verdict(mild) == ("fired", "info")
    assert "no training loss was logged to compare with" in mild.message
    assert verdict(fit.overfitting(alone([1.6, 1.4, 1.3, 1.5, 1.9, 2.3, 2.7]))) == ("fired", "warning")


def test_one_bad_evaluation_among_noisy_ones_is_no_overfitting() -> None:
    evals = points([0.30, 0.26, 0.29, 0.25, 0.28, 0.25, 0.27], every=15, first=5)
    found = fit.overfitting(run(falling(end=0.3), eval_loss=[*evals[:-1], Point(95, 0.275)]))
    assert not found.is_warning


def test_mild_rise_of_the_eval_loss_is_watched() -> None:
    evals = points([1.2, 1.05, 1.0, 1.01, 1.02, 1.02], every=15, first=15)
    loss = [value * (1 - 0.005 * i) for i, value in enumerate(falling())]
    found = fit.overfitting(run(loss, eval_loss=evals))
    assert verdict(found) == ("fired", "info")
    assert found.statistic == pytest.approx(2.0)  # 100 (1.02 / 1.00 - 1)
    assert "step 45" in found.advice


def test_one_high_evaluation_at_the_end_is_not_watched() -> None:
    evals = points([1.2, 1.05, 1.0, 1.0, 1.001, 1.02], every=15, first=15)
    assert fit.overfitting(run(falling(end=0.3), eval_loss=evals)).outcome == "clear"


def test_eval_loss_that_falls_a_tenth_as_much_is_slow() -> None:
    loss = [2 * 0.99**i * (1 + JITTER[i]) for i in range(100)]
    evals = points([2 * 0.999**i for i in range(10, 101, 15)], every=15, first=10)
    found = validation.slow_validation(run(loss, eval_loss=evals))
    assert verdict(found) == ("fired", "info")
    assert found.statistic == pytest.approx(0.1, abs=0.03)
    stopped = points([2.0 - 1e-4 * i for i in range(7)], every=15, first=10)
    assert verdict(validation.slow_validation(run(loss, eval_loss=stopped))) == ("fired", "warning")


def test_single_evaluation_far_above_the_training_loss_is_a_wide_gap() -> None:
    loss = [0.02 * (1 + JITTER[i]) for i in range(60)]
    found = validation.gap_growth(run(loss, eval_loss=points([0.34], first=60)))
    assert verdict(found) == ("fired", "warning")
    assert found.statistic == pytest.approx(17, rel=0.05)


def test_rows_that_are_harder_from_the_start_are_no_growing_gap() -> None:
    loss = [value / 4 for value in falling()]
    evals = points([4 * loss[i - 1] for i in range(10, 101, 15)], every=15, first=10)
    assert validation.gap_growth(run(loss, eval_loss=evals)).outcome != "fired"


def test_gap_of_probed_rows_is_corrected_for_the_base() -> None:
    ours = {
        "validation": [probe(0, [4.0] * 20), probe(100, [1.5] * 20)],
        "train_probe": [probe(0, [3.0] * 20), probe(100, [1.0] * 20)],
    }
    found = validation.gap_growth(run(falling(), **ours))
    assert found.statistic == pytest.approx((0.5 - 1.0) / 3.0)
    assert found.outcome == "clear"


def test_training_without_a_log_for_half_an_hour_is_stalled() -> None:
    half = run(falling(), planned_steps=200, is_finished=False)
    found = progress.stalled(dataclasses.replace(half, idle_seconds=2820.0))
    assert verdict(found) == ("fired", "error")
    assert "100 of 200 planned steps are logged, and nothing was logged for 47 minutes" in found.message
    assert progress.stalled(dataclasses.replace(half, idle_seconds=20.0)).outcome == "clear"
    assert verdict(progress.stalled(dataclasses.replace(half, is_finished=None))) == ("fired", "info")


def test_last_steps_that_are_not_logged_are_no_stall() -> None:
    logged = dataclasses.replace(
        run(falling()), loss=points(falling(), every=10, first=10), planned_steps=1006, is_finished=None
    )
    assert progress.stalled(logged).outcome == "clear"


def test_run_that_a_check_ended_is_not_stalled() -> None:
    ended = run(falling(), planned_steps=900, is_finished=None, stopped_on="diverged: stopped at step 100 of 900")
    assert progress.stalled(ended).outcome == "clear"


def test_few_steps_are_too_short_and_few_logs_are_not() -> None:
    assert verdict(progress.too_short(run(falling(14)))) == ("fired", "warning")
    rare = dataclasses.replace(
        run([]), loss=points([5, 2, 1.5, 1.4, 1.4, 1.4], every=100, first=100), planned_steps=600
    )
    assert progress.too_short(rare).outcome == "clear"


def test_beginning_of_a_long_plan_is_too_short() -> None:
    found = progress.too_short(run(falling(200), planned_steps=36969, is_finished=None))
    assert verdict(found) == ("fired", "info")
    assert "200 of 36969" in found.message


def test_training_loss_summed_over_accumulated_batches_is_on_another_scale() -> None:
    loss = [16 * value for value in falling()]
    evals = points([loss[i - 1] / 16.5 for i in range(20, 101, 20)], every=20, first=20)
    known = {"training.gradient_accumulation_steps": "16"}
    found = progress.scale_mismatch(run(loss, eval_loss=evals, settings=known))
    assert verdict(found) == ("fired", "warning")
    assert found.statistic == pytest.approx(16.5, rel=0.05)
    assert "gradient_accumulation_steps is 16" in found.message


@pytest.mark.parametrize(("accumulation", "severity"), [("4", "info"), ("2", "warning")])
def test_training_loss_below_the_eval_loss_is_a_warning_only_where_accumulation_explains_it(
    accumulation: str, severity: str
) -> None:
    loss = falling()
    evals = [
        Point(p.step, 2 * float(np.median(loss[p.step - 12 : p.step]))) for p in points([0] * 5, every=16, first=32)
    ]
    early = [Point(4, 2 * float(np.median(loss[:4]))), *evals]
    known = {"training.gradient_accumulation_steps": accumulation}
    assert verdict(progress.scale_mismatch(run(loss, eval_loss=early, settings=known))) == ("fired", severity)


def test_loss_that_starts_above_any_mean_over_tokens_is_summed() -> None:
    assert verdict(progress.scale_mismatch(run([100 * value for value in falling()]))) == ("fired", "warning")


def test_overfitting_is_no_other_scale() -> None:
    evals = points([2.0, 1.2, 1.0, 1.1, 1.2], every=20, first=20)
    assert progress.scale_mismatch(run(falling(start=2.0, end=0.3), eval_loss=evals)).outcome == "clear"


def test_loss_that_still_falls_at_the_end_is_told_from_one_at_rest() -> None:
    line = [3 * (1 - 0.006 * i) * (1 + JITTER[i]) for i in range(100)]
    assert verdict(progress.still_improving(run(line))) == ("fired", "info")
    assert progress.still_improving(run(falling())).outcome == "clear"


def test_phases_are_found_where_they_were_drawn() -> None:
    logs = np.interp(np.arange(400), [0, 40, 200, 399], np.log([4.0, 1.6, 1.05, 1.0]))
    found = phases.loss_phases(points(np.exp(logs + 0.3 * JITTER).tolist()))
    assert [phase.name for phase in found] == ["sharp_drop", "stabilization", "convergence"]
    assert found[0].last_step == pytest.approx(40, abs=10)
    assert found[1].last_step == pytest.approx(200, abs=50)
    assert found[0].slope == pytest.approx(math.log(1.6 / 4) / 40, rel=0.15)


def test_phase_that_is_missing_is_named() -> None:
    steady = [2 * 0.995**i * (1 + JITTER[i]) for i in range(200)]
    assert "no sharp drop" in phases.phases(run(steady)).message
    assert "no convergence" in phases.phases(run(steady)).message


def staircase(epochs: int, level: Sequence[float]) -> Evidence:
    loss = [level[i // 50] * (1 + JITTER[i]) for i in range(50 * epochs)]
    return run(loss, epochs=[Point(i + 1, (i + 1) / 50) for i in range(50 * epochs)])


def test_drops_at_the_epochs_are_stair_steps() -> None:
    found = stair_steps(staircase(3, [1.0, 0.7, 0.45]))
    assert found is not None
    assert found.is_suspect
    assert found.boundaries == (51, 101)
    assert found.drop == pytest.approx(0.33, abs=0.03)  # 1 - sqrt(0.45): median of 30 % and 36 % on a log scale


def test_steady_fall_over_epochs_has_no_stair_steps() -> None:
    loss = [2 * 0.99**i * (1 + JITTER[i]) for i in range(150)]
    found = stair_steps(run(loss, epochs=[Point(i + 1, (i + 1) / 50) for i in range(150)]))
    assert found is not None
    assert not found.is_suspect


def test_low_loss_is_suspect_only_where_repetition_brought_it() -> None:
    repeated, easy = low_level(staircase(4, [1.0, 0.5, 0.2, 0.08])), low_level(staircase(4, [0.1, 0.1, 0.09, 0.08]))
    assert repeated is not None
    assert repeated.is_suspect
    assert easy is not None
    assert not easy.is_suspect


def test_epochs_are_reckoned_from_the_plan_where_they_were_not_logged() -> None:
    known = staircase(3, [1.0, 0.7, 0.45])
    planned = dataclasses.replace(known, epochs=[], settings={"training.num_train_epochs": "3"})
    assert stair_steps(planned) == stair_steps(known)
