"""`harness score`."""

from pathlib import Path

import click

from harness.cli.options import json_option
from harness.cli.scored import scored_json, scored_table
from harness.score import Ruler, score_predictions


@click.command("score", short_help="Score another system's predictions with a suite's scorers.")
@click.argument("predictions", type=click.Path(path_type=Path))
@click.option(
    "--suite",
    metavar="SUITE",
    default="held_out",
    help="Suite whose examples the predictions answer; by default held_out.",
)
@click.option("--data", metavar="FILE", help='Examples instead, lines of {"id", "prompt", "reference"}.')
@click.option(
    "--scorers", metavar="A,B", default="", help="Scorers; by default the suite's. `harness suites` lists them."
)
@click.option("--allow-code-execution", is_flag=True, help="Run predictions as code, for code_passes and pass_at_k.")
@click.option("--name", metavar="NAME", help="Of the row; by default the file's name.")
@click.option("--experiment", metavar="EXPERIMENT", help="Whose test rows they answer, and whose tables the row joins.")
@json_option
def command(
    predictions: Path,
    *,
    suite: str,
    data: str | None,
    scorers: str,
    allow_code_execution: bool,
    name: str | None,
    experiment: str | None,
    as_json: bool,
) -> None:
    """Score PREDICTIONS, lines of {"id", "prediction"} of any system, with the ruler of a suite.

    Example: harness score gpt.jsonl --data test.jsonl --scorers exact_match,rouge_l
    """  # fmt: skip
    names = tuple(part.strip() for part in scorers.split(",") if part.strip())
    ruler = Ruler(suite, data, names, allow_code_execution)
    scored = score_predictions(predictions, ruler, name=name, experiment=experiment)
    click.echo(scored_json(scored)) if as_json else scored_table(scored)
