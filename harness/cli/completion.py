"""`harness completion`."""

import click
from click.shell_completion import get_completion_class

from harness.cli.completers import VARIABLE

INSTALL = {
    "bash": ("~/.bashrc", 'eval "$(harness completion bash)"'),
    "zsh": ("~/.zshrc, after compinit", 'eval "$(harness completion zsh)"'),
    "fish": ("~/.config/fish/config.fish", "harness completion fish | source"),
}
"""Shell -> file and line that make it last."""


@click.command("completion", short_help="Print the script that completes commands in your shell.")
@click.argument("shell", type=click.Choice(tuple(INSTALL)))
def command(shell: str) -> None:
    """Print the script that makes SHELL complete commands, options, experiments and cells.

    \b
    bash: add to ~/.bashrc                   eval "$(harness completion bash)"
    zsh:  add to ~/.zshrc, after compinit    eval "$(harness completion zsh)"
    fish: add to config.fish                 harness completion fish | source

    Example: harness completion bash
    """  # noqa: D301
    found = get_completion_class(shell)
    assert found is not None, "click knows every shell that is offered"
    file, line = INSTALL[shell]
    click.echo(f"# To keep it, add this line to {file}:\n#   {line}\n")
    click.echo(found(click.Group(), {}, "harness", VARIABLE).source())
