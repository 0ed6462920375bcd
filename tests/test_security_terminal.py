"""Nothing that is shown on a terminal can steer it, and hiding secrets takes no longer than the text is long."""

import io
import logging

import pytest
from rich.table import Table
from rich.text import Text

from harness.cli.safe_text import SafeFormatter, safe
from harness.cli.terminal import SafeConsole
from harness.secrets import redacted
from tests.guards import guarded

HOSTILE = {
    "clipboard": "a\x1b]52;c;ZXZpbA==\x07b",
    "cleared screen": "a\x1b[2Jb",
    "one-character CSI": "a\x9b2Jb",
    "title": "a\x1b]0;owned\x1b\\b",
    "overwritten line": "failed\rfinished\x08\x08",
    "turned around": "a\u202eb",
    "half a character": "a\ud800b",
}
LENGTH = 150_000
# Each takes the square of its length in an expression that begins again at every part of it.
REPEATED = (
    "://", "://a:", "://a:b@", "a@", "x@://a:b", "://1:22", "eyJ", "eyJ-", "eyJaaaaaaaaaaaa.", "a-", "password ", "password='", "_token",
    "authorization ", "bearer aaaaaaa", "hf_", "sk-", "@", "-", " ", "://a:b@@",
)  # fmt: skip


def shown(text: str) -> str:
    """What a terminal would be sent for a line, a cell of a table and a styled text."""
    file = io.StringIO()
    console = SafeConsole(file=file, force_terminal=True, color_system=None, width=200, highlight=False)
    table = Table(title=text)
    table.add_row(text)
    for what in (text, Text(text), table):
        console.print(what, markup=False)
    return file.getvalue()


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_is_shown_holds_no_control_character(kind: str) -> None:
    text = HOSTILE[kind]
    line = logging.LogRecord("x", logging.WARNING, "x", 1, "%s", (text,), None)
    for output in (shown(text), safe(text), SafeFormatter().format(line)):
        assert not [c for c in output if c != "\n" and (ord(c) < 32 or 127 <= ord(c) < 160 or c in "\u202e\ud800")], (
            ascii(output)
        )
        output.encode()


def test_colours_and_the_cursor_moves_of_the_console_itself_still_work() -> None:
    file = io.StringIO()
    console = SafeConsole(file=file, force_terminal=True, color_system="standard", width=80)
    console.print("[red]failed[/red]")
    with console.status("wait \x1b[2J"):
        pass
    assert "\x1b[31mfailed\x1b[0m" in file.getvalue()
    assert "\x1b[?25l" in file.getvalue()
    assert "wait [U+001B][2J" in file.getvalue()


def test_errors_and_logs_hide_secrets_too() -> None:
    assert safe("http://ada:hunter2@host \x1b[2J") == "http://***@host [U+001B][2J"


@pytest.mark.parametrize("part", REPEATED)
def test_secrets_are_looked_for_in_time_that_grows_with_the_text(part: str) -> None:
    with guarded(f"redacting {part!r}"):
        redacted(part * (LENGTH // len(part)) + " @x")


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("see http://ada:" + "p" * 5000 + "@host/x", "see http://***@host/x"),
        ("http://u:p@h and http://v:q@k", "http://***@h and http://***@k"),
        ("mysql+pymysql://u:p?w#d@h/db,http://c:d@e/f", "mysql+pymysql://***@h/db,http://***@e/f"),
        ("http://localhost:5000/x@y", "http://localhost:5000/x@y"),
        ("postgresql://ada:p/w:d@@db/x", "postgresql://***@db/x"),
        ("x eyJ" + "a" * 20 + ".eyJ" + "b" * 20 + ".c-_c y", "x *** y"),
    ],
)
def test_long_and_odd_passwords_are_hidden_whole(text: str, kept: str) -> None:
    assert redacted(text) == kept
