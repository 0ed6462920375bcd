"""The main job end to end, small: real training, real SQLite MLflow, real records."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from mlflow import MlflowClient

from harness.cli.main import main
from harness.diagnose.cell import CHECKS

YAML = """\
name: tiny
description: Does it all hang together?
model: {name: embedded:base}
template: {name: chatml}
data: {train: embedded:train, validation: embedded:validation, test: embedded:test, limit: 48}
training:
  learning_rate: 2e-3
  max_steps: 8
  per_device_train_batch_size: 8
  max_length: 256
  gradient_checkpointing: false
  eval_steps: 4
variants:
  full: {}
  lora: {adapter: {r: 4, lora_alpha: 8, target_modules: all-linear}}
  broken: {training: {learning_rate: 1e38, max_grad_norm: 0.0, warmup_steps: 0, lr_scheduler_type: constant}}
evals:
  - {suite: template_adherence, limit: 12, max_new_tokens: 8}
  - {suite: held_out, limit: 12, max_new_tokens: 8}
ranking: {by: held_out.bits_per_byte, gates: []}
launch: {workers: 2}
tracking: {system_metrics: false}
"""


def harness(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments), catch_exceptions=False)


class Ran:
    """A finished `harness run` and its folder."""

    def __init__(self, folder: Path, result: Result) -> None:
        self.folder = folder
        self.result = result
        self.client = MlflowClient(f"sqlite:///{folder}/mlflow.db")

    def runs(self) -> dict[str, object]:
        """Run name -> MLflow run."""
        experiment = self.client.get_experiment_by_name("tiny")
        return {run.info.run_name: run for run in self.client.search_runs([experiment.experiment_id])}

    def ranking(self) -> dict:
        return json.loads(harness("rank", "tiny.yaml", "--json").output)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    folder = tmp_path_factory.mktemp("run")
    (folder / "tiny.yaml").write_text(YAML)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield Ran(folder, harness("run", "tiny.yaml"))


def test_a_failed_cell_leaves_its_siblings_and_exits_with_1(ran: Ran) -> None:
    assert ran.result.exit_code == 1, ran.result.output
    ranking = ran.ranking()
    assert {row["name"] for row in ranking["rows"]} == {"full", "lora"}
    excluded = {row["name"]: row["reason"] for row in ranking["excluded"]}
    assert excluded["broken"].startswith("failed while training: step ")
    assert "the training loss is nan" in excluded["broken"]


def test_statuses_in_mlflow_are_true(ran: Ran) -> None:
    statuses = {name: run.info.status for name, run in ran.runs().items()}
    assert statuses == {
        "full": "FINISHED",
        "lora": "FINISHED",
        "broken": "FAILED",
        "base": "FINISHED",
        "tiny (report)": "FAILED",
    }
    assert "the training loss is nan" in ran.runs()["broken"].data.tags["harness.error"]


def test_a_cell_run_holds_settings_curves_estimates_and_generations(ran: Ran) -> None:
    run = ran.runs()["lora"]
    params, metrics, tags = run.data.params, run.data.metrics, run.data.tags
    assert params["sweep.adapter.r"] == "4"
    assert params["adapter.lora_alpha"] == "8"
    assert params["training.max_steps"] == "8"
    assert params["training.assistant_only_loss"] == "True"
    assert params["environment.trl"]
    assert "environment.git_commit" in params
    history = ran.client.get_metric_history(run.info.run_id, "loss")
    assert [metric.step for metric in history] == list(range(1, 9))
    assert {0, 4, 8} == {metric.step for metric in ran.client.get_metric_history(run.info.run_id, "eval_loss")}
    for name in (
        "learning_rate",
        "grad_norm",
        "num_tokens",
        "tokens_per_second",
        "held_out.nll",
        "held_out.nll.low",
        "template_adherence.all",
    ):
        assert name in metrics, name
    assert tags["harness.finding.non_finite"] == "clear"
    assert tags["mlflow.parentRunId"] == ran.runs()["tiny (report)"].info.run_id
    assert {item.dataset.name for item in run.inputs.dataset_inputs} == {
        "embedded:train", "embedded:validation", "held_out", "template_adherence"
    }  # fmt: skip
    artifacts = {file.path for file in ran.client.list_artifacts(run.info.run_id, "generations")}
    assert artifacts == {"generations/held_out.json", "generations/template_adherence.json"}
    assert len(run.outputs.model_outputs) == 2


def test_parent_run_holds_the_report(ran: Ran) -> None:
    parent = ran.runs()["tiny (report)"].info.run_id
    files = {file.path for file in ran.client.list_artifacts(parent)}
    assert {"report.html", "report.md", "report.json", "ranking.json", "experiment.json"} <= files


def test_step_zero_is_the_untouched_base(ran: Ran) -> None:
    losses = {}
    for name in ("full", "lora"):
        history = ran.client.get_metric_history(ran.runs()[name].info.run_id, "eval_loss")
        losses[name] = next(metric.value for metric in history if metric.step == 0)
    assert losses["full"] == pytest.approx(losses["lora"], abs=1e-4)
    assert losses["full"] > 4


def test_running_again_trains_only_what_failed(ran: Ran) -> None:
    cells = ran.folder / "mlruns" / "harness" / "tiny" / "cells"
    before = {path: path.stat().st_mtime_ns for path in cells.glob("*/train.json")}
    again = harness(
        "run",
        "tiny.yaml",
        "--set",
        "variants={full: {}, lora: {adapter: {r: 4, lora_alpha: 8, target_modules: all-linear}}}",
    )
    assert again.exit_code == 0, again.output
    assert {path: path.stat().st_mtime_ns for path in cells.glob("*/train.json")} == before


def test_one_changed_cell_is_trained_alone(ran: Ran) -> None:
    cells = ran.folder / "mlruns" / "harness" / "tiny" / "cells"
    before = set(cells.glob("*/train.json"))
    changed = YAML.replace("r: 4", "r: 2").replace("  broken:", "  # broken:")
    (ran.folder / "changed.yaml").write_text(changed)
    assert harness("run", "changed.yaml").exit_code == 0
    assert len(set(cells.glob("*/train.json")) - before) == 1


def test_another_suite_is_evaluated_without_training(ran: Ran) -> None:
    cells = ran.folder / "mlruns" / "harness" / "tiny" / "cells"
    before = {path: path.stat().st_mtime_ns for path in cells.glob("*/train.json")}
    yaml = YAML.replace("  broken:", "  # broken:").replace(
        "ranking:", "  - {suite: retention, data: embedded:retention, limit: 8, max_new_tokens: 4}\nranking:", 1
    )
    (ran.folder / "more.yaml").write_text(yaml)
    done = harness("evaluate", "more.yaml")
    assert done.exit_code == 0, done.output
    ranking = json.loads(harness("rank", "more.yaml", "--json").output)
    assert all("retention.accuracy" in row["metrics"] for row in ranking["rows"])
    assert {path: path.stat().st_mtime_ns for path in cells.glob("*/train.json")} == before


def test_show_and_diagnose_find_a_cell_by_name_and_by_run_id(ran: Ran) -> None:
    shown = harness("show", "lora", "--generations", "1")
    assert shown.exit_code in (0, 2)  # two lora cells share the name once the changed file has run
    run_id = ran.runs()["full"].info.run_id
    findings = json.loads(harness("diagnose", run_id, "--json").output)["findings"]
    assert [f["check"] for f in findings] == list(CHECKS)
    assert {f["outcome"] for f in findings} <= {"fired", "clear", "insufficient", "not_applicable"}


def test_rank_by_another_metric_and_gate(ran: Ran) -> None:
    ranking = json.loads(
        harness(
            "rank", "tiny.yaml", "--json", "--by", "held_out.chrf", "--gate", "template_adherence.all >= 0.99"
        ).output
    )
    assert ranking["criterion"] == "held_out.chrf"
    assert "template_adherence.all is" in ranking["excluded"][0]["reason"]


def test_unknown_metric_is_told(ran: Ran) -> None:
    done = harness("rank", "tiny.yaml", "--by", "held_out.bleurt")
    assert done.exit_code == 2
    assert "'held_out.bleurt' was not measured" in done.stderr


def test_checkpoint_loads_with_plain_transformers(ran: Ran) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    cells = ran.folder / "mlruns" / "harness" / "tiny" / "cells"
    full = next(path.parent for path in cells.glob("*/result.json") if json.loads(path.read_text())["name"] == "full")
    folder = full / json.loads((full / "train.json").read_text())["checkpoints"]["last"]
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert "<|im_end|>" in tokenizer.chat_template
    assert tokenizer.pad_token_id != tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert model.num_parameters() == 1_918_656


LONG = (
    YAML.replace("name: tiny", "name: long")
    .replace("max_steps: 8", "max_steps: 60")
    .replace("eval_steps: 4", "eval_steps: 10")
)


def _of_session(session: int) -> list[int]:
    """Processes that a command left behind."""
    import os

    import psutil

    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def test_killed_training_resumes_into_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL in the middle, then the same command: it goes on from the last checkpoint and no step is there twice."""
    import os
    import signal
    import subprocess
    import sys
    import time

    monkeypatch.chdir(tmp_path)
    (tmp_path / "long.yaml").write_text(LONG.replace("  lora:", "  # lora:").replace("  broken:", "  # broken:"))
    process = subprocess.Popen([sys.executable, "-m", "harness", "run", "long.yaml"], start_new_session=True)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list(
        tmp_path.glob("mlruns/harness/long/cells/*/checkpoints/checkpoint-[12]0/trainer_state.json")
    ):
        time.sleep(0.05)
    # Only the parent, as the OOM killer does: its workers must notice.
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and _of_session(process.pid):
        time.sleep(0.2)
    assert not _of_session(process.pid), "workers go on without their parent"
    run_id = next(
        path
        for path in tmp_path.glob("mlruns/harness/long/cells/*/mlflow_run_id.txt")
        if (path.parent / "trace.jsonl").exists()
    )
    before = run_id.read_text()
    assert not (run_id.parent / "train.json").exists()

    done = harness("run", "long.yaml")
    assert done.exit_code == 0, done.output
    assert run_id.read_text() == before
    steps = [
        json.loads(line)["step"]
        for line in (run_id.parent / "trace.jsonl").read_text().splitlines()
        if '"loss"' in line
    ]
    assert steps == list(range(1, 61))
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    assert client.get_run(before).info.status == "FINISHED"
