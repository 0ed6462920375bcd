"""`harness report`."""

import click

from harness.cli.options import experiment_argument
from harness.experiment import report_experiment
from harness.recorded import find_plan


@click.command("report", short_help="Write the report of an experiment from its records.")
@experiment_argument
def command(experiment: str, overrides: tuple[str, ...]) -> None:
    """Write report.html, report.md and report.json of EXPERIMENT from its records.

    Where it was trained elsewhere, they come from the tracking server (MLFLOW_TRACKING_URI), and the report is written
    below mlruns/restored; the one that the server keeps stays as it is.

    Example: harness report quickstart
    """
    made = find_plan(experiment, overrides)
    report_experiment(made)
    click.echo(made.folder.report("html"))
