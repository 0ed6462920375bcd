"""Arguments and options that several commands share."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from harness.cli.completers import complete_experiment

F = TypeVar("F", bound=Callable[..., Any])


def experiment_argument(function: F) -> F:
    """EXPERIMENT and --set."""
    function = click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        help="Override a field, e.g. --set training.learning_rate=1e-4.",
    )(function)
    return click.argument("experiment", shell_complete=complete_experiment)(function)


def json_option(function: F) -> F:
    """--json."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")(function)
