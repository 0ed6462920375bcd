"""The table of `benchmarks/chaos.py` as a page: a line a fault, a column a stage."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.chaos_cases import STAGES

Row = Mapping[str, Any]
COLUMNS = (*STAGES, "report")
STRIKES = {
    "worker": "a worker", "parent": "`harness run`", "group": "all processes of the terminal",
}  # fmt: skip
INTRODUCTION = """\
# Faults and kills

Made by `python benchmarks/chaos.py --markdown docs/kill-matrix.md`. Every fault is real: it strikes a `harness run` in a process of its
own, at the stage at the head of the column, through `tests/faults/`, which Python loads from outside; the product holds no code for it.

Each field says what MLflow says of the run that was struck, after the fault and (where nobody lived to say it) after
`harness reconcile`, and the exit code of that `harness run`. Then `harness run` again, until nothing is left to do, and all that is there
is compared with an uninterrupted run of the same file: cells, ranking, every point of every curve in `trace.jsonl` and in MLflow
(on the CPU in fp32: equal to the last bit), params, files, models, datasets, traces, one MLflow run a cell, all of them FINISHED.
`lost`, `doubled` and `false` count what differs: missing or other points and records, things that are there twice, and statuses or exit
codes that are not true. After an out-of-memory error in training the batch is halved, so there the numbers may differ in the last digits;
that every step is there once is checked all the same. At `report` it is always `harness run` itself that is struck.
"""


def page(rows: Sequence[Row]) -> str:
    """Both tables with what they mean."""
    return "\n".join([INTRODUCTION, *tables(rows)]) + "\n"


def tables(rows: Sequence[Row]) -> list[str]:
    """The matrix, the random kills, and what went wrong, as far as there are any."""
    matrix = [row for row in rows if row["stage"] != "any"]
    kills = [row for row in rows if row["stage"] == "any"]
    wrong = [f"- {text}" for row in rows for text in row["what"]]
    return [
        *(["## The kill matrix", "", *_matrix(matrix), ""] if matrix else []),
        *(["## Random SIGKILLs", "", *_kills(kills), ""] if kills else []),
        *(["## What went wrong", "", *wrong] if wrong else []),
    ]


def _matrix(rows: Sequence[Row]) -> Iterator[str]:
    yield _line(["fault", "strikes", *COLUMNS, "lost", "doubled", "false"])
    yield "|" + "---|" * (len(COLUMNS) + 2) + "---:|" * 3
    kinds = dict.fromkeys(
        (row["fault"], row["to"]) for row in rows if row["stage"] != "report" or not _is_struck(row, rows)
    )
    for fault, whom in kinds:
        own = [row for row in rows if row["fault"] == fault and (row["to"] == whom or row["stage"] == "report")]
        there = {row["stage"].replace("saved", "save"): f"{row['status']}, {row['exit_code']}" for row in own}
        yield _line([fault, STRIKES[whom], *(there.get(stage, "") for stage in COLUMNS), *_sums(own)])


def _is_struck(row: Row, rows: Sequence[Row]) -> bool:
    """Whether a fault of the report has a line of its own kind to stand in."""
    return any(other["fault"] == row["fault"] and other["stage"] != "report" for other in rows)


def _kills(rows: Sequence[Row]) -> Iterator[str]:
    yield _line(["", "victims", "in the end", "lost", "doubled", "false"])
    yield "|---|---|---|" + "---:|" * 3
    for row in rows:
        yield _line([row["fault"], row["to"], row["status"], *_sums([row])])


def _sums(rows: Sequence[Row]) -> list[str]:
    return [str(sum(row[key] for row in rows)) for key in ("lost", "duplicated", "wrong_status")]


def _line(fields: Sequence[str]) -> str:
    return f"| {' | '.join(fields)} |"
