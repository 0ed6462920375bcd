"""Sixteen cells by two workers and by one: the same results, in what share of the time?

python -m benchmarks.parallel [--cells 16] [--steps 30] [--markdown FILE] [--json]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from harness.records import CellResult, TracePoint
from harness.store import ExperimentFolder, experiment_folder, read_lines, read_record


@dataclass(frozen=True, slots=True)
class Comparison:
    """What two workers did against one."""

    cells: int
    steps: int
    seconds_one_worker: float
    """Wall time of `harness run` with one worker that has all cores."""
    seconds_two_workers: float
    """The same with two workers of half the cores each."""
    time_ratio: float
    """Two workers over one."""
    largest_difference_of_loss: float
    """Over all logged steps of all cells, relative to the loss."""
    largest_difference_of_nll: float
    """Held-out, over all cells, in nats."""
    same_answers: float
    """Share of the generated answers that are equal character by character."""
    same_order: bool
    """Whether both rank the cells alike."""


def experiment(cells: int, steps: int) -> str:
    """The YAML of that many cells: learning rates times seeds."""
    rates = [1e-3 * 1.5**power for power in range(max(1, cells // 4))]
    return yaml.safe_dump({
        "name": "parallel",
        "model": {"name": "embedded:base"},
        "template": {"name": "chatml"},
        "data": {"train": "embedded:train", "validation": "embedded:validation", "test": "embedded:test", "limit": 400},
        "training": {"max_steps": steps, "per_device_train_batch_size": 8, "max_length": 256, "eval_steps": steps},
        "grid": {"training.learning_rate": rates},
        "seeds": list(range(min(4, cells))),
        "evals": [{"suite": "held_out", "limit": 40, "max_new_tokens": 32}],
        "ranking": {"by": "held_out.nll", "gates": []},
        "tracking": {"system_metrics": False},
    })  # fmt: skip


def run(folder: Path, workers: int) -> float:
    """Runs the experiment in a folder; gives the seconds it took."""
    started = time.monotonic()
    command = [sys.executable, "-m", "harness", "run", "parallel.yaml", "--set", f"launch.workers={workers}"]
    environment = {key: value for key, value in os.environ.items() if key not in ("MLFLOW_TRACKING_URI", "OMP_NUM_THREADS")}  # fmt: skip
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=sys.stderr)
    return time.monotonic() - started


def losses(folder: ExperimentFolder, cell: str) -> dict[int, float]:
    """Step -> training loss."""
    points = read_lines(folder.cell(cell).trace, TracePoint)
    return {point.step: float(point.values["loss"]) for point in points if "loss" in point.values}


def compare(one: ExperimentFolder, two: ExperimentFolder) -> tuple[float, float, float, bool]:
    """Largest differences of losses and held-out NLL, share of equal answers, and whether the order is the same."""
    loss, nll, same, total = 0.0, 0.0, 0, 0
    for path in sorted(one.path.glob("cells/*/result.json")):
        mine, theirs = (read_record(found.cell(path.parent.name).result, CellResult) for found in (one, two))
        assert mine.status == theirs.status == "finished", f"{mine.name}: {mine.error or theirs.error}"
        pair = losses(one, mine.cell), losses(two, mine.cell)
        assert pair[0].keys() == pair[1].keys(), f"{mine.name}: other steps"
        loss = max([loss, *(abs(pair[0][step] - pair[1][step]) / pair[0][step] for step in pair[0])])
        nll = max(nll, abs(mine.metrics()["held_out.nll"].value - theirs.metrics()["held_out.nll"].value))
        texts = [
            {row["example_id"]: row["text"] for row in map(json.loads, answers.read_text().splitlines())}
            for folder in (one, two)
            for answers in folder.cell(mine.cell).path.glob("generations/held_out-*.jsonl")
        ]
        total += len(texts[0])
        same += sum(texts[0][key] == texts[1][key] for key in texts[0])
    orders = [[row["cell"] for row in json.loads(found.ranking.read_text())["rows"]] for found in (one, two)]
    return loss, nll, same / total, orders[0] == orders[1]


def measure(cells: int, steps: int) -> Comparison:
    """Both runs, one after the other, in scratch folders."""
    with tempfile.TemporaryDirectory() as scratch:
        seconds, folders = [], []
        for workers in (1, 2):
            place = Path(scratch) / f"workers-{workers}"
            place.mkdir()
            (place / "parallel.yaml").write_text(experiment(cells, steps))
            seconds.append(run(place, workers))
            folders.append(experiment_folder("parallel", place / "mlruns" / "harness"))
        return Comparison(cells, steps, *seconds, seconds[1] / seconds[0], *compare(*folders))


def markdown(found: Comparison) -> str:
    """The figures as a page."""
    return f"""# Two workers against one

`python -m benchmarks.parallel --cells {found.cells} --steps {found.steps}`: {found.cells} cells of {found.steps} steps and their evaluation, by one worker with all
cores and by two workers with half of them each, on the same machine one after the other.

| | |
|---|---|
| wall time, two workers over one | {found.time_ratio:.2f} ({found.seconds_two_workers:.0f} s against {found.seconds_one_worker:.0f} s) |
| largest relative difference of any logged loss | {found.largest_difference_of_loss:.1e} |
| largest difference of held-out NLL | {found.largest_difference_of_nll:.1e} nats |
| answers equal character by character | {found.same_answers:.1%} |
| the same order in the ranking | {"yes" if found.same_order else "no"} |
"""


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=16)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = measure(given.cells, given.steps)
    if given.markdown:
        given.markdown.write_text(markdown(found), encoding="utf-8")
    print(json.dumps(asdict(found)) if given.json else markdown(found))


if __name__ == "__main__":
    main()
