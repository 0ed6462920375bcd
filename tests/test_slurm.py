"""`launch: {kind: slurm}` on a Slurm of one node that the tests start themselves."""

import json
import os
import pickle
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.clusters.slurm_node import missing_programs, slurm_node
from harness.errors import LaunchError
from harness.launch import slurm, slurm_queue, slurm_task
from harness.launch.base import PackJob
from harness.launch.slurm import SlurmLauncher
from harness.launch.slurm_queue import LIVING, job_states
from harness.launch_config import LaunchConfig
from harness.ranking import Ranking
from harness.records import CellResult
from harness.store import ExperimentFolder, experiment_folder, read_record

REPOSITORY = Path(__file__).parent.parent
ON_SLURM = 'launch: {kind: slurm, time: "0:20:00"}'
WAIT_SECONDS = 300


@pytest.fixture(scope="module")
def cluster() -> Iterator[Path]:
    pytest.importorskip("submitit")
    if lacking := missing_programs():
        pytest.skip(f"no Slurm of one's own without {', '.join(lacking)}")
    with slurm_node(cpus=3) as folder:
        yield folder


def start(folder: Path, name: str = "tiny.yaml") -> "subprocess.Popen[str]":
    # The nodes find this harness as this process does.
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "harness", "run", name]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    out, err = process.communicate(timeout=WAIT_SECONDS)
    return process.returncode, f"{out}\n{err}"


def wait_until(holds, what: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not holds():
        assert time.monotonic() < deadline, f"{what} never came"
        time.sleep(0.1)


def results(folder: Path) -> dict[str, CellResult]:
    found = folder.glob("mlruns/harness/tiny/cells/*/result.json")
    return {result.name: result for result in (read_record(path, CellResult) for path in found)}


def cells(folder: Path) -> dict[str, Path]:
    paths = folder.glob("mlruns/harness/tiny/cells/*/cell.json")
    return {json.loads(path.read_text())["cell"]["name"]: path.parent for path in paths}


def job_of(cell: Path) -> str:
    return (cell / "slurm_job.txt").read_text()


def steps(cell: Path) -> list[int]:
    """Optimizer steps of the curve as the trace has it."""
    points = [json.loads(line) for line in (cell / "trace.jsonl").read_text().splitlines()]
    return [point["step"] for point in points if "loss" in point["values"]]


def statuses(folder: Path) -> dict[str, str]:
    """Cell name -> status of its one MLflow run; not of those that never started."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    return {
        name: client.get_run((cell / "mlflow_run_id.txt").read_text().strip()).info.status
        for name, cell in cells(folder).items()
        if (cell / "mlflow_run_id.txt").exists()
    }


def figures(ranking: Path) -> list[object]:
    return [(row.name, row.rank, row.metrics) for row in read_record(ranking, Ranking).rows]


@pytest.mark.slow
def test_a_run_whose_parent_died_is_found_again_and_ranks_as_a_local_one(
    cluster: Path, trained: Path, tmp_path: Path
) -> None:
    text = (trained / "tiny.yaml").read_text()
    (tmp_path / "tiny.yaml").write_text(text.replace("launch: {workers: 2}", ON_SLURM))
    first = start(tmp_path)
    folder = experiment_folder("tiny", tmp_path / "mlruns" / "harness")
    wait_until(lambda: len(list(folder.path.glob("cells/*/slurm_job.txt"))) == 3, "the jobs' ids")
    jobs = {name: job_of(cell) for name, cell in cells(tmp_path).items()}
    first.kill()
    first.communicate()
    code, output = ended(start(tmp_path))
    assert code == 0, output
    assert {name: job_of(cell) for name, cell in cells(tmp_path).items()} == jobs, output
    assert figures(folder.ranking) == figures(trained / "mlruns/harness/tiny/ranking.json")
    assert set(statuses(tmp_path).values()) == {"FINISHED"}


@pytest.mark.slow
def test_a_requeued_cell_goes_on_and_a_cancelled_one_waits_for_the_next_run(
    cluster: Path, trained: Path, tmp_path: Path
) -> None:
    text = (trained / "tiny.yaml").read_text().replace("launch: {workers: 2}", ON_SLURM.replace("}", ", workers: 2}"))
    (tmp_path / "tiny.yaml").write_text(
        text.replace("max_steps: 3", "max_steps: 60").replace("eval_steps: 3", "eval_steps: 30") + "stop_on: []\n"
    )
    process = start(tmp_path)
    wait_until(
        lambda: len(cells(tmp_path)) == 3 and all((c / "slurm_job.txt").exists() for c in cells(tmp_path).values()),
        "the jobs",
    )
    found = cells(tmp_path)
    subprocess.run(["scancel", job_of(found["base"])], check=True)
    for name, options in (("full", ["--signal=USR2"]), ("lora", [])):
        wait_until(
            lambda: (found[name] / "trace.jsonl").exists() and len(steps(found[name])) >= 5, f"the training of {name}"
        )
        subprocess.run(["scancel", *options, job_of(found[name])], check=True)
    code, output = ended(process)
    assert code == 1, output
    assert {name: result.status for name, result in results(tmp_path).items()} == {
        "full": "finished",
        "lora": "killed",
        "base": "killed",
    }
    assert "scancel" in results(tmp_path)["base"].error
    assert steps(found["full"]) == list(range(1, 61))
    assert "started again 1 times" in (found["full"] / "log.txt").read_text()
    assert statuses(tmp_path)["lora"] == "KILLED" and statuses(tmp_path)["full"] == "FINISHED"
    code, output = ended(start(tmp_path))
    assert code == 0, output
    assert steps(found["lora"]) == list(range(1, 61))
    assert set(statuses(tmp_path).values()) == {"FINISHED"}


@pytest.mark.slow
def test_ctrl_c_saves_what_trains_and_cancels_what_waits(cluster: Path, trained: Path, tmp_path: Path) -> None:
    text = (trained / "tiny.yaml").read_text().replace("launch: {workers: 2}", ON_SLURM.replace("}", ", workers: 1}"))
    (tmp_path / "tiny.yaml").write_text(
        text.replace("max_steps: 3", "max_steps: 500").replace("eval_steps: 3", "eval_steps: 500") + "stop_on: []\n"
    )
    process = start(tmp_path)
    wait_until(lambda: any(steps(c) for c in cells(tmp_path).values() if (c / "trace.jsonl").exists()), "a step")
    process.send_signal(signal.SIGINT)
    code, output = ended(process)
    assert code == 130, output
    trained_cells = [cell for cell in cells(tmp_path).values() if (cell / "trace.jsonl").exists()]
    assert len(trained_cells) == 1 and list((trained_cells[0] / "checkpoints").glob("checkpoint-*"))
    states = job_states([job_of(cell) for cell in cells(tmp_path).values()])
    assert states is not None and not LIVING & set(states.values())
    # Not CANCELLED: it had the time that it needed to save.
    assert states[job_of(trained_cells[0])] == "COMPLETED"


def test_a_job_can_be_submitted_from_a_job_and_passwords_lie_in_the_users_own_folder_alone(
    cluster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    # As in a job: Slurm refuses one that asks for memory in both ways.
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("SLURM_MEM_PER_CPU", "100")
    launcher = SlurmLauncher(LaunchConfig(kind="slurm", time="5:00", mem="100M"), ExperimentFolder(tmp_path / "tiny"))
    cell = tmp_path / "cell"
    cell.mkdir()
    states = list(
        launcher.launch([PackJob((cell,), cell / "log.txt")], {"MLFLOW_TRACKING_URI": "http://me:s3cret@host"})
    )
    # The folder holds no cell.json: the worker says so and exits with 2.
    assert [state.exit_code for state in states] == [None, 2], (cell / "log.txt").read_text()
    assert stat.S_IMODE((tmp_path / "tiny" / "slurm").stat().st_mode) == 0o700
    holding = [path.name for path in (tmp_path / "tiny" / "slurm").iterdir() if b"s3cret" in path.read_bytes()]
    assert all(name.endswith(".pkl") for name in holding) and holding
    assert (
        "s3cret" not in subprocess.run(["scontrol", "show", "job"], capture_output=True, text=True, check=True).stdout
    )


def test_options_reach_sbatch(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    from submitit.slurm.slurm import _make_sbatch_string

    config = LaunchConfig(
        kind="slurm", partition="gpu", account="lab", qos="high", time="1-02:00:00", gpus_per_task=1, cpus_per_task=8, mem="64G",
        setup=("module load cuda",), additional_parameters={"constraint": "h100"}, workers=8, signal_delay_s=60,
    )  # fmt: skip
    options = slurm._sbatch_options(config, "mine", 20, 1)
    script = _make_sbatch_string(command="true", folder=tmp_path, map_count=20, **options)
    for line in ("partition=gpu", "account=lab", "qos=high", "time=1560", "gpus-per-node=1", "cpus-per-task=8", "mem=64G",
                 "constraint=h100", "array=0-19%8", "signal=USR2@60", "job-name=harness-mine", "requeue"):  # fmt: skip
        assert f"#SBATCH --{line}\n" in script, script
    assert "\nmodule load cuda\n" in script and "srun --unbuffered" in script and "--cpus-per-task=8 " in script


@pytest.mark.parametrize(
    ("limit", "expected"), [("30:00", 30), ("12:00:00", 720), ("0:00:30", 1), ("2-00:00:00", 2880), ("1-12:00", 2160)]
)
def test_time_limits_are_slurms(limit: str, expected: int) -> None:
    assert slurm.minutes(limit) == expected


@pytest.mark.parametrize(
    ("state", "kept", "expected"),
    [
        ("COMPLETED", ("success", 0), (0, "")),
        ("COMPLETED", ("success", 1), (1, "")),
        ("COMPLETED", ("success", -11), (-11, "")),
        ("CANCELLED", ("success", 143), (143, "cancelled (scancel)")),
        ("CANCELLED", None, (143, "cancelled (scancel)")),
        ("TIMEOUT", None, (143, "its time ended before it had saved; raise launch.time or launch.signal_delay_s")),
        ("OUT_OF_MEMORY", ("success", -9), (-9, "out of memory (Slurm); raise launch.mem")),
        ("NODE_FAIL", None, (-9, "its node failed")),
        ("FAILED", ("error", "UncompletedJobError: Job not requeued because: timed-out too many times."), (138, "its time ended 51 times")),
        (None, ("success", 0), (0, "")),
    ],
)  # fmt: skip
def test_the_end_of_a_job_is_told_by_slurm_and_its_worker(
    state: str | None, kept: object, expected: tuple[int, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setattr(slurm, "which", lambda name: f"/usr/bin/{name}")
    launcher = SlurmLauncher(LaunchConfig(kind="slurm", time="5:00"), ExperimentFolder(tmp_path))
    (tmp_path / "slurm").mkdir()
    if kept is not None:
        (tmp_path / "slurm" / "7_0_0_result.pkl").write_bytes(pickle.dumps(kept))
    assert launcher._outcome("7_0", state) == expected


def test_a_job_that_waits_for_somebody_is_told_from_one_that_waits_for_room(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = "7_0|PENDING|JobHeldUser\n7_1|PENDING|Resources\n7_2|PENDING|launch failed requeued held\n7_3|RUNNING|None\n7_4|REQUEUE_HOLD|None\n7_5|PENDING|ReqNodeNotAvail, UnavailableNodes:sheldon1\n8|PENDING|JobHeldUser\n"
    monkeypatch.setattr(slurm_queue, "_ask", lambda command: queue if command[0] == "squeue" else None)
    assert job_states([f"7_{task}" for task in range(6)]) == {
        "7_0": "HELD", "7_1": "PENDING", "7_2": "HELD", "7_3": "RUNNING", "7_4": "HELD", "7_5": "PENDING",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        ("JobState=RUNNING Deadline=N/A PreemptEligibleTime=2026-11-23T13:48:29 PreemptTime=2026-11-23T13:48:32", True),
        ("JobState=RUNNING Deadline=N/A PreemptEligibleTime=2026-11-23T13:48:29 PreemptTime=None", False),
        ("JobState=COMPLETING Deadline=N/A", False),
    ],
)
def test_a_job_in_its_time_of_grace_is_told_from_a_cancelled_one(shown: str, expected: bool) -> None:
    assert (slurm_task.PREEMPTED.search(shown) is not None) == expected


@pytest.mark.parametrize(
    ("installed", "programs", "message"),
    [
        (False, True, r"pip install 'sft-harness\[slurm\]'"),
        (True, False, "sbatch wasn't found"),
    ],
)
def test_what_is_missing_is_named_before_anything_starts(
    installed: bool, programs: bool, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "find_spec", lambda _: object() if installed else None)
    monkeypatch.setattr(slurm, "which", lambda name: name if programs else None)
    with pytest.raises(LaunchError, match=message):
        SlurmLauncher(LaunchConfig(kind="slurm", time="5:00"), ExperimentFolder(tmp_path))
