"""`harness show`."""

import click

from harness.cli.cell_page import cell_page
from harness.cli.options import json_option
from harness.targets import find_row


@click.command("show", short_help="Show one cell: settings, estimates, findings, its worst answers.")
@click.argument("target")
@click.option("--generations", default=3, show_default=True, help="How many answers of each suite, failed ones first.")
@json_option
def command(target: str, generations: int, as_json: bool) -> None:
    """Show one cell, reference or row of predictions (TARGET: its id, the start of it, its name or its MLflow run id).

    Example: harness show lora --generations 10
    """
    shown = find_row(target)
    click.echo(shown.result.model_dump_json(indent=2)) if as_json else cell_page(shown, generations)
