"""The checks on single curves, each on one worked out by hand: broken trainings and learning rates."""

import dataclasses
import itertools
import math

import numpy as np
import pytest

from harness.diagnose import curves, fit, learning_rate, phases, spikes
from harness.diagnose.evidence import Evidence, Point, Sibling
from harness.diagnose.numbers import finite, noise, outliers, trend
from tests.drawn_curves import JITTER, falling, points, probe, run, verdict


def test_trend_of_a_straight_line_is_its_fall() -> None:
    line = trend(points([2.0 - 0.01 * i for i in range(50)]))
    assert line.fall == pytest.approx(0.49 / 1.755, rel=1e-6)  # 0.49 lost over the median level
    assert line.p_value < 1e-9


def test_noise_is_seen_through_a_trend() -> None:
    series = np.linspace(10, 0, 5000) + 0.3 * np.random.default_rng(1).standard_normal(5000)
    assert noise(series) == pytest.approx(0.3, rel=0.05)


def test_values_beyond_all_use_are_no_numbers() -> None:
    assert finite(points([1.0, 1e101, -1e101, math.inf, math.nan, 2.0])) == [Point(1, 1.0), Point(6, 2.0)]


def test_trend_reads_values_logged_twice_at_a_step_as_one() -> None:
    twice = [Point(step, value) for step in range(1, 31) for value in (2.0 - 0.01 * step, 2.2 - 0.01 * step)]
    assert trend(twice).fall == pytest.approx(0.29 / 1.945, rel=1e-6)  # medians at each step: 2.1 - 0.01 step


def test_trend_of_equal_values_or_of_one_step_is_none() -> None:
    assert trend(points([0.5] * 40)).fall == 0.0
    assert trend([Point(5, value) for value in (1.0, 2.0, 1.5, 1.0)]).p_value == 1.0


def test_skewed_noise_is_no_outlier() -> None:
    series = np.exp(0.6 * np.random.default_rng(1).standard_normal(2000))
    assert not len(outliers(series, ratio=1.1, rise=0.05).indices)


@pytest.mark.parametrize("step", [6, 16, 26])
def test_spike_in_the_first_logs_is_found(step: int) -> None:
    missed = 0
    for seed in range(20):
        loss = np.array(falling(400, start=2.0)) * np.exp(0.04 * np.random.default_rng(seed).standard_normal(400))
        loss[step - 1] *= 2
        missed += not any(spike.step == step for spike in spikes.loss_spikes(run(loss.tolist())))
    assert not missed


def test_first_logs_of_a_steep_fall_or_of_skewed_noise_hold_no_spike() -> None:
    rng = np.random.default_rng(4)
    found = 0
    for _ in range(200):
        loss = np.array(falling(300, start=9.0)) * rng.gamma(4, 1 / 4, 300)
        found += any(spike.step <= 32 for spike in spikes.loss_spikes(run(loss.tolist())))
    assert found <= 4  # 2 %


def test_short_run_is_looked_at_for_spikes() -> None:
    loss = falling(20, start=2.0)
    assert spikes.loss_spike(run(loss)).outcome == "clear"
    loss[11] *= 3
    found = spikes.loss_spike(run(loss))
    assert verdict(found) == ("fired", "warning")
    assert "step 12: " in found.message
    assert spikes.loss_spike(run(falling(11))).outcome == "insufficient"


def test_infinite_gradient_norm_that_passes_is_a_warning() -> None:
    found = curves.non_finite(run(falling(), grad_norm=points([1.0] * 50 + [math.inf] + [1.0] * 49)))
    assert verdict(found) == ("fired", "warning")
    assert "step 51" in found.message


def test_infinite_gradient_norm_at_the_last_step_is_no_error_yet() -> None:
    assert verdict(curves.non_finite(run(falling(), grad_norm=points([1.0] * 99 + [math.inf])))) == ("fired", "warning")


def test_gradient_norms_that_stay_nan_are_an_error() -> None:
    norms = points([1.0] * 90 + [math.nan] * 10)
    assert verdict(curves.non_finite(run(falling(), grad_norm=norms))) == ("fired", "error")


def test_eval_loss_that_alone_is_nan_points_at_rows_without_labels() -> None:
    found = curves.non_finite(run(falling(), eval_loss=points([math.nan, math.nan], every=50)))
    assert verdict(found) == ("fired", "error")
    assert "no supervised token" in found.advice


def test_loss_that_turns_to_zero_at_once_is_hidden_nan() -> None:
    assert verdict(curves.non_finite(run([*falling(60), *[0.0] * 40]))) == ("fired", "error")
    assert curves.non_finite(run([2.0 * 0.9**i if i < 95 else 0.0 for i in range(100)])).outcome == "clear"


def test_spike_names_its_step_and_the_rows_of_its_batch() -> None:
    loss = falling()
    loss[59] *= 3
    found = spikes.loss_spike(run(loss, batch_rows={60: ["row-7", "row-9"]}))
    assert verdict(found) == ("fired", "warning")
    assert found.evidence[0].startswith("step 60: ")
    assert "row-7, row-9" in found.evidence[0]
    assert "back within ten" in found.message


def test_rows_of_a_large_batch_are_cut_short() -> None:
    loss = falling()
    loss[59] *= 3
    rows = [f"row-{i}-{'x' * 100}" for i in range(128)]
    shown = spikes.loss_spike(run(loss, batch_rows={60: rows})).evidence[0]
    assert shown.endswith(", and 120 more)")
    assert len(shown) < 8 * 55 + 100


def test_spike_that_stays_says_so_and_stays_a_warning() -> None:
    loss = falling(end=0.5)
    found = spikes.loss_spike(run(loss[:60] + [value + 0.8 for value in loss[60:]]))
    assert verdict(found) == ("fired", "warning")
    assert "not back within ten" in found.message


def test_gradient_that_shoots_up_is_a_warning_only_where_the_loss_felt_it() -> None:
    norms = [1 + JITTER[i] for i in range(100)]
    norms[60] = 40.0
    calm = spikes.gradient_explosion(run(falling(), grad_norm=points(norms)))
    assert verdict(calm) == ("fired", "info")
    loss = falling()
    loss[60:75] = [value * 1.5 for value in loss[60:75]]
    assert verdict(spikes.gradient_explosion(run(loss, grad_norm=points(norms)))) == ("fired", "warning")


def growing_norms() -> list[Point]:
    """Steady at 1, then growing 300-fold over the last third."""
    norms = np.exp(0.2 * np.random.default_rng(1).standard_normal(300))
    return points((norms * np.concatenate([np.ones(200), np.geomspace(1, 300, 100)])).tolist())


def test_norm_that_grows_while_the_loss_climbs_below_its_start_is_a_warning() -> None:
    climb = np.concatenate([np.zeros(200), np.linspace(0, 0.5, 100)])
    loss = np.array(falling(300, start=2.0, end=1.2)) + climb
    found = spikes.gradient_explosion(run(loss.tolist(), grad_norm=growing_norms()))
    assert verdict(found) == ("fired", "warning")
    assert "loss rose with it" in found.message


def test_norm_that_grows_while_the_loss_stays_is_an_info_that_says_so() -> None:
    found = spikes.gradient_explosion(run(falling(300, start=2.0, end=1.2), grad_norm=growing_norms()))
    assert verdict(found) == ("fired", "info")
    assert "The gradient norm grew from" in found.message
    assert "without a jump" not in found.message


def test_clipping_at_most_steps_is_an_info_that_quotes_the_limit() -> None:
    norms = points([2 + JITTER[i] for i in range(100)])
    found = spikes.gradient_explosion(run(falling(), grad_norm=norms, settings={"training.max_grad_norm": "0.5"}))
    assert verdict(found) == ("fired", "info")
    assert "clipped at 0.5" in found.message
    assert found.statistic == 1.0
    off = spikes.gradient_explosion(run(falling(), grad_norm=norms, settings={"training.max_grad_norm": "0.0"}))
    assert off.outcome == "clear"


def test_loss_somewhat_above_its_start_is_a_warning_and_far_above_an_error() -> None:
    flat = [2 * (1 + JITTER[i]) for i in range(100)]
    assert verdict(curves.diverged(run([*flat[:50], *(1.15 * value for value in flat[50:])]))) == ("fired", "warning")
    assert verdict(curves.diverged(run([*flat[:50], *(2 * value for value in flat[50:])]))) == ("fired", "error")


def test_noisy_loss_that_ends_a_little_higher_by_chance_is_not_diverged() -> None:
    noisy = 2 * np.exp(0.3 * np.random.default_rng(3).standard_normal((200, 12)))
    assert not [row for row in noisy if curves.diverged(run(row.tolist())).outcome == "fired"]


def test_loss_that_falls_and_climbs_back_is_a_warning() -> None:
    found = curves.diverged(run([*falling(80, 4.0, 0.5), *(2.5 * (1 + JITTER[i]) for i in range(20))]))
    assert verdict(found) == ("fired", "warning")
    assert "lost again" in found.message


def test_evaluation_peak_is_an_error_only_where_it_did_not_come_back() -> None:
    rest = [(0.95 - 0.0045 * i) * (1 + JITTER[i]) for i in range(100)]
    came_back = points([0.9, 1.1, 0.8, 0.65, 0.52, 0.5], every=20, first=0)
    assert verdict(curves.diverged(run(rest, eval_loss=came_back))) == ("fired", "warning")
    stayed = points([0.9, 1.1, 1.1, 1.0, 0.95, 0.92], every=20, first=0)
    assert verdict(curves.diverged(run(rest, eval_loss=stayed))) == ("fired", "error")


@pytest.mark.parametrize(("last", "expected"), [(1.1, "error"), (0.7, "warning"), (0.5, "-")])
def test_hump_of_two_nats_is_an_error_only_where_little_was_gained(last: float, expected: str) -> None:
    hump = [1.2 + 2 * math.exp(-(((i - 20) / 8) ** 2)) + JITTER[i] for i in range(200)]
    found = curves.diverged(run(hump, eval_loss=points([1.25, 1.2, last], every=100, first=0)))
    assert verdict(found)[1] == expected


def test_rise_between_two_rare_logs_is_a_warning() -> None:
    blown = [4.0, *(7 * (1 + JITTER[i]) for i in range(99))]
    seldom = dataclasses.replace(run([]), loss=points(blown, every=10, first=10))
    assert verdict(curves.diverged(seldom)) == ("fired", "warning")
    assert fit.underfitting(seldom).outcome == "not_applicable"
    assert curves.diverged(run(blown)).outcome == "clear"  # one batch of a curve that is logged step by step


def test_evaluations_alone_that_end_far_above_the_first_are_a_warning() -> None:
    far = Evidence(loss=[], grad_norm=[], eval_loss=points([1.6, 1.4, 2.2, 4.5, 6.5], every=100, first=100))
    assert verdict(curves.diverged(far)) == ("fired", "warning")
    near = Evidence(loss=[], grad_norm=[], eval_loss=points([1.6, 1.4, 1.3, 1.5, 1.8], every=100, first=100))
    assert curves.diverged(near).outcome == "insufficient"


def test_overfitting_beyond_the_start_is_left_to_overfitting() -> None:
    evals = points([2.0, 1.2, 1.5, 2.0, 2.6], every=25, first=0)
    assert curves.diverged(run(falling(start=2.0, end=0.1), eval_loss=evals)).outcome == "clear"


def test_advice_quotes_the_learning_rate_that_was_set() -> None:
    found = curves.diverged(run([3.0] * 50 + [9.0] * 50, settings={"training.learning_rate": "0.003"}))
    assert "from 0.003 to between 0.0003 and 0.001" in found.advice


ROWS = [1.0 + 0.1 * i for i in range(30)]


def with_sibling(rate: str, other: float, ours: float, theirs: float, **known: object) -> Evidence:
    """Validation NLL from 4 times the rows' difficulty to `ours` times, a sibling's to `theirs` times."""
    level = {
        name: [factor * row for row in ROWS] for name, factor in (("base", 4.0), ("ours", ours), ("theirs", theirs))
    }
    known = {"loss": points(falling()), **known}
    return dataclasses.replace(
        run(falling(), settings={"training.learning_rate": rate}, validation=[probe(0, level["base"]), probe(100, level["ours"])]),
        siblings=[Sibling("lr=other", other, probe(100, level["theirs"]))], **known,
    )  # type: ignore[arg-type]  # fmt: skip


def test_better_sibling_with_a_lower_rate_and_a_hump_is_too_high() -> None:
    rise = points([4.0] * 3 + [9.0] * 10 + falling(87))
    found = learning_rate.learning_rate_too_high(with_sibling("0.003", 3e-4, 1.0, 0.5, loss=rise))
    assert verdict(found) == ("fired", "warning")
    assert "learning_rate 0.003 is 10 times that of a better sibling: lr=other" in found.message
    assert "0.0003" in found.advice


def test_better_sibling_with_a_lower_rate_and_a_steady_curve_is_an_info() -> None:
    found = learning_rate.learning_rate_too_high(with_sibling("0.003", 3e-4, 1.0, 0.5))
    assert verdict(found) == ("fired", "info")


def test_sibling_that_is_worse_says_nothing_of_this_rate() -> None:
    assert learning_rate.learning_rate_too_high(with_sibling("0.003", 3e-4, 0.5, 1.0)).outcome == "clear"
    assert learning_rate.learning_rate_too_low(with_sibling("0.0003", 3e-3, 0.5, 1.0)).outcome == "clear"


def test_better_sibling_with_a_higher_rate_that_learned_twice_as_much_is_too_low() -> None:
    found = learning_rate.learning_rate_too_low(with_sibling("0.0003", 3e-3, 3.0, 0.5))
    assert verdict(found) == ("fired", "warning")
    assert "fell by 2.45 where the sibling's fell by 8.58" in found.message  # mean of the rows 2.45, times 1 and 3.5


def test_alone_a_rate_is_never_known_to_be_too_low() -> None:
    assert learning_rate.learning_rate_too_low(run(falling())).outcome == "insufficient"
    slow = [2 - 0.2 * i / 200 + 0.3 * JITTER[i] for i in range(200)]
    assert verdict(learning_rate.learning_rate_too_low(run(slow))) == ("fired", "info")


def test_loss_that_jumps_by_most_of_a_nat_while_it_is_high_is_unstable() -> None:
    rough = (5 + 0.9 * np.random.default_rng(2).standard_normal(300)).tolist()
    assert verdict(learning_rate.learning_rate_too_high(run(rough))) == ("fired", "warning")


def test_loss_that_swings_up_and_down_again_is_unstable() -> None:
    waves = [2 + 0.5 * math.sin(i / 20) + JITTER[i] for i in range(300)]
    found = learning_rate.learning_rate_too_high(run(waves))
    assert verdict(found) == ("fired", "warning")
    assert "rose again" in found.message


def test_hard_rows_in_batches_of_one_are_no_instability() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        hard = np.array(falling(500, start=4.2, end=3.4)) + 0.8 * rng.standard_normal(500)
        assert learning_rate.learning_rate_too_high(run(np.maximum(hard, 0.2).tolist())).outcome == "clear"


def test_rows_of_two_kinds_in_turns_are_no_swing() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        mixed = np.array(falling(500, start=1.5)) * np.where(rng.random(500) < 0.3, 2.2, 1.0)
        assert "rose again" not in learning_rate.learning_rate_too_high(run(mixed.tolist())).message


def test_rows_in_their_order_drift_without_being_a_swing() -> None:
    rng = np.random.default_rng(3)
    fired = 0
    for _ in range(20):
        drift = np.zeros(600)
        for i in range(1, 600):
            drift[i] = 0.95 * drift[i - 1] + 0.06 * rng.standard_normal()
        loss = np.array(falling(600, start=1.8, end=1.2)) * np.exp(drift)
        fired += learning_rate.learning_rate_too_high(run(loss.tolist())).outcome == "fired"
    assert fired <= 5


def test_swing_that_evaluations_never_saw_is_an_info() -> None:
    waves = [2 + 0.5 * math.sin(i / 20) + JITTER[i] for i in range(300)]
    evals = points([2.0, 1.8, 1.6, 1.5], every=100, first=0)
    assert verdict(learning_rate.learning_rate_too_high(run(waves, eval_loss=evals))) == ("fired", "info")


def test_spikes_that_pass_in_one_step_say_nothing_of_the_rate() -> None:
    loss = np.array(falling(400))
    loss[40::30] *= 2.5
    assert learning_rate.learning_rate_too_high(run(loss.tolist())).outcome == "clear"
    for step in range(41, 400, 30):
        loss[step] *= 2.5
    found = learning_rate.learning_rate_too_high(run(loss.tolist()))
    assert "spiked 12 times" in found.message


def test_neighbouring_phases_of_one_name_are_one() -> None:
    logs = np.interp(np.arange(400), [0, 150, 300, 399], [0.9, 0.87, 0.80, 0.80])
    names = [phase.name for phase in phases.loss_phases(points(np.exp(logs + 0.05 * JITTER).tolist()))]
    assert all(first != second for first, second in itertools.pairwise(names))


def test_last_phase_that_rises_within_the_noise_is_no_rise() -> None:
    rng = np.random.default_rng(2)
    for _ in range(60):
        noisy = np.array(falling(80)) * np.exp(0.25 * rng.standard_normal(80))
        last = phases.loss_phases(points(noisy.tolist()))[-1]
        assert last.name != "rise" or last.slope * (last.last_step - last.first_step) > 0.2


def test_slope_too_steep_for_an_exponential_is_shown_cut_off() -> None:
    assert phases.phases(run(np.geomspace(1e-90, 1e90, 20).tolist())).outcome in ("clear", "fired")
