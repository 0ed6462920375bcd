"""Starts the stock MLflow UI."""

import sys

from harness.errors import StoreError
from harness.tracking.mlflow_tracker import current_uri


def ui_command(port: int) -> list[str]:
    """The command line of `mlflow ui` on this folder's store, bound to this machine alone."""
    return [
        sys.executable,
        "-m",
        "mlflow",
        "ui",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--backend-store-uri",
        current_uri(),
    ]


def experiment_address(name: str, port: int) -> str:
    """Where the UI shows an experiment.

    Raises: StoreError: MLflow knows no experiment of that name.
    """
    import mlflow

    found = mlflow.get_experiment_by_name(name)
    if found is None:
        raise StoreError(f"MLflow at {current_uri()} knows no experiment {name!r}; run it in this folder first")
    return f"http://127.0.0.1:{port}/#/experiments/{found.experiment_id}/runs"
