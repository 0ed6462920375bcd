"""Many processes write to one SQLite file or one PostgreSQL database: nothing is lost, and no password is kept."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest

from benchmarks.clusters.delivered import same_curve
from benchmarks.clusters.postgres_database import PASSWORD, Database, postgres_database, postgres_programs
from benchmarks.tracking_writers import measure
from harness.errors import StoreError
from harness.tracking import connection
from harness.tracking.recorded_runs import recorded_runs

YAML = """\
name: direct
model: {name: embedded:base}
template: {name: chatml}
data: {train: embedded:train, validation: embedded:validation, test: embedded:test, limit: 24}
training: {max_steps: 2, per_device_train_batch_size: 8, max_length: 128, gradient_checkpointing: false}
evals: [{suite: held_out, limit: 4, max_new_tokens: 4}]
ranking: {by: held_out.nll, gates: []}
references: []
tracking: {uri: "ADDRESS", system_metrics: false}
"""


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    if postgres_programs() is None:
        pytest.skip("PostgreSQL isn't installed (Debian: apt install postgresql)")
    pytest.importorskip("psycopg2", reason="pip install 'sft-harness[postgres]'")
    with postgres_database() as made:
        yield made


@pytest.fixture(autouse=True)
def _own_store() -> Iterator[None]:
    before = mlflow.get_tracking_uri()
    yield
    mlflow.set_tracking_uri(before)
    # MLflow exports what it is told; processes of other tests must not inherit it.
    os.environ.pop("MLFLOW_TRACKING_URI", None)


def test_eight_processes_write_to_one_sqlite_file(tmp_path: Path) -> None:
    found = measure("SQLite", f"sqlite:///{tmp_path / 'writers.db'}", writers=8, steps=200, step_ms=0)
    assert (found.points, found.lost, found.twice, found.wrong) == (6400, 0, 0, 0)


def test_eight_processes_write_to_one_postgresql_database(database: Database) -> None:
    found = measure("PostgreSQL", database.uri, writers=8, steps=200, step_ms=0)
    assert (found.points, found.lost, found.twice, found.wrong) == (6400, 0, 0, 0)


def test_an_experiment_in_postgresql_keeps_no_password(database: Database, tmp_path: Path) -> None:
    (tmp_path / "direct.yaml").write_text(YAML.replace("ADDRESS", database.uri))
    outputs = []
    for command in (("run", "direct.yaml"), ("rank", "direct"), ("list",), ("sync",)):
        done = subprocess.run(
            [sys.executable, "-m", "harness", *command], cwd=tmp_path, capture_output=True, text=True, check=False,
            env={name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"},
        )  # fmt: skip
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        outputs.append(done.stdout + done.stderr)
    connection.select_store(database.uri)
    client = connection.client()
    runs = client.search_runs([client.get_experiment_by_name("direct").experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}
    told = "".join(f"{run.data.params} {run.data.tags}" for run in runs)
    kept = [path.read_bytes() for path in (tmp_path / "mlruns").rglob("*") if path.is_file()]
    quoted = database.uri.partition("@")[0].rpartition(":")[2]
    for password in (PASSWORD, quoted):
        assert password not in "".join(outputs) + told
        assert not any(password.encode() in content for content in kept)


@pytest.mark.parametrize(
    ("missing", "advice"),
    [("psycopg2", "pip install 'sft-harness[postgres]'"), ("psycopg", "postgresql+psycopg2://")],
)
def test_a_missing_driver_is_one_sentence(monkeypatch: pytest.MonkeyPatch, missing: str, advice: str) -> None:
    # What Python takes for a module that can't be found.
    monkeypatch.setitem(sys.modules, missing, None)
    uri = f"postgresql+{missing}://user:{PASSWORD}@127.0.0.1:1/mlflow"
    for attempt in (lambda: connection.connect(uri, "x"), lambda: recorded_runs("x", uri)):
        with pytest.raises(StoreError) as caught:
            attempt()
        assert f"the database's driver {missing} isn't installed" in str(caught.value)
        assert advice in str(caught.value)
        assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize(
    ("stored", "is_same"),
    [
        ([(1, 0.5), (2, float("nan")), (3, 1.797e308)], True),
        ([(1, 0.5), (2, float("nan"))], False),
        ([(1, 0.5), (1, 0.5), (2, float("nan")), (3, float("inf"))], False),
        ([(1, 0.25), (2, float("nan")), (3, float("inf"))], False),
    ],
)
def test_curves_are_compared_point_by_point(stored: list[tuple[int, float]], is_same: bool) -> None:
    assert same_curve({1: 0.5, 2: float("nan"), 3: float("inf")}, stored) is is_same
