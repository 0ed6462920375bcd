"""`harness data`."""

import json
import sys

import click

from harness.cli.inspection_tables import data_page, mask_page
from harness.cli.options import json_option
from harness.inspection import inspect_data, masked_rows, with_ifd


@click.command("data", short_help="Report on a dataset: formats, lengths, duplicates, leaks, faults.")
@click.argument("target")
@click.option("--against", metavar="FILE", help="Held-out rows to look for in TARGET.")
@click.option("--tokenizer", metavar="PATH", help="Model or folder whose tokenizer counts tokens of a file.")
@click.option("--mask", "num_rows", type=click.IntRange(1), metavar="N", help="Show N rows as the model sees them.")
@click.option(
    "--ifd", "with_difficulty", is_flag=True, help="Also score how much instructions help an experiment's base."
)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a field of an experiment.")
@json_option
def command(
    target: str,
    *,
    against: str | None,
    tokenizer: str | None,
    num_rows: int | None,
    with_difficulty: bool,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Report on the rows of TARGET: an experiment, a file, a folder or a Hub dataset.

    Exits with 2 where nothing of it can be used for supervised fine-tuning.

    Example: harness data gsm8k_train.jsonl --against gsm8k_test.jsonl
    """
    if num_rows:
        rows = masked_rows(target, num_rows, overrides)
        click.echo(json.dumps([row.model_dump() for row in rows], indent=2)) if as_json else mask_page(rows)
        return
    report = inspect_data(target, against, tokenizer, overrides)
    report = with_ifd(report, target, overrides) if with_difficulty else report
    click.echo(report.model_dump_json(indent=2)) if as_json else data_page(report)
    if not report.is_usable:
        why = report.problems[0].message if report.problems else "it has no rows"
        click.echo(f"{click.style('error:', fg='red', bold=True)} {target} can't be used for SFT: {why}", err=True)
        sys.exit(2)
