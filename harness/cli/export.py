"""`harness export`."""

from pathlib import Path

import click

from harness.export import export, push


@click.command("export", short_help="Write a cell's model as a folder that transformers loads.")
@click.argument("run")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--merge", is_flag=True, help="Merge a LoRA adapter into the base's weights.")
@click.option("--push-to", metavar="REPO", help="Also upload it to this (private) repository of the Hub.")
def command(run: str, folder: Path, merge: bool, push_to: str | None) -> None:
    """Write the model of RUN (a cell's id, name or MLflow run id) to FOLDER, with tokenizer, template and model card.

    Example: harness export lora my-model --merge
    """
    click.echo(export(run, folder, merge=merge))
    if push_to:
        click.echo(push(folder, push_to))
