"""Pieces of Markdown whose content can't become markup: what models and users write is text, whatever it looks like."""

import re
from collections.abc import Iterable, Iterator, Sequence

# Intraword underscores are no emphasis in the Hub's and GitHub's Markdown, so that names stay readable in the source too.
MARKUP = re.compile(r"[\\`*\[\]|~#!]|(?<!\w)_|_(?!\w)")
ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
# Inside a table a bar ends the cell even in a code span.
BAR = re.compile(r"(?<!\\)[|]")
# A bare address would become a link.
ADDRESS = re.compile(r"(?i)(https?|ftp)(:)(?=//)|(www)(\.)|(?<=\w)(@)(?=\w)")


def escaped(text: str) -> str:
    """One line that is shown as it stands: no HTML, no link, no image, no new column."""
    line = " ".join(text.split())
    line = "".join(ENTITIES.get(character, character) for character in line)
    line = MARKUP.sub(lambda found: f"\\{found[0]}", line)
    return ADDRESS.sub(lambda found: "".join(f"&#{ord(c)};" if c in ":.@" else c for c in found[0]), line)


def code(text: str) -> str:
    """A code span on one line."""
    line = " ".join(text.split()) or " "
    fence = "`" * (_longest_run(line) + 1)
    blank = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{blank}{line}{blank}{fence}"


def block(text: str, language: str = "text") -> list[str]:
    """A block of code, whatever fences the text itself has."""
    fence = "`" * max(3, _longest_run(text) + 1)
    return [f"{fence}{language}", *text.rstrip("\n").split("\n"), fence]


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall(r"`+", text)), default=0)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A table of cells that are Markdown already."""
    yield f"| {' | '.join(header)} |"
    yield f"|{'---|' * len(header)}"
    for row in rows:
        cells = [BAR.sub(r"\\|", cell) for cell in row]
        yield f"| {' | '.join(cells)} |"


def details(summary: str, lines: Iterable[str]) -> Iterator[str]:
    """Lines that are folded away until somebody asks for them."""
    yield from ("", f"<details><summary>{escaped(summary)}</summary>", "", *lines, "", "</details>")
