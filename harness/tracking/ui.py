"""Starts the stock MLflow UI."""

import os
import sys
from collections.abc import Sequence

from harness.errors import StoreError
from harness.tracking.connection import select_store, without_password
from harness.tracking.views import VIEW_QUERY


def experiment_addresses(names: Sequence[str], uri: str | None, port: int) -> list[str]:
    """Where the UI shows each experiment.

    Raises: StoreError: MLflow knows no experiment of that name.
    """
    store = select_store(uri)
    import mlflow

    server = store.rstrip("/") if is_server(store) else f"http://127.0.0.1:{port}"
    addresses = []
    for name in names:
        found = mlflow.get_experiment_by_name(name)
        if found is None:
            raise StoreError(
                f"MLflow at {without_password(store)} knows no experiment {name!r}; run it in this folder first"
            )
        addresses.append(f"{without_password(server)}/#/experiments/{found.experiment_id}/runs?{VIEW_QUERY}")
    return addresses


def is_server(uri: str | None) -> bool:
    """Whether the store is a tracking server, which shows its own UI."""
    return (uri or "").startswith(("http://", "https://"))


def become_ui(uri: str | None, port: int) -> None:
    """Replaces this process by `mlflow ui` on this machine alone, so that whoever stops this one stops it.

    The store travels in the environment: it may hold a password, which the command line would show to everybody.
    """
    command = [sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", str(port)]
    sys.stdout.flush()
    os.execve(command[0], command, {**os.environ, "MLFLOW_BACKEND_STORE_URI": select_store(uri)})
