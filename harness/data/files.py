"""Data files as rows: JSON lines, JSON, CSV and Parquet."""

import csv
import io
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from harness.errors import DataError

logger = logging.getLogger(__name__)

ROW_COLUMNS = {"messages", "conversations", "conversation", "dialog", "prompt", "instruction", "question", "query", "text"}  # fmt: skip
"""A JSON object with one of these keys is a row, not an envelope around rows."""


class Item(NamedTuple):
    """One place of a file: a row, or why there is none."""

    where: str
    """File and line, or file and position."""
    content: object
    problem: str = ""


def read_file(path: Path) -> Iterator[Item]:
    """The rows of one data file, in order, and in their place what can't be read.

    Raises: DataError: the whole file can't be read.
    """
    try:
        yield from READERS[path.suffix.lower()](path)
    except OSError as error:
        raise unreadable(path, error) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} isn't UTF-8; save the file as UTF-8") from error


def unreadable(path: Path, error: OSError) -> DataError:
    """What to raise where the system refuses a file."""
    return DataError(f"{path}: the file can't be read ({error.strerror or error})")


def _json_lines(path: Path) -> Iterator[Item]:
    with path.open("rb") as file:
        # Not splitlines(): U+2028 and its like are legal inside a JSON string.
        for number, line in enumerate(file, 1):
            if line.strip():
                yield _json_line(line, f"{path}:{number}", is_first=number == 1)


def _json_line(line: bytes, where: str, *, is_first: bool) -> Item:
    try:
        # Editors on Windows begin a file with a byte order mark.
        content = json.loads(line.decode("utf-8-sig" if is_first else "utf-8"))
        return Item(where, content, _half_characters(content) if b"\\u" in line else "")
    except UnicodeDecodeError as error:
        return Item(where, None, f"byte {error.start} of the line isn't UTF-8; save the file as UTF-8")
    except json.JSONDecodeError as error:
        problem = f"{error.msg} at column {error.colno}"
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits, or thousands of brackets
        problem = str(error)
    return Item(where, None, f"the line isn't valid JSON ({problem}); mend or delete it")


def _half_characters(content: object) -> str:
    """What to say of text cut in the middle of a character written as two escapes, which no tokenizer takes."""
    try:
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        return f"the row holds half a character ({error.object[error.start]!a}); mend or delete it"
    return ""


def _json_items(path: Path) -> Iterator[Item]:
    text = path.read_text(encoding="utf-8-sig")
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        lines = list(_json_lines(path))
        if not lines or not all(isinstance(item.content, dict) for item in lines):
            raise DataError(
                f"{path}:{error.lineno}: the file isn't valid JSON ({error.msg}); mend it, or name it .jsonl if it has one object a line"
            ) from error
        logger.info("%s: read as JSON lines, one object a line", path)
        yield from lines
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: the file isn't valid JSON ({error}); mend it") from error
    else:
        for index, item in enumerate(_rows_in(content, path)):
            yield Item(f"{path}[{index}]", item, _half_characters(item) if "\\u" in text else "")


def _rows_in(content: object, path: Path) -> list[Any]:
    """The rows of a JSON document: its array, the only array of objects in its envelope, or itself."""
    if isinstance(content, list):
        return content
    if not isinstance(content, dict):
        raise DataError(f"{path}: the file must hold a JSON array of rows, not {type(content).__name__}")
    if ROW_COLUMNS & content.keys():
        return [content]
    lists = [value for value in content.values() if _holds_objects(value)]
    if len(lists) != 1:
        raise DataError(
            f"{path}: the file holds one JSON object that is no row and has {len(lists)} lists of rows; "
            "it must hold an array of rows"
        )
    found: list[Any] = lists[0]
    return found


def _holds_objects(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _csv_items(path: Path) -> Iterator[Item]:
    # The csv module refuses cells above 128 KiB, which long documents reach; its limit is one for the process.
    csv.field_size_limit(2**31 - 1)
    # Decoded by hand, so that line breaks inside cells stay as they are.
    reader = csv.reader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline=""), strict=True)
    try:
        header = next(reader, [])
        if len(set(header)) < len(header):
            raise DataError(f"{path}: two columns have the same name; rename one of {', '.join(header)}")
        # A line without any cell is blank.
        for index, cells in enumerate(filter(None, reader)):
            is_whole = len(cells) == len(header)
            problem = "" if is_whole else f"the row has {len(cells)} cells, but the header {len(header)}; mend it"
            yield Item(f"{path}[{index}]", dict(zip(header, cells, strict=False)), problem)
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: the file isn't valid CSV ({error}); mend it") from error


def _parquet_items(path: Path) -> Iterator[Item]:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    index = 0
    try:
        with ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1000):
                for row in batch.to_pylist():
                    yield Item(f"{path}[{index}]", without_filler(row))
                    index += 1
    except ArrowException as error:
        raise DataError(f"{path}: the file isn't valid Parquet ({error}); write it again") from error


def without_filler(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row without the nulls inside its columns: Arrow fills up every object with the keys of all the others."""
    return {key: _pruned(value) if isinstance(value, dict | list) else value for key, value in row.items()}


def _pruned(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _pruned(item) for key, item in value.items() if item is not None}
    return [_pruned(item) for item in value] if isinstance(value, list) else value


READERS: Mapping[str, Callable[[Path], Iterator[Item]]] = {
    ".jsonl": _json_lines,
    ".json": _json_items,
    ".parquet": _parquet_items,
    ".csv": _csv_items,
}
FILE_SUFFIXES = tuple(READERS)
