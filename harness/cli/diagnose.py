"""`harness diagnose`."""

import json

import click

from harness.cli.options import json_option
from harness.cli.tables import findings_table
from harness.targets import diagnose_target


@click.command("diagnose", short_help="Look for warning signs in a cell, a run or a trainer_state.json.")
@click.argument("target")
@json_option
def command(target: str, as_json: bool) -> None:
    """Look for warning signs in TARGET: a cell's id or name, an MLflow run id, or any trainer_state.json.

    Example: harness diagnose outputs/checkpoint-500/trainer_state.json
    """
    findings = diagnose_target(target)
    if as_json:
        click.echo(json.dumps({"findings": [finding.model_dump(mode="json") for finding in findings]}, indent=2))
    else:
        findings_table(findings)
