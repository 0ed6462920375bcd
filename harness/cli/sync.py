"""`harness sync`."""

import json
import sys

import click

from harness.cli.completers import complete_experiment
from harness.cli.options import json_option
from harness.sync import sync


@click.command("sync", short_help="Send MLflow what it could not take while a grid ran.")
@click.argument("experiment", nargs=-1, shell_complete=complete_experiment)
@json_option
def command(experiment: tuple[str, ...], as_json: bool) -> None:
    """Send MLflow what it could not take while EXPERIMENT (by default: any of this folder) ran.

    Nothing is sent twice. Exit codes: 0 nothing is left, 1 something is.

    Example: harness sync quickstart
    """
    done = sync(experiment)
    if as_json:
        click.echo(json.dumps([item.model_dump() for item in done]))
    else:
        for item in done:
            for label, names in (("delivered", item.delivered), ("left", item.left), ("not done yet", item.unfinished)):
                if names:
                    click.echo(f"{item.experiment}: {label}: {', '.join(names)}")
        if not done:
            click.echo("nothing is waiting", err=True)
    sys.exit(1 if any(item.left for item in done) else 0)
