"""The MLflow run of a whole experiment, which holds the report, and what the parent adds to its cells' runs."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.config import ExperimentConfig
from harness.ranking import Ranking
from harness.records import CellResult
from harness.reports.decision import experiment_argument
from harness.store import ExperimentFolder, write_text
from harness.tracking.base import RunStatus
from harness.tracking.connection import client, deliver, reopen, run_status, source_tags
from harness.tracking.notes import NOTE_TAG, experiment_note
from harness.tracking.outcomes import SWEEP_COLUMNS, compared_fields, swept_everywhere
from harness.tracking.ownership import ERROR_TAG, MAX_TAG_LENGTH, owner_tags
from harness.tracking.views import Shown, logged_name, save_view
from harness.tracking.writer import UNSAFE_NAME, MetricWriter


def open_parent_run(folder: ExperimentFolder, experiment_id: str, name: str, config: Mapping[str, Any]) -> str:
    """The run that holds the report: the one of an earlier `harness run` while it exists, else a new one."""
    store = client()
    if folder.parent_run_id.exists():
        run_id = folder.parent_run_id.read_text().strip()
        if run_status(run_id):
            reopen(run_id)
            return run_id
    tags = {
        **source_tags(name),
        **owner_tags(),
        "harness.experiment": name,
        "harness.kind": "experiment",
        "mlflow.note.content": str(config.get("description", "")),
    }
    run_id = store.create_run(experiment_id, tags=tags, run_name=f"{name} (report)").info.run_id
    # First its id: whatever ends this process, the next one goes on with the same run.
    write_text(folder.parent_run_id, run_id)
    deliver("plan", lambda: store.log_dict(run_id, dict(config), "experiment.json"))
    return str(run_id)


@contextmanager
def beating(run_id: str) -> Iterator[None]:
    """Says every half minute that the process of a run lives, as long as this lasts."""
    writer = MetricWriter(client(), run_id)
    try:
        yield
    finally:
        writer.close()


def close_parent_run(run_id: str, files: Sequence[Path], tags: Mapping[str, str], *, failed: bool) -> None:
    """Uploads the report and ends the parent run."""
    from mlflow.entities import RunTag

    store = client()
    for path in files:
        store.log_artifact(run_id, str(path), "charts" if path.parent.name == "charts" else None)
    store.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
    store.set_terminated(run_id, "FAILED" if failed else "FINISHED")


def describe_experiment(
    run_id: str, experiment_id: str, ranking: Ranking, results: Sequence[CellResult], config: ExperimentConfig
) -> str:
    """Gives the experiment its note and its view; returns the note.

    Args:
        run_id: of the parent run, which holds the report.
        experiment_id: at MLflow.
        ranking: of the experiment.
        results: of its cells and references.
        config: of the experiment.
    """
    report = f"#/experiments/{experiment_id}/runs/{run_id}/artifacts/report.html"
    note = experiment_note(ranking, config.description, report, f"harness run {experiment_argument(config)}")
    deliver("note", lambda: client().set_experiment_tag(experiment_id, NOTE_TAG, note))
    whole = {name for result in results for name in result.metrics()}
    measured = [name for name in ranking.secondary if name in whole]

    def params(fields: Sequence[str]) -> tuple[str, ...]:
        return tuple(UNSAFE_NAME.sub("_", f"sweep.{field}") for field in fields[:SWEEP_COLUMNS])

    swept, everywhere = params(compared_fields(results)), params(swept_everywhere(results))
    save_view(experiment_id, Shown(logged_name(ranking.criterion, whole), tuple(measured), swept, everywhere))
    return note


def end_run(run_id: str, status: RunStatus, error: str = "") -> None:
    """Ends a run whose process died, with the reason where one is known."""
    if error:
        client().set_tag(run_id, ERROR_TAG, error[:MAX_TAG_LENGTH])
    client().set_terminated(run_id, status)
