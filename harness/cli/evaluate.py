"""`harness evaluate`."""

import sys

import click

from harness.cli.options import experiment_argument
from harness.cli.progress import ProgressDisplay
from harness.cli.ranking_table import print_outcome
from harness.experiment import run_experiment
from harness.plan import plan_experiment, trained


@click.command("evaluate", short_help="Evaluate trained cells with the suites of the file as it is now.")
@experiment_argument
def command(experiment: str, overrides: tuple[str, ...]) -> None:
    """Evaluate the trained cells of EXPERIMENT with the suites of the file as it is now; trains nothing.

    Example: harness evaluate my.yaml --set evals=[held_out]
    """
    made = plan_experiment(experiment, overrides)
    only = trained(made) | {row.id for row in made.references}
    with ProgressDisplay(made) as display:
        ranking, all_finished = run_experiment(made, display.update, display.warn, only=only)
    print_outcome(made, ranking)
    sys.exit(0 if all_finished else 1)
