"""`harness run-pack`, for launchers."""

import logging
import sys
from pathlib import Path

import click

from harness.secrets import redact_output


@click.command("run-pack", hidden=True, short_help="Train the cells of a pack (used by launchers).")
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
def command(folders: tuple[Path, ...]) -> None:
    """Train and evaluate the cells in FOLDERS, each of which holds a cell.json."""
    redact_output()
    logging.getLogger().setLevel(logging.INFO)
    # One line a request.
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    from harness.pipeline import run_pack

    sys.exit(0 if run_pack(folders) else 1)
