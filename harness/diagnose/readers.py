"""Evidence from the files that any training leaves: `trainer_state.json`, JSON lines, CSV, or a folder of them."""

import csv
import json
import logging
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from harness.diagnose.evidence import Evidence
from harness.diagnose.recording import Curves, Recording, curves_of_rows, evidence_of, known_as, number, whole_step
from harness.errors import DataError

logger = logging.getLogger(__name__)

STATE = "trainer_state.json"
MAX_BYTES = 1 << 28
DELIMITERS = ",;\t|"
TENSORBOARD = {"wall time", "step", "value"}
# What a TensorBoard export holds stands in its name alone, as in `run-.-tag-eval_loss.csv`; the first that fits counts.
TAGS = (
    (r"(eval|val|valid|validation|dev)[^a-z].*loss|loss[^a-z]+(eval|val)", "eval_loss"), (r"grad.*norm", "grad_norm"),
    (r"learning.?rate|(^|[^a-z])lr([^a-z]|$)", "learning_rate"), (r"epoch", "epoch"),
)  # fmt: skip
STATE_SETTINGS = {
    "num_train_epochs": "num_train_epochs", "logging_steps": "logging_steps", "eval_steps": "eval_steps",
    "save_steps": "save_steps", "train_batch_size": "per_device_train_batch_size",
}  # fmt: skip


def file_evidence(path: Path) -> Evidence:
    """Evidence from a file or a folder of a training.

    Raises: DataError: there is none, it can't be read, or it holds no curve.
    """
    try:
        recording = _folder(path) if path.is_dir() else _file(path)
    except OSError as error:
        raise DataError(f"{path}: the file can't be read ({error.strerror or error}); check the path") from error
    except UnicodeError as error:
        raise DataError(f"{path}: this is no text; give a trainer_state.json, JSON lines or CSV") from error
    return evidence_of(recording)


def _file(path: Path) -> Recording:
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise DataError(
            f"{path}: the file has {size / 2**20:,.0f} MiB, {MAX_BYTES >> 20} at most; keep the curves only"
        )
    with path.open("rb") as raw:
        head = raw.read(1024)
    if not head.strip(b" \r\n\t\0\xef\xbb\xbf"):
        raise DataError(f"{path}: the file is empty; has the training logged anything yet?")
    encoding = "utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    with path.open(encoding=encoding, newline="") as file:
        start = file.read(1024).lstrip()
        file.seek(0)
        if path.suffix == ".json" or (start[:1] == "[" and path.suffix != ".csv"):
            return _document(path, file)
        if start[:1] == "{" or path.suffix == ".jsonl":
            return _lines(path, file)
        return _table(path, file)


def _named(path: Path, name: str = "") -> str:
    """What the training is called: its folder where the file's own name says nothing."""
    return name or (path.parent.name if path.name in (STATE, "trainer_log.jsonl", "trace.jsonl") else path.stem)


def _document(path: Path, file: TextIO) -> Recording:
    try:
        content = json.load(file)
    except RecursionError as error:
        raise DataError(f"{path}: the JSON is nested too deeply to be a log") from error
    except ValueError as error:
        file.seek(0)
        if "Extra data" in str(error):
            return _lines(path, file)
        raise DataError(
            f"{path}: this is no {STATE} of transformers: the JSON is cut off or damaged ({_short(error)}); "
            "take that of an earlier checkpoint"
        ) from error
    state = content if isinstance(content, dict) else {"log_history": content}
    history = state.get("log_history")
    if not isinstance(history, list) or (history and not any(isinstance(entry, dict) for entry in history)):
        raise DataError(f"{path}: this is no {STATE} of transformers (it needs log_history)")
    return _of_state(path, state, [_flat(entry) for entry in history if isinstance(entry, dict)])


def _of_state(path: Path, state: Mapping[str, Any], rows: Sequence[Mapping[str, object]]) -> Recording:
    planned, done = whole_step(state.get("max_steps")), whole_step(state.get("global_step"))
    settings = {f"training.{ours}": f"{value:g}" for theirs, ours in STATE_SETTINGS.items() if (value := number(state.get(theirs)))}  # fmt: skip
    if not any("eval_loss" in row for row in rows):
        # A default of transformers, which says nothing where nothing was evaluated.
        settings.pop("training.eval_steps", None)
    is_over = any("train_runtime" in row for row in rows) or (bool(planned) and (done or 0) >= (planned or 0))
    return Recording(
        curves=curves_of_rows(rows, str(path)),
        settings=settings,
        name=_named(path),
        planned_steps=planned or None,
        # A checkpoint's state says nothing of what came after it.
        is_finished=True if is_over else None,
    )


def _lines(path: Path, file: TextIO) -> Recording:
    rows, broken = [], 0
    for line in file:
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            entry = None
        if isinstance(entry, dict):
            rows.append(_flat(entry))
        else:
            broken += 1
    if broken >= max(1, len(rows)):
        raise DataError(
            f"{path}: {broken} of {broken + len(rows)} lines are no JSON objects; this is no log of a training"
        )
    if broken:
        logger.warning("%s: %d of %d lines are cut off or no JSON, and were left out", path, broken, broken + len(rows))
    planned = max((at for row in rows if (at := whole_step(row.get("total_steps")))), default=None)
    recording = Recording(_found(path, curves_of_rows(rows, str(path)), rows), name=_named(path), planned_steps=planned)
    return recording if planned is None else _with_end(path, recording, rows, planned)


def _with_end(path: Path, recording: Recording, rows: Sequence[Mapping[str, object]], planned: int) -> Recording:
    """The recording of a log that is written as training goes on and knows how far it will go."""
    is_finished = max((whole_step(row.get("current_steps")) or 0 for row in rows), default=0) >= planned
    idle = None if is_finished else max(0.0, time.time() - path.stat().st_mtime)
    return Recording(recording.curves, {}, recording.name, planned, is_finished, idle)


def _flat(entry: Mapping[str, object]) -> Mapping[str, object]:
    """The entry with the values of our own trace lines laid beside their step."""
    values = entry.get("values")
    return {**entry, **values} if isinstance(values, dict) else entry


def _table(path: Path, file: TextIO) -> Recording:
    header = file.readline()
    while header and not header.strip():
        header = file.readline()
    delimiter = max(DELIMITERS, key=header.count)
    columns = next(csv.reader([header], delimiter=delimiter))
    renamed = columns
    if {column.strip().lower() for column in columns} == TENSORBOARD:
        renamed = [_tag(path) if column.strip().lower() == "value" else column for column in columns]
    try:
        rows = list(_cells(csv.reader(file, delimiter=delimiter), renamed, has_commas=delimiter != ","))
    except csv.Error as error:
        raise DataError(f"{path}: this is no CSV ({_short(error)}); export it again") from error
    return Recording(_found(path, curves_of_rows(rows, str(path)), rows or [dict.fromkeys(columns)]), name=_named(path))


def _cells(table: Iterator[list[str]], columns: Sequence[str], *, has_commas: bool) -> Iterator[dict[str, object]]:
    for cells in table:
        texts = (text.strip().replace(",", ".") if has_commas else text.strip() for text in cells)
        yield dict(zip(columns, texts, strict=False))


def _tag(path: Path) -> str:
    name = path.stem.lower()
    found = next((ours for pattern, ours in TAGS if re.search(pattern, name)), None)
    if found is None and "loss" not in name:
        logger.warning("%s: a TensorBoard export doesn't say what it holds; it is taken for the training loss", path)
    return found or "loss"


def _found(path: Path, curves: Curves, rows: Sequence[Mapping[str, object]]) -> Curves:
    """The curves, if there is one that a check reads.

    Raises: DataError: there is none; the message names what there is.
    """
    if curves.keys() - {"epoch"}:
        return curves
    names = list(dict.fromkeys(name for row in rows[:100] for name in row))
    has_column = any((known_as(name) or ("",))[0] in ("loss", "eval_loss") for name in names)
    if has_column:
        raise DataError(f"{path}: the loss has no values; has the training logged anything yet?")
    shown = ", ".join(repr(name[:40]) for name in names[:8]) or "nothing"
    raise DataError(f"{path}: there is no loss among {shown}; a log needs step and loss (or eval_loss)")


def _folder(path: Path) -> Recording:
    """The newest trainer state of a folder or its checkpoints, else its log, else its CSV files together.

    A cell of ours that is still being trained has a trace, which is newer than any checkpoint.
    """
    if (path / "trace.jsonl").is_file():
        return _file(path / "trace.jsonl")
    states = [*path.glob(f"checkpoint-*/{STATE}"), *path.glob(f"checkpoints/checkpoint-*/{STATE}")]
    newest = max(states, key=lambda state: whole_step(state.parent.name.rpartition("-")[2]) or 0, default=None)
    whole = path / STATE
    if whole.is_file():
        found = _file(whole)
        last = max((points[-1].step for points in found.curves.values()), default=0)
        reached = whole_step(newest.parent.name.rpartition("-")[2]) if newest else 0
        return found if newest is None or last >= (reached or 0) else _file(newest)
    for state in (newest, path / "trainer_log.jsonl", *sorted(path.glob("*.jsonl"))):
        if state is not None and state.is_file():
            return _file(state)
    tables = [_file(table) for table in sorted(path.glob("*.csv"))]
    if not tables:
        raise DataError(
            f"{path}: the folder holds no {STATE}, trainer_log.jsonl or CSV, nor a checkpoint-* with one; name the file"
        )
    names = [name for table in tables for name in table.curves]
    if twice := next((name for name in names if names.count(name) > 1 and name != "epoch"), None):
        raise DataError(f"{path}: several CSV files of the folder hold the {twice}; name one")
    return Recording({name: points for table in tables for name, points in table.curves.items()}, name=path.name)


def _short(error: Exception, limit: int = 100) -> str:
    return str(error).replace("\n", " ")[:limit]
