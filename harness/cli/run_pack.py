"""`harness run-pack`, for launchers."""

import logging
import sys
from pathlib import Path

import click

from harness.secrets import redact_output
from harness.stopping import catch_stop_signals


@click.command("run-pack", hidden=True, short_help="Train the cells of a pack (used by launchers).")
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--fetch", nargs=2, metavar="RUN_ID DIGEST", help="Only fetch what they need, and print where it lies.")
@click.option("--deliver", is_flag=True, help="Only send MLflow what it lacks of them.")
def command(folders: tuple[Path, ...], fetch: tuple[str, str] | None, deliver: bool) -> None:
    """Train and evaluate the cells in FOLDERS, each of which holds a cell.json."""
    redact_output()
    logging.getLogger().setLevel(logging.INFO)
    # One line a request.
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    catch_stop_signals()
    if fetch:
        from harness import travel

        click.echo(travel.fetch(travel.Bundle(*fetch), folders).path)
        return
    if deliver:
        from harness import travel

        travel.deliver(folders)
        return
    from harness.pipeline import run_pack

    sys.exit(run_pack(folders))
