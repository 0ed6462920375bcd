"""Whatever foreign files hold, HarnessErrors alone come out; `benchmarks/fuzz.py` looks for longer."""

import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from harness.records import TracePoint
from harness.store import read_lines
from tests.fuzzing import TARGETS, attempt

# So many that all targets together take some twenty seconds.
CASES = {
    "experiments, planned": 40,
    "chat templates": 12,
    "experiment files, mutated text": 40,
    "experiment files, mutated settings": 40,
    "scorers": 150,
    "training logs": 100,
}
FEW = 120


@pytest.mark.parametrize("name", TARGETS)
def test_only_refusals_come_out(name: str) -> None:
    target = TARGETS[name]

    @settings(
        derandomize=True,
        database=None,
        deadline=None,
        max_examples=CASES.get(name, FEW),
        suppress_health_check=list(HealthCheck),
    )
    @given(target.hostile)
    def look(hostile: Any) -> None:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            attempt(target, hostile, Path(folder))

    logging.disable(logging.WARNING)
    try:
        look()
    finally:
        logging.disable(logging.NOTSET)


@pytest.mark.parametrize(
    ("name", "hostile"),
    [
        ("experiment files, random text", "!!int "),
        ("experiment files, random text", "? [a]\n: b"),
        ("experiment files, random text", "template: {name: " + "x" * 5000 + "}\nname: x\nmodel: {name: x}\ndata: {train: x}"),
        ("records", b'{"cell": "a\xce"}'),
        ("records from a server", ([("experiment.json", b"\xad\xf7\x1f\x03")], b"\x1d\x02", 126)),
    ],
)  # fmt: skip
def test_what_once_crashed_is_refused(name: str, hostile: Any, tmp_path: Path) -> None:
    attempt(TARGETS[name], hostile, tmp_path)


def test_line_cut_within_a_character_loses_that_line_alone(tmp_path: Path) -> None:
    point = TracePoint(step=1, epoch=0.1, seconds=1.0, values={"loss": 1.0})
    path = tmp_path / "trace.jsonl"
    path.write_bytes(point.model_dump_json().encode() + b'\n{"step": 2, "x": "caf\xc3')
    assert list(read_lines(path, TracePoint)) == [point]
