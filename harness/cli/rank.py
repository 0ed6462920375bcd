"""`harness rank`."""

import click

from harness.cli.options import experiment_argument, json_option
from harness.cli.ranking_table import ranking_json, ranking_table
from harness.collect import collect, rank_experiment
from harness.rank_cells import check_gates
from harness.recorded import find_plan


@click.command("rank", short_help="Rank an experiment from its records.")
@experiment_argument
@json_option
@click.option("--by", metavar="METRIC", help="Another criterion, e.g. retention.accuracy.")
@click.option(
    "--gate", "gates", multiple=True, metavar="GATE", help="Other gates, e.g. 'template_adherence.all.low >= 0.95'."
)
@click.option("--all", "is_whole", is_flag=True, help="Every row, also where there are many.")
def command(
    experiment: str, overrides: tuple[str, ...], as_json: bool, by: str | None, gates: tuple[str, ...], is_whole: bool
) -> None:  # fmt: skip
    """Rank EXPERIMENT from its records, without training or evaluating.

    Where it was trained elsewhere, they come from the tracking server (MLFLOW_TRACKING_URI).

    Example: harness rank quickstart --by template_adherence.all
    """
    made = find_plan(experiment, overrides)
    changes = ({"by": by} if by else {}) | ({"gates": gates} if gates else {})
    ranked_by = made.config.ranking.model_copy(update=changes)
    changed = made._replace(config=made.config.model_copy(update={"ranking": ranked_by}))
    collected = collect(changed)
    check_gates(gates, collected.cells)
    ranking = rank_experiment(changed, collected)
    click.echo(ranking_json(ranking)) if as_json else ranking_table(ranking, is_whole=is_whole)
