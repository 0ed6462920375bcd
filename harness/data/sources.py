"""Rows of a dataset, from a file, the Hub or the package, with the file and line of whatever is broken."""

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from harness.config import SourceConfig
from harness.errors import DataError
from harness.resources import EMBEDDED_PREFIX, embedded

logger = logging.getLogger(__name__)

FILE_SUFFIXES = (".jsonl", ".json")


class Row(NamedTuple):
    """One row as it was read."""

    where: str
    """File and line, or dataset and index."""
    content: Mapping[str, Any]


def local_path(source: SourceConfig) -> Path | None:
    """The file that a source names, or None where it names a Hub dataset.

    Raises: DataError: it looks like a file, but there is none.
    """
    if source.path.startswith(EMBEDDED_PREFIX):
        path = embedded(source.path.removeprefix(EMBEDDED_PREFIX))
        if not path.is_file():
            raise DataError(f"{source.path}: embedded splits are train, validation, test and retention")
        return path
    path = Path(source.path).expanduser()
    if path.suffix in FILE_SUFFIXES or path.exists() or source.path.startswith(("/", "./", "../", "~")):
        if not path.is_file():
            raise DataError(f"{source.path}: there is no such data file; check the path")
        if path.suffix not in FILE_SUFFIXES:
            raise DataError(f"{source.path}: only .jsonl and .json files can be read; convert it")
        return path
    return None


def fingerprint(source: SourceConfig) -> str:
    """Digest of a file's content, or the Hub coordinates with the pinned revision."""
    path = local_path(source)
    if path is None:
        return json.dumps([source.path, source.name, source.split, source.revision])
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load_rows(source: SourceConfig) -> list[Row]:
    """All rows of a source.

    Raises: DataError: the source can't be reached, or a line of it isn't a JSON object.
    """
    path = local_path(source)
    if path is None:
        return _load_hub_rows(source)
    rows = _read_json_lines(path) if path.suffix == ".jsonl" else _read_json_array(path)
    if not rows:
        raise DataError(f"{path}: the file has no rows; training needs at least one")
    return rows


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: the file can't be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} isn't UTF-8; save the file as UTF-8") from error


def _read_json_lines(path: Path) -> list[Row]:
    rows = []
    # Not splitlines(): U+2028 and its like are legal inside a JSON string.
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            content = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{where}: the line isn't valid JSON ({error.msg} at column {error.colno}); mend or delete it"
            ) from error
        rows.append(Row(where, _object(content, where)))
    return rows


def _read_json_array(path: Path) -> list[Row]:
    try:
        content = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}:{error.lineno}: the file isn't valid JSON ({error.msg}); mend it, or name it .jsonl if it has one object a line"
        ) from error
    if not isinstance(content, list):
        raise DataError(f"{path}: the file must hold a JSON array of rows, not {type(content).__name__}")
    return [Row(f"{path}[{index}]", _object(item, f"{path}[{index}]")) for index, item in enumerate(content)]


def _object(content: object, where: str) -> Mapping[str, Any]:
    if not isinstance(content, dict):
        raise DataError(f"{where}: a row must be a JSON object, not {type(content).__name__}")
    return content


def _load_hub_rows(source: SourceConfig) -> list[Row]:
    from datasets import load_dataset

    try:
        dataset = load_dataset(source.path, source.name, split=source.split, revision=source.revision)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"dataset {source.path!r} (split {source.split!r}) can't be loaded: {reason}; "
            "check its name, your connection and `hf auth login`, or give a local .jsonl file"
        ) from error
    logger.info("%s: %d rows from the Hub", source.path, len(dataset))
    return [Row(f"{source.path}[{index}]", row) for index, row in enumerate(dataset)]
