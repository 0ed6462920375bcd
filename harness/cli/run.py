"""`harness run`."""

import signal
import sys

import click

from harness.cli.options import experiment_argument
from harness.cli.plan import print_plan
from harness.cli.progress import ProgressDisplay
from harness.cli.ranking_table import print_outcome
from harness.confirm_run import run_confirmed
from harness.experiment import join_experiment, run_experiment
from harness.plan import plan_experiment


@click.command("run", short_help="Train, evaluate, diagnose and rank an experiment.")
@experiment_argument
@click.option("--dry-run", is_flag=True, help="Only show the plan, as `harness plan --json` does.")
@click.option("--confirm", is_flag=True, help="Then train the best set alone with more seeds, and rank again.")
@click.option("--strict", is_flag=True, help="Start nothing where the checks find anything at all.")
@click.option("--join", is_flag=True, help="Help a run that is at work on the same folder; that one ranks.")
def command(
    experiment: str, overrides: tuple[str, ...], dry_run: bool, confirm: bool, strict: bool, join: bool
) -> None:
    """Train, evaluate, diagnose and rank EXPERIMENT (a YAML file or a bundled name).

    Run it again: finished cells are kept, interrupted ones go on, changed ones are trained anew. Ctrl-C lets every
    cell finish its step and save; a second one stops now.

    Exit codes: 0 all done, 1 some cells failed, 2 a mistake in the input, 130 interrupted, 143 terminated.

    --confirm brings every configuration of the best set to ranking.confirm_seeds seeds (5 by default).

    Example: harness run quickstart --confirm
    """
    # `kill`, `timeout` and a closed terminal then stop the workers too, as Ctrl-C does; under `nohup` the last doesn't.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda signum, _: sys.exit(128 + signum))
    made = plan_experiment(experiment, overrides)
    if dry_run:
        print_plan(made, as_json=True)
        return
    with ProgressDisplay(made) as display:
        if join:
            sys.exit(0 if join_experiment(made, display.update) else 1)
        if confirm:
            made, ranking, all_finished = run_confirmed(made, display.update, display.warn, display.say, strict=strict)
        else:
            ranking, all_finished = run_experiment(made, display.update, display.warn, strict=strict)
    print_outcome(made, ranking)
    sys.exit(0 if all_finished else 1)
