"""Tokenized splits, made once for all cells that share them and kept on disk."""

import fcntl
import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow
from pyarrow import compute, ipc

from harness.data.formats import Conversation
from harness.data.splits import dropped_rows
from harness.data.tokenize import IGNORED, Tokenized, Tokenizer, TokenPlan, tokenize
from harness.errors import DataError, TemplateError
from harness.records import Dropped, Record, SplitName

if TYPE_CHECKING:
    from datasets import Dataset
    from pyarrow import Array

logger = logging.getLogger(__name__)

CHUNK = 2000
ROWS_FILE = "rows.arrow"
IDS = pyarrow.list_(pyarrow.int32())
SCHEMA = pyarrow.schema({"id": pyarrow.string(), "input_ids": IDS, "labels": IDS})


class PreparedCounts(Record):
    """What tokenization found in one split."""

    rows: int
    truncated: int
    dropped: tuple[Dropped, ...]
    tokens: int
    supervised_tokens: int


@dataclass(frozen=True, slots=True)
class PreparedSplit:
    """The rows of one split as the model sees them, memory-mapped from disk."""

    dataset: "Dataset"
    """Columns `id`, `input_ids` and `labels`; only rows with supervised tokens."""
    counts: PreparedCounts

    def __len__(self) -> int:
        return len(self.dataset)

    def row(self, index: int) -> Tokenized:
        """One row."""
        item = self.dataset[index]
        return Tokenized(item["id"], item["input_ids"], item["labels"], is_truncated=False)

    def spread(self, size: int) -> list[Tokenized]:
        """So many rows from all over the split, always the same ones."""
        stride = len(self) / size
        return [self.row(int(position * stride)) for position in range(size)]

    def rows(self) -> list[Tokenized]:
        """All rows, in memory."""
        return [Tokenized(r["id"], r["input_ids"], r["labels"], is_truncated=False) for r in self.dataset]

    def lengths(self) -> list[int]:
        """Tokens of every row."""
        return [int(n) for ids in self._column("input_ids") for n in compute.list_value_length(ids).to_pylist()]

    def supervised(self) -> list[int]:
        """Supervised tokens of every row."""
        counts: list[int] = []
        for chunk in self._column("labels"):
            # The first position predicts nothing.
            labels = compute.list_slice(chunk, 1)
            counted = compute.not_equal(compute.list_flatten(labels), IGNORED)
            rows = compute.list_parent_indices(labels)
            found = np.bincount(rows.to_numpy(), weights=counted.to_numpy(zero_copy_only=False), minlength=len(chunk))
            counts += [int(count) for count in found]
        return counts

    def _column(self, name: str) -> "Iterator[Array]":
        """One column in parts: all of it at once can be larger than the model."""
        for part in self.dataset.with_format("arrow").iter(batch_size=CHUNK):
            yield part[name].combine_chunks()

    def training_columns(self) -> "Dataset":
        """The columns that TRL takes as an already prepared dataset."""
        return self.dataset.select_columns(["input_ids", "labels"])


class Tokenization(NamedTuple):
    """How one split becomes tokens."""

    split: SplitName
    tokenizer: Tokenizer
    """With the chat template already set."""
    tokens: TokenPlan
    assistant_only: bool
    """Supervise answers alone."""
    max_length: int | None
    """Keep so many tokens from the start of a row."""


def prepared_split(rows: Sequence[Conversation], how: Tokenization, cache: Path) -> PreparedSplit:
    """A tokenized split from the cache folder, made and kept there first where it is not.

    Args:
        rows: conversations of the split.
        how: they become tokens.
        cache: folder whose name is a digest of all of the above.

    Raises: DataError: no row has a supervised token left, or the template rejects every row.
    """
    from datasets import Dataset

    with only_one(cache):
        if not (cache / "counts.json").exists():
            _make(rows, how, cache)
    counts = PreparedCounts.model_validate_json((cache / "counts.json").read_text(encoding="utf-8"))
    return PreparedSplit(Dataset.from_file(str(cache / ROWS_FILE)), counts)


@contextmanager
def only_one(cache: Path) -> Iterator[None]:
    """Cells that start together wait for the one that makes something they share."""
    cache.parent.mkdir(parents=True, exist_ok=True)
    with cache.with_name(f".{cache.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            logger.warning("%s: this file system has no locks (%s); cells may make it twice", cache, error.strerror)
        yield


def _make(rows: Sequence[Conversation], how: Tokenization, cache: Path) -> None:
    """Writes part by part, so that memory holds the tokens of few rows only."""
    for left in cache.parent.glob(f".{cache.name}.*.part"):
        shutil.rmtree(left)  # by a process that was killed: the lock keeps all others out
    half_written = cache.with_name(f".{cache.name}.{os.getpid()}.part")
    half_written.mkdir()
    dropped: list[Dropped] = []
    counts: Counter[str] = Counter()
    with pyarrow.OSFile(str(half_written / ROWS_FILE), "wb") as file, ipc.new_stream(file, SCHEMA) as writer:
        for start in range(0, len(rows), CHUNK):
            part = _tokenized(rows[start : start + CHUNK], how, dropped)
            used = [row for row in part if row.num_supervised]
            counts["truncated"] += sum(row.is_truncated for row in part)
            counts["rows"] += len(used)
            counts["tokens"] += sum(len(row.input_ids) for row in used)
            counts["supervised_tokens"] += sum(row.num_supervised for row in used)
            columns = ([row.id for row in used], [row.input_ids for row in used], [row.labels for row in used])
            writer.write_batch(pyarrow.record_batch(list(columns), schema=SCHEMA))
    if not counts["rows"]:
        shutil.rmtree(half_written)
        raise DataError(_nothing_left(how, dropped))
    record = PreparedCounts(
        rows=len(rows), truncated=counts["truncated"], dropped=tuple(dropped), tokens=counts["tokens"],
        supervised_tokens=counts["supervised_tokens"],
    )  # fmt: skip
    (half_written / "counts.json").write_text(record.model_dump_json(), encoding="utf-8")
    shutil.rmtree(cache, ignore_errors=True)
    os.replace(half_written, cache)


def _tokenized(rows: Sequence[Conversation], how: Tokenization, dropped: list[Dropped]) -> list[Tokenized]:
    """The rows that the template takes; what becomes of the others is added to `dropped`."""
    found = []
    for row in rows:
        try:
            done = tokenize(
                row, how.tokenizer, how.tokens, assistant_only=how.assistant_only, max_length=how.max_length
            )
        except TemplateError as error:
            dropped += dropped_rows([row], how.split, "template_rejected", str(error))
            continue
        found.append(done)
        if not done.num_supervised:
            why = "truncated_answer" if done.is_truncated else "no_supervised_token"
            cut = (
                f"the answer begins after max_length {how.max_length}"
                if done.is_truncated
                else "no token is supervised"
            )
            dropped += dropped_rows([row], how.split, why, cut)
    return found


def _nothing_left(how: Tokenization, dropped: Sequence[Dropped]) -> str:
    reasons = Counter(item.reason for item in dropped)
    if set(reasons) == {"template_rejected"}:
        return f"the chat template rejects every row of the {how.split} split: {dropped[0].message}"
    listed = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
    return (
        f"no row of the {how.split} split has a supervised token within max_length {how.max_length} ({listed}); "
        "raise training.max_length or check the template's {% generation %} markers"
    )
