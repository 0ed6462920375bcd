"""`harness ui`."""

import subprocess
import sys

import click

from harness.store import known_experiments
from harness.tracking.ui import experiment_address, ui_command


@click.command("ui", short_help="Open the MLflow UI on this folder.")
@click.argument("experiment", required=False)
@click.option("--port", default=5000, show_default=True, help="Port on 127.0.0.1.")
def command(experiment: str | None, port: int) -> None:
    """Start the stock MLflow UI on 127.0.0.1 and print the address of EXPERIMENT (by default the last one run here).

    Example: harness ui quickstart
    """
    names = [experiment] if experiment else list(known_experiments())
    for name in names:
        click.echo(f"{name}: {experiment_address(name, port)}")
    click.echo("Stop it with Ctrl-C.", err=True)
    sys.exit(subprocess.run(ui_command(port), check=False).returncode)
