"""`harness template`."""

import json
import sys

import click

from harness.cli.inspection_tables import template_page
from harness.cli.options import json_option
from harness.inspection import inspect_template


@click.command("template", short_help="Check a chat template: masks, end of turn, prompts, tools, thinking.")
@click.argument("target")
@click.option("--tokenizer", metavar="PATH", help="Model or folder whose tokenizer is used.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a field of an experiment.")
@json_option
def command(target: str, tokenizer: str | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """Check the chat template of TARGET: a built-in name, a .jinja file, a model or an experiment.

    Exits with 2 where it can't be rendered or no loss mask can be had.

    Example: harness template mine.jinja --tokenizer Qwen/Qwen2.5-0.5B
    """
    reports = inspect_template(target, tokenizer, overrides)
    if as_json:
        first, *others = [report.model_dump(mode="json") for report in reports]
        click.echo(json.dumps(first | ({"others": others} if others else {}), indent=2))
    else:
        for report in reports:
            template_page(report)
    if any(not report.renders or report.mask == "refused" for report in reports):
        sys.exit(2)
