"""`harness suites`."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from harness.cli.options import json_option
from harness.errors import HarnessError
from harness.eval_config import EvalConfig
from harness.scoring.definitions import metric_definition
from harness.scoring.table import SAMPLE_SCORERS, SCORERS
from harness.suite import known_suites, load_suite


@click.command("suites", short_help="List suites with their metrics, and the scorers that any suite takes.")
@click.argument("name", required=False)
@json_option
def command(name: str | None, as_json: bool) -> None:
    """List the suites of this folder's evals/ and of the package, or show one by its NAME with its options.

    Example: harness suites held_out
    """
    suites = [_described(name)] if name else [_described_or_broken(known) for known in known_suites()]
    shared = {metric: metric_definition(metric, scorer) for metric, scorer in {**SCORERS, **SAMPLE_SCORERS}.items()}
    options = {field: _first_line(info.description) for field, info in EvalConfig.model_fields.items()}
    if as_json:
        click.echo(json.dumps({"suites": suites, "scorers": shared, "options": options}, indent=2))
        return
    _print_suites(suites)
    if name:
        _print_named("Options of an entry of evals:", options)
    else:
        _print_named("Scorers for `scorers:` of any suite:", shared)
        click.echo(
            "\nlm-evaluation-harness: evals: [{lm_eval: [ifeval, gsm8k], limit: 100}]; `lm-eval ls tasks` lists its tasks"
        )


def _described(name: str) -> dict[str, Any]:
    """Raises: EvalError: it can't be imported."""
    suite = load_suite(name)
    scorers: dict[str, Callable[..., object]] = {**suite.scorers, **suite.sample_scorers, **suite.group_scorers}
    return {
        "name": name,
        "version": suite.version,
        "description": suite.description,
        "source": "folder" if Path("evals", f"{name}.py").is_file() else "package",
        "metrics": {metric: metric_definition(metric, scorer) for metric, scorer in scorers.items()},
    }


def _described_or_broken(name: str) -> dict[str, Any]:
    try:
        return _described(name)
    except HarnessError as error:
        return {"name": name, "error": str(error)}


def _first_line(text: str | None) -> str:
    return (text or "").split("\n")[0]


def _print_suites(suites: Sequence[Mapping[str, Any]]) -> None:
    for suite in suites:
        if "error" in suite:
            click.echo(f"{click.style(suite['name'], bold=True)}  {click.style('error:', fg='red')} {suite['error']}\n")
            continue
        title = click.style(suite["name"], bold=True)
        click.echo(f"{title}@{suite['version']} ({suite['source']}): {suite['description']}")
        _print_lines(suite["metrics"])
        click.echo()


def _print_named(title: str, lines: Mapping[str, str]) -> None:
    click.echo(title)
    _print_lines(lines)


def _print_lines(lines: Mapping[str, str]) -> None:
    width = max(map(len, lines), default=0)
    for name, text in lines.items():
        click.echo(f"  {name:<{width}}  {text}".rstrip())
