"""Rebuilds the embedded data and base: `python -m harness.embedded.build [--data-only] [--folder DIR]`."""

import json
import logging
from collections.abc import Iterable
from pathlib import Path

import click

from harness.embedded.conversations import ROW_COUNTS, Row, conversation_rows, retention_rows, structured_rows
from harness.resources import embedded
from harness.store import write_text


def data_files() -> dict[str, str]:
    """File name -> content of every split; the same on every machine."""
    files = {f"{group}.jsonl": _lines(conversation_rows(group)) for group in ROW_COUNTS}
    files |= {f"structured_{group}.jsonl": _lines(structured_rows(group)) for group in ROW_COUNTS}
    return files | {"retention.jsonl": _lines(retention_rows())}


def _lines(rows: Iterable[Row]) -> str:
    return "".join(f"{json.dumps(row)}\n" for row in rows)


@click.command()
@click.option("--data-only", is_flag=True, help="Write the data and leave the base as it is.")
@click.option("--folder", type=click.Path(path_type=Path), default=None, help="Where to; by default into the package.")
@click.option("--max-minutes", default=18.0, show_default=True, help="Time limit of the pretraining.")
def main(data_only: bool, folder: Path | None, max_minutes: float) -> None:
    """Writes the embedded data, and pretrains the tokenizer and the base from nothing."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    target = folder or embedded("base").parent
    for name, content in data_files().items():
        write_text(target / name, content)
    if data_only:
        return
    from harness.embedded.pretrain import Recipe, build_base

    figures = build_base(target / "base", Recipe(max_minutes=max_minutes))
    write_text(target / "figures.json", json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
