"""`harness schema`."""

import json

import click

from harness.schema import experiment_schema


@click.command("schema", short_help="Print the JSON Schema of the experiment file, for editors.")
def command() -> None:
    """Print the JSON Schema of the experiment file, with the settings of the installed TRL, PEFT and transformers.

    An editor checks and completes a file that names it in its first line:

    \b
        # yaml-language-server: $schema=experiment.schema.json

    Example: harness schema > experiment.schema.json
    """  # noqa: D301
    click.echo(json.dumps(experiment_schema(), indent=1, ensure_ascii=False))
