"""Two `harness run` on one folder: the second is told so, or helps."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.records import CellResult
from harness.store import experiment_folder, read_record

YAML = """\
name: shared
model: {name: embedded:base}
template: {name: chatml}
data: {train: embedded:train, validation: embedded:validation, test: embedded:test, limit: 40}
training: {max_steps: 4, per_device_train_batch_size: 2, max_length: 128, gradient_checkpointing: false, eval_steps: 4}
grid: {training.learning_rate: [1e-3, 2e-3, 3e-3]}
evals: [{suite: held_out, limit: 4, max_new_tokens: 8}]
ranking: {by: held_out.nll, gates: []}
launch: {workers: 1}
tracking: {system_metrics: false}
"""


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "harness", "run", "shared.yaml", *arguments]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_second_run_is_refused_and_with_join_it_takes_cells_that_nobody_has(tmp_path: Path) -> None:
    (tmp_path / "shared.yaml").write_text(YAML)
    folder = experiment_folder("shared", tmp_path / "mlruns" / "harness")
    first = start(tmp_path)
    while first.poll() is None and not list(folder.path.glob("cells/*/cell.lock")):
        time.sleep(0.05)
    second, helper = start(tmp_path), start(tmp_path, "--join")
    _, refusal = second.communicate(timeout=300)
    assert second.returncode == 2
    assert "another `harness run` of this experiment is at work" in refusal
    assert f"process {first.pid} on " in refusal
    _, helped = helper.communicate(timeout=300)
    out, said = first.communicate(timeout=300)
    assert first.returncode == 0, said
    assert helper.returncode == 0, helped
    results = [read_record(path, CellResult) for path in folder.path.glob("cells/*/result.json")]
    assert [result.status for result in results] == ["finished"] * 4
    logs = {result.name: folder.cell(result.cell).log.read_text() for result in results}
    # Each cell was trained by one of them, once.
    assert all(text.count("training ") == 1 for name, text in logs.items() if name != "base"), logs
    assert len(json.loads(folder.ranking.read_text())["rows"]) == 3
