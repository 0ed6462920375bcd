"""What an experiment has left: its folder and its MLflow store, read without the product, which may be what is wrong."""

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ARTIFACT_SCHEME = "mlflow-artifacts:/"
Number = float | str
"""A number, or the name of one that is not finite."""


@dataclass(frozen=True, slots=True)
class Run:
    """One MLflow run."""

    run_id: str
    name: str
    kind: str
    """cell, reference or experiment."""
    cell: str
    """Its id; empty for the run of the whole experiment."""
    status: str
    error: str = ""
    """The tag that says why it failed."""
    curves: Mapping[str, Sequence[tuple[int, Number]]] = field(default_factory=dict)
    """Metric -> step and value of every row of the store."""
    params: frozenset[str] = frozenset()
    files: frozenset[str] = frozenset()
    """Artifacts, relative to the run's own folder."""
    models: tuple[str, ...] = ()
    """Names of its logged models."""
    datasets: tuple[str, ...] = ()
    """Ids of its inputs."""
    traces: int = 0


@dataclass(frozen=True, slots=True)
class CellState:
    """The folder of one cell or reference."""

    cell: str
    name: str
    status: str
    """Of its result; empty where there is none."""
    trace: tuple[tuple[int, Mapping[str, Number]], ...] = ()
    """Step and values of every line."""
    lines: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """File of lines -> what each line is about."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything of one experiment at one moment."""

    cells: Mapping[str, CellState]
    """By id."""
    runs: tuple[Run, ...]
    ranking: Mapping[str, Any]


def read_snapshot(
    folder: Path, experiment: str, database: Path | None = None, artifacts: Path | None = None
) -> Snapshot:
    """The state of an experiment.

    Args:
        folder: where `harness run` was started.
        experiment: its name.
        database: SQLite file of the MLflow store; None: `mlflow.db` in the folder.
        artifacts: where a tracking server keeps what it serves.
    """
    root = folder / "mlruns" / "harness" / experiment
    cells = [_cell(path.parent) for path in sorted(root.glob("cells/*/cell.json"))]
    ranking = root / "ranking.json"
    store = database or folder / "mlflow.db"
    return Snapshot(
        {cell.cell: cell for cell in cells},
        tuple(_runs(store, experiment, artifacts)) if store.exists() else (),
        json.loads(ranking.read_text()) if ranking.exists() else {},
    )


def _cell(folder: Path) -> CellState:
    spec = json.loads((folder / "cell.json").read_text())["cell"]
    result = folder / "result.json"
    status = json.loads(result.read_text())["status"] if result.exists() else ""
    trace = [(point["step"], point["values"]) for point in _json_lines(folder / "trace.jsonl")]
    lines = {
        "probes.jsonl": [f"{line['split']} at step {line['step']}" for line in _json_lines(folder / "probes.jsonl")]
    }
    lines["extraction.jsonl"] = [str(line) for line in _json_lines(folder / "extraction.jsonl")]
    for path in sorted(folder.glob("generations/*.jsonl")):
        lines[path.name] = [f"{line['example_id']}: {line['text']}" for line in _json_lines(path)]
    return CellState(spec["id"], spec["name"], status, tuple(trace), lines)


def _json_lines(path: Path) -> Iterator[Any]:
    """A last line that a kill left half-written counts as none, as it does for the product."""
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    for number, line in enumerate(lines):
        try:
            if line:
                yield json.loads(line)
        except ValueError:
            if number < len(lines) - 1:
                raise


def _runs(database: Path, experiment: str, artifacts: Path | None) -> Iterator[Run]:
    store = sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=60)
    try:
        found = store.execute(
            "select run_uuid, r.name, status, artifact_uri from runs r join experiments e using (experiment_id) "
            "where e.name = ? and r.lifecycle_stage = 'active' order by start_time",
            (experiment,),
        ).fetchall()
        for run_id, name, status, uri in found:
            yield _run(store, str(run_id), str(name), str(status), _place(str(uri), artifacts))
    finally:
        store.close()


def _run(store: sqlite3.Connection, run_id: str, name: str, status: str, artifacts: Path) -> Run:
    def rows(query: str) -> list[tuple[Any, ...]]:
        return store.execute(query, (run_id,)).fetchall()

    tags = dict(rows("select key, value from tags where run_uuid = ?"))
    curves: dict[str, list[tuple[int, Number]]] = {}
    for key, step, value, is_nan in rows(
        "select key, step, value, is_nan from metrics where run_uuid = ? order by step"
    ):
        curves.setdefault(key, []).append((step, "nan" if is_nan else value))
    return Run(
        run_id, name, tags.get("harness.kind", ""), tags.get("harness.cell", ""), status, tags.get("harness.error", ""), curves,
        params=frozenset(key for (key,) in rows("select key from params where run_uuid = ?")),
        files=frozenset(str(path.relative_to(artifacts)) for path in artifacts.rglob("*") if path.is_file()),
        models=tuple(key for (key,) in rows("select name from logged_models where source_run_id = ? order by name")),
        datasets=tuple(key for (key,) in rows("select source_id from inputs where destination_id = ? and source_type = 'DATASET'")),
        traces=rows("select count(*) from trace_request_metadata where key = 'mlflow.sourceRun' and value = ?")[0][0],
    )  # fmt: skip


def _place(uri: str, artifacts: Path | None) -> Path:
    if uri.startswith(ARTIFACT_SCHEME):
        assert artifacts is not None, "a server keeps them somewhere"
        return artifacts / uri.removeprefix(ARTIFACT_SCHEME).lstrip("/")
    return Path(uri.removeprefix("file://"))


def repeated(things: Sequence[Any]) -> list[Any]:
    """Those that are there more than once."""
    return [thing for thing, times in Counter(things).items() if times > 1]
