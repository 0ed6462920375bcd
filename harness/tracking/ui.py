"""Starts the stock MLflow UI."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.errors import StoreError
from harness.secrets import without_password
from harness.tracking.connection import select_store
from harness.tracking.views import VIEW_QUERY

# Any port, for a tunnel may lead here from another one.
LOCAL_HOSTS = "localhost,localhost:*,127.0.0.1,127.0.0.1:*"


def experiment_addresses(names: Sequence[str], uri: str | None, port: int) -> list[str]:
    """Where the UI shows each experiment.

    Raises: StoreError: MLflow knows no experiment of that name.
    """
    store = select_store(uri)
    import mlflow

    server = store.rstrip("/") if is_server(store) else f"http://127.0.0.1:{port}"
    addresses = []
    for name in names:
        # Asked of a database that isn't there, MLflow would make one and leave it behind.
        found = None if _is_missing(store) else mlflow.get_experiment_by_name(name)
        if found is None:
            raise StoreError(
                f"MLflow at {without_password(store)} knows no experiment {name!r}; run it in this folder first"
            )
        addresses.append(f"{without_password(server)}/#/experiments/{found.experiment_id}/runs?{VIEW_QUERY}")
    return addresses


def _is_missing(store: str) -> bool:
    return store.startswith("sqlite:///") and not Path(store.removeprefix("sqlite:///")).is_file()


def is_server(uri: str | None) -> bool:
    """Whether the store is a tracking server, which shows its own UI."""
    return (uri or "").startswith(("http://", "https://"))


def become_ui(uri: str | None, port: int) -> None:
    """Replaces this process by `mlflow ui` on this machine alone, so that whoever stops this one stops it.

    The store travels in the environment: it may hold a password, which the command line would show to everybody.
    """
    command = [
        sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", str(port), "--allowed-hosts", LOCAL_HOSTS,
    ]  # fmt: skip
    sys.stdout.flush()
    # MLflow's own code warns of its libraries, once a worker; a user can't do anything about that.
    environment = {"PYTHONWARNINGS": "ignore", **os.environ, "MLFLOW_BACKEND_STORE_URI": select_store(uri)}
    # A page in the same browser may send requests here under another name; MLflow's checks of that stay on.
    environment.pop("MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE", None)
    os.execve(command[0], command, environment)
