"""Ray for real: a cluster of several nodes on this machine runs cells, loses a node, and is told to stop."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

import harness
from harness.errors import LaunchError
from harness.launch.ray_cluster import RayLauncher
from harness.launch_config import LaunchConfig
from harness.store import experiment_folder

ray = pytest.importorskip("ray", reason="Ray isn't installed (pip install 'sft-harness[ray]')")

YAML = """\
name: tiny
model: {name: embedded:base}
template: {name: chatml}
data: {train: rows.jsonl, validation: embedded:validation, test: embedded:test, limit: 40}
training:
  learning_rate: 1e-3
  max_steps: 24
  per_device_train_batch_size: 8
  max_length: 64
  gradient_checkpointing: false
  eval_steps: 4
variants:
  full: {}
  lora: {adapter: {r: 8, lora_alpha: 16, target_modules: all-linear}}
evals: [{suite: held_out, limit: 8, max_new_tokens: 8}]
ranking: {by: held_out.nll, gates: []}
tracking: {system_metrics: false}
"""
SECONDS = 900


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head that runs nothing and two nodes of one CPU each."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        made.add_node(num_cpus=1)
    yield made
    made.shutdown()


def begin(folder: Path, *overrides: str) -> "subprocess.Popen[str]":
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"I want {n} roses."},
                {"role": "assistant", "content": "I noted it."},
            ]
        }
        for n in range(48)
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "tiny.yaml").write_text(YAML)
    command = [sys.executable, "-m", "harness", "run", "tiny.yaml"]
    for override in overrides:
        command += ["--set", override]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def end(process: "subprocess.Popen[str]", exit_code: int = 0) -> str:
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == exit_code, out + err
    return err


def by_ray(cluster: Any) -> tuple[str, str]:
    return "launch.kind=ray", f"launch.address={cluster.address}"


def cells(folder: Path) -> dict[str, Path]:
    """Name -> folder."""
    found = (folder / "mlruns" / "harness" / "tiny" / "cells").glob("*/cell.json")
    return {json.loads(path.read_text())["cell"]["name"]: path.parent for path in found}


def wait_until(condition: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    for _ in range(10 * SECONDS):
        if condition():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    raise AssertionError("it took too long")


def steps(folder: Path, cell: str) -> list[int]:
    trace = cells(folder).get(cell, Path()) / "trace.jsonl"
    lines = trace.read_text().splitlines() if trace.is_file() else []
    return [point["step"] for point in map(json.loads, filter(None, lines)) if "loss" in point["values"]]


def has_begun(folder: Path, cell: str) -> bool:
    """Whether a cell has gone past a checkpoint."""
    try:
        return (
            len(steps(folder, cell)) >= 5
            and any((cells(folder)[cell] / "checkpoints").glob("*/trainer_state.json"))
            and not (cells(folder)[cell] / "train.json").exists()
        )
    except (json.JSONDecodeError, FileNotFoundError):
        return False  # it is being written


def scores(folder: Path) -> dict[str, Any]:
    """Everything that the ranking rests on."""
    results = {name: json.loads((path / "result.json").read_text()) for name, path in cells(folder).items()}
    return {name: [suite["scores"] for suite in result["suites"]] for name, result in results.items()}


def rows(folder: Path) -> list[tuple[str, int, float]]:
    ranking = json.loads((folder / "mlruns" / "harness" / "tiny" / "ranking.json").read_text())
    return [(row["name"], row["rank"], row["metrics"]["held_out.nll"]["value"]) for row in ranking["rows"]]


def curve(folder: Path, cell: str) -> tuple[str, list[int]]:
    """Status and steps of the only MLflow run of a cell."""
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("tiny")
    [run] = client.search_runs([experiment.experiment_id], f"tags.`harness.name` = '{cell}'")
    return run.info.status, sorted(point.step for point in client.get_metric_history(run.info.run_id, "loss"))


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same experiment on this machine's own processes."""
    folder = tmp_path_factory.mktemp("local")
    end(begin(folder, "launch.workers=2"))
    return folder


def other_version(folder: Path) -> Path:
    """A checkout of a version that no release has."""
    shutil.copytree(Path(harness.__file__).parent, folder / "harness")
    (folder / "harness" / "__init__.py").write_text('__version__ = "0.0.0.dev0"\n')
    return folder


def no_harness(folder: Path) -> Path:
    """Where the harness can't be imported from."""
    (folder / "harness").mkdir(parents=True)
    (folder / "harness" / "__init__.py").touch()
    return folder


def test_a_lost_node_and_one_that_is_unfit_cost_nothing_but_time(cluster: Any, local: Path, tmp_path: Path) -> None:
    paths = (other_version(tmp_path / "other"), no_harness(tmp_path / "without"))
    unfit = [cluster.add_node(num_cpus=1, env_vars={"PYTHONPATH": str(path)}) for path in paths]
    process = begin(tmp_path, *by_ray(cluster))
    wait_until(lambda: has_begun(tmp_path, "full"), process)
    log = (cells(tmp_path)["full"] / "log.txt").read_text()
    node = next(n for n in cluster.worker_nodes if n.node_id in log)
    node.kill_raylet()
    err = end(process)
    for gone in (node, *unfit):
        cluster.remove_node(gone, allow_graceful=False)
    cluster.add_node(num_cpus=1)
    assert err.count("can't run a worker: it has sft-harness 0.0.0.dev0") == 1
    assert err.count("can't run a worker: No module named 'harness.launch'; install sft-harness") == 1
    assert "of the Ray cluster died; it goes on elsewhere" in err
    again = (cells(tmp_path)["full"] / "log.txt").read_text()
    assert again.count("Ray task on") == 2
    assert scores(tmp_path) == scores(local)
    assert rows(tmp_path) == rows(local)
    for cell in ("full", "lora"):
        assert curve(tmp_path, cell) == ("FINISHED", list(range(1, 25)))
        assert steps(tmp_path, cell) == list(range(1, 25))


def test_ctrl_c_saves_and_the_next_run_goes_on(cluster: Any, local: Path, tmp_path: Path) -> None:
    process = begin(tmp_path, *by_ray(cluster))
    wait_until(lambda: has_begun(tmp_path, "lora"), process)
    process.send_signal(signal.SIGINT)
    end(process, 130)
    assert json.loads((cells(tmp_path)["lora"] / "result.json").read_text())["status"] == "killed"
    status, done = curve(tmp_path, "lora")
    assert status == "KILLED"
    assert done == list(range(1, len(done) + 1))
    end(begin(tmp_path, *by_ray(cluster)))
    assert rows(tmp_path) == rows(local)
    assert curve(tmp_path, "lora") == ("FINISHED", list(range(1, 25)))


def test_a_cell_that_fits_on_no_node_is_refused(cluster: Any, tmp_path: Path) -> None:
    err = end(begin(tmp_path, *by_ray(cluster), "launch.resources_per_cell={CPU: 1, GPU: 8}"), 2)
    assert "no node of the Ray cluster has what a cell takes (CPU: 1, GPU: 8)" in err
    assert not (tmp_path / "mlruns" / "harness" / "tiny" / "cells").exists()


@pytest.mark.parametrize("address", ["127.0.0.1:PORT", "ray://127.0.0.1:PORT"])
def test_an_address_that_does_not_answer_is_refused(address: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    target = address.replace("PORT", str(port))
    with pytest.raises(LaunchError, match="doesn't answer"):
        RayLauncher(LaunchConfig(kind="ray", address=target), experiment_folder("tiny"))


@pytest.mark.parametrize(("address", "what"), [("local", "is no cluster"), ("nonsense:port", "is no address")])
def test_what_is_no_address_is_refused(address: str, what: str) -> None:
    with pytest.raises(LaunchError, match=what):
        RayLauncher(LaunchConfig(kind="ray", address=address), experiment_folder("tiny"))


def test_another_version_of_the_cluster_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "Version mismatch: The cluster was started with:\n    Ray: 2.50.0\n    Python: 3.10.2\nThis process was started with:"

    def refuse(**_: object) -> None:
        raise RuntimeError(said)

    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(LaunchError, match=r"different versions .*Ray: 2\.50\.0 Python: 3\.10\.2.*install the same"):
        RayLauncher(LaunchConfig(kind="ray"), experiment_folder("tiny"))
    assert signal.getsignal(signal.SIGTERM) is before


def test_without_ray_the_package_to_install_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(LaunchError, match=r"pip install 'sft-harness\[ray\]'"):
        RayLauncher(LaunchConfig(kind="ray"), experiment_folder("tiny"))
