"""`harness init`."""

import json
import shutil
from pathlib import Path

import click

from harness.errors import ConfigError
from harness.resources import bundled
from harness.schema import experiment_schema


@click.command("init", short_help="Copy a starter set of experiments and suites.")
@click.argument("folder", type=click.Path(path_type=Path))
def command(folder: Path) -> None:
    """Copy the bundled experiments and suites to FOLDER, to change them there, with the schema that editors check them by.

    Example: harness init my-finetunes
    """
    for kind in ("experiments", "evals"):
        if (folder / kind).exists():
            raise ConfigError(f"{folder / kind} exists already; choose another folder")
    for kind in ("experiments", "evals"):
        shutil.copytree(bundled(kind), folder / kind, ignore=shutil.ignore_patterns("__pycache__"))
    schema = json.dumps(experiment_schema(), indent=1, ensure_ascii=False)
    (folder / "experiments" / "experiment.schema.json").write_text(schema, encoding="utf-8")
    click.echo(f"Next: cd {folder} && harness run experiments/quickstart.yaml")
