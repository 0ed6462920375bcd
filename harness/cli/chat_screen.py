"""A chat as it is seen: on a terminal with a prompt, notes and columns; in a pipe one turn a line and bare answers."""

import contextlib
import functools
import io
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

import click
from rich.table import Table
from rich.text import Text

from harness.chat import Dialogue
from harness.cli.terminal import SafeConsole
from harness.errors import HarnessError

if TYPE_CHECKING:
    from harness.models.chatting import Answer, Show

    Ask = Callable[[Dialogue, Show], Answer | None]

HELP = """\
/system TEXT  begin anew with this system prompt; without TEXT, with none
/reset        begin anew
/tokens       show what the last answer was given to, special tokens and all
/regenerate   answer the last turn again
/help         show this
/exit         leave; so does Ctrl-D
Ctrl-C stops an answer. A turn that begins with two slashes is sent with one."""
COMMAND = re.compile(r"/([a-z]+)(?:\s+(.*))?", re.DOTALL)
# All but tab and line feed: what a model writes must not move the cursor or reach the clipboard.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
MIN_COLUMNS_WIDTH = 60
"""Of a terminal, for two answers to stand side by side."""
T = TypeVar("T")


def visible(text: str) -> str:
    r"""The text with control characters spelled out, as `\x1b`."""
    return CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def note(text: str) -> None:
    """What is no answer goes to stderr, on a terminal wrapped between words."""
    if sys.stderr.isatty():
        SafeConsole(stderr=True, highlight=False).print(Text(text, style="dim"))
    else:
        click.echo(text, err=True)


def said_while_loading(load: Callable[[str], T], target: str) -> T:
    """What `load` gives, with a line on the terminal for as long as it takes."""
    if not sys.stderr.isatty():
        return load(target)
    with SafeConsole(stderr=True).status(f"loading {target}", spinner="line"):
        return load(target)


class Chat:
    """A conversation with one partner, or with two that hear the same."""

    def __init__(self, dialogues: Sequence[Dialogue], temperature: float) -> None:
        self._dialogues = dialogues
        self._temperature = temperature
        self._is_interactive = sys.stdin.isatty()
        self._interrupts = 0

    def run(self) -> None:
        """Until the end of input, `/exit`, or Ctrl-C where no answer is being written.

        Raises: KeyboardInterrupt: Ctrl-C in a pipe.
        """
        if self._is_interactive:
            self._introduce()
        else:
            self._say_what_is_plain()
        for line in self._lines():
            command = COMMAND.fullmatch(line)
            if command is None:
                turn = line[1:] if line.startswith("//") else line
                self._show(functools.partial(_ask, turn))
            elif command[1] in ("exit", "quit", "bye"):
                return
            else:
                self._obey(command[1], (command[2] or "").strip())

    def _introduce(self) -> None:
        way = "greedy" if not self._temperature else f"temperature {self._temperature:g}"
        for dialogue in self._dialogues:
            partner = dialogue.partner
            note(f"{partner.name}: template {partner.template}, {way}, at most {dialogue.max_new_tokens} new tokens, context {partner.model.context}")  # fmt: skip
            if partner.warnings:
                note(f"{partner.name}: warning signs: {partner.warnings}")
        self._say_what_is_plain()
        note("/help shows the commands; Ctrl-D leaves")

    def _say_what_is_plain(self) -> None:
        for dialogue in self._dialogues:
            if not dialogue.partner.model.has_template:
                note(f"{dialogue.partner.name} has no chat template: every prompt is asked as it stands, without system prompt and what was said before")  # fmt: skip

    def _lines(self) -> Iterator[str]:
        if not self._is_interactive:
            if isinstance(sys.stdin, io.TextIOWrapper):
                sys.stdin.reconfigure(errors="replace")
            lines = (line.rstrip("\r\n") for line in sys.stdin)
            yield from (line for line in lines if line.strip())
            return
        with contextlib.suppress(ImportError):
            # Its import alone gives `input` a history and line editing.
            import readline  # noqa: F401
        while True:
            try:
                line = self._typed()
            except EOFError:
                note("")
                return
            except KeyboardInterrupt:
                self._interrupts += 1
                note("")
                if self._interrupts > 1:
                    return
                note("Ctrl-C again, or Ctrl-D, leaves")
                continue
            self._interrupts = 0
            if line.strip():
                # Bytes that are no text reach `input` as lone surrogates, which no tokenizer takes.
                yield line.encode(errors="replace").decode()

    @staticmethod
    def _typed() -> str:
        if sys.stdout.isatty():
            return input(">>> ")
        click.echo(">>> ", nl=False, err=True)
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line.rstrip("\n")

    def _obey(self, command: str, text: str) -> None:
        if command == "help":
            note(HELP)
        elif command in ("reset", "system"):
            for dialogue in self._dialogues:
                dialogue.reset(text if command == "system" else None)
            note("system prompt set; a new conversation" if command == "system" and text else "a new conversation")
        elif command == "tokens":
            for dialogue in self._dialogues:
                self._show_tokens(dialogue)
        elif command == "regenerate" and self._dialogues[0].last is None:
            note("nothing was asked yet")
        elif command == "regenerate":
            self._show(Dialogue.ask_again)
        else:
            note(f"there is no command /{command}; /help lists them, and two slashes send the line as it is")

    def _show_tokens(self, dialogue: Dialogue) -> None:
        prompt = dialogue.prompt()
        label = f"{dialogue.partner.name}: " if len(self._dialogues) > 1 else ""
        if prompt is None:
            note(f"{label}nothing was asked yet")
            return
        note(f"{label}{len(prompt.ids)} tokens of {dialogue.partner.model.context}")
        click.echo(visible(prompt.text) if sys.stdout.isatty() else prompt.text)

    def _show(self, ask: "Ask") -> None:
        """One round: everybody's answer, then how it ended where that needs saying."""
        if len(self._dialogues) == 1:
            answers = [self._asked(self._dialogues[0], ask, _written)]
            if answers[0] is not None and answers[0].ended != "prompt_too_long":
                click.echo()
        else:
            answers = [self._asked_quietly(dialogue, ask) for dialogue in self._dialogues]
            _print_both([dialogue.partner.name for dialogue in self._dialogues], answers)
        for dialogue, answer in zip(self._dialogues, answers, strict=True):
            self._tell_end(dialogue, answer)
        if self._is_interactive:
            note("")

    def _asked_quietly(self, dialogue: Dialogue, ask: "Ask") -> "Answer | None":
        if not self._is_interactive:
            return self._asked(dialogue, ask, lambda text: None)
        with SafeConsole(stderr=True).status(f"{dialogue.partner.name} answers", spinner="line"):
            return self._asked(dialogue, ask, lambda text: None)

    def _asked(self, dialogue: Dialogue, ask: "Ask", show: "Show") -> "Answer | None":
        """None where the template refuses, which is said, or where Ctrl-C came before the first token."""
        try:
            answer = ask(dialogue, show)
        except HarnessError as error:
            note(f"{dialogue.partner.name}: {error}")
            return None
        except KeyboardInterrupt:
            answer = None
        if answer is None or answer.ended == "interrupted":
            if not self._is_interactive:
                raise KeyboardInterrupt
            self._interrupts = 1
        return answer

    def _tell_end(self, dialogue: Dialogue, answer: "Answer | None") -> None:
        if answer is None or answer.ended == "end_of_turn":
            return
        context = dialogue.partner.model.context
        is_full = len(answer.prompt.ids) + answer.num_tokens >= context
        told = {
            "length": f"cut at {answer.num_tokens} tokens, where the context of {context} is full; /reset begins anew"
            if is_full
            else f"cut at {answer.num_tokens} tokens; --max-new-tokens allows more",
            "prompt_too_long": f"not asked: the conversation has {len(answer.prompt.ids)} tokens and fills the context of {context}; /reset begins anew",
            "interrupted": "stopped",
            "end_of_text": "ended with the base's end of text, not with the end of a turn",
        }
        label = f"{dialogue.partner.name}: " if len(self._dialogues) > 1 else ""
        note(f"[{label}{told.get(answer.ended, answer.ended)}]")


def _ask(turn: str, dialogue: Dialogue, show: "Show") -> "Answer":
    return dialogue.ask(turn, show)


def _written(text: str) -> None:
    click.echo(visible(text) if sys.stdout.isatty() else text, nl=False)


def _print_both(names: Sequence[str], answers: "Sequence[Answer | None]") -> None:
    """Side by side where there is room, else one below the other; in a pipe each after its name."""
    texts = [answer.text if answer is not None else "" for answer in answers]
    if not sys.stdout.isatty():
        for name, text in zip(names, texts, strict=True):
            click.echo(f"[{name}] {text}")
        return
    console = SafeConsole(highlight=False)
    if console.width < MIN_COLUMNS_WIDTH:
        for name, text in zip(names, texts, strict=True):
            console.print(Text(name, style="bold cyan"))
            console.print(Text(visible(text)))
        return
    table = Table(box=None, expand=True, pad_edge=False, padding=(0, 2, 0, 0))
    for name in names:
        table.add_column(Text(name, style="bold cyan"), ratio=1, overflow="fold")
    table.add_row(*(Text(visible(text)) for text in texts))
    console.print(table)
