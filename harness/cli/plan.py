"""`harness plan`."""

import json
import sys
from collections.abc import Mapping

import click

from harness.cell_checks import CellCheck
from harness.cli.options import experiment_argument, json_option
from harness.cli.tables import plan_table
from harness.plan import Plan, check_plan, plan_experiment
from harness.timing import timed_checks


def plan_json(made: Plan, checks: Mapping[str, CellCheck]) -> str:
    """The contract of `plan --json` and `run --dry-run`."""
    facts = {"rows", "supervised_tokens", "steps", "num_trainable_parameters", "memory_gib", "seconds"}
    cells = [
        {
            "id": c.id, "name": c.name, "overrides": c.overrides, "seed": c.seed,
            "problems": list(checks[c.id].messages("error")),
            **({"warnings": list(warned)} if (warned := checks[c.id].messages("warning")) else {}),
            **checks[c.id].model_dump(include=facts, exclude_none=True),
        }
        for c in made.cells
    ]  # fmt: skip
    return json.dumps({"experiment": made.config.name, "cells": cells, "packs": made.packs}, indent=2)


def print_plan(made: Plan, as_json: bool, *, deep: bool = False, probe: bool = False) -> None:
    """Cells and their problems; exits with 2 where there are any."""
    checks = dict(check_plan(made, deep=deep or probe))
    if probe:
        checks = timed_checks(made, checks)
    click.echo(plan_json(made, checks)) if as_json else plan_table(made, checks)
    if any(check.messages("error") for check in checks.values()):
        sys.exit(2)


@click.command("plan", short_help="Show the cells of an experiment, checked, without training.")
@experiment_argument
@click.option("--deep", is_flag=True, help="Also tokenize every row, check templates and adapters, estimate memory.")
@click.option("--probe", is_flag=True, help="Also time a few steps of every cell and estimate how long training takes.")
@json_option
def command(experiment: str, overrides: tuple[str, ...], deep: bool, probe: bool, as_json: bool) -> None:
    """Show the cells of EXPERIMENT (a YAML file or a bundled name), checked, without training.

    Example: harness plan quickstart --deep --set seeds=[0,1,2]
    """
    print_plan(plan_experiment(experiment, overrides), as_json, deep=deep, probe=probe)
