"""Renders a chat template behind limits. Started as a script of its own, with nothing but the standard library and Jinja.

The sandbox of transformers keeps a template from Python's internals, but not from loops without end or texts without
bound, and a computation such as `10 ** 10 ** 9` can't be interrupted from within its process. What goes wrong otherwise is
not told here: the real rendering tells it better.

Reads `{"template", "conversations", "variables"}` from standard input; the exit code is one of those below.
"""

import contextlib
import json
import resource
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

CPU_SECONDS = 5
MEMORY_BYTES = 1 << 30
MAX_CHARACTERS = 1 << 20
OK, TOO_LONG, TOO_MUCH_MEMORY = 0, 3, 4


def limit() -> None:
    """Limits this process, as far as the system lets it."""
    for kind, value in (
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_CORE, 0),
    ):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(kind, (value, value))


def raise_exception(message: str) -> NoReturn:
    """What templates call to refuse a conversation."""
    raise ValueError(message)


def longest(text: str, conversations: list[list[dict[str, Any]]], variables: dict[str, Any]) -> int:
    """Characters of the longest rendering, in the environment that transformers gives a template."""
    from jinja2 import nodes
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}`, which marks answers and changes nothing of the text."""

        tags = {"generation"}

        def parse(self, parser: Any) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    environment.globals |= {"raise_exception": raise_exception, "strftime_now": lambda _: "01 Jan 2026"}
    template = environment.from_string(text)
    sizes = [0]
    for messages in conversations:
        for prompts in (False, True):
            # One conversation that the template refuses says nothing of the next.
            try:
                sizes.append(size_of(template.generate(messages=messages, add_generation_prompt=prompts, **variables)))
            except MemoryError:
                raise
            except Exception:  # whatever a template raises
                continue
    return max(sizes)


def size_of(pieces: Iterator[str]) -> int:
    """Characters of a rendering, counted no further than they matter."""
    size = 0
    for piece in pieces:
        size += len(piece)
        if size > MAX_CHARACTERS:
            break
    return size


def main() -> int:
    """The exit code."""
    job = json.load(sys.stdin)
    limit()
    try:
        return TOO_LONG if longest(job["template"], job["conversations"], job["variables"]) > MAX_CHARACTERS else OK
    except MemoryError:
        return TOO_MUCH_MEMORY
    except Exception:  # the real rendering tells it better
        return OK


if __name__ == "__main__":
    sys.exit(main())
