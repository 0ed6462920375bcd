"""`harness show`."""

import click

from harness.cli.options import json_option
from harness.cli.tables import cell_page
from harness.targets import find_cell


@click.command("show", short_help="Show one cell: settings, estimates, findings, generations.")
@click.argument("target")
@click.option("--generations", default=3, show_default=True, help="How many generations of each suite.")
@json_option
def command(target: str, generations: int, as_json: bool) -> None:
    """Show one cell (TARGET: its id, the start of it, its name or its MLflow run id).

    Example: harness show lora --generations 10
    """
    shown = find_cell(target)
    click.echo(shown.result.model_dump_json(indent=2)) if as_json else cell_page(shown, generations)
