"""A tracking server as a team has it: `mlflow server` on PostgreSQL, artifacts over HTTP, restarted while an experiment runs.

    python -m benchmarks.clusters.postgres [EXPERIMENT] [--workers 4] [--away 10] [--set KEY=VALUE ...]

Starts PostgreSQL and `mlflow server` in a scratch folder, runs the experiment (by default the bundled `quickstart`), takes the
server away once two cells are in training, brings it back, sends what is left with `harness sync`, and compares all that the
server has with the cell folders. Exit status 1 where anything is missing, there twice, or different.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.clusters.delivered import Check, check_delivery
from benchmarks.clusters.postgres_database import PASSWORD, free_port, postgres_database
from harness.store import ExperimentFolder, known_experiments

ALONE = {"NO_PROXY": "127.0.0.1", "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
TRAINING_LINES = 3
"""Logged steps after which a cell counts as in training."""


class Server:
    """`mlflow server` with one address, which can be taken away and brought back."""

    def __init__(self, folder: Path, database: str) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._log = folder / "server.log"
        # In the environment: the command line of a process is for all to see.
        self._environment = os.environ | ALONE | {"MLFLOW_BACKEND_STORE_URI": database}
        self._command = [
            sys.executable, "-m", "mlflow", "server", "--serve-artifacts", "--artifacts-destination", str(folder / "artifacts"),
            "--host", "127.0.0.1", "--port", str(port), "--workers", "2",
        ]  # fmt: skip

    def start(self) -> None:
        """Returns once it answers."""
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env=self._environment, cwd=self._log.parent, start_new_session=True
            )  # fmt: skip
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        for _ in range(600):
            assert self._process.poll() is None, self._log.read_text()
            try:
                opener.open(f"{self.url}/health", timeout=5).close()
                return
            except OSError:
                time.sleep(0.2)
        raise AssertionError(f"the server isn't ready: {self._log.read_text()}")

    def stop(self) -> None:
        """At once, in the middle of whatever it is writing."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(30)


@contextmanager
def tracking_server(folder: Path, database: str) -> Iterator[Server]:
    """A server that is gone at the end."""
    server = Server(folder, database)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def start_harness(folder: Path, url: str, *arguments: str) -> "subprocess.Popen[bytes]":
    """A `harness` command in a working folder, with a tracking server."""
    environment = os.environ | ALONE | {"MLFLOW_TRACKING_URI": url}
    return subprocess.Popen([sys.executable, "-m", "harness", *arguments], cwd=folder, env=environment)


def run_through_a_restart(folder: Path, server: Server, arguments: Sequence[str], away_seconds: float) -> int:
    """Runs the experiment and takes the server away for a while in the middle; the exit code."""
    run = start_harness(folder, server.url, "run", *arguments)
    try:
        while run.poll() is None and len(_in_training(folder)) < 2:
            time.sleep(0.2)
        assert run.poll() is None, (
            f"the experiment ended with exit code {run.returncode} before two cells were in training"
        )
        server.stop()
        say(f"the server was killed with {len(_in_training(folder))} cells in training")
        time.sleep(away_seconds)
        server.start()
        say(f"the server is back after {away_seconds:g} s")
        return run.wait()
    finally:
        if run.poll() is None:
            run.terminate()
            run.wait(60)


def _in_training(folder: Path) -> list[Path]:
    traces = folder.glob("mlruns/harness/*/cells/*/trace.jsonl")
    return [trace for trace in traces if trace.read_bytes().count(b"\n") >= TRAINING_LINES]


def say(text: str) -> None:
    """A line among those of `harness run`."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


def secrets_on_disk(folder: Path) -> Check:
    """Whether the database's password lies anywhere below the working folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    found = [str(path) for path in files if PASSWORD.encode() in path.read_bytes()]
    return Check("files without the database's password", len(files), tuple(found))


def show(checks: Sequence[Check]) -> int:
    """Prints the table; the exit status."""
    print()
    for check in checks:
        print(f"{'ok  ' if not check.wrong else 'FAIL'}  {check.what:<52}{check.count:>8}")
        for line in check.wrong[:5]:
            print(f"      {line}")
    return int(any(check.wrong for check in checks))


def main() -> int:
    """Runs all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", nargs="?", default="quickstart", help="bundled name or file")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--away", type=float, default=10.0, help="seconds without a server")
    parser.add_argument("--set", action="append", default=[], help="as of `harness run`")
    given = parser.parse_args()
    file = Path(given.experiment)
    experiment = str(file.resolve()) if file.suffix else given.experiment
    options = [option for item in (f"launch.workers={given.workers}", *given.set) for option in ("--set", item)]
    with tempfile.TemporaryDirectory() as scratch, postgres_database() as database:
        there, here = Path(scratch) / "server", Path(scratch) / "client"
        there.mkdir()
        here.mkdir()
        with tracking_server(there, database.uri) as server:
            say(f"PostgreSQL {database.version} and `mlflow server` at {server.url}; {given.workers} workers")
            code = run_through_a_restart(here, server, [experiment, *options], given.away)
            synced = start_harness(here, server.url, "sync").wait()
            say(f"`harness run` ended with exit code {code}, `harness sync` with {synced}")
            [name] = known_experiments(here / "mlruns" / "harness")
            checks = check_delivery(ExperimentFolder(here / "mlruns" / "harness" / name), name, server.url)
        return show([*checks, secrets_on_disk(here)])


if __name__ == "__main__":
    sys.exit(main())
