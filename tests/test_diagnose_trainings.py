"""All checks on curves, on many made-up trainings and on odd ones."""

import math
from collections.abc import Mapping

import pytest

from harness.diagnose import curves, fit, learning_rate, phases, progress, spikes, validation
from harness.diagnose.evidence import Evidence, Point
from harness.diagnose.memorized_curve import low_level, stair_steps
from tests.drawn_curves import falling, points, probe
from tests.synthetic_curves import FAULTS, healthy, prefix

CHECKS = {
    "non_finite": curves.non_finite, "loss_spike": spikes.loss_spike, "gradient_explosion": spikes.gradient_explosion,
    "diverged": curves.diverged, "learning_rate_too_high": learning_rate.learning_rate_too_high,
    "learning_rate_too_low": learning_rate.learning_rate_too_low, "underfitting": fit.underfitting, "overfitting": fit.overfitting,
    "slow_validation": validation.slow_validation, "gap_growth": validation.gap_growth, "loss_phases": phases.phases,
    "still_improving": progress.still_improving, "stalled": progress.stalled, "too_short": progress.too_short,
    "scale_mismatch": progress.scale_mismatch,
}  # fmt: skip


def test_healthy_trainings_raise_hardly_any_alarm() -> None:
    alarms = {}
    for seed in range(300):
        found = healthy(seed)
        warned = [name for name, check in CHECKS.items() if check(found).is_warning]
        alarms |= {seed: warned} if warned else {}
    assert len(alarms) <= 6, alarms  # 2 %


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault_is_found(fault: str) -> None:
    make, check = FAULTS[fault]
    missed = [seed for seed in range(40) if CHECKS[check](make(seed)).outcome != "fired"]
    assert len(missed) <= 2, missed  # 5 %


def test_no_beginning_of_a_healthy_training_looks_lost() -> None:
    lost = []
    for seed in range(40):
        found = healthy(seed)
        for share in range(1, 41):
            begun = prefix(found, (found.planned_steps or 0) * share // 40)
            lost += [
                (seed, share, name) for name in ("non_finite", "diverged") if CHECKS[name](begun).outcome == "fired"
            ]
    assert not lost


HOSTILE: Mapping[str, Mapping[str, object]] = {
    "zeros": {"loss": points([0.0] * 60), "grad_norm": points([0.0] * 60), "eval_loss": points([0.0] * 6, every=10)},
    "constant": {"loss": points([2.0] * 60), "grad_norm": points([1.0] * 60), "eval_loss": points([2.0] * 6, every=10)},
    "negative": {"loss": points([-1.0 - i for i in range(60)]), "eval_loss": points([-1.0] * 6, every=10)},
    "huge": {"loss": points([1e300 * (1 + i % 3) for i in range(60)]), "grad_norm": points([1e300] * 60)},
    "tiny": {"loss": points([1e-300] * 60), "eval_loss": points([1e-300] * 6, every=10)},
    "one": {"loss": points([2.0]), "eval_loss": points([2.0], first=0)},
    "only nan": {"loss": points([math.nan] * 60), "grad_norm": points([math.nan] * 60), "eval_loss": points([math.nan] * 6)},
    "one step": {"loss": [Point(5, 2.0)] * 60, "grad_norm": [Point(5, 1.0)] * 60, "eval_loss": [Point(5, 1.0)] * 6},
    "only evaluations": {"eval_loss": points([3.0, 2.0, 1.0, 2.0, 3.0], every=10)},
    "odd settings": {
        "loss": points(falling()),
        "settings": {"training.learning_rate": "None", "training.max_grad_norm": "auto", "training.num_train_epochs": ""},
    },
    "nan rows": {
        "loss": points(falling()),
        "validation": [probe(0, [1.0] * 8), probe(100, [math.nan] * 8)],
        "train_probe": [probe(0, [math.nan] * 8), probe(100, [math.inf] * 8)],
    },
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_every_check_answers_on_odd_curves(name: str) -> None:
    known = {"loss": [], "grad_norm": [], "eval_loss": [], **HOSTILE[name]}
    found = Evidence(**known)  # type: ignore[arg-type]
    assert [check(found).check for check in CHECKS.values()] == list(CHECKS)
    low_level(found)
    stair_steps(found)
