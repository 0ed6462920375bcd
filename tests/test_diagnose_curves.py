"""The checks on single curves, each on one worked out by hand: broken trainings and learning rates."""

import dataclasses
import math

import numpy as np
import pytest

from harness.diagnose import curves, learning_rate, spikes
from harness.diagnose.evidence import Evidence, Sibling
from harness.diagnose.numbers import noise, outliers, trend
from tests.drawn_curves import JITTER, falling, points, probe, run, verdict


def test_trend_of_a_straight_line_is_its_fall() -> None:
    line = trend(points([2.0 - 0.01 * i for i in range(50)]))
    assert line.fall == pytest.approx(0.49 / 1.755, rel=1e-6)  # 0.49 lost over the median level
    assert line.p_value < 1e-9


def test_noise_is_seen_through_a_trend() -> None:
    series = np.linspace(10, 0, 5000) + 0.3 * np.random.default_rng(1).standard_normal(5000)
    assert noise(series) == pytest.approx(0.3, rel=0.05)


def test_skewed_noise_is_no_outlier() -> None:
    series = np.exp(0.6 * np.random.default_rng(1).standard_normal(2000))
    assert not len(outliers(series, ratio=1.1, rise=0.05).indices)


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
