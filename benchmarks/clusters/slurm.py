"""The quickstart on a Slurm cluster that loses two jobs in the middle, against the same on one machine.

    python -m benchmarks.clusters.slurm [EXPERIMENT] [--set KEY=VALUE ...]

Starts a Slurm of one node in a scratch folder (as root, with Debian's `slurm-wlm` and `munge`), runs the experiment (by default
the bundled `quickstart`) there as a job array, requeues one job in the middle of its training as a preemption does, cancels
another one, runs `harness run` again, and compares everything with a `local` run. Exit status 1 where anything differs.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mlflow import MlflowClient

from benchmarks.clusters.slurm_node import slurm_node
from harness.grid import CellSpec
from harness.ranking import Ranking
from harness.records import CellResult, TracePoint
from harness.store import CellFolder, ExperimentFolder, known_experiments, read_lines, read_record

LOST_AFTER_POINTS = 10
"""Logged points after which a cell counts as in the middle of its training."""
ON_SLURM = ("--set", "launch.kind=slurm", "--set", "launch.time='0:30:00'", "--set", "launch.cpus_per_task=1")


class Loss(NamedTuple):
    """A job that is taken away."""

    command: tuple[str, ...]
    what: str


LOSSES = (Loss(("scontrol", "requeue"), "requeued"), Loss(("scancel",), "cancelled"))


def start(folder: Path, arguments: Sequence[str]) -> "subprocess.Popen[bytes]":
    """`harness run` in a folder of its own, with a store of its own."""
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    return subprocess.Popen([sys.executable, "-m", "harness", "run", *arguments], cwd=folder, env=environment)


def experiment_in(folder: Path) -> ExperimentFolder | None:
    """The experiment that was started there; None as long as there is none."""
    root = folder / "mlruns" / "harness"
    names = known_experiments(root)
    return ExperimentFolder(root / names[0]) if names else None


def cells_of(folder: Path) -> dict[str, CellFolder]:
    """Cell name -> folder, of the cells that were handed out."""
    experiment = experiment_in(folder)
    paths = sorted(experiment.path.glob("cells/*/cell.json")) if experiment else []
    return {read_record(path, CellSpec).cell.name: CellFolder(path.parent) for path in paths}


def run_with_losses(folder: Path, arguments: Sequence[str]) -> dict[str, str]:
    """Runs on Slurm until all is done; which cell lost its job how."""
    lost: dict[str, str] = {}
    run = start(folder, arguments)
    while run.poll() is None:
        for name, cell in cells_of(folder).items():
            if len(lost) < len(LOSSES) and name not in lost and _is_in_training(cell):
                command, what = LOSSES[len(lost)]
                subprocess.run([*command, cell.slurm_job.read_text()], check=True)
                lost[name] = what
        time.sleep(0.2)
    assert len(lost) == len(LOSSES), f"only {len(lost)} cells trained for {LOST_AFTER_POINTS} points"
    assert run.returncode == 1, f"a job was cancelled, but harness run ended with {run.returncode}"
    again = start(folder, arguments)
    assert again.wait() == 0, f"the second harness run ended with {again.returncode}"
    return lost


def _is_in_training(cell: CellFolder) -> bool:
    points = len(cell.trace.read_bytes().splitlines()) if cell.trace.exists() else 0
    return points >= LOST_AFTER_POINTS and not cell.result.exists()


def compare(local: Path, slurm: Path, lost: dict[str, str]) -> list[str]:
    """One line a cell and what is wrong, if anything; raises nothing, so that all of it is seen."""
    client = MlflowClient(f"sqlite:///{slurm / 'mlflow.db'}")
    here, there = cells_of(local), cells_of(slurm)
    lines, wrong = [], []
    for name, cell in here.items():
        other = there[name]
        result = read_record(other.result, CellResult)
        steps = [point.step for point in read_lines(other.trace, TracePoint) if "loss" in point.values]
        expected = [point.step for point in read_lines(cell.trace, TracePoint) if "loss" in point.values]
        run = client.get_run(result.mlflow_run_id)
        logged = [int(m.step) for m in client.get_metric_history(result.mlflow_run_id, "loss")] if steps else []
        doubled = sum(count - 1 for count in Counter(steps).values())
        starts = other.log.read_text(encoding="utf-8").count("Slurm job ")
        lines.append(
            f"{name:36} {lost.get(name, '-'):10} {starts:>6} {len(steps):>6} {len(set(expected) - set(steps)):>5} {doubled:>7}  {run.info.status}"
        )
        if steps != expected or (logged and sorted(logged) != sorted(steps)):
            wrong.append(f"{name}: its curve isn't that of the local run")
        if scores(cell) != scores(other):
            wrong.append(f"{name}: its scores aren't those of the local run")
        if run.info.status != ("FINISHED" if result.status == "finished" else "FAILED"):
            wrong.append(f"{name}: {run.info.status} in MLflow")
    print(f"{'cell':36} {'its job':10} {'starts':>6} {'points':>6} {'gaps':>5} {'doubles':>7}  MLflow")
    print("\n".join(lines))
    if ranking(local) != ranking(slurm):
        wrong.append(f"the rankings differ: {ranking(local)} and {ranking(slurm)}")
    return wrong


def scores(cell: CellFolder) -> list[object]:
    """Every score of every example."""
    return [suite.scores for suite in read_record(cell.result, CellResult).suites]


def ranking(folder: Path) -> list[object]:
    """Rank, interval and scores of every configuration, and what isn't ranked."""
    experiment = experiment_in(folder)
    assert experiment is not None, "it ran"
    found = read_record(experiment.ranking, Ranking)
    rows = [
        (row.rank, row.rank_interval, row.in_best_set, row.name, row.metrics[found.criterion]) for row in found.rows
    ]
    return [*rows, *((row.name, row.reason) for row in found.excluded)]


def main() -> None:
    """Runs both, prints the table and what differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("experiment", nargs="?", default="quickstart")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as for harness run")
    given = parser.parse_args()
    arguments = [str(given.experiment), *(word for value in given.set for word in ("--set", value))]
    # `kill` then ends the cluster, too.
    signal.signal(signal.SIGTERM, lambda signum, _: sys.exit(128 + signum))
    with tempfile.TemporaryDirectory() as scratch, slurm_node(cpus=2):
        local, slurm = Path(scratch, "local"), Path(scratch, "slurm")
        local.mkdir()
        slurm.mkdir()
        began = time.monotonic()
        assert start(local, arguments).wait() == 0, "the local run failed"
        between = time.monotonic()
        lost = run_with_losses(slurm, [*arguments, *ON_SLURM])
        ended = time.monotonic()
        wrong = compare(local, slurm, lost)
    print(
        f"\nlocal: {between - began:.0f} s; Slurm, with both losses and two calls of harness run: {ended - between:.0f} s"
    )
    print("\n".join(wrong) or "Same curves, scores and ranking as on one machine.")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
