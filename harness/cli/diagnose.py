"""`harness diagnose`."""

import json
from pathlib import Path

import click

from harness.cli.options import json_option
from harness.cli.tables import findings_table
from harness.diagnose.advice import what_would_tell_more
from harness.targets import diagnose_target


@click.command("diagnose", short_help="Look for warning signs in any training.")
@click.argument("target")
@json_option
@click.option(
    "--plot", type=click.Path(path_type=Path), metavar="FILE", help="Draw the curves and signs: .html or .png."
)
def command(target: str, as_json: bool, plot: Path | None) -> None:
    """Look for warning signs in TARGET, whoever trained it.

    TARGET is a cell's id or name, an MLflow run id, a trainer_state.json, a trainer_log.jsonl, a CSV (of TensorBoard or W&B,
    say), or a folder that holds one of these, such as a checkpoint or the output folder of a training.

    Example: harness diagnose outputs/checkpoint-500 --plot curves.html
    """
    found = diagnose_target(target)
    if plot is not None:
        from harness.diagnose.plot import write_plot

        write_plot(found.evidence, found.findings, plot)
    if as_json:
        click.echo(json.dumps({"findings": [finding.model_dump(mode="json") for finding in found.findings]}, indent=2))
        return
    findings_table(found.findings)
    if more := what_would_tell_more(found.findings, found.evidence):
        click.echo("What would tell more:\n" + "\n".join(f"- {line}" for line in more))
    if plot is not None:
        click.echo(f"Plot: {plot}")
