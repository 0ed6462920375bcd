"""Records on disk."""

from pathlib import Path

import pytest

from harness.errors import StoreError
from harness.records import Estimate, TracePoint, finite_or_name
from harness.store import CellFolder, experiment_folder, read_lines, read_record, write_lines, write_record

ESTIMATE = Estimate(value=0.5, low=0.4, high=0.6, n=10)


def test_once_makes_a_record_once(tmp_path: Path) -> None:
    calls = []
    folder = CellFolder(tmp_path)
    for _ in range(2):
        assert folder.once("thing", Estimate, lambda: calls.append(1) or ESTIMATE) == ESTIMATE
    assert len(calls) == 1


def test_once_leaves_nothing_when_making_fails(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        CellFolder(tmp_path / "cell").once("thing", Estimate, lambda: 1 / 0)
    assert not list(tmp_path.rglob("*.json"))


def test_half_written_last_line_is_skipped_and_an_earlier_one_is_told(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    write_lines(path, [ESTIMATE, ESTIMATE])
    path.write_text(path.read_text() + '{"value": 0.')
    assert len(list(read_lines(path, Estimate))) == 2
    path.write_text('{"value": 0.\n' + ESTIMATE.model_dump_json() + "\n")
    with pytest.raises(StoreError, match=r"lines\.jsonl:1"):
        list(read_lines(path, Estimate))


def test_nan_is_kept_by_name(tmp_path: Path) -> None:
    point = TracePoint(step=1, epoch=0.1, seconds=1.0, values={"loss": finite_or_name(float("nan"))})
    write_record(tmp_path / "p.json", point)
    assert read_record(tmp_path / "p.json", TracePoint).values["loss"] == "nan"


def test_broken_record_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "e.json").write_text("{}")
    with pytest.raises(StoreError, match="delete it and run again"):
        read_record(tmp_path / "e.json", Estimate)


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden"])
def test_name_that_leaves_its_folder_is_refused(name: str) -> None:
    with pytest.raises(StoreError, match="can't be a folder"):
        experiment_folder(name)


def test_line_separators_inside_a_text_survive(tmp_path: Path) -> None:
    from harness.records import Generation

    odd = Generation(
        example_id="e", prompt="a\u2028b", text="c\u0085d", stop_reason="length", prompt_tokens=1, completion_tokens=1
    )
    write_lines(tmp_path / "g.jsonl", [odd, odd])
    assert list(read_lines(tmp_path / "g.jsonl", Generation)) == [odd, odd]
