"""YAML as plain data with the line of every key, bounded: no file can take more time or memory than its size explains."""

import binascii
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from harness.errors import ConfigError
from harness.secrets import holds_secret, is_secret_name

Location = tuple[str | int, ...]

MAX_BYTES = 1 << 20
MAX_DEPTH = 40
MAX_NODES = 100_000
"""Keys and values of a file, each alias counted as all that it stands for."""
PLAIN_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map", "merge")}


class Parsed(NamedTuple):
    """What a YAML text holds."""

    content: Any
    lines: dict[Location, int]
    """Key path -> line number, from 1."""


class _RefusedError(Exception):
    """Why a text is not read, and at which line."""


class _Loader(yaml.SafeLoader):
    """Safe loader of plain data that reads `2e-5` as a number, as YAML 1.2 does, and goes so deep only."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            line = self.line + 1
            raise _RefusedError(line, f"it is nested more than {MAX_DEPTH} levels deep; flatten it")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, LookupError, AttributeError, TypeError, OverflowError) as error:
            # An integer of thousands of digits, or `!!int x`.
            kind = node.tag.rpartition(":")[2]
            raise _RefusedError(_line(node), f"{_short(node)} can't be read as {kind}; quote it") from error


# A date would become an object that no setting takes and no record holds; it stays the text that it is.
_Loader.yaml_implicit_resolvers = {
    key: [(tag, pattern) for tag, pattern in value if not tag.endswith(":timestamp")]
    for key, value in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def read_yaml(path: Path) -> Parsed:
    """The content of a YAML file.

    Raises: ConfigError: it can't be read, is too large, isn't plain YAML, or says a thing twice; with file and line.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: the file can't be read ({error.strerror})") from error
    if len(content) > MAX_BYTES:
        raise ConfigError(
            f"{path}: the file is larger than {MAX_BYTES >> 20} MiB, which no experiment is; name the experiment's file"
        )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: the file isn't UTF-8 text; save it as UTF-8") from error
    try:
        return parse_yaml(text)
    except _RefusedError as error:
        line, why = error.args
        raise ConfigError(f"{path}:{line}: {why}") from error


def value_of(text: str, where: str) -> Any:
    """A value as YAML, as in `--set key=value`.

    Raises: ConfigError: it isn't plain YAML.
    """
    try:
        return parse_yaml(text[: MAX_BYTES + 1]).content
    except _RefusedError as error:
        raise ConfigError(f"{where}: the value isn't valid YAML ({error.args[1]})") from error


def parse_yaml(text: str) -> Parsed:
    """Content and lines of a text; raises `_RefusedError`."""
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            return Parsed(None, {})
        _check_size(root)
        lines = dict(_key_lines(root, ()))
        return Parsed(loader.construct_document(root), lines)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = error.problem or error.context
        raise _RefusedError(
            mark.line + 1 if mark else 1, f"this isn't valid YAML: {reason}; check indentation and colons"
        ) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        code = error.character if isinstance(error.character, int) else ord(error.character)
        raise _RefusedError(line, f"the character U+{code:04X} can't be in a YAML file; delete it") from error
    except binascii.Error as error:
        raise _RefusedError(1, f"this isn't valid YAML: {error}; check what is marked !!binary") from error


def _check_size(root: yaml.Node) -> None:
    """Raises: _RefusedError: aliases make more of the text than any experiment is, or one stands inside what it stands for."""
    sizes: dict[int, int] = {}

    def size(node: yaml.Node) -> int:
        known = sizes.get(id(node))
        if known is not None:
            if not known:
                raise _RefusedError(_line(node), "an alias stands inside what it stands for; write the values out")
            return known
        if node.tag not in PLAIN_TAGS:
            tag = node.tag.replace("tag:yaml.org,2002:", "!!")
            raise _RefusedError(_line(node), f"the tag {tag} is not read, for an experiment is plain data; delete it")
        sizes[id(node)] = 0
        parts = [child for pair in node.value for child in pair] if isinstance(node, yaml.MappingNode) else node.value
        total = 1 + (0 if isinstance(node, yaml.ScalarNode) else sum(map(size, parts)))
        if total > MAX_NODES:
            raise _RefusedError(
                _line(node), f"with its aliases this is more than {MAX_NODES:,} values; write out what is meant"
            )
        sizes[id(node)] = total
        return total

    size(root)


def _key_lines(node: yaml.Node, location: Location) -> Iterator[tuple[Location, int]]:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _RefusedError(
                    _line(key), "a key must be plain text, not a list or a mapping; write it as one word"
                )
            name = str(key.value)
            if name in seen:
                raise _RefusedError(_line(key), f"{_short(key)} is given twice; delete one of the two")
            seen.add(name)
            here = (*location, name)
            # A password in the address of a server is complained of where that is checked, with what to do.
            is_own = here == ("tracking", "uri") or (here[0], name) == ("references", "url")
            if isinstance(value, yaml.ScalarNode) and not is_own:
                _check_secret(name, value)
            yield here, _line(key)
            yield from _key_lines(value, here)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            if isinstance(value, yaml.ScalarNode):
                _check_secret("", value)
            yield (*location, index), _line(value)
            yield from _key_lines(value, (*location, index))


def _check_secret(name: str, value: yaml.ScalarNode) -> None:
    """Raises: _RefusedError: copies of the file, which go to MLflow and into reports, would carry a password or a token."""
    is_given = value.value not in ("", "null", "~")
    if holds_secret(str(value.value)) or (is_given and is_secret_name(name)):
        raise _RefusedError(
            _line(value), f"{name or 'the value'} holds a password or a token, which copies of this file would carry to MLflow "
            "and into reports; delete it and put it into the environment",
        )  # fmt: skip


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _short(node: yaml.Node) -> str:
    text = str(node.value)
    return text if len(text) <= 60 else f"{text[:57]}..."
