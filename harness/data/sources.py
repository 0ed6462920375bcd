"""Rows of a dataset, from files, the Hub or the package, with the file and line of whatever is broken."""

import glob
import hashlib
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from harness.data.files import FILE_SUFFIXES, Item, read_file, unreadable, without_filler
from harness.errors import DataError
from harness.eval_config import SourceConfig
from harness.resources import EMBEDDED_PREFIX, embedded, file_digest, is_file

logger = logging.getLogger(__name__)

SPLIT_NAME = re.compile(r"(?<![a-z])(train|test|validation|valid|val|dev)(?![a-z])")


class Row(NamedTuple):
    """One row as it was read."""

    where: str
    """File and line, or dataset and position."""
    content: Mapping[str, Any]
    index: int = 0  # type: ignore[assignment]  # hides tuple.index, which nobody asks of a row
    """Position among the rows of the whole source, from 0."""


class BrokenRow(NamedTuple):
    """One row that can't be read."""

    where: str
    index: int  # type: ignore[assignment]
    """Position among the rows of the whole source, from 0."""
    reason: str


class Read(NamedTuple):
    """What a source holds."""

    rows: list[Row]
    broken: list[BrokenRow]


def local_paths(source: SourceConfig) -> tuple[Path, ...] | None:
    """The files that a source names, sorted, or None where it names a Hub dataset.

    Raises: DataError: it looks local, but there is no such file, no data file, or none that can be read.
    """
    if source.path.startswith(EMBEDDED_PREFIX):
        path = embedded(source.path.removeprefix(EMBEDDED_PREFIX))
        if not path.is_file():
            raise DataError(
                f"{source.path}: embedded splits are train, validation, test, retention, structured_train, structured_validation and structured_test"
            )
        return (path,)
    if "\0" in source.path:
        raise DataError(f"{source.path!r} can't be the name of a file; check the path")
    path = Path(source.path).expanduser()
    if is_file(path):
        if path.suffix.lower() not in FILE_SUFFIXES:
            raise DataError(f"{source.path}: only .jsonl, .json, .parquet and .csv files can be read; convert it")
        return (path,)
    if path.is_dir():
        return _data_files(_visible_files(path), f"{source.path}: the folder")
    if any(character in source.path for character in "*?["):
        matches = glob.glob(str(path), recursive=True)  # noqa: PTH207 (Path.glob takes no absolute pattern)
        return _data_files(map(Path, matches), f"{source.path}: the pattern")
    if path.suffix.lower() in FILE_SUFFIXES or source.path.startswith(("/", "./", "../", "~")):
        raise DataError(f"{source.path}: there is no such data file; check the path")
    return None


def _visible_files(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path


def _data_files(paths: Iterable[Path], what: str) -> tuple[Path, ...]:
    found = sorted(path for path in paths if path.suffix.lower() in FILE_SUFFIXES and path.is_file())
    if not found:
        raise DataError(f"{what} has no .jsonl, .json, .parquet or .csv file; check the path")
    return tuple(found)


def fingerprint(source: SourceConfig) -> str:
    """Digest of the content of a source's files in the order of their names, or its Hub coordinates."""
    paths = local_paths(source)
    if paths is None:
        return json.dumps([source.path, source.name, source.split, source.revision])
    digests = [_file_digest(path) for path in paths]
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError as error:
        raise unreadable(path, error) from error


def read_rows(source: SourceConfig) -> Read:
    """All rows of a source, and apart from them those that can't be read.

    Raises: DataError: the source can't be reached, or a whole file of it can't be read.
    """
    paths = local_paths(source)
    if paths is None:
        items: Iterable[Item] = _hub_items(source)
    else:
        _check_local(source, paths)
        items = chain.from_iterable(map(read_file, paths))
    read = Read([], [])
    for index, (where, content, problem) in enumerate(items):
        if problem:
            read.broken.append(BrokenRow(where, index, problem))
        elif isinstance(content, dict):
            read.rows.append(Row(where, content, index))
        else:
            read.broken.append(BrokenRow(where, index, f"a row must be a JSON object, not {type(content).__name__}"))
    logger.info("%s: %d rows, %d broken", source.path, len(read.rows), len(read.broken))
    return read


def load_rows(source: SourceConfig) -> list[Row]:
    """All rows of a source.

    Raises: DataError: the source can't be reached, is empty, or has a row that can't be read.
    """
    rows, broken = read_rows(source)
    if broken:
        raise DataError(f"{broken[0].where}: {broken[0].reason}")
    if not rows:
        raise DataError(f"{source.path}: there are no rows; at least one is needed")
    return rows


def _check_local(source: SourceConfig, paths: Sequence[Path]) -> None:
    if source.name is not None or source.revision is not None or source.split != "train":
        raise DataError(
            f"{source.path}: name, split and revision choose within a Hub dataset, but this is a local file or folder; "
            "delete them and name the file of that split"
        )
    names = {match for path in paths for match in SPLIT_NAME.findall(path.name.lower())}
    if len(names) > 1:
        logger.warning("%s: files of several splits (%s) are read as one dataset; name those of one split with a pattern such as %s/*train*",
                       source.path, ", ".join(sorted(names)), paths[0].parent)  # fmt: skip


def _hub_items(source: SourceConfig) -> Iterator[Item]:
    from datasets import load_dataset

    try:
        # Without network, `datasets` doesn't find what `hf download` has put into the Hub's own cache.
        kept = _cached_snapshot(source)
        revision = None if kept else source.revision
        dataset = load_dataset(kept or source.path, source.name, split=source.split, revision=revision)
        for index, row in enumerate(dataset):
            yield Item(f"{source.path}[{index}]", without_filler(row))
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"dataset {source.path!r} (split {source.split!r}) can't be loaded: {reason}; "
            "check its name, your connection and `hf auth login`, or give a local .jsonl file"
        ) from error


def _cached_snapshot(source: SourceConfig) -> str | None:
    """The folder of a dataset in the Hub's cache, in offline mode; None where it isn't there, or the Hub can be asked."""
    from huggingface_hub import is_offline_mode, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    if not is_offline_mode():
        return None
    try:
        return str(snapshot_download(source.path, repo_type="dataset", revision=source.revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
