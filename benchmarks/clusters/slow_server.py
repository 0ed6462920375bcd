"""How long a cell waits for a tracking server that is slow, or takes connections and never answers.

    python -m benchmarks.clusters.slow_server [--delay 2]

Opens a run through the harness's own tracker, logs 150 params and the metrics of 1,000 steps, and closes it: at a server whose
every answer is held back, and at one that falls silent once the experiment is made. MLflow's patience is the harness's default.
"""

import argparse
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.clusters.postgres import ALONE, tracking_server
from harness.config import ModelConfig, RunConfig
from harness.grid import Cell, CellSpec
from harness.store import ExperimentFolder
from harness.tracking import connection
from harness.tracking.mlflow_tracker import open_tracker

STEPS, PARAMS = 1000, 150


class Proxy:
    """Hands connections on to a server, and holds its answers back."""

    def __init__(self, port: int, delay: float) -> None:
        self._port, self._delay = port, delay
        self.is_silent = False
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self._listening.accept()
            server = socket.create_connection(("127.0.0.1", self._port))
            for source, target, delay in ((client, server, 0.0), (server, client, self._delay)):
                threading.Thread(target=self._pump, args=(source, target, delay), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, delay: float) -> None:
        try:
            while content := source.recv(65536):
                time.sleep(delay)
                if not self.is_silent:
                    target.sendall(content)
            target.shutdown(socket.SHUT_WR)
        except OSError:  # the other side gave up
            target.close()


def seconds(work: Callable[[], object]) -> float:
    """That it takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure(proxy: Proxy, folder: Path, *, silent: bool) -> list[float]:
    """Seconds to open a run, to log params, of the longest call for metrics, and to close."""
    experiment_id = connection.connect(proxy.url, "slow")
    parent = connection.client().create_run(experiment_id).info.run_id
    config = RunConfig(model=ModelConfig(name="embedded:base"), data={"train": "embedded:train"})
    cell = Cell(id="a" * 12, name="a", group="g", overrides={}, seed=0, config=config)
    spec = CellSpec(cell=cell, experiment="slow", evals=(), parent_run_id=parent, system_metrics=True, num_threads=1)
    cell_folder, opened = ExperimentFolder(folder).cell(cell.id), []
    opening = seconds(lambda: opened.append(open_tracker(spec, cell_folder)))
    [tracker] = opened
    proxy.is_silent = silent
    params = seconds(lambda: tracker.log_params({f"training.field_{i}": str(i) for i in range(PARAMS)}))
    calls = [seconds(lambda step=step: tracker.log_metrics({"loss": 1 / step}, step)) for step in range(1, STEPS + 1)]
    closing = seconds(lambda: tracker.close("FINISHED"))
    print(f"  {'left for `harness sync`' if cell_folder.undelivered.exists() else 'all arrived'}", file=sys.stderr)
    proxy.is_silent = False
    return [opening, params, max(calls), closing]


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--delay", type=float, default=2.0, help="seconds that every answer is held back")
    given = parser.parse_args()
    os.environ.update(ALONE)
    print("| server | opening a run | 150 params | longest of 1,000 steps | closing |\n|---|---|---|---|---|")
    cases = (("quick", 0.0, False), (f"{given.delay:g} s an answer", given.delay, False), ("silent", 0.0, True))
    with (
        tempfile.TemporaryDirectory() as scratch,
        tracking_server(Path(scratch), f"sqlite:///{scratch}/server.db") as server,
    ):
        for name, delay, silent in cases:
            found = measure(Proxy(int(server.url.rpartition(":")[2]), delay), Path(scratch) / name, silent=silent)
            print(
                f"| {name} | {found[0]:.1f} s | {found[1]:.1f} s | {1000 * found[2]:.2f} ms | {found[3]:.1f} s |",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
