"""`harness plan`."""

import json
import sys

import click

from harness.cli.options import experiment_argument, json_option
from harness.cli.tables import plan_table
from harness.plan import Plan, check_plan, plan_experiment


def plan_json(made: Plan, problems: dict[str, tuple[str, ...]]) -> str:
    """The contract of `plan --json` and `run --dry-run`."""
    cells = [
        {"id": c.id, "name": c.name, "overrides": c.overrides, "seed": c.seed, "problems": list(problems.get(c.id, ()))}
        for c in made.cells
    ]
    return json.dumps({"experiment": made.config.name, "cells": cells, "packs": made.packs}, indent=2)


def print_plan(made: Plan, as_json: bool) -> None:
    """Cells and their problems; exits with 2 where there are any."""
    problems = dict(check_plan(made, deep=False))
    click.echo(plan_json(made, problems)) if as_json else plan_table(made, problems)
    if any(problems.values()):
        sys.exit(2)


@click.command("plan", short_help="Show the cells of an experiment, checked, without training.")
@experiment_argument
@json_option
def command(experiment: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Show the cells of EXPERIMENT (a YAML file or a bundled name), checked, without training.

    Example: harness plan quickstart --set seeds=[0,1,2]
    """
    print_plan(plan_experiment(experiment, overrides), as_json)
