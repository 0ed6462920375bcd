"""Compares what a tracking server has of an experiment with what its cell folders say."""

import hashlib
import json
import math
import os
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mlflow import MlflowClient
from mlflow.entities import Run

from harness.records import CellResult, TracePoint
from harness.store import ExperimentFolder, read_lines, read_record
from harness.tracking.points import LARGEST
from harness.tracking.record_files import ARTIFACT
from harness.tracking.writer import UNSAFE_NAME

STATUS = {"finished": "FINISHED", "failed": "FAILED", "killed": "KILLED"}


class Check(NamedTuple):
    """What was compared, how much of it there is, and what is wrong."""

    what: str
    count: int
    wrong: tuple[str, ...]


def check_delivery(folder: ExperimentFolder, name: str, url: str) -> list[Check]:
    """Everything that a user would miss.

    Args:
        folder: of the experiment, where it was trained.
        name: of the experiment.
        url: of the server.
    """
    client = MlflowClient(url)
    results = [read_record(path, CellResult) for path in sorted(folder.path.glob("cells/*/result.json"))]
    experiment = client.get_experiment_by_name(name)
    runs = {run.data.tags.get("harness.cell", ""): run for run in client.search_runs([experiment.experiment_id])}
    return [
        _statuses(results, runs),
        _curves(folder, results, client),
        _ranking(folder, name, url),
        _artifacts(results, runs, url),
    ]


def _statuses(results: Sequence[CellResult], runs: dict[str, Run]) -> Check:
    wrong = []
    for result in results:
        run = runs.get(result.cell)
        if run is None or run.info.status != STATUS[result.status]:
            wrong.append(f"{result.name} is {result.status}, its run {run.info.status if run else 'is missing'}")
    if runs[""].info.status == "RUNNING":
        wrong.append("the run with the report is RUNNING")
    if len(runs) != len(results) + 1:
        wrong.append(f"{len(runs)} runs of {len(results)} cells and references")
    return Check("runs with the status of their cell", len(runs), tuple(wrong))


def _curves(folder: ExperimentFolder, results: Sequence[CellResult], client: MlflowClient) -> Check:
    wrong, count = [], 0
    for result in results:
        expected: dict[str, dict[int, float]] = {}
        for point in read_lines(folder.cell(result.cell).trace, TracePoint):
            for metric, value in point.values.items():
                expected.setdefault(UNSAFE_NAME.sub("_", metric), {})[point.step] = float(value)
        for metric, curve in expected.items():
            stored = sorted((m.step, m.value) for m in client.get_metric_history(result.mlflow_run_id, metric))
            count += len(stored)
            if not same_curve(curve, stored):
                wrong.append(f"{result.name}: {metric} has {len(stored)} points, trace.jsonl {len(curve)}")
    return Check("points of curves, each once, as in trace.jsonl", count, tuple(wrong))


def same_curve(expected: dict[int, float], stored: Sequence[tuple[int, float]]) -> bool:
    """Whether a curve has every step once, with its value, as far as a store can tell."""
    return [step for step, _ in stored] == sorted(expected) and all(
        math.isnan(value) if math.isnan(expected[step])
        else value == expected[step] or (abs(value) > LARGEST and math.isinf(expected[step]))
        for step, value in stored
    )  # fmt: skip


def _ranking(folder: ExperimentFolder, name: str, url: str) -> Check:
    """The ranking of a folder that has nothing, made from the server, against the one of the cell folders."""
    own = _ranked(folder.path.parents[2], name, url)
    with tempfile.TemporaryDirectory() as empty:
        theirs = _ranked(Path(empty), name, url)
    rows = len(own["rows"])
    return Check("rows of a ranking from the server alone", rows, () if own == theirs else ("it differs",))


def _ranked(folder: Path, name: str, url: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "harness", "rank", name, "--json"]
    environment = os.environ | {"MLFLOW_TRACKING_URI": url}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    return dict(json.loads(done.stdout))


def _artifacts(results: Sequence[CellResult], runs: dict[str, Run], url: str) -> Check:
    """Records and reports, as a browser would fetch them."""
    wrong, count = [], 0
    for run, path in _wanted(results, runs):
        query = urllib.parse.urlencode({"path": path, "run_uuid": run.info.run_id})
        with urllib.request.urlopen(f"{url}/get-artifact?{query}", timeout=60) as answer:
            content = answer.read()
        count += 1
        if path == ARTIFACT and hashlib.sha256(content).hexdigest() != run.data.tags["harness.records"]:
            wrong.append(f"{run.info.run_name}: {path} is not what its run states")
        if path == "report.html" and b"</html>" not in content:
            wrong.append("report.html is not whole")
    return Check("artifacts fetched over HTTP, with the right digest", count, tuple(wrong))


def _wanted(results: Sequence[CellResult], runs: dict[str, Run]) -> Iterator[tuple[Run, str]]:
    yield runs[""], "report.html"
    yield from ((runs[result.cell], ARTIFACT) for result in results if result.cell in runs)
