"""The MLflow run of a whole experiment, which holds the report, and what the parent adds to its cells' runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.records import Finding, warning_names
from harness.store import ExperimentFolder, write_text
from harness.tracking.base import RunStatus
from harness.tracking.connection import client, run_exists, source_tags


def open_parent_run(folder: ExperimentFolder, experiment_id: str, name: str, config: Mapping[str, Any]) -> str:
    """The run that holds the report: the one of an earlier `harness run` while it exists, else a new one."""
    store = client()
    if folder.parent_run_id.exists():
        run_id = folder.parent_run_id.read_text().strip()
        if run_exists(run_id):
            store.update_run(run_id, status="RUNNING")
            return run_id
    tags = {
        **source_tags(name),
        "harness.experiment": name,
        "harness.kind": "experiment",
        "mlflow.note.content": str(config.get("description", "")),
    }
    run_id = store.create_run(experiment_id, tags=tags, run_name=f"{name} (report)").info.run_id
    store.log_dict(run_id, dict(config), "experiment.json")
    write_text(folder.parent_run_id, run_id)
    return str(run_id)


def close_parent_run(run_id: str, files: Sequence[Path], params: Mapping[str, str], *, failed: bool) -> None:
    """Uploads the report and ends the parent run."""
    store = client()
    for path in files:
        store.log_artifact(run_id, str(path))
    for key, value in params.items():
        store.set_tag(run_id, key, value)
    store.set_terminated(run_id, "FAILED" if failed else "FINISHED")


def log_findings(run_id: str, findings: Sequence[Finding]) -> None:
    """Findings as tags (`harness.finding.CHECK`) and as one JSON file."""
    from mlflow.entities import RunTag

    store = client()
    tags = [
        RunTag(f"harness.finding.{f.check}", f"{f.severity}: {f.message}" if f.outcome == "fired" else f.outcome)
        for f in findings
    ]
    store.log_batch(run_id, tags=[*tags, RunTag("harness.warnings", warning_names(findings) or "none")])
    store.log_dict(run_id, {"findings": [f.model_dump(mode="json") for f in findings]}, "findings.json")


def end_run(run_id: str, status: RunStatus) -> None:
    """Ends a run whose process died."""
    client().set_terminated(run_id, status)
