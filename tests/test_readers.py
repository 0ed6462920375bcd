"""What any training leaves, read as evidence: trainer states, JSON lines, CSV exports, folders, MLflow runs."""

import csv
import json
import math
import os
import random
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.cli.main import main
from harness.diagnose.advice import NEEDS, how_to_know, what_would_tell_more, with_advice
from harness.diagnose.cell import CHECKS, diagnose
from harness.diagnose.evidence import Evidence, Point, finding
from harness.diagnose.readers import file_evidence
from harness.errors import DataError, HarnessError

STATE = {
    "global_step": 3, "max_steps": 3, "num_train_epochs": 1, "logging_steps": 1, "train_batch_size": 4,
    "log_history": [
        {"step": 1, "epoch": 0.3, "loss": 2.0, "grad_norm": 1.5, "learning_rate": 1e-4},
        {"step": 2, "epoch": 0.6, "loss": 1.5, "grad_norm": 1.2, "learning_rate": 2e-4},
        {"step": 2, "epoch": 0.6, "eval_loss": 1.6, "eval_runtime": 3.0},
        {"step": 3, "epoch": 1.0, "loss": 1.2, "grad_norm": 1.1, "learning_rate": 1e-4},
        {"step": 3, "epoch": 1.0, "train_runtime": 10.0, "train_loss": 1.5667},
    ],
}  # fmt: skip


def put(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding=encoding)
    return path


def values(points: Sequence[Point]) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in points]


def table(rows: Sequence[Sequence[object]], delimiter: str = ",") -> str:
    return "".join(delimiter.join(str(cell) for cell in row) + "\n" for row in rows)


def test_trainer_state_gives_curves_plan_and_settings(tmp_path: Path) -> None:
    found = file_evidence(put(tmp_path / "checkpoint-3" / "trainer_state.json", json.dumps(STATE)))
    assert values(found.loss) == [(1, 2.0), (2, 1.5), (3, 1.2)]
    assert values(found.eval_loss) == [(2, 1.6)]
    assert [p.value for p in found.learning_rate] == [1e-4, 2e-4, 1e-4]
    assert values(found.epochs) == [(1, 0.3), (2, 0.6), (3, 1.0)]
    assert (found.planned_steps, found.is_finished, found.name) == (3, True, "checkpoint-3")
    assert found.settings["training.num_train_epochs"] == "1"
    assert found.settings["training.per_device_train_batch_size"] == "4"
    assert found.settings["training.learning_rate"] == "0.0002"


def test_a_state_in_the_middle_of_training_does_not_say_whether_it_ended(tmp_path: Path) -> None:
    state = {**STATE, "max_steps": 900, "log_history": STATE["log_history"][:-1]}
    found = file_evidence(put(tmp_path / "trainer_state.json", json.dumps(state)))
    assert (found.planned_steps, found.is_finished) == (900, None)


def test_the_mean_loss_at_the_end_is_no_point_of_the_curve(tmp_path: Path) -> None:
    state = {"log_history": [{"step": 5, "loss": 2.0}, {"step": 9, "train_runtime": 1.0, "train_loss": 7.0}]}
    assert values(file_evidence(put(tmp_path / "s.json", json.dumps(state))).loss) == [(5, 2.0)]


def test_an_empty_log_history_is_insufficient_evidence_and_no_mistake(tmp_path: Path) -> None:
    found = file_evidence(put(tmp_path / "trainer_state.json", '{"log_history": []}'))
    assert {f.outcome for f in diagnose(found)} <= {"insufficient", "not_applicable", "clear"}


def test_llama_factory_log_knows_its_plan_and_whether_it_is_over(tmp_path: Path) -> None:
    lines = [
        {"current_steps": 10, "total_steps": 30, "loss": 2.0, "lr": 1e-5, "epoch": 0.1, "percentage": 33.3},
        {"current_steps": 20, "total_steps": 30, "loss": 1.5, "lr": 2e-5, "epoch": 0.2},
        {"current_steps": 20, "total_steps": 30, "eval_loss": 1.6, "loss": None, "epoch": 0.2},
    ]
    path = put(tmp_path / "run7" / "trainer_log.jsonl", "\n".join(json.dumps(line) for line in lines))
    os.utime(path, (time.time() - 7200, time.time() - 7200))
    found = file_evidence(path)
    assert values(found.loss) == [(10, 2.0), (20, 1.5)]
    assert values(found.eval_loss) == [(20, 1.6)]
    assert values(found.learning_rate) == [(10, 1e-5), (20, 2e-5)]
    assert (found.name, found.planned_steps, found.is_finished) == ("run7", 30, False)
    assert found.idle_seconds == pytest.approx(7200, abs=60)
    done = json.dumps({"current_steps": 30, "total_steps": 30, "loss": 1.4})
    put(path, "\n".join([*(json.dumps(line) for line in lines), done]))
    assert file_evidence(path).is_finished is True


def test_lines_with_values_as_text_and_without_steps_are_counted(tmp_path: Path) -> None:
    path = put(tmp_path / "log.jsonl", '{"loss": "2.0", "epoch": "0.1"}\n{"loss": "nan"}\n{"eval_loss": "1.5"}\n')
    found = file_evidence(path)
    assert found.loss[0] == Point(1, 2.0)
    assert math.isnan(found.loss[1].value)
    assert values(found.eval_loss) == [(2, 1.5)]


def test_a_line_cut_off_at_the_end_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = put(tmp_path / "trainer_log.jsonl", '{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n{"step": 3, "lo')
    assert values(file_evidence(path).loss) == [(1, 2.0), (2, 1.0)]
    assert "1 of 3 lines are cut off" in caplog.text


def test_steps_that_come_twice_after_a_resume_keep_the_last_value_in_order(tmp_path: Path) -> None:
    steps = [(1, 5.0), (2, 4.0), (3, 3.0), (2, 2.5), (3, 2.0), (4, 1.0)]
    path = put(tmp_path / "log.jsonl", "\n".join(json.dumps({"step": s, "loss": v}) for s, v in steps))
    assert values(file_evidence(path).loss) == [(1, 5.0), (2, 2.5), (3, 2.0), (4, 1.0)]


def test_nan_and_infinity_are_kept_as_evidence(tmp_path: Path) -> None:
    path = put(
        tmp_path / "s.json",
        '{"log_history": [{"step": 1, "loss": NaN, "grad_norm": Infinity, "eval_loss": -Infinity}]}',
    )
    found = file_evidence(path)
    assert math.isnan(found.loss[0].value)
    assert found.grad_norm[0].value == math.inf
    assert found.eval_loss[0].value == -math.inf


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_of_any_encoding_and_delimiter(tmp_path: Path, encoding: str, delimiter: str) -> None:
    rows = [["step", "loss", "eval_loss", "grad_norm", "learning_rate", "epoch"], [1, 2.0, "", 1.0, 1e-4, 0.5], [2, 1.0, 1.5, "nan", 1e-4, 1]]  # fmt: skip
    found = file_evidence(put(tmp_path / "run.csv", table(rows, delimiter), encoding))
    assert values(found.loss) == [(1, 2.0), (2, 1.0)]
    assert values(found.eval_loss) == [(2, 1.5)]
    assert math.isnan(found.grad_norm[1].value)
    assert found.name == "run"


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("run-.-tag-train_loss.csv", "loss"), ("eval_loss.csv", "eval_loss"), ("train_grad_norm.csv", "grad_norm"),
        ("learning_rate.csv", "learning_rate"), ("export.csv", "loss"),
    ],
)  # fmt: skip
def test_tensorboard_export_is_named_by_its_file(tmp_path: Path, name: str, field: str) -> None:
    put(tmp_path / "loss.csv", "Wall time,Step,Value\n1700000000.0,10,2.5\n1700000001.0,20,2.25\n")
    path = put(tmp_path / "a" / name, "Wall time,Step,Value\n1700000000.0,10,0.5\n1700000001.0,20,0.25\n")
    if field in ("loss", "eval_loss"):
        assert values(getattr(file_evidence(path), field)) == [(10, 0.5), (20, 0.25)]
    else:
        put(tmp_path / "a" / "train_loss.csv", (tmp_path / "loss.csv").read_text())
        found = file_evidence(tmp_path / "a")
        assert values(getattr(found, field)) == [(10, 0.5), (20, 0.25)]
        assert values(found.loss) == [(10, 2.5), (20, 2.25)]


def test_wandb_history_counts_by_the_trainers_step(tmp_path: Path) -> None:
    rows = [
        ["_step", "train/loss", "train/global_step", "eval/loss", "train/learning_rate", "train/grad_norm", "train/epoch"],
        [0, 2.0, 10, "", 1e-4, 1.0, 0.1], [1, "", 10, 1.9, "", "", 0.1], [2, 1.0, 20, "", 1e-4, 1.0, 0.2],
    ]  # fmt: skip
    found = file_evidence(put(tmp_path / "wandb.csv", table(rows)))
    assert values(found.loss) == [(10, 2.0), (20, 1.0)]
    assert values(found.eval_loss) == [(10, 1.9)]
    assert values(found.epochs) == [(10, 0.1), (20, 0.2)]


def test_wandb_chart_export_of_one_run(tmp_path: Path) -> None:
    head = '"train/global_step","sunny-river-7 - train/loss","sunny-river-7 - train/loss__MIN","sunny-river-7 - train/loss__MAX"\n'
    found = file_evidence(put(tmp_path / "chart.csv", head + '"10","2.0","2.0","2.0"\n"20","1.0","1.0","1.0"\n'))
    assert values(found.loss) == [(10, 2.0), (20, 1.0)]


def test_several_runs_in_one_table_are_refused(tmp_path: Path) -> None:
    path = put(tmp_path / "chart.csv", "Step,one - train/loss,two - train/loss\n1,2.0,3.0\n")
    with pytest.raises(
        DataError, match="both 'one - train/loss' and 'two - train/loss' are the loss; keep the columns of one"
    ):
        file_evidence(path)


def test_folder_gives_its_newest_state(tmp_path: Path) -> None:
    for step in (500, 1000, 90):
        state = {"global_step": step, "log_history": [{"step": step, "loss": 1.0}]}
        put(tmp_path / f"checkpoint-{step}" / "trainer_state.json", json.dumps(state))
    assert file_evidence(tmp_path).loss[-1].step == 1000
    put(tmp_path / "trainer_state.json", json.dumps({"log_history": [{"step": 1200, "loss": 1.0}]}))
    assert file_evidence(tmp_path).loss[-1].step == 1200


def test_a_cell_that_is_still_training_is_read_from_its_trace(tmp_path: Path) -> None:
    state = {"log_history": [{"step": 10, "loss": 1.0}]}
    put(tmp_path / "checkpoints" / "checkpoint-10" / "trainer_state.json", json.dumps(state))
    assert file_evidence(tmp_path).loss[-1].step == 10
    point = {"step": 14, "epoch": 0.5, "seconds": 3.0, "values": {"loss": "nan", "grad_norm": 1.0}}
    put(tmp_path / "trace.jsonl", json.dumps(point))
    assert math.isnan(file_evidence(tmp_path).loss[-1].value)
    assert values(file_evidence(tmp_path).epochs) == [(14, 0.5)]


def test_folder_with_a_log_alone_and_one_with_nothing(tmp_path: Path) -> None:
    put(tmp_path / "out" / "trainer_log.jsonl", '{"current_steps": 1, "loss": 2.0}\n')
    assert values(file_evidence(tmp_path / "out").loss) == [(1, 2.0)]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"the folder holds no trainer_state\.json, trainer_log\.jsonl or CSV"):
        file_evidence(tmp_path / "empty")


MISTAKES = {
    "empty.json": (b"", "the file is empty"),
    "bom.csv": (b"\xef\xbb\xbf\n\n", "the file is empty"),
    "cut.json": (b'{"log_history": [{"step": 1, "loss": 2', "cut off or damaged"),
    "other.json": (b'{"a": 1}', "it needs log_history"),
    "number.json": (b"7", "it needs log_history"),
    "deep.json": (b"[" * 100_000, "nested too deeply|cut off or damaged"),
    "weights.bin": (bytes(range(256)) * 40, "this is no text|no CSV|no loss"),
    "picture.csv": (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" * 20, "this is no text|no CSV|no loss"),
    "words.csv": (b"name,colour\na,b\n", "there is no loss among 'name', 'colour'"),
    "header.csv": (b"step,loss\n", "the loss has no values"),
    "prose.jsonl": (b"it went well\nvery well\n", "2 of 2 lines are no JSON objects"),
    "metrics.jsonl": (b'{"step": 1, "accuracy": 0.5}\n', "there is no loss among 'step', 'accuracy'"),
    "list.json": (b'{"log_history": "none"}', "it needs log_history"),
    "digits.json": (b'{"log_history": [{"step": ' + b"9" * 5000 + b', "loss": 1}]}', "cut off or damaged"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_what_is_no_log_is_told_in_one_sentence(tmp_path: Path, name: str) -> None:
    content, expected = MISTAKES[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=expected) as caught:
        file_evidence(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_wrong_types_are_passed_over_one_by_one(tmp_path: Path) -> None:
    history: list[object] = [
        None, "x", 7, {"step": "seven", "loss": 1.0}, {"step": -1, "loss": 1.0}, {"step": 1e300, "loss": 1.0},
        {"step": 1, "loss": {"a": 1}}, {"step": 2, "loss": [1]}, {"step": 3, "loss": True}, {"step": 4, "loss": "low"},
        {"step": 5.0, "loss": 10**400}, {"step": "6", "loss": "1.5"}, {"loss": 1.0, "step": None, "epoch": "x"},
    ]  # fmt: skip
    found = file_evidence(put(tmp_path / "s.json", json.dumps({"log_history": history, "max_steps": "many"})))
    assert values(found.loss) == [(6, 1.5), (7, 1.0)]
    assert found.planned_steps is None


def _random_value(rng: random.Random, depth: int = 0) -> object:
    plain = [None, True, rng.uniform(-9, 9), rng.randrange(-5, 2000), "nan", "inf", "", "x" * rng.randrange(9), math.nan, math.inf, 1e308, -0.0, "\u2028"]  # fmt: skip
    if depth > 2 or rng.random() < 0.75:
        return rng.choice(plain)
    if rng.random() < 0.5:
        return [_random_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    keys = ["loss", "step", "values", "log_history", "epoch", "eval_loss", "grad_norm", "max_steps", "train/loss", ""]
    return {rng.choice(keys): _random_value(rng, depth + 1) for _ in range(rng.randrange(5))}


def _random_file(rng: random.Random) -> bytes:
    kind = rng.randrange(5)
    if kind == 0:
        return rng.randbytes(rng.randrange(400))
    if kind == 1:
        rows = [_random_value(rng) for _ in range(rng.randrange(30))]
        state = {"log_history": rows, "max_steps": _random_value(rng), "num_train_epochs": _random_value(rng), "global_step": _random_value(rng)}  # fmt: skip
        whole = json.dumps(state).encode()
    elif kind == 2:
        whole = "\n".join(json.dumps(_random_value(rng)) for _ in range(rng.randrange(30))).encode()
    else:
        names = ["step", "loss", "eval_loss", "Value", "Wall time", "r - train/loss", "epoch", "", "lr", "\0", '"']
        rows = [rng.sample(names, rng.randrange(1, 6)) for _ in range(1)]
        rows += [[str(_random_value(rng, 3)) for _ in range(rng.randrange(7))] for _ in range(rng.randrange(30))]
        whole = table(rows, rng.choice(",;\t")).encode("utf-8", "replace")
    if rng.random() < 0.3:
        whole = whole[: rng.randrange(len(whole) + 1)]
    if rng.random() < 0.2 and whole:
        at = rng.randrange(len(whole))
        whole = whole[:at] + rng.randbytes(3) + whole[at + 1 :]
    return rng.choice([b"", b"\xef\xbb\xbf", b"\xff\xfe"] if rng.random() < 0.2 else [b""]) + whole


def test_broken_files_give_findings_or_one_sentence(tmp_path: Path) -> None:
    """1500 random files: every one is either read, and every check answers, or refused with a sentence."""
    rng = random.Random(20)
    read = 0
    for i in range(1500):
        path = tmp_path / f"f{i}{rng.choice(['.json', '.jsonl', '.csv', '.txt', ''])}"
        path.write_bytes(_random_file(rng))
        try:
            found = file_evidence(path)
        except HarnessError as error:
            assert "\n" not in str(error)
            continue
        read += 1
        assert [p.step for p in found.loss] == sorted({p.step for p in found.loss})
        if read % 5 == 0:
            assert all(f.message for f in diagnose(found))
    assert read > 100


def test_a_long_log_is_read_line_by_line(tmp_path: Path) -> None:
    path = put(tmp_path / "log.jsonl", "".join(f'{{"step": {i}, "loss": {2 - i / 1e5}}}\n' for i in range(60_000)))
    assert len(file_evidence(path).loss) == 60_000


def _mlflow_run(uri: str, *, steps: bool = True, end: str | None = "FINISHED") -> str:
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.create_experiment("foreign")
    run_id = client.create_run(experiment, run_name="their run").info.run_id
    now = int(time.time() * 1000)
    for i in range(1, 13):
        client.log_metric(run_id, "loss", 3 - i / 6, now + i, i * 10 if steps else 0)
        client.log_metric(run_id, "grad_norm", math.inf if i == 3 else 1.0, now + i, i * 10 if steps else 0)
    client.log_metric(run_id, "eval_loss", math.nan, now, 60)
    client.log_metric(run_id, "train_loss", 9.0, now, 120)
    client.log_metric(run_id, "system/cpu", 50.0, now, 1)
    client.log_param(run_id, "learning_rate", "0.001")
    client.log_param(run_id, "max_steps", "-1")
    if end:
        client.set_terminated(run_id, end)
    return run_id


def test_mlflow_run_of_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.targets import diagnose_target

    monkeypatch.chdir(tmp_path)
    run_id = _mlflow_run(f"sqlite:///{tmp_path}/mlflow.db")
    found, findings = diagnose_target(run_id)
    assert values(found.loss)[:2] == [(10, 3 - 1 / 6), (20, 3 - 2 / 6)]
    assert found.grad_norm[2].value == math.inf
    assert math.isnan(found.eval_loss[0].value)
    assert (found.name, found.is_finished, found.settings["training.learning_rate"]) == ("their run", True, "0.001")
    assert next(f for f in findings if f.check == "non_finite").outcome == "fired"


def test_mlflow_run_in_another_store_that_named_no_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.targets import diagnose_target

    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path}/elsewhere.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    found, _ = diagnose_target(_mlflow_run(uri, steps=False, end=None))
    assert [point.step for point in found.loss] == list(range(1, 13))
    assert found.is_finished is False
    assert found.idle_seconds is not None


def test_an_unknown_run_makes_no_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["diagnose", "0123456789abcdef0123456789abcdef"])
    assert done.exit_code == 2
    assert "there is no such cell, run or file" in done.stderr
    assert not list(tmp_path.iterdir())


def test_missing_evidence_comes_with_how_to_get_it() -> None:
    bare = Evidence(loss=[Point(i * 100, 2.0) for i in range(1, 6)], grad_norm=[], eval_loss=[], planned_steps=500)
    few = finding("overfitting", "insufficient", "Only 0 evaluations; 4 are needed.")
    assert "`eval_strategy: steps`, `eval_steps: 50`" in how_to_know(few, bare)
    assert "`logging_steps: 1`" in how_to_know(finding("underfitting", "insufficient", "x"), bare)
    assert "logging_nan_inf_filter: False" in how_to_know(
        finding("non_finite", "insufficient", "x"), Evidence([], [], [])
    )
    own = few.model_copy(update={"advice": "Do this."})
    assert [f.advice for f in with_advice([few, own], bare)] == [how_to_know(few, bare), "Do this."]
    assert what_would_tell_more([own], bare) == ["Do this. (overfitting)"]


def test_every_check_knows_what_it_needs() -> None:
    assert set(NEEDS) == set(CHECKS)


def test_every_insufficient_check_of_a_bare_log_says_how_to_know(tmp_path: Path) -> None:
    path = put(tmp_path / "trainer_state.json", json.dumps({"log_history": [{"step": 500, "loss": 2.0}]}))
    done = CliRunner().invoke(main, ["diagnose", str(path), "--json"])
    findings = json.loads(done.output)["findings"]
    assert not [f["check"] for f in findings if f["outcome"] == "insufficient" and not f["advice"]]
    told = CliRunner().invoke(main, ["diagnose", str(path)]).output
    assert "What would tell more:" in told
    assert "- Log the loss at every step: `logging_steps: 1`" in told


def test_csv_module_limits_are_a_sentence(tmp_path: Path) -> None:
    path = put(tmp_path / "wide.csv", "step,loss\n1," + "9" * 200_000)
    # Other libraries raise it for the whole process.
    before = csv.field_size_limit(100_000)
    try:
        with pytest.raises(DataError, match="this is no CSV"):
            file_evidence(path)
    finally:
        csv.field_size_limit(before)
