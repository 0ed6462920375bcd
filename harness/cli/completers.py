"""What a shell completes: experiments, cells and references, found without loading anything that a command needs.

A command's module takes over a second to import, and somebody who presses TAB waits. So while a shell completes an
argument, a command is replaced by one that takes the same kind of argument and nothing else.
"""

import json
import os
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import click
from click.shell_completion import CompletionItem, split_arg_string

from harness.resources import bundled

VARIABLE = "_HARNESS_COMPLETE"
"""Set by the shell's script while it completes."""
ENDINGS = (".yaml", ".yml")
Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def complete_experiment(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Experiment files, experiments that were run here, and those that come with the package."""
    from harness.store import known_experiments

    shipped = (path.stem for path in sorted(bundled("experiments").glob("*.yaml")))
    names = dict.fromkeys(known_experiments(), "run here") | dict.fromkeys(shipped, "comes with the package")
    named = (CompletionItem(name, help=text) for name, text in names.items() if name.startswith(incomplete))
    return [*_files(incomplete), *named] or complete_file(ctx, param, incomplete)


def complete_file(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Whatever file the shell itself finds."""
    return [CompletionItem(incomplete, type="file")]


def _files(incomplete: str) -> Iterator[CompletionItem]:
    """Experiment files that begin so, and those in folders that begin so; hidden ones only where asked for."""
    folder = Path(incomplete) if incomplete.endswith("/") else Path(incomplete).parent
    found = sorted(chain(folder.glob("*"), folder.glob("*/*")))
    for path in found:
        is_shown = all(not part.startswith(".") for part in path.relative_to(folder).parts)
        written = str(path) if not incomplete.startswith("./") else f"./{path}"
        if is_shown and path.suffix in ENDINGS and written.startswith(incomplete):
            yield CompletionItem(written)


def complete_cell(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Cells and references by name; by id once that is begun, and with their experiment where two have the same name."""
    found = list(_cells())
    names = [name for _, name, _ in found]
    items = []
    for experiment, name, cell_id in found:
        full = name if names.count(name) == 1 else f"{experiment}/{name}"
        if full.startswith(incomplete):
            items.append(CompletionItem(full, help=f"{experiment} {cell_id}"))
        elif incomplete and cell_id.startswith(incomplete):
            items.append(CompletionItem(cell_id, help=f"{experiment} {name}"))
    return items or complete_file(ctx, param, incomplete)


def _cells() -> Iterator[tuple[str, str, str]]:
    """Experiment, name and id of all that was run here."""
    from harness.store import experiment_folder, known_experiments

    for experiment in known_experiments():
        for path in sorted(experiment_folder(experiment).path.glob("cells/*/cell.json")):
            cell = json.loads(path.read_text(encoding="utf-8"))["cell"]
            yield experiment, cell["name"], cell["id"]


COMPLETERS: dict[str, Completer] = {
    **dict.fromkeys(
        ("run", "plan", "data", "template", "evaluate", "rank", "report", "replay", "reconcile", "sync", "ui"),
        complete_experiment,
    ),
    **dict.fromkeys(("diagnose", "show", "compare", "card", "chat", "export", "promote"), complete_cell),
    "score": complete_file,
}
"""Command -> what its arguments are."""


def completing(name: str) -> click.Command | None:
    """A command that only completes arguments, while a shell asks for one; options need the command itself."""
    if VARIABLE not in os.environ or name not in COMPLETERS or _word().startswith("-"):
        return None
    arguments = click.Argument(["arguments"], nargs=-1, shell_complete=COMPLETERS[name])
    return click.Command(name, params=[arguments], context_settings={"ignore_unknown_options": True})


def _word() -> str:
    """What is being completed: bash and zsh tell its place among the words, fish tells the word."""
    words, place = split_arg_string(os.environ.get("COMP_WORDS", "")), os.environ.get("COMP_CWORD", "")
    if not place.isdigit():
        return place
    return words[int(place)] if int(place) < len(words) else ""
