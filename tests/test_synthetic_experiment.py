"""The benchmark's drawn records are those of a whole experiment."""

from pathlib import Path

import pytest

from benchmarks import synthetic_records
from harness.collect import collect, rank_experiment
from harness.plan import plan_experiment


def test_drawn_records_are_ranked_as_the_model_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    grid = {"training.learning_rate": [3e-5, 3e-4], "adapter.r": [8], "data.limit": [1000]}
    synthetic_records.write_experiment(tmp_path, grid, (0,))
    made = plan_experiment(str(tmp_path / "synthetic.yaml"))
    ranking = rank_experiment(made, collect(made))
    assert [row.name for row in ranking.rows] == [
        "learning_rate=0.0003,r=8,limit=1000",
        "learning_rate=3e-05,r=8,limit=1000",
    ]
    assert ranking.references[0].metrics["held_out.exact_match"].value < 0.1
