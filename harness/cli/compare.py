"""`harness compare`."""

from pathlib import Path

import click

from harness.cli.compare_table import comparison_json, comparison_page
from harness.cli.options import json_option
from harness.comparison import compare
from harness.score import Ruler


@click.command("compare", short_help="Hold runs against each other: differences, settings, curves, answers.")
@click.argument("runs", nargs=-1, required=True)
@click.option(
    "--data", metavar="FILE", help='What files of predictions answer, lines of {"id", "prompt", "reference"}.'
)
@click.option("--suite", metavar="SUITE", default="held_out", help="Suite that they answer; by default held_out.")
@click.option("--scorers", metavar="A,B", default="", help="Scorers for --data; by default the suite's.")
@click.option("--allow-code-execution", is_flag=True, help="Run predictions as code, for code_passes and pass_at_k.")
@click.option("--experiment", metavar="EXPERIMENT", help="Whose test rows they answer; by default the first cell's.")
@click.option(
    "--limit", default=10, show_default=True, type=click.IntRange(min=0), help="Disagreements shown of a pair."
)
@click.option(
    "--html", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write a page for a browser."
)
@json_option
def command(
    runs: tuple[str, ...], *, data: str | None, suite: str, scorers: str, allow_code_execution: bool,
    experiment: str | None, limit: int, html: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Hold the first of RUNS against each of the others, over the same examples.

    A run is a cell (its id, the start of it, its name, EXPERIMENT/NAME), a configuration (the name without its seed: all
    seeds are pooled), a reference such as base, an MLflow run id, or a file of predictions.

    Example: harness compare lora learning_rate=0.001 --html compare.html
    """
    ruler = Ruler(suite, data, tuple(name.strip() for name in scorers.split(",") if name.strip()), allow_code_execution)
    comparison = compare(runs, ruler=ruler, experiment=experiment, limit=limit)
    if html is not None:
        from harness.reports.compare_page import write_comparison

        write_comparison(comparison, html)
        click.echo(f"Page: {html}", err=True)
    click.echo(comparison_json(comparison)) if as_json else comparison_page(comparison)
