"""Cells on nodes that don't see the experiment's folder: a real MLflow server, and a folder that is gone while they work."""

import json
import os
import stat
import subprocess
import sys
import time
import zipfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from mlflow.exceptions import MlflowException
from requests import HTTPError

from harness import travel, travel_bundle
from harness.cli.main import main
from harness.errors import LaunchError, StoreError
from harness.launch.base import PackJob, PackState
from harness.launch.ray_task import token
from harness.resources import file_digest
from harness.store import CellFolder, experiment_folder

YAML = """\
name: tiny
model: {name: embedded:base}
template: {name: TEMPLATE}
data: {train: rows.jsonl, validation: embedded:validation, test: embedded:test, limit: 40}
training:
  learning_rate: 1e-3
  max_steps: 8
  per_device_train_batch_size: 8
  max_length: 64
  gradient_checkpointing: false
  eval_steps: 4
variants:
  full: {}
  lora: {adapter: {r: 8, lora_alpha: 16, target_modules: all-linear}}
evals: [{suite: held_out, limit: 8, max_new_tokens: 8}, {suite: own, limit: 4, max_new_tokens: 8}]
ranking: {by: held_out.nll, gates: []}
tracking: {system_metrics: false}
"""
SUITE = """\
from harness.scoring.table import SCORERS
from harness.suite import Suite

SUITE = Suite(name="own", version=1, description="Mine.", scorers={"exact_match": SCORERS["exact_match"]})
"""
TEMPLATE = Path(__file__).parent.parent / "experiments" / "chatml_end_not_trained.jinja"


class Elsewhere:
    """Runs packs as a node does that doesn't share the folder, which is gone meanwhile; the first worker dies half-way."""

    threads = 1

    def __init__(self, root: Path, nodes: Path) -> None:
        self.root, self.nodes = root, nodes
        self.has_died = False

    def launch(self, packs: Sequence[PackJob], environment: Mapping[str, str]) -> Generator[PackState]:
        folder = experiment_folder("tiny")
        bundle = travel.send(folder, [CellFolder(path) for pack in packs for path in pack.folders], "far")
        for index, pack in enumerate(packs):
            yield PackState(index, None)
            hidden = self.root.rename(self.root.with_name("hidden"))
            try:
                done = self._work(bundle, pack, environment)
            finally:
                hidden.rename(self.root)
            missing = travel.bring_back([CellFolder(path) for path in pack.folders], [done])
            assert not missing, missing
            yield PackState(index, 0)

    def _work(self, bundle: travel.Bundle, pack: PackJob, environment: Mapping[str, str]) -> str:
        """Digest of the result."""
        node = self.nodes / f"node-{pack.folders[0].name}"
        there = self._fetch(bundle, pack, environment, node)
        if not self.has_died and json.loads((there / "cell.json").read_text())["cell"]["name"] == "full":
            self._die(there, environment)
            # Another node: nothing of what the first one had on its disk.
            there = self._fetch(bundle, pack, environment, node.with_name("spare"))
        self._harness([str(there)], environment, cwd=there.parents[4])
        self._harness(["--deliver", str(there)], environment, cwd=there.parents[4])
        assert not (there / "checkpoints").exists(), "the node's disk is freed"
        return token(there / "result.json")

    def _fetch(self, bundle: travel.Bundle, pack: PackJob, environment: Mapping[str, str], node: Path) -> Path:
        node.mkdir(parents=True)
        where = self._harness(["--fetch", *bundle, *map(str, pack.folders)], environment | {"TMPDIR": str(node)}, node)
        assert Path(where).is_relative_to(node)
        return Path(where) / "cells" / pack.folders[0].name

    def _die(self, there: Path, environment: Mapping[str, str]) -> None:
        command = [sys.executable, "-m", "harness", "run-pack", str(there)]
        worker = subprocess.Popen(
            command, cwd=there.parents[4], env=_environment(environment), stderr=subprocess.DEVNULL
        )
        trace = there / "trace.jsonl"
        while worker.poll() is None and not (trace.exists() and len(trace.read_text().splitlines()) > 4):
            time.sleep(0.05)
        # What it has logged is on its way.
        time.sleep(3)
        worker.kill()
        worker.wait()
        self.has_died = True

    def _harness(self, arguments: Sequence[str], environment: Mapping[str, str], cwd: Path) -> str:
        command = [sys.executable, "-m", "harness", "run-pack", *arguments]
        done = subprocess.run(
            command, cwd=cwd, env=_environment(environment), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)} | more


def harness(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments), catch_exceptions=False)


def prepare(folder: Path) -> None:
    (folder / "evals").mkdir(parents=True)
    (folder / "evals" / "own.py").write_text(SUITE)
    (folder / "tiny.yaml").write_text(YAML.replace("TEMPLATE", str(TEMPLATE)))
    turns = [[{"role": "user", "content": f"I want {n} roses."}, {"role": "assistant", "content": "I noted it."}] for n in range(48)]  # fmt: skip
    (folder / "rows.jsonl").write_text("\n".join(json.dumps({"messages": turn}) for turn in turns))


def ranked(folder: Path) -> list[tuple[str, int, float]]:
    ranking = json.loads((folder / "mlruns/harness/tiny/ranking.json").read_text())
    return [(row["name"], row["rank"], row["metrics"]["held_out.nll"]["value"]) for row in ranking["rows"]]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, server: str) -> Iterator[tuple[Path, Path]]:
    """The working folders of the same experiment on this machine and on nodes without a shared folder."""
    base = tmp_path_factory.mktemp("travel")
    here, far = base / "here", base / "far"
    with pytest.MonkeyPatch.context() as patch:
        for folder in (here, far):
            prepare(folder)
        patch.chdir(here)
        done = harness("run", "tiny.yaml", "--set", "launch.workers=2")
        assert done.exit_code == 0, done.output
        patch.chdir(far)
        patch.setattr("harness.experiment.choose_launcher", lambda *_: Elsewhere(far, base / "nodes"))
        patch.setenv("MLFLOW_TRACKING_URI", server)
        done = harness("run", "tiny.yaml")
        assert done.exit_code == 0, done.output
        yield here, far


def test_cells_without_a_shared_folder_rank_as_local_ones(ran: tuple[Path, Path]) -> None:
    here, far = ran
    assert ranked(far) == ranked(here)
    assert (far / "mlruns/harness/tiny/report.html").stat().st_size > 100_000


def test_the_run_of_a_lost_node_goes_on_without_gap_or_double(ran: tuple[Path, Path], server: str) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(server)
    experiment = client.get_experiment_by_name("tiny")
    runs = client.search_runs([experiment.experiment_id])
    assert {run.info.run_name: run.info.status for run in runs} == dict.fromkeys(("full", "lora", "base", "tiny (report)"), "FINISHED")  # fmt: skip
    assert len(runs) == 4
    for run in runs:
        if run.info.run_name in ("full", "lora"):
            points = client.get_metric_history(run.info.run_id, "loss")
            assert sorted(point.step for point in points) == list(range(1, 9))
            kept = {file.path for file in client.list_artifacts(run.info.run_id, "checkpoints/last")}
            assert any(name.endswith(".safetensors") for name in kept)


def test_records_come_back_whole(ran: tuple[Path, Path]) -> None:
    _, far = ran
    for path in (far / "mlruns/harness/tiny/cells").iterdir():
        spec = json.loads((path / "cell.json").read_text())
        assert spec["cell"]["config"]["template"]["name"] == str(TEMPLATE), "the cell's own record is untouched"
        assert (path / "result.json").exists()
        assert list(path.glob("generations/held_out-*.jsonl"))
        if spec["cell"]["seed"] is not None:
            assert len((path / "trace.jsonl").read_text().splitlines()) >= 8


def test_weights_are_fetched_when_somebody_wants_them(ran: tuple[Path, Path], tmp_path: Path) -> None:
    _, far = ran
    assert not list(far.glob("mlruns/harness/tiny/cells/*/checkpoints/checkpoint-*"))
    done = harness("export", "lora", str(tmp_path / "model"))
    assert done.exit_code == 0, done.output
    assert (tmp_path / "model" / "adapter_model.safetensors").stat().st_size > 1000
    assert len(list(far.glob("mlruns/harness/tiny/cells/*/checkpoints/checkpoint-*"))) == 1


def test_a_store_on_this_disk_is_refused(tmp_path: Path, store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cell = CellFolder(tmp_path / "cells" / "abc")
    monkeypatch.setattr(travel, "read_record", lambda *_: type("Spec", (), {"parent_run_id": "r"}))
    with pytest.raises(LaunchError, match="node far doesn't share the folder .* set tracking.uri to an MLflow server"):
        travel.send(experiment_folder("tiny"), [cell], "far")


def bundle_of(path: Path, members: Sequence[tuple[str | zipfile.ZipInfo, str]]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in members:
            archive.writestr(name, text)
    return path


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize(
    "members",
    [
        [("../evil", "x")],
        [("a/../../evil", "x")],
        [("/tmp/evil", "x")],
        [("a\\..\\evil", "x")],
        [("C:evil", "x")],
        [("a//evil", "x")],
        [("./evil", "x")],
        [("folder/", "")],
        [(link("evil"), "/etc/passwd")],
        [("evil", "x"), ("evil", "y")],
        [("evil", "x"), ("evil/deeper", "y")],
        [("evil", "x" * 200)],
        [("nothing", "of note")],
        [("travel.json", '{"experiment": "../../up"}')],
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_hostile_bundle_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, members: list[tuple[str | zipfile.ZipInfo, str]]
) -> None:
    monkeypatch.setattr(travel_bundle, "MAX_BYTES", 50)
    archive = bundle_of(tmp_path / "b.zip", members)
    inside = tmp_path / "node" / "opened"
    with pytest.raises(StoreError):
        travel_bundle.open_bundle(archive, file_digest(archive), inside)
    assert [path for path in tmp_path.rglob("*evil*") if not path.is_relative_to(inside)] == []
    assert not any(path.is_symlink() for path in tmp_path.rglob("*"))


def test_a_bundle_that_was_changed_is_refused(tmp_path: Path) -> None:
    archive = bundle_of(tmp_path / "b.zip", [("travel.json", '{"experiment": "mlruns/harness/tiny"}')])
    with pytest.raises(StoreError, match="not the one that"):
        travel_bundle.open_bundle(archive, "0" * 64, tmp_path / "opened")


def test_a_file_that_is_another_one_on_the_node_is_named(tmp_path: Path) -> None:
    named = tmp_path / "questions.jsonl"
    named.write_text('{"a": 1}\n')
    expected = travel_bundle.Expected(kind="data", path=str(named), digest=file_digest(named))
    manifest = travel_bundle.Manifest(experiment="mlruns/harness/tiny", expected=(expected,))
    assert travel_bundle.missing_here(manifest) == ""
    named.write_text('{"a": 2}\n')
    assert travel_bundle.missing_here(manifest) == str(named)


def test_a_folder_that_others_can_write_to_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(travel.tempfile, "gettempdir", lambda: str(tmp_path))
    (tmp_path / f"sft-harness-{os.getuid()}").mkdir()
    (tmp_path / f"sft-harness-{os.getuid()}").chmod(0o777)
    with pytest.raises(StoreError, match="not a folder of this user's alone"):
        travel._own_folder()


def test_a_store_that_is_away_for_a_while_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(travel, "PAUSE_SECONDS", 0.0)
    answers = iter([ConnectionError("refused"), TimeoutError("silent"), None])

    def call() -> str:
        if (error := next(answers)) is not None:
            raise error
        return "there"

    assert travel.patiently(call) == "there"


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (ValueError("refused for good"), 600.0),
        (ConnectionError("away"), 0.0),
        (HTTPError("413 Client Error: Request Entity Too Large for url: http://x"), 600.0),
        (MlflowException("API request to /x failed with error code 403 != 200"), 600.0),
    ],
)
def test_a_store_that_refuses_or_is_away_for_too_long_is_not(
    error: Exception, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(travel, "AWAY_SECONDS", seconds)
    calls = []

    def call() -> None:
        calls.append(1)
        raise error

    with pytest.raises(type(error)):
        travel.patiently(call)
    assert len(calls) == 1
