"""The command `harness`: one group, one file a command, imported only when the command is used."""

import errno
import importlib
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import click
from click.shell_completion import CompletionItem

from harness import __version__
from harness.cli.completers import completing
from harness.cli.safe_text import SafeFormatter, safe
from harness.errors import HarnessError
from harness.secrets import redacting_excepthook

COMMANDS = {
    "run": "Train, evaluate, diagnose and rank an experiment.",
    "plan": "Show the cells of an experiment, checked, without training.",
    "data": "Report on a dataset: formats, lengths, duplicates, leaks, faults.",
    "template": "Check a chat template: masks, end of turn, prompts, tools, thinking.",
    "evaluate": "Evaluate trained cells with the suites of the file as it is now.",
    "score": "Score another system's predictions with a suite's scorers.",
    "diagnose": "Look for warning signs in any training.",
    "rank": "Rank an experiment from its records.",
    "compare": "Hold runs against each other: differences, settings, curves, answers.",
    "report": "Write the report of an experiment from its records.",
    "replay": "Say what `stop_on` would have saved in an experiment that is done.",
    "list": "List experiments here, and those that come with the package.",
    "suites": "List suites with their metrics, and the scorers that any suite takes.",
    "show": "Show one cell: settings, estimates, findings, generations.",
    "card": "Write the model card of a run, in the Hub's format.",
    "chat": "Talk to a trained cell in the terminal, or to two side by side.",
    "export": "Write a cell's model as a folder that transformers loads.",
    "promote": "Register a cell's model in MLflow, with the evidence for it.",
    "sync": "Send MLflow what it could not take while a grid ran.",
    "reconcile": "Close the MLflow runs that a killed process left RUNNING.",
    "ui": "Open the MLflow UI on this folder.",
    "init": "Copy a starter set of experiments and suites.",
    "schema": "Print the JSON Schema of the experiment file, for editors.",
    "completion": "Print the script that completes commands in your shell.",
    "run-pack": "Train the cells of a pack (used by launchers).",
}
HIDDEN = ("run-pack",)


class LazyGroup(click.Group):
    """Imports a command's module when the command is used, and turns the user's mistakes into one sentence."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names, in the order of a working day."""
        return [name for name in COMMANDS if name not in HIDDEN]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, from `harness/cli/NAME.py`."""
        if cmd_name not in COMMANDS:
            return None
        if (light := completing(cmd_name)) is not None:
            return light
        module = importlib.import_module(f"harness.cli.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Names and options, without importing any command."""
        names = [name for name in self.list_commands(ctx) if name.startswith(incomplete)]
        options = click.Command.shell_complete(self, ctx, incomplete)
        return [*(CompletionItem(name, help=COMMANDS[name]) for name in names), *options]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table of commands, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name]) for name in self.list_commands(ctx)])

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command; a HarnessError is printed without traceback and exits with 2."""
        try:
            return super().invoke(ctx)
        except HarnessError as error:
            lines: Sequence[str] = str(error).splitlines()
            for line in lines:
                click.echo(f"{click.style('error:', fg='red', bold=True)} {safe(line)}", err=True)
            sys.exit(2)
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            click.echo(
                f"{click.style('error:', fg='red', bold=True)} a name is too long for a file; shorten it", err=True
            )
            sys.exit(2)
        except KeyboardInterrupt:
            click.echo("\ninterrupted; run the same command again to go on where it stopped", err=True)
            sys.exit(130)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("-v", "--verbose", is_flag=True, help="Show the libraries' own messages too.")
@click.version_option(__version__, prog_name="harness")
def main(verbose: bool) -> None:
    """Find out which fine-tune is actually better.

    \b
    harness run quickstart          train and rank a grid on a laptop, in minutes
    harness plan my.yaml            what would be trained, and what is wrong with it
    harness run my.yaml             train, evaluate, rank; again: go on, or do nothing
    """  # noqa: D301
    sys.excepthook = redacting_excepthook
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(SafeFormatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, handlers=[handler])
    if not verbose:
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("DATASETS_VERBOSITY", "error")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_HUB_VERBOSITY", "error")
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        warnings.simplefilter("ignore")
