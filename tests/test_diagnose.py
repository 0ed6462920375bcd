"""Checks on made-up runs."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from harness.diagnose.cell import CHECKS, diagnose
from harness.diagnose.cell_reader import trace_evidence
from harness.diagnose.evidence import Evidence, Point
from harness.diagnose.readers import file_evidence
from harness.records import Probe, Score, SuiteResult, finite_or_name
from harness.stats import estimate


def points(values: Sequence[float], every: int = 1, first: int = 1) -> list[Point]:
    return [Point(first + i * every, value) for i, value in enumerate(values)]


def curve(start: float, end: float, n: int = 100, noise: float = 0.02) -> list[Point]:
    rng = np.random.default_rng(0)
    steps = np.linspace(0, 1, n)
    return points((end + (start - end) * np.exp(-5 * steps) + noise * rng.standard_normal(n)).tolist())


def probe(split: str, step: int, nll: Sequence[float]) -> Probe:
    return Probe(step=step, split=split, nll=tuple(nll), tokens=(10,) * len(nll))


def adherence(passed: int, n: int, failure: str = "runs_on") -> SuiteResult:
    scores = tuple(
        Score(example_id=str(i), metric="all", value=float(i < passed), failure="" if i < passed else failure)
        for i in range(n)
    )
    values = [score.value for score in scores if score.value is not None]
    return SuiteResult(
        suite="template_adherence", version=1, digest="x", metrics={"all": estimate(values)}, scores=scores,
        clusters={s.example_id: s.example_id for s in scores}, slices={s.example_id: () for s in scores}, seconds=1.0,
    )  # fmt: skip


def evidence(**changes: object) -> Evidence:
    """A healthy run, with changes."""
    values = {
        "loss": curve(4.0, 0.5),
        "grad_norm": points([1.0] * 100),
        "eval_loss": points([4.1, 2.0, 1.2, 0.8, 0.62, 0.6], every=20, first=0),
        "validation": [probe("validation", 0, [4.0] * 40), probe("validation", 100, [0.6] * 40)],
        "train_probe": [probe("train_probe", 0, [4.0] * 40), probe("train_probe", 100, [0.55] * 40)],
        "suites": {"template_adherence": adherence(199, 200)},
    }
    return Evidence(**{**values, **changes})


def outcome(check: str, found: Evidence) -> tuple[str, str]:
    finding = next(f for f in diagnose(found) if f.check == check)
    return finding.outcome, finding.severity if finding.outcome == "fired" else "-"


def test_healthy_run_has_no_warning() -> None:
    assert not [f for f in diagnose(evidence()) if f.is_warning]


def test_every_check_answers_without_any_evidence() -> None:
    found = diagnose(Evidence(loss=[], grad_norm=[], eval_loss=[]))
    assert [f.check for f in found] == list(CHECKS)
    assert not [f for f in found if f.outcome == "fired"]


def test_nan_loss_is_an_error_and_a_passing_gradient_spike_a_warning() -> None:
    assert outcome("non_finite", evidence(loss=points([4.0, math.nan]))) == ("fired", "error")
    assert outcome("non_finite", evidence(grad_norm=points([1.0, math.inf, 1.0]))) == ("fired", "warning")


def test_loss_that_ends_above_its_start_diverged() -> None:
    rising = points(np.linspace(3, 6, 60).tolist())
    assert outcome("diverged", evidence(loss=rising, eval_loss=[])) == ("fired", "error")


def test_training_loss_that_rises_while_evaluations_are_at_their_best_is_an_info() -> None:
    rising = points(np.linspace(3, 6, 60).tolist())
    fell = points([4.1, 2.0, 1.2, 0.8], every=20, first=0)
    assert outcome("diverged", evidence(loss=rising, eval_loss=fell)) == ("fired", "info")
    assert outcome("diverged", evidence(loss=rising, eval_loss=fell[:2])) == ("fired", "error")  # the rise came later


def test_validation_worse_than_the_base_diverged() -> None:
    worse = [probe("validation", 0, [2.0] * 40), probe("validation", 100, [3.0] * 40)]
    assert outcome("diverged", evidence(validation=worse)) == ("fired", "error")


@pytest.mark.parametrize(
    ("eval_loss", "expected"),
    [([], "warning"), ([4.1, 3.9, 3.5], "error"), ([4.1, 3.0, 2.5], "error"), ([4.1, 2.0, 0.6], "-")],
    ids=[
        "no evaluation",
        "evaluations confirm it",
        "much was gained but the hump cost 5 nats",
        "evaluations recovered",
    ],
)
def test_early_rise_of_the_training_loss_is_an_error_only_where_evaluations_confirm_it(
    eval_loss: Sequence[float], expected: str
) -> None:
    rise = points([4.0] * 3 + [9.0] * 10 + np.linspace(8, 3, 60).tolist())
    found = evidence(loss=rise, eval_loss=points(eval_loss, every=30, first=0))
    assert outcome("diverged", found)[1] == expected


def test_early_rise_means_nothing_with_batches_grouped_by_length() -> None:
    rise = points([4.0] * 3 + [9.0] * 10 + np.linspace(8, 3, 60).tolist())
    assert outcome("diverged", evidence(loss=rise, eval_loss=[], batches_are_alike=False))[0] == "clear"


def test_flat_loss_is_underfitting_and_not_for_a_diverged_run() -> None:
    assert outcome("underfitting", evidence(loss=curve(4.0, 3.95), validation=[], eval_loss=[])) == ("fired", "warning")
    assert (
        outcome("underfitting", evidence(loss=points(np.linspace(3, 6, 60).tolist()), eval_loss=[]))[0]
        == "not_applicable"
    )
    assert outcome("underfitting", evidence(loss=curve(4.0, 3.95), loss_is_nll=False))[0] == "not_applicable"


def test_answers_no_better_than_the_base_with_high_loss_is_underfitting() -> None:
    high = [probe("validation", 0, [4.0] * 40), probe("validation", 100, [3.0] * 40)]
    nothing = {"template_adherence": adherence(0, 200), "held_out": adherence(0, 200)}
    found = evidence(validation=high, suites=nothing, base=nothing)
    assert outcome("underfitting", found)[0] == "clear"  # held_out has no exact_match: nothing to compare
    metrics = {"exact_match": estimate([0.0] * 200), "all": estimate([0.0] * 200)}
    for names in ({}, {"held_out": "colours", "template_adherence": "form"}):
        exact = {
            names.get(kind, kind): suite.model_copy(
                update={"suite": names.get(kind, kind), "kind": kind, "metrics": metrics}
            )
            for kind, suite in nothing.items()
        }
        assert outcome("underfitting", evidence(validation=high, suites=exact, base=exact)) == ("fired", "warning")


def overfit(rise: float) -> Evidence:
    rng = np.random.default_rng(1)
    start, best = 4 + rng.random(40), 0.5 + 0.1 * rng.random(40)
    validation = [probe("validation", 0, start), probe("validation", 40, best), probe("validation", 100, best + rise)]
    train = [probe("train_probe", 0, start), probe("train_probe", 40, best), probe("train_probe", 100, best / 10)]
    evals = points([4.0, 1.0, 0.55, 0.55 + rise / 3, 0.55 + rise / 2, 0.55 + rise], every=20, first=0)
    return evidence(validation=validation, train_probe=train, eval_loss=evals)


def test_rising_eval_loss_with_falling_train_loss_is_overfitting() -> None:
    assert outcome("overfitting", overfit(0.3)) == ("fired", "warning")
    assert outcome("overfitting", overfit(0.001))[0] == "clear"


def test_few_evaluations_are_insufficient() -> None:
    assert outcome("overfitting", evidence(eval_loss=points([4.0, 1.0, 2.0], every=20, first=0)))[0] == "insufficient"


def test_trainer_state_with_nan_is_read(tmp_path: Path) -> None:
    history = [{"step": i, "loss": 2.0 - i / 50} for i in range(40)] + [{"step": 41, "loss": math.nan}]
    path = tmp_path / "trainer_state.json"
    path.write_text(json.dumps({"log_history": history}))
    found = {f.check: f for f in diagnose(file_evidence(path))}
    assert found["non_finite"].outcome == "fired"
    assert found["non_finite"].severity == "error"


def degenerate(split: str, kind: str) -> list[Probe]:
    """Probes that a training over odd rows records."""
    start = {"inf before": math.inf, "all zero": 0.0}.get(kind, 1.0)
    tokens = 0 if kind == "no tokens" else 10
    rows = {"no rows": (0, 0), "fewer rows later": (20, 18)}.get(kind, (20, 20))
    end = {"all zero": 0.0, "one NaN row": math.nan}.get(kind, 0.5)
    return [
        Probe(step=0, split=split, nll=(finite_or_name(start),) * rows[0], tokens=(tokens,) * rows[0]),
        Probe(step=100, split=split, nll=(0.5, finite_or_name(end))[-rows[1] :] * (rows[1] // 2), tokens=(tokens,) * rows[1]),
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["no rows", "no tokens", "all zero", "inf before", "fewer rows later", "one NaN row"])
def test_every_check_answers_on_degenerate_probes(kind: str) -> None:
    found = evidence(validation=degenerate("validation", kind), train_probe=degenerate("train_probe", kind))
    assert [f.check for f in diagnose(found)] == list(CHECKS)
    assert not [f for f in diagnose(found) if "nan" in f.message]


def test_probes_of_other_rows_than_the_last_are_left_out() -> None:
    probes = [probe("validation", 0, [1.0] * 3), probe("validation", 10, [1.0] * 4), probe("validation", 20, [0.5] * 4)]
    empty = Probe(step=30, split="validation", nll=(), tokens=())
    assert trace_evidence([], [*probes, empty], {}).validation == probes[1:]
