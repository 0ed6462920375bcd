"""Checkpoints as MLflow logged models, which the metrics of a cell are linked to."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from harness.grid import CellSpec
from harness.records import TrainResult
from harness.tracking.connection import client, current_uri

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel

UNSAFE_MODEL_NAME = re.compile(r"[^\w=,+-]")
KIND_TAG, CHECKPOINT_TAG, EVALUATED_TAG = "harness.checkpoint_kind", "harness.checkpoint", "harness.evaluated"
TRAINING_STATE = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "trainer_state.json")


def safe_model_name(name: str) -> str:
    """The name without what MLflow refuses in one."""
    return UNSAFE_MODEL_NAME.sub("_", name)


def is_on_this_disk() -> bool:
    """Whether the store is a file here, so that a path says where a checkpoint is."""
    return urlsplit(current_uri()).scheme in ("sqlite", "file", "")


def find_models(run_id: str, experiment_id: str) -> Mapping[str, "LoggedModel"]:
    """`best` and `last` -> the logged model of a run's checkpoint."""
    found = client().search_logged_models([experiment_id], f"source_run_id = '{run_id}'")
    return {model.tags[KIND_TAG]: model for model in found if KIND_TAG in model.tags}


def evaluated_model(run_id: str, experiment_id: str) -> str:
    """The id of the logged model of a run's evaluated checkpoint; empty where there is none."""
    models = find_models(run_id, experiment_id).values()
    return next((str(model.model_id) for model in models if model.tags.get(EVALUATED_TAG) == "true"), "")


def log_checkpoint(run_id: str, experiment_id: str, spec: CellSpec, result: TrainResult, kind: str, path: Path) -> str:
    """Makes a checkpoint a logged model of its run; returns its id.

    By reference where the store is on this disk, else as artifacts of the run without the optimizer's state. A cell that
    is trained or evaluated again keeps its models.
    """
    import mlflow
    from mlflow.entities import LoggedModelOutput

    step = checkpoint_step(result, kind)
    tags = _tags(run_id, spec, result, kind, path)
    known = find_models(run_id, experiment_id).get(kind)
    # The step is a param, and params can't be changed.
    if known is not None and known.params.get("step") == str(step):
        client().set_logged_model_tags(known.model_id, tags)
        model_id = str(known.model_id)
    else:
        if known is not None:
            client().delete_logged_model(known.model_id)
        model = mlflow.create_external_model(
            name=f"{safe_model_name(spec.cell.name)}-{kind}", source_run_id=run_id, params=_params(spec, result, step),
            tags=tags, model_type="adapter" if spec.cell.config.adapter is not None else "causal-lm", experiment_id=experiment_id,
        )  # fmt: skip
        model_id = str(model.model_id)
        client().log_outputs(run_id, [LoggedModelOutput(model_id, step)])
    if not is_on_this_disk():
        _upload(run_id, path, f"checkpoints/{kind}")
    return model_id


def _upload(run_id: str, path: Path, to: str) -> None:
    """Sends the files of a checkpoint that the run doesn't have; a half-sent one has another size."""
    there = {Path(file.path).name: file.file_size for file in client().list_artifacts(run_id, to)}
    for file in sorted(path.iterdir()):
        if file.name not in TRAINING_STATE and there.get(file.name) != file.stat().st_size:
            client().log_artifact(run_id, str(file), to)


def checkpoint_step(result: TrainResult, kind: str) -> int:
    """The optimizer step that a checkpoint was saved at."""
    return int(result.checkpoints[kind].rpartition("-")[2])


def _params(spec: CellSpec, result: TrainResult, step: int) -> dict[str, str]:
    """What tells one checkpoint of an experiment from another."""
    cell = spec.cell
    swept = {key: str(value) for key, value in cell.overrides.items()}
    about = {
        "base_model": cell.config.model.name,
        "template": Path(cell.config.template.name).name,
        "adapter": str((cell.config.adapter or {}).get("r", "none")) if cell.config.adapter else "none",
        "seed": str(cell.seed),
        "step": str(step),
        "trainable_parameters": str(result.num_trainable_parameters),
    }
    return {name: value[:500] for name, value in (swept | about).items()}


def _tags(run_id: str, spec: CellSpec, result: TrainResult, kind: str, path: Path) -> dict[str, str]:
    where = str(path) if is_on_this_disk() else f"runs:/{run_id}/checkpoints/{kind}"
    return {
        "harness.experiment": spec.experiment,
        "harness.cell": spec.cell.id,
        "harness.grid_key": spec.cell.group,
        KIND_TAG: kind,
        CHECKPOINT_TAG: where,
        EVALUATED_TAG: "true" if kind == result.evaluated else "false",
    }
