"""What a user waits for when one experiment has 1,000 finished runs: `python -m benchmarks.thousand_runs [--runs 1000] [--json]`.

Makes the records and the MLflow runs of such an experiment from a stated model (nothing is trained) in a scratch folder, and
runs `harness list`, `rank`, `report` and `reconcile` there as a user would. Twice: 5 seeds of each configuration, and one seed
each, which is harder: 1,000 configurations are 499,500 pairs. `--folder FOLDER` keeps the experiments, and uses those that are there.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.synthetic_records import NAME, large_grid, write_experiment
from benchmarks.synthetic_runs import write_left_runs, write_runs
from harness.store import experiment_folder

LEFT, STEPS = "left", 60
GOAL_SECONDS, GOAL_MIB = 30.0, 1024.0
KIB = 1024
WATCH_SECONDS = 0.5
"""Reading what a process shares stops it for a while, and takes a core of its own if it is done all the time."""


class Cost(NamedTuple):
    """What a command took."""

    command: str
    elapsed: float
    """Seconds."""
    processor: float
    """Seconds of all its processes: the same on a busy machine."""
    memory_mib: float
    """Most that all its processes held together, what they share counted once."""


def measured(label: str, command: list[str], folder: Path) -> Cost:
    """A harness command, in a process of its own.

    Raises: SystemExit: it failed.
    """
    started, before, most = time.monotonic(), os.times(), 0.0
    with (folder / "output.txt").open("w") as output:
        process = subprocess.Popen([sys.executable, "-m", "harness", *command], cwd=folder, stdout=output, stderr=subprocess.STDOUT)  # fmt: skip
        while process.poll() is None:
            most = max(most, sum(map(held_mib, family(process.pid))))
            time.sleep(WATCH_SECONDS)
    elapsed, after = time.monotonic() - started, os.times()
    if process.returncode:
        sys.exit(f"harness {' '.join(command)} failed: {(folder / 'output.txt').read_text()[-2000:]}")
    processor = after.children_user + after.children_system - before.children_user - before.children_system
    found = Cost(label, elapsed, processor, most)
    print(found, file=sys.stderr, flush=True)
    return found


def family(pid: int) -> Iterator[int]:
    """A process and all that descend from it."""
    yield pid
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:  # it ended
        return
    for child in children:
        yield from family(int(child))


def held_mib(pid: int) -> float:
    """Memory of a process in which each page counts by the number of processes that share it."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith("Pss:")) / KIB
    except (OSError, StopIteration):  # it ended
        return 0.0


def make(folder: Path, configurations: int, seeds: int) -> None:
    """The records and the MLflow runs, where they are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    if not (folder / "made").exists():
        write_runs(write_experiment(folder, large_grid(configurations), tuple(range(seeds))), STEPS)
        (folder / "made").touch()


def costs(folder: Path, runs: int) -> list[Cost]:
    """Every command, first with nothing remembered."""
    file = f"{NAME}.yaml"
    for path in experiment_folder(NAME).path.glob("cells/*/findings.json"):
        path.unlink()
    experiment_folder(NAME).told.unlink(missing_ok=True)
    found = [
        measured("list", ["list"], folder),
        measured("rank, nothing remembered", ["rank", file], folder),
        measured("rank", ["rank", file], folder),
        measured("report, MLflow told of every run", ["report", file], folder),
        measured("report", ["report", file], folder),
        measured("reconcile, nothing to close", ["reconcile", NAME], folder),
    ]
    write_left_runs(LEFT, runs)
    return [*found, measured(f"reconcile, {runs:,} runs of dead processes", ["reconcile", LEFT], folder)]


def as_table(title: str, found: list[Cost]) -> str:
    """The costs as Markdown."""
    lines = [f"| {title} | elapsed | processor | memory |", "|---|---|---|---|"]
    lines += [
        f"| `harness {c.command.replace(', ', '`, ', 1)}{'' if ', ' in c.command else '`'} | {c.elapsed:.1f} s | {c.processor:.1f} s | {c.memory_mib:,.0f} MiB |"
        for c in found
    ]
    lines.append(f"| goal | {GOAL_SECONDS:.0f} s | | {GOAL_MIB:,.0f} MiB |")
    return "\n".join(lines)


def main() -> None:
    """Makes the experiments, measures the commands, prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000, help="finished runs, a multiple of 100")
    parser.add_argument(
        "--folder", type=Path, help="where the experiments are kept; by default they are deleted at the end"
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    tables: dict[str, list[Cost]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for seeds in (5, 1):
            count = options.runs // seeds
            folder = ((options.folder or Path(scratch)) / f"seeds-{seeds}").resolve()
            make(folder, count, seeds)
            tables[f"{count:,} configurations x {seeds} seed{'s' * (seeds > 1)}"] = costs(folder, options.runs)
        os.chdir("/")
    if options.json:
        print(json.dumps({title: [cost._asdict() for cost in found] for title, found in tables.items()}))
        return
    print("\n\n".join(as_table(title, found) for title, found in tables.items()))


if __name__ == "__main__":
    main()
