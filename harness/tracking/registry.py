"""Trained models in MLflow's model registry."""

import importlib.metadata
import json
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from harness.errors import StoreError
from harness.tracking.connection import client, experiment_id_of
from harness.tracking.logged_models import safe_model_name

# What MLflow refuses in the name of a registered model, and in an alias.
MODEL_NAME = re.compile(r"[^/:.%\"']+")
ALIAS = re.compile(r"(?!v\d+$|latest$)[A-Za-z0-9_-]{1,255}")
REQUIREMENTS = ("mlflow", "torch", "transformers", "accelerate", "safetensors")


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keeps to itself what MLflow has to say about every model that it saves or loads."""
    chatty = logging.getLogger("mlflow.transformers")
    level = chatty.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        chatty.setLevel(logging.ERROR)
        try:
            yield
        finally:
            chatty.setLevel(level)


class Registered(NamedTuple):
    """A version of a registered model."""

    name: str
    version: str
    model_id: str


class Described(NamedTuple):
    """What is said of a version."""

    title: str
    """Of the logged model that it is made from."""
    description: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    card: Any
    """A `huggingface_hub.ModelCard`."""


def check_names(name: str, alias: str) -> None:
    """Raises: StoreError: MLflow would refuse the model's name or its alias."""
    if not MODEL_NAME.fullmatch(name):
        raise StoreError(f"--as {name!r}: a model's name can't hold any of / : . % \" '; choose another one")
    if not ALIAS.fullmatch(alias):
        raise StoreError(f"--alias {alias!r}: use letters, digits, '_' and '-' only, and neither `latest` nor `v1`")


def register(run_id: str, model: Any, tokenizer: Any, described: Described, name: str) -> Registered:
    """Logs a model to its run and registers it.

    Args:
        run_id: of the cell; it stays as it ended.
        model: whole, without an adapter: it must load where the base isn't.
        tokenizer: with the template that it was trained with.
        described: what is said of it.
        name: of the registered model.

    Raises: StoreError: MLflow can't take it.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    # MLflow has a chat task of its own, with which `mlflow models serve` answers as OpenAI's servers do.
    task = "llm/v1/chat" if tokenizer.chat_template else "text-generation"
    # MLflow would note the checkpoint's folder as the model's source.
    model.name_or_path = described.title
    try:
        store = client()
        made = store.create_logged_model(
            experiment_id_of(run_id), safe_model_name(described.title), source_run_id=run_id, tags=dict(described.tags),
            params=dict(described.params), model_type="causal-lm",
        )  # fmt: skip
        with quiet_libraries():
            logged = mlflow.transformers.log_model(
                transformers_model={"model": model, "tokenizer": tokenizer}, name=made.name, task=task, model_card=described.card,
                pip_requirements=[f"{name}=={importlib.metadata.version(name)}" for name in REQUIREMENTS],
                run_id=run_id, model_id=made.model_id,
            )  # fmt: skip
        _ensure_name(name)
        version = store.create_model_version(
            name, logged.model_uri, run_id, tags=dict(described.tags), description=described.description,
            model_id=logged.model_id,
        )  # fmt: skip
        # As `mlflow.register_model` does it, which prints: the page of models then names the version.
        versions = json.dumps([{"name": name, "version": str(version.version)}])
        store.set_logged_model_tags(logged.model_id, {"mlflow.modelVersions": versions})
    except MlflowException as error:
        raise StoreError(f"MLflow can't register {name!r}: {str(error).splitlines()[0]}") from error
    return Registered(name, str(version.version), str(logged.model_id))


def _ensure_name(name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client().create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def load_components(registered: Registered) -> Mapping[str, Any]:
    """`model` and `tokenizer` of a version, as anybody loads them."""
    import mlflow

    with quiet_libraries():
        loaded: Mapping[str, Any] = mlflow.transformers.load_model(
            f"models:/{registered.name}/{registered.version}", return_type="components"
        )
    return loaded


def set_alias(registered: Registered, alias: str, description: str) -> None:
    """Points an alias at a version, which gets its last description."""
    store = client()
    store.update_model_version(registered.name, registered.version, description)
    store.set_registered_model_alias(registered.name, alias, registered.version)
