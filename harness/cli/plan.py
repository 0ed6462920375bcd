"""`harness plan`."""

import json
import sys
from collections.abc import Mapping

import click
from rich.markup import escape
from rich.table import Table

from harness.cell_checks import CellCheck
from harness.cli.options import experiment_argument, json_option
from harness.cli.plan_table import plan_table
from harness.cli.tables import console_for_results
from harness.plan import Plan, check_plan, plan_experiment
from harness.predicted import check_rows
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
    trusted = {"trust_remote_code": names} if (names := made.brings_code()) else {}
    return json.dumps({"experiment": made.config.name, "cells": cells, "packs": made.packs, **trusted}, indent=2)


def print_plan(made: Plan, as_json: bool, *, deep: bool = False, probe: bool = False) -> None:
    """Cells and their problems, or predictions where there is nothing else; exits with 2 where there are any problems."""
    if made.config.is_predictions_alone:
        check_plan(made, deep=deep)
        print_predictions(made, as_json)
        return
    checks = dict(check_plan(made, deep=deep or probe))
    if probe:
        checks = timed_checks(made, checks)
    click.echo(plan_json(made, checks)) if as_json else plan_table(made, checks)
    if any(check.messages("error") for check in checks.values()):
        sys.exit(2)


def print_predictions(made: Plan, as_json: bool) -> None:
    """The rows of an experiment that trains nothing: what each answers, and how many answers it lacks."""
    found = [
        {"id": row.id, "name": row.name, **facts._asdict()}
        for row, facts in zip(made.references, check_rows(made.references, made.config.evals), strict=True)
    ]
    if as_json:
        click.echo(
            json.dumps({"experiment": made.config.name, "cells": [], "packs": [], "predictions": found}, indent=2)
        )
        return
    table = Table(*found[0], box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for row in found:
        table.add_row(*(escape(str(value)) for value in row.values()))
    console_for_results().print(table)
    click.echo(
        "Nothing to train: `harness rank` scores and ranks these predictions, `harness run` also logs them to MLflow"
    )


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
