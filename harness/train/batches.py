"""Which rows a step was taken on: for the few steps whose loss stands out."""

import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from harness.data.prepare import PreparedSplit
from harness.records import Batch


class BatchNotes:
    """A checksum of every row of every step, in memory; which rows they are is looked up for single steps afterwards."""

    def __init__(self) -> None:
        self._checksums: dict[int, list[int]] = defaultdict(list)

    def note(self, step: int, inputs: Mapping[str, Any]) -> None:
        """Notes a batch; packed sequences, which hold parts of many rows, are left out."""
        ids, mask = inputs.get("input_ids"), inputs.get("attention_mask")
        if ids is None or mask is None:
            return
        rows, lengths = ids.cpu().numpy(), mask.sum(dim=1).tolist()  # (batch, time), padded on the right
        self._checksums[step] += [_checksum(row[:length]) for row, length in zip(rows, lengths, strict=True)]

    def batches(self, steps: Iterable[int], split: PreparedSplit) -> list[Batch]:
        """The ids of the rows of these steps."""
        noted = {step: self._checksums[step] for step in steps if step in self._checksums}
        wanted = {checksum for checksums in noted.values() for checksum in checksums}
        if not wanted:
            return []
        ids = {
            checksum: row.id
            for row in split.rows()
            if (checksum := _checksum(np.asarray(row.input_ids, dtype=np.int64))) in wanted
        }
        return [
            Batch(step=step, rows=tuple(ids[checksum] for checksum in checksums if checksum in ids))
            for step, checksums in noted.items()
        ]


def _checksum(ids: Any) -> int:
    return zlib.crc32(np.ascontiguousarray(ids, dtype=np.int64).tobytes())
