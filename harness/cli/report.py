"""`harness report`."""

import click

from harness.cli.options import experiment_argument
from harness.experiment import finish
from harness.plan import plan_experiment


@click.command("report", short_help="Write the report of an experiment from its records.")
@experiment_argument
def command(experiment: str, overrides: tuple[str, ...]) -> None:
    """Write report.html, report.md and report.json of EXPERIMENT from its records.

    Example: harness report quickstart
    """
    made = plan_experiment(experiment, overrides)
    finish(made)
    click.echo(made.folder.report("html"))
