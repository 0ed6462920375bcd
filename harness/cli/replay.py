"""`harness replay`."""

from typing import get_args

import click

from harness.cli.options import experiment_argument, json_option
from harness.cli.replay_table import replay_page
from harness.collect import collect
from harness.config import CurveCheck
from harness.recorded import find_plan
from harness.replay import replay


@click.command("replay", short_help="Say what `stop_on` would have saved in an experiment that is done.")
@experiment_argument
@click.option(
    "--stop-on", multiple=True, type=click.Choice(get_args(CurveCheck)), help="Another check, beside the default ones."
)
@json_option
def command(experiment: str, overrides: tuple[str, ...], stop_on: tuple[CurveCheck, ...], as_json: bool) -> None:
    """Say for every cell of EXPERIMENT which check would have ended its training, at which step, and what that saves.

    The records are read as if they were being written, by the code that runs while a cell trains.

    Example: harness replay quickstart --stop-on overfitting
    """
    made = find_plan(experiment, overrides)
    known = collect(made)
    done = replay(made, stop_on, cells=known.cells, references=known.references, findings=known.findings)
    click.echo(done.model_dump_json(indent=2)) if as_json else replay_page(done)
