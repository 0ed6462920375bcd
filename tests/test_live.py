"""Checks that run while a cell trains: where they stop it, what is kept, what the records say."""

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from mlflow import MlflowClient

from harness.cli.main import main
from harness.comparability import differences
from harness.config import RunConfig
from harness.diagnose import live
from harness.diagnose.cell import diagnose
from harness.diagnose.evidence import Evidence, Point, finding
from harness.diagnose.live import Stop, Watch, first_stop
from harness.experiment_file import load_experiment
from harness.records import CellResult, Finding, Severity, TracePoint, finite_or_name

PLANNED = 1000


def trace(losses: Sequence[float], evaluations: dict[int, float] | None = None) -> list[TracePoint]:
    """One point a step, and one more after the steps that were evaluated."""
    points = []
    for step, loss in enumerate(losses, 1):
        points.append(TracePoint(step=step, epoch=step / 100, seconds=step / 10, values={"loss": finite_or_name(loss)}))
        if evaluations and step in evaluations:
            points.append(
                TracePoint(step=step, epoch=step / 100, seconds=step / 10, values={"eval_loss": evaluations[step]})
            )
    return points


def stop_of(losses: Sequence[float], *checks: str, evaluations: dict[int, float] | None = None) -> Stop | None:
    return first_stop(Watch(checks, PLANNED, {}), trace(losses, evaluations), [])


def noisy(values: Sequence[float], sd: float = 0.05) -> list[float]:
    rng = np.random.default_rng(0)
    return (np.asarray(values) * (1 + sd * rng.standard_normal(len(values)))).tolist()


HEALTHY = noisy([0.5 + 3 * math.exp(-i / 100) for i in range(PLANNED)])
RISING = noisy([3 - i / 100 for i in range(100)] + [2 + i / 20 for i in range(400)])


def test_a_healthy_training_runs_to_its_end() -> None:
    assert stop_of(HEALTHY, "non_finite", "diverged", "underfitting", "loss_spike") is None


def test_nan_loss_stops_at_once() -> None:
    stop = stop_of([*HEALTHY[:33], math.nan, *HEALTHY[34:]], "non_finite", "diverged")
    assert stop == Stop("non_finite", 34, PLANNED, "The training loss is nan, so the weights are lost.")
    assert "stopped at step 34 of 1000, 966 steps saved" in stop.sentence


def test_nan_loss_goes_on_where_nobody_asked() -> None:
    assert stop_of([*HEALTHY[:33], math.nan, *HEALTHY[34:]], "underfitting") is None


def test_rising_loss_stops_well_before_the_end() -> None:
    evaluations = {0: 3.0, **{step: 1.0 + RISING[step - 1] for step in range(50, 500, 50)}}
    stop = stop_of(RISING, "non_finite", "diverged", evaluations=evaluations)
    assert stop is not None
    assert stop.check == "diverged"
    assert 100 < stop.step < 500


def fires(when: Callable[[Evidence], bool], severity: Severity) -> Callable[[Evidence], Finding]:
    return lambda e: finding("diverged", "fired" if when(e) else "clear", "It rose.", severity)


def watched(monkeypatch: pytest.MonkeyPatch, check: str, **behaviour: object) -> None:
    made = fires(**behaviour)
    monkeypatch.setattr(live, "CHECKS", {check: lambda e: made(e).model_copy(update={"check": check})})


def test_one_look_alone_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    watched(monkeypatch, "diverged", when=lambda e: len(e.loss) == 40, severity="error")
    assert stop_of(HEALTHY, "diverged") is None


def test_two_looks_in_a_row_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between evaluations it looks every fiftieth of the plan: at 20, 40, 60, 80."""
    watched(monkeypatch, "diverged", when=lambda e: len(e.loss) >= 50, severity="error")
    assert stop_of(HEALTHY, "diverged") == Stop("diverged", 80, PLANNED, "It rose.")


def test_two_looks_at_the_same_step_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss and the evaluation of one step are two points of the log, but one moment of the training."""
    watched(monkeypatch, "diverged", when=lambda e: e.loss[-1].step == 40, severity="error")
    assert stop_of(HEALTHY, "diverged", evaluations={40: 1.0}) is None


@pytest.mark.parametrize(("check", "severity", "stops"), [("diverged", "warning", False), ("overfitting", "warning", True), ("overfitting", "info", False), ("overfitting", "error", True)])  # fmt: skip
def test_a_default_check_stops_on_errors_and_one_that_was_asked_for_on_warnings(
    monkeypatch: pytest.MonkeyPatch, check: str, severity: Severity, stops: bool
) -> None:
    watched(monkeypatch, check, when=lambda e: len(e.loss) > 100, severity=severity)
    assert (stop_of(HEALTHY, check) is not None) == stops


def test_underfitting_is_not_asked_before_half_of_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    watched(monkeypatch, "underfitting", when=lambda e: True, severity="warning")
    stop = stop_of(HEALTHY, "underfitting")
    assert stop is not None
    assert stop.step == 520


def test_nothing_is_stopped_at_the_last_step(monkeypatch: pytest.MonkeyPatch) -> None:
    watched(monkeypatch, "diverged", when=lambda e: len(e.loss) >= 980, severity="error")
    assert stop_of(HEALTHY, "diverged") is None


def test_looks_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    watched(monkeypatch, "diverged", when=lambda e: bool(looks.append(e)), severity="error")
    stop_of(HEALTHY, "diverged", evaluations=dict.fromkeys(range(100, 1001, 100), 1.0))
    assert len(looks) <= 60


def test_a_check_that_stopped_a_training_has_fired() -> None:
    healthy = Evidence(loss=[Point(i, v) for i, v in enumerate(HEALTHY[:200], 1)], grad_norm=[], eval_loss=[])
    stopped = dataclasses.replace(
        healthy, stopped_on="diverged: stopped at step 200 of 1000, 800 steps saved: It rose."
    )
    found = next(f for f in diagnose(stopped) if f.check == "diverged")
    assert (found.outcome, found.severity) == ("fired", "error")
    assert found.message == "Training was stopped at step 200 of 1000, 800 steps saved: It rose."
    assert next(f for f in diagnose(healthy) if f.check == "diverged").outcome != "fired"


def test_unknown_check_is_told_with_those_that_can_run_live(write: Callable[[str, str], Path]) -> None:
    minimal = "name: s\nmodel: {name: embedded:base}\ndata: {train: embedded:train}\n"
    write(minimal + "stop_on: [non_finite, forgetting]\n", "experiment.yaml")
    done = CliRunner().invoke(main, ["plan", "experiment.yaml"])
    assert done.exit_code == 2
    assert "stop_on.1" in done.stderr
    assert "'overfitting'" in done.stderr
    assert "not 'forgetting'" in done.stderr


def test_one_check_needs_no_list(write: Callable[[str, str], Path]) -> None:
    minimal = "name: s\nmodel: {name: embedded:base}\ndata: {train: embedded:train}\n"
    path = write(minimal + "stop_on: overfitting\n", "experiment.yaml")
    assert load_experiment(path, []).stop_on == ("overfitting",)
    assert RunConfig.model_fields["stop_on"].default == ("non_finite", "diverged")


YAML = """\
name: doomed
model: {name: embedded:base}
template: {name: chatml}
data: {train: embedded:train, validation: embedded:validation, test: embedded:test, limit: 24}
training:
  learning_rate: 2e-3
  max_steps: 60
  per_device_train_batch_size: 4
  max_length: 96
  gradient_checkpointing: false
  eval_steps: 10
  lr_scheduler_type: constant
  warmup_steps: 0
variants:
  lost: {training: {learning_rate: 0.3, max_grad_norm: 0.0}}
  told to go on: {stop_on: [], training: {learning_rate: 0.3, max_grad_norm: 0.0, max_steps: 30}}
  "nan": {training: {learning_rate: 1e38, max_grad_norm: 0.0}}
evals:
  - {suite: held_out, limit: 4, max_new_tokens: 4}
references: []
ranking: {by: held_out.bits_per_byte}
launch: {workers: 2}
tracking: {system_metrics: false}
"""


class Ran:
    """A finished `harness run`."""

    def __init__(self, folder: Path, output: str) -> None:
        self.folder = folder
        self.output = output
        self.cells = folder / "mlruns" / "harness" / "doomed" / "cells"
        results = [CellResult.model_validate_json(p.read_text()) for p in self.cells.glob("*/result.json")]
        self.results = {result.name: result for result in results}

    def log_of(self, name: str) -> str:
        return (self.cells / self.results[name].cell / "log.txt").read_text()


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    folder = tmp_path_factory.mktemp("live")
    (folder / "doomed.yaml").write_text(YAML)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        done = CliRunner().invoke(main, ["run", "doomed.yaml"], catch_exceptions=False)
        yield Ran(folder, done.output)


def test_a_lost_cell_ends_early_and_is_evaluated_all_the_same(ran: Ran) -> None:
    lost = ran.results["lost"]
    assert lost.status == "finished", lost.error
    assert lost.train is not None
    assert lost.train.stopped_on.startswith("diverged: stopped at step ")
    assert lost.train.steps < lost.train.planned_steps == 60
    assert not lost.train.stopped_early
    assert "held_out.bits_per_byte" in lost.metrics()


def test_its_last_state_is_evaluated_and_saved(ran: Ran) -> None:
    train = ran.results["lost"].train
    assert train is not None
    assert train.evaluated_step == train.steps
    points = [
        json.loads(line) for line in (ran.cells / ran.results["lost"].cell / "trace.jsonl").read_text().splitlines()
    ]
    assert points[-1]["step"] == train.steps
    assert "eval_loss" in points[-1]["values"]


def test_the_records_the_log_and_mlflow_say_why(ran: Ran) -> None:
    lost = ran.results["lost"]
    assert lost.train is not None
    saved = 60 - lost.train.steps
    assert f"stopped at step {lost.train.steps} of 60, {saved} steps saved" in ran.log_of("lost")
    run = MlflowClient(f"sqlite:///{ran.folder}/mlflow.db").get_run(lost.mlflow_run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["harness.stopped_on"] == lost.train.stopped_on
    findings = json.loads(CliRunner().invoke(main, ["diagnose", "lost", "--json"]).output)["findings"]
    diverged = next(f for f in findings if f["check"] == "diverged")
    assert (diverged["outcome"], diverged["severity"]) == ("fired", "error")
    assert diverged["message"].endswith(f"Training was stopped at step {lost.train.steps} of 60, {saved} steps saved.")


def test_its_tokens_are_not_compared(ran: Ran) -> None:
    train = ran.results["lost"].train
    assert train is not None
    assert "tokens seen" not in train.facts
    whole = ran.results["told to go on"].train
    assert whole is not None
    assert "tokens seen" in whole.facts
    assert "tokens seen" not in [difference.fact for difference in differences(list(ran.results.values()))]


def test_a_cell_that_is_told_to_go_on_does(ran: Ran) -> None:
    train = ran.results["told to go on"].train
    assert train is not None
    assert (train.steps, train.stopped_on) == (30, "")


def test_a_nan_loss_fails_the_cell_with_its_rule(ran: Ran) -> None:
    result = ran.results["nan"]
    assert result.status == "failed"
    assert "the training loss is nan" in result.error
    assert "non_finite in stop_on" in result.error
    assert "steps saved" in result.error


def test_a_stopped_cell_is_done(ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ran.folder)
    path = ran.cells / ran.results["lost"].cell / "train.json"
    before = path.stat().st_mtime_ns
    CliRunner().invoke(main, ["evaluate", "doomed.yaml"], catch_exceptions=False)
    assert path.stat().st_mtime_ns == before


def test_replay_says_what_the_live_checks_did(ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same code on the recorded trace stops at the same step; the cell that was told to go on would have been stopped."""
    monkeypatch.chdir(ran.folder)
    done = CliRunner().invoke(main, ["replay", "doomed.yaml", "--json"], catch_exceptions=False)
    told = {cell["name"]: cell for cell in json.loads(done.output)["cells"]}
    lost = ran.results["lost"].train
    assert lost is not None
    assert (told["lost"]["check"], told["lost"]["step"], told["lost"]["steps_saved"]) == ("diverged", lost.steps, 0)
    assert told["lost"]["steps_already_saved"] == 60 - lost.steps
    assert told["told to go on"]["check"] == "diverged"
    assert told["told to go on"]["step"] == lost.steps
    assert told["told to go on"]["steps_saved"] == 30 - lost.steps
    assert (told["nan"]["check"], told["nan"]["steps_already_saved"]) == ("non_finite", 60 - told["nan"]["steps"])


def test_all_processes_of_a_cell_stop_together(ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that trained on would wait for the others forever."""
    monkeypatch.chdir(ran.folder)
    together = YAML.replace("name: doomed", "name: together").replace("batch_size: 4", "batch_size: 2")
    kept = together[: together.index("  lost:")] + next(line for line in together.splitlines(True) if "  lost:" in line)
    rest = together[together.index("evals:") :].replace("workers: 2", "processes_per_cell: 2")
    (ran.folder / "together.yaml").write_text(kept + rest)
    done = CliRunner().invoke(main, ["run", "together.yaml"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    path = next((ran.folder / "mlruns/harness/together/cells").glob("*/result.json"))
    train = CellResult.model_validate_json(path.read_text()).train
    assert train is not None
    assert train.stopped_on.startswith("diverged: stopped at step ")
    assert train.steps < 60
