"""`harness ui`."""

import click

from harness.config import TrackingConfig, tracking_uri
from harness.experiment import logged_to
from harness.store import known_experiments
from harness.tracking.ui import become_ui, experiment_addresses, is_server


@click.command("ui", short_help="Open the MLflow UI on this folder.")
@click.argument("experiment", required=False)
@click.option("--port", default=5000, show_default=True, help="Port on 127.0.0.1.")
def command(experiment: str | None, port: int) -> None:
    """Start the stock MLflow UI on 127.0.0.1 and print the address of EXPERIMENT (by default of all that ran here).

    With MLFLOW_TRACKING_URI set to a server, only print the addresses there.

    Example: harness ui quickstart
    """
    names = [experiment] if experiment else list(known_experiments())
    uri = next((found for name in names if (found := logged_to(name))), None) or tracking_uri(TrackingConfig())
    for name, address in zip(names, experiment_addresses(names, uri, port), strict=True):
        click.echo(f"{name}: {address}")
    if not is_server(uri):
        click.echo("Stop it with Ctrl-C.", err=True)
        become_ui(uri, port)
