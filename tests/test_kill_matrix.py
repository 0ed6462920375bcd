"""A short kill matrix: real faults in real processes; `harness run` again must end as if nothing had happened.

`benchmarks/chaos.py` has every kind at every stage, and random kills. Exit codes and statuses are judged after every fault, all
that an uninterrupted run has is compared at the end.
"""

from pathlib import Path

import pytest

from benchmarks.chaos import chosen, small_disk
from benchmarks.chaos_cases import store_cases
from benchmarks.chaos_matrix import Campaign, Outcome
from benchmarks.chaos_server import tracking_server

# Those that end `harness run` come first: each of them strikes before its siblings have had their turn.
FAULTS = (
    "SIGINT-to-group-at-training", "SIGKILL-to-group-at-training", "exception-at-splits", "SIGTERM-at-training",
    "SIGKILL-at-checkpoint-save", "SIGSEGV-at-evaluation", "OOM-at-training", "full-disk-at-result-write",
    "sys-exit-at-evaluation", "database-locked-at-training", "corrupt-checkpoint-at-checkpoint-saved", "SIGTERM-at-logging", "exception-at-report", "SIGKILL-at-report",
)  # fmt: skip


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    campaign = Campaign(tmp_path_factory.mktemp("chaos"), chosen(FAULTS), workers=1)
    campaign.run()
    return campaign.outcomes


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_leaves_the_truth_and_no_trace(name: str, outcomes: dict[str, Outcome]) -> None:
    assert outcomes[name].row()["what"] == []


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["training", "report"])
def test_a_tracking_server_may_go_away(stage: str, tmp_path: Path) -> None:
    with tracking_server(tmp_path / "server", tmp_path / "outage") as server:
        (outcome,) = Campaign(tmp_path / "run", store_cases("server down", [stage]), workers=1, server=server).run()
    assert outcome.row()["what"] == []


@pytest.mark.slow
def test_a_disk_may_fill_up(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        if disk is None:
            pytest.skip("no file system can be mounted here")
        (outcome,) = Campaign(tmp_path / "run", store_cases("disk fills up", ["training"]), workers=1, disk=disk).run()
    assert outcome.row()["what"] == []
