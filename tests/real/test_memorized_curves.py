"""Public training curves, labelled by eye: which of them repetition alone has brought down."""

import csv
from pathlib import Path

from harness.diagnose.memorization import memorization
from harness.diagnose.readers import file_evidence

RUNGS = {"memorized": "level", "memorized_eval_too": "level", "staircase": "stair_step"}


def test_curves_of_repeated_rows_are_an_info_and_healthy_ones_are_not(real_data: Path) -> None:
    with (real_data / "curves" / "labels.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    for row in rows:
        found = memorization(file_evidence(real_data / "curves" / row["file"]))
        if row["label"] in RUNGS:
            assert (found.outcome, found.severity) == ("fired", "info"), row
            assert f"rung: {RUNGS[row['label']]}" in found.evidence, row
        elif row["label"].startswith("healthy"):
            assert found.outcome != "fired", row
