"""`harness card`."""

from pathlib import Path

import click

from harness.model_card import card_text, subject_of
from harness.store import write_text
from harness.targets import find_cell


@click.command("card", short_help="Write the model card of a run, in the Hub's format.")
@click.argument("run")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="File to write, e.g. README.md.")
@click.option("--merged", is_flag=True, help="For a LoRA adapter that is merged into its base.")
def command(run: str, output: Path | None, merged: bool) -> None:
    """Write the model card of RUN (a cell's id, name or MLflow run id): data, training, metrics, known limitations.

    `harness export` writes the same card beside the model.

    Example: harness card lora --output README.md
    """
    text = card_text(subject_of(find_cell(run)), merged=merged)
    if output is None:
        click.echo(text, nl=False)
    else:
        write_text(output, text)
        click.echo(output)
