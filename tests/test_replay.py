"""What `stop_on` would have done to a grid that is done, from its records alone."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from harness.cli.main import main
from harness.collect import collect
from harness.plan import Plan, plan_experiment
from harness.records import CellResult, TracePoint, finite_or_name
from harness.replay import Replay, replay
from harness.store import write_lines, write_record
from tests.conftest import MINIMAL
from tests.helpers import coin, suite_result

YAML = MINIMAL + (
    "variants:\n  good: {training.learning_rate: 1.0e-3}\n  lost: {training.learning_rate: 1.0e-1}\n"
    "  nan: {training.learning_rate: 1.0}\nranking: {by: held_out.exact_match, gates: []}\nreferences: []\n"
)
SECONDS_A_STEP = 0.5
Write = Callable[[str, str], Path]


def noisy(values: Sequence[float]) -> list[float]:
    return (np.asarray(values) * (1 + 0.03 * np.random.default_rng(0).standard_normal(len(values)))).tolist()


FALLING = noisy([0.5 + 3 * math.exp(-i / 40) for i in range(400)])
RISING = noisy([3 - i / 50 for i in range(50)] + [2 + i / 20 for i in range(350)])
CURVES = {"good": FALLING, "lost": RISING, "nan": [*FALLING[:20], math.nan]}


def trace(losses: Sequence[float]) -> list[TracePoint]:
    return [
        TracePoint(step=i, epoch=i / 100, seconds=i * SECONDS_A_STEP, values={"loss": finite_or_name(loss)})
        for i, loss in enumerate(losses, 1)
    ]


def recorded(write: Write, share_right: dict[str, float]) -> Plan:
    """A grid that is done: traces, planned steps, and answers right in these shares of 60 examples."""
    write(YAML, "experiment.yaml")
    made = plan_experiment("experiment.yaml")
    for cell in made.cells:
        folder = made.folder.cell(cell.id)
        write_lines(folder.trace, trace(CURVES[cell.name]))
        folder.state.write_text(json.dumps({"stage": "training", "planned_steps": 400}))
        failed = cell.name == "nan"
        suite = suite_result("held_out", {"exact_match": coin(share_right.get(cell.name, 0.0), 60, 1)})
        result = CellResult(
            cell=cell.id, name=cell.name, group=cell.group, seed=0, base=cell.base, overrides=cell.overrides,
            status="failed" if failed else "finished", stage="training" if failed else "", error="nan" if failed else "",
            suites=() if failed else (suite,),
        )  # fmt: skip
        write_record(folder.result, result)
    return made


def done(made: Plan, *extra: str) -> Replay:
    known = collect(made)
    return replay(made, extra, cells=known.cells, references=known.references, findings=known.findings)


def harness(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments), catch_exceptions=False)


def test_each_cell_is_told_where_it_would_have_ended(write: Write) -> None:
    cells = {cell.name: cell for cell in done(recorded(write, {"good": 0.9, "lost": 0.1})).cells}
    assert cells["good"].check is None
    assert (cells["nan"].check, cells["nan"].step, cells["nan"].steps_saved) == ("non_finite", 21, 0)
    lost = cells["lost"]
    assert lost.check == "diverged"
    assert lost.step is not None
    assert 50 < lost.step < 400
    assert lost.steps_saved == 400 - lost.step
    assert lost.seconds_saved == pytest.approx(lost.steps_saved * SECONDS_A_STEP)


def test_only_a_training_that_a_check_ended_has_saved_steps_already(write: Write) -> None:
    made = recorded(write, {"good": 0.9, "lost": 0.1})
    for cell in made.cells:
        if cell.name == "good":  # interrupted: a trace without what training gives at its end
            write_lines(made.folder.cell(cell.id).trace, trace(FALLING[:100]))
    cells = {cell.name: cell for cell in done(made).cells}
    assert (cells["good"].steps, cells["good"].steps_already_saved) == (100, 0)
    assert cells["nan"].steps_already_saved == 400 - 21


def test_what_is_saved_is_summed(write: Write) -> None:
    found = done(recorded(write, {"good": 0.9, "lost": 0.1}))
    assert found.steps == 400 + 400 + 21
    assert found.seconds == pytest.approx(found.steps * SECONDS_A_STEP)
    assert found.steps_saved == sum(cell.steps_saved for cell in found.cells)


def test_best_set_stays_where_a_bad_cell_is_stopped(write: Write) -> None:
    found = done(recorded(write, {"good": 0.9, "lost": 0.1}))
    assert found.best_set == found.best_set_without_stopped == ("good",)
    assert not found.best_set_changes


def test_best_set_changes_where_the_winner_is_stopped(write: Write) -> None:
    found = done(recorded(write, {"good": 0.1, "lost": 0.9}))
    assert found.best_set == ("lost",)
    assert found.best_set_without_stopped == ("good",)
    assert found.best_set_changes


def test_another_check_is_added_to_the_default_ones(write: Write) -> None:
    made = recorded(write, {"good": 0.9, "lost": 0.1})
    assert done(made, "overfitting").stop_on == ("non_finite", "diverged", "overfitting")
    assert done(made, "diverged").stop_on == ("non_finite", "diverged")


def test_command_prints_a_table_and_json(write: Write) -> None:
    recorded(write, {"good": 0.9, "lost": 0.1})
    told = json.loads(harness("replay", "experiment.yaml", "--json", "--stop-on", "overfitting").output)
    assert told["stop_on"] == ["non_finite", "diverged", "overfitting"]
    assert {cell["name"] for cell in told["cells"]} == {"good", "lost", "nan"}
    page = harness("replay", "experiment.yaml").output
    assert "The best set would have been the same: good" in page
    assert f"Saved: {told['steps_saved']} of 821 steps" in page


def test_a_check_that_cannot_run_live_is_refused_with_those_that_can(write: Write) -> None:
    recorded(write, {})
    refused = harness("replay", "experiment.yaml", "--stop-on", "forgetting")
    assert refused.exit_code == 2
    assert "'overfitting'" in refused.stderr


def test_replay_before_any_run(write: Write) -> None:
    write(MINIMAL, "experiment.yaml")
    refused = harness("replay", "experiment.yaml")
    assert refused.exit_code == 2
    assert "has no results yet; start it with `harness run`" in refused.stderr
