"""`harness reconcile`."""

import json

import click

from harness.cli.completers import complete_experiment
from harness.cli.options import json_option
from harness.reconcile import STALE_MINUTES, reconcile


@click.command("reconcile", short_help="Close the MLflow runs that a killed process left RUNNING.")
@click.argument("experiment", nargs=-1, shell_complete=complete_experiment)
@click.option("--dry-run", is_flag=True, help="Only say what would be closed.")
@click.option("--stale-after", type=click.FloatRange(min=1), default=STALE_MINUTES, show_default=True, metavar="MINUTES",
              help="Silence after which a run of another machine counts as dead.")  # fmt: skip
@json_option
def command(experiment: tuple[str, ...], dry_run: bool, stale_after: float, as_json: bool) -> None:
    """Close runs of EXPERIMENT (by default: all) that are RUNNING though their process is dead.

    Only runs that `harness` made are looked at. `harness run` does the same for its own experiment when it starts.

    Example: harness reconcile quickstart --dry-run
    """
    closed = reconcile(experiment, stale_minutes=stale_after, dry_run=dry_run)
    if as_json:
        click.echo(json.dumps([item.model_dump() for item in closed]))
        return
    for item in closed:
        click.echo(f"{item.experiment}: {item.name} ({item.run_id}) -> {item.status}: {item.why}")
    click.echo(f"{len(closed)} runs {'would be ' if dry_run else ''}closed" if closed else "no run was left RUNNING", err=True)  # fmt: skip
