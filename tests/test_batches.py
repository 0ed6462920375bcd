"""Which rows a step was taken on."""

import torch
from datasets import Dataset

from harness.data.prepare import PreparedCounts, PreparedSplit
from harness.records import Batch
from harness.train.batches import BatchNotes

ROWS = {
    "id": ["short", "long", "other"],
    "input_ids": [[5, 6], [5, 6, 7, 8], [9]],
    "labels": [[5, 6], [5, 6, 7, 8], [9]],
}
SPLIT = PreparedSplit(
    Dataset.from_dict(ROWS), PreparedCounts(rows=3, truncated=0, dropped=(), tokens=7, supervised_tokens=4)
)


def batch(*rows: list[int]) -> dict[str, torch.Tensor]:
    width = max(map(len, rows))
    return {
        "input_ids": torch.tensor([row + [0] * (width - len(row)) for row in rows]),
        "attention_mask": torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows]),
    }


def test_rows_of_a_step_are_found_again_whatever_they_were_padded_with() -> None:
    notes = BatchNotes()
    notes.note(1, batch([9]))
    notes.note(2, batch([5, 6], [5, 6, 7, 8]))
    assert notes.batches([2, 3], SPLIT) == [Batch(step=2, rows=("short", "long"))]


def test_micro_batches_of_one_step_add_up() -> None:
    notes = BatchNotes()
    notes.note(1, batch([9]))
    notes.note(1, batch([5, 6]))
    assert notes.batches([1], SPLIT) == [Batch(step=1, rows=("other", "short"))]


def test_packed_sequences_have_no_rows_of_their_own() -> None:
    notes = BatchNotes()
    notes.note(1, {"input_ids": torch.tensor([[5, 6, 9]]), "position_ids": torch.tensor([[0, 1, 0]])})
    assert notes.batches([1], SPLIT) == []
