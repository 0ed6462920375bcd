"""Public training runs, read as the doctor reads them and replayed as if they were being trained."""

import csv
import json
from pathlib import Path

import pytest

from harness.diagnose.live import Watch, first_stop
from harness.diagnose.readers import file_evidence
from harness.errors import DataError
from harness.records import TracePoint, finite_or_name

CURVES = ("loss", "eval_loss", "grad_norm", "learning_rate")


def labels(folder: Path) -> dict[str, str]:
    with (folder / "curves" / "labels.tsv").open() as file:
        return {row["file"]: row["label"] for row in csv.DictReader(file, delimiter="\t")}


def as_logged(path: Path) -> tuple[int, list[TracePoint]]:
    state = json.loads(path.read_text())
    points = []
    for entry in state["log_history"]:
        values = {name: finite_or_name(float(entry[name])) for name in CURVES if name in entry}
        if values:
            points.append(TracePoint(step=entry["step"], epoch=entry.get("epoch") or 0.0, seconds=0.0, values=values))
    return state.get("max_steps") or points[-1].step, points


def test_every_run_is_read_whole(real_data: Path) -> None:
    for name in labels(real_data):
        path = real_data / "curves" / name
        found = file_evidence(path)
        assert found.loss, name
        assert found.planned_steps, name
        if path.suffix == ".json":
            logged = sum("loss" in entry for entry in json.loads(path.read_text())["log_history"])
            assert len(found.loss) == logged, name


def test_a_run_cut_off_anywhere_is_refused_or_read(real_data: Path, tmp_path: Path) -> None:
    whole = (real_data / "curves" / "c22.trainer_state.json").read_bytes()
    log = (real_data / "curves" / "c24.trainer_log.jsonl").read_bytes()
    for cut in range(1, 40):
        (tmp_path / "trainer_log.jsonl").write_bytes(log[: len(log) * cut // 40])
        assert file_evidence(tmp_path / "trainer_log.jsonl").loss
        (tmp_path / "trainer_state.json").write_bytes(whole[: len(whole) * cut // 40])
        with pytest.raises(DataError, match="cut off or damaged"):
            file_evidence(tmp_path / "trainer_state.json")


def test_by_default_only_the_run_that_diverged_would_have_been_stopped(real_data: Path) -> None:
    stopped = {}
    for name, label in labels(real_data).items():
        if name.endswith(".json"):
            planned, points = as_logged(real_data / "curves" / name)
            stop = first_stop(Watch(("non_finite", "diverged"), planned, {}), points, [])
            if stop is not None:
                stopped[label] = stop.step / planned
    assert list(stopped) == ["diverged"]
    assert stopped["diverged"] < 0.1


def test_overfitting_on_request_stops_overfit_runs_alone(real_data: Path) -> None:
    stopped = []
    for name, label in labels(real_data).items():
        if name.endswith(".json"):
            planned, points = as_logged(real_data / "curves" / name)
            if first_stop(Watch(("overfitting",), planned, {}), points, []) is not None:
                stopped.append(label)
    assert stopped == ["overfit"]
