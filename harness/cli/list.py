"""`harness list`."""

import json

import click

from harness.cli.options import json_option
from harness.cli.safe_text import safe
from harness.resources import bundled
from harness.store import known_experiments


@click.command("list", short_help="List experiments here, and those that come with the package.")
@json_option
def command(as_json: bool) -> None:
    """List the experiments that were run in this folder, and those that come with the package.

    Example: harness list
    """
    here, shipped = known_experiments(), sorted(path.stem for path in bundled("experiments").glob("*.yaml"))
    if as_json:
        click.echo(json.dumps({"run_here": here, "bundled": shipped}))
        return
    click.echo("Run in this folder: " + safe(", ".join(here) or "none yet; start with `harness run quickstart`"))
    click.echo("Come with the package: " + ", ".join(shipped))
