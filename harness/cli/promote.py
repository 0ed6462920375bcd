"""`harness promote`."""

import click

from harness.cli.options import json_option
from harness.promote import promote


@click.command("promote", short_help="Register a cell's model in MLflow, with the evidence for it.")
@click.argument("run")
@click.option("--as", "name", required=True, metavar="NAME", help="Name of the registered model.")
@click.option("--alias", default="champion", show_default=True, help="Alias that then points at it.")
@click.option("--force", is_flag=True, help="Register a run that the gates exclude.")
@json_option
def command(run: str, name: str, alias: str, force: bool, as_json: bool) -> None:
    """Register the evaluated checkpoint of RUN (a cell's id, name or MLflow run id) as a version of the model NAME.

    Of a configuration with several seeds, the one with the lowest validation loss.

    Example: harness promote lora --as elmwick-chat
    """
    done = promote(run, name, alias=alias, force=force)
    if as_json:
        click.echo(done.model_dump_json())
        return
    chosen = f" ({done.chosen})" if done.chosen else ""
    click.echo(f"{done.name}{chosen} is version {done.version} of {done.model}, alias {done.alias}")
    click.echo(f"{done.same} of {done.asked} prompts of the evaluation answered word for word the same")
    click.echo(f'mlflow.transformers.load_model("{done.uri}")')
