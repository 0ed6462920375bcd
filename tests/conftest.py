"""Shared fixtures: everything runs on CPU, without network, in folders of its own."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from benchmarks.chaos_server import tracking_server

if TYPE_CHECKING:
    from mlflow import MlflowClient

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.pop("MLFLOW_TRACKING_URI", None)
if "PYTEST_XDIST_WORKER" in os.environ:
    # Two processes with as many threads each as there are cores slow one another tenfold.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# A job in the background of a script ignores SIGINT, and so would all that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

REAL_DATA = Path(os.environ.get("HARNESS_REAL_DATA", Path(__file__).parent.parent.parent / "shared" / "data"))

MINIMAL = """\
name: small
model:
  name: embedded:base
template:
  name: chatml
data:
  train: embedded:train
  validation: embedded:validation
  test: embedded:test
training:
  learning_rate: 1e-3
"""

TRAINED = """\
name: tiny
description: Does a tiny base learn <em>roses</em>?
model: {name: embedded:base}
template: {name: chatml}
data: {train: DATA/roses.jsonl, validation: embedded:validation, test: embedded:test, limit: 40}
training:
  learning_rate: 5e-3
  max_steps: 3
  per_device_train_batch_size: 8
  max_length: 128
  gradient_checkpointing: false
  eval_steps: 3
  lr_scheduler_type: constant
variants:
  full: {}
  lora: {adapter: {r: 8, lora_alpha: 64, target_modules: all-linear}}
evals: [{suite: held_out, limit: 8, max_new_tokens: 12}]
ranking: {by: held_out.nll, gates: []}
launch: {workers: 2}
tracking: {system_metrics: false}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real tracking server that hands artifacts over HTTP."""
    folder = tmp_path_factory.mktemp("server")
    with tracking_server(folder, folder / "outage") as running:
        yield running.uri


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a full and a LoRA cell and their base, trained for three steps on rows that lie elsewhere.

    Leave it as it is: all tests share it.
    """
    folder, data = tmp_path_factory.mktemp("run"), tmp_path_factory.mktemp("secret_place")
    rows: list[dict[str, object]] = [
        {
            "messages": [
                {"role": "user", "content": f"I want {n} red roses for Sunday."},
                {"role": "assistant", "content": "I noted your order for Sunday."},
            ]
        }
        for n in range(60)
    ]
    rows.append({"messages": [{"role": "user", "content": "no answer"}]})
    (data / "roses.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "tiny.yaml").write_text(TRAINED.replace("DATA", str(data)))
    command = [sys.executable, "-m", "harness", "run", "tiny.yaml"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def real_data() -> Path:
    """The folder of real datasets, templates, models and curves."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"real data are not at {REAL_DATA}; set HARNESS_REAL_DATA")
    return REAL_DATA


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Writes a file into an empty working folder."""
    monkeypatch.chdir(tmp_path)

    def _write(content: str, name: str = "experiment.yaml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
        return path

    return _write


@pytest.fixture(autouse=True)
def _store_answers() -> None:
    """No test believes a store away because the last one's was."""
    from harness.tracking.connection import note_answer

    note_answer(None)


@pytest.fixture
def store(tmp_path: Path) -> "Iterator[MlflowClient]":
    """A client of a SQLite store of the test's own, which is chosen while it runs."""
    import mlflow

    from harness.tracking import connection

    before = mlflow.get_tracking_uri()
    connection.select_store(f"sqlite:///{tmp_path / 'mlflow.db'}")
    yield connection.client()
    mlflow.set_tracking_uri(before)
    # MLflow exports what it is told; processes of other tests must not inherit it.
    os.environ.pop("MLFLOW_TRACKING_URI", None)


if "PYTEST_XDIST_WORKER" in os.environ:
    # Two processes with as many threads each as there are cores slow one another tenfold.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
