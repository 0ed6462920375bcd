"""An experiment on a Ray cluster that loses a node in the middle, against the same on one machine.

    python -m benchmarks.clusters.ray_cluster [EXPERIMENT] [--nodes 2] [--apart] [--against FOLDER] [--set KEY=VALUE ...]

Starts a Ray cluster of a head and two nodes of one CPU each on this machine, runs the experiment (by default the bundled
`quickstart`) there, kills the Ray daemon of a node with a cell in the middle of its training, adds a new node, and compares
every curve, score and the ranking with a `local` run. With --apart (as root: it takes mount namespaces) the nodes don't see the
working folder, and everything goes through an `mlflow server`. Exit status 1 where anything differs.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
from mlflow import MlflowClient

from benchmarks.clusters.postgres import say, tracking_server
from benchmarks.clusters.slurm import cells_of, ranking, scores, start
from harness.records import CellResult, TracePoint
from harness.store import CellFolder, read_lines, read_record

LOST_AFTER_POINTS = 10
"""Logged points after which a cell counts as in the middle of its training."""
STARTED = "Ray runtime started"
# Inside a mount namespace of its own, a node sees an empty folder where the working folder is.
HIDDEN = 'mount -t tmpfs none "$0" && exec "$@"'


class Cluster:
    """A Ray cluster on this machine, whose nodes can be killed."""

    def __init__(self, scratch: Path, hidden: Path | None) -> None:
        """A head that runs nothing.

        Args:
            scratch: for what the nodes write.
            hidden: a folder that the nodes don't see.
        """
        from ray.cluster_utils import Cluster as RayCluster

        self._scratch, self._hidden = scratch, hidden
        self._head = RayCluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        self.address = str(self._head.address)
        self._nodes: list[subprocess.Popen[bytes]] = []

    def add_node(self) -> None:
        """One more node, with one CPU and a scratch folder of its own; returns once it has joined."""
        scratch = self._scratch / f"node-{len(self._nodes)}"
        scratch.mkdir()
        ray = "from ray.scripts.scripts import main; main()"
        command = [sys.executable, "-c", ray, "start", "--address", self.address, "--num-cpus", "1", "--block"]
        if self._hidden is not None:
            command = ["unshare", "--mount", "sh", "-c", HIDDEN, str(self._hidden), *command]
        environment = os.environ | {"TMPDIR": str(scratch), "RAY_USAGE_STATS_ENABLED": "0"}
        with (scratch / "log").open("w") as log:
            self._nodes.append(
                subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=scratch, start_new_session=True)
            )
        while STARTED not in (scratch / "log").read_text():
            assert self._nodes[-1].poll() is None, (scratch / "log").read_text()
            time.sleep(0.2)

    def kill_node_of(self, cell: str) -> bool:
        """Kills the daemon of the node that a cell is trained on, and nothing else; whether it was trained on any."""
        for node in self._nodes:
            below = _below(node)
            if any("run-pack" in _words(process) and _words(process)[-1].endswith(cell) for process in below):
                for process in below:
                    if _words(process)[0].endswith("raylet"):
                        process.kill()
                return True
        return False

    def stop(self) -> None:
        """Ends all of it."""
        for node in self._nodes:
            for process in _below(node):
                process.kill()
            node.kill()
            node.wait()
        self._head.shutdown()


def _below(node: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    try:
        return psutil.Process(node.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline() or [""]
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return [""]


@contextmanager
def ray_cluster(scratch: Path, hidden: Path | None, nodes: int) -> Iterator[Cluster]:
    """A cluster that is gone at the end."""
    cluster = Cluster(scratch, hidden)
    try:
        for _ in range(nodes):
            cluster.add_node()
        yield cluster
    finally:
        cluster.stop()


def run_with_loss(folder: Path, scratch: Path, cluster: Cluster, arguments: Sequence[str]) -> str:
    """Runs the experiment, takes a node away in the middle and adds another one; the name of the cell that was hit."""
    run = start(folder, arguments)
    lost = ""
    try:
        while run.poll() is None and not lost:
            time.sleep(0.2)
            cell = next((cell for cell in _in_training(scratch) if cluster.kill_node_of(cell)), None)
            if cell is not None:
                lost = next(name for name, found in cells_of(folder).items() if found.path.name == cell)
                say(f"the node that trained {lost} was killed")
                cluster.add_node()
        code = run.wait()
        assert lost, f"`harness run` ended with exit code {code} before a cell was in the middle of its training"
        return lost
    finally:
        if run.poll() is None:
            run.terminate()
            run.wait(60)


def _in_training(scratch: Path) -> Iterator[str]:
    """The ids of cells that may be in the middle of their training, in the working folder or in one of a node's own."""
    for trace in scratch.rglob("cells/*/trace.jsonl"):
        is_trained = (trace.parent / "train.json").exists()
        if not is_trained and trace.read_bytes().count(b"\n") >= LOST_AFTER_POINTS:
            yield trace.parent.name


def compare(local: Path, far: Path, store: str, lost: str) -> list[str]:
    """Prints one line a cell; what is wrong, if anything."""
    client = MlflowClient(store)
    here, there = cells_of(local), cells_of(far)
    wrong = []
    print(f"{'cell':36} {'its node':9} {'starts':>6} {'points':>6} {'gaps':>5} {'doubles':>7}  MLflow")
    for name, cell in here.items():
        other = there[name]
        result = read_record(other.result, CellResult)
        expected, steps = _steps(cell), _steps(other)
        status = client.get_run(result.mlflow_run_id).info.status
        logged = [int(m.step) for m in client.get_metric_history(result.mlflow_run_id, "loss")] if steps else []
        doubled = sum(count - 1 for count in Counter(logged).values())
        starts = other.log.read_text(encoding="utf-8").count("Ray task on")
        gaps = len(set(expected) - set(logged))
        print(f"{name:36} {'killed' if name == lost else '-':9} {starts:>6} {len(steps):>6} {gaps:>5} {doubled:>7}  {status}")  # fmt: skip
        if steps != expected or sorted(logged) != sorted(expected):
            wrong.append(f"{name}: its curve isn't that of the local run")
        if scores(cell) != scores(other):
            wrong.append(f"{name}: its scores aren't those of the local run")
        if status != ("FINISHED" if result.status == "finished" else "FAILED"):
            wrong.append(f"{name}: {status} in MLflow")
    if ranking(local) != ranking(far):
        wrong.append(f"the rankings differ: {ranking(local)} and {ranking(far)}")
    return wrong


def _steps(cell: CellFolder) -> list[int]:
    return [point.step for point in read_lines(cell.trace, TracePoint) if "loss" in point.values]


def main() -> int:
    """Runs all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", nargs="?", default="quickstart", help="bundled name or file")
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--apart", action="store_true", help="nodes that don't see the working folder")
    parser.add_argument("--against", type=Path, help="a working folder in which `local` has run it already")
    parser.add_argument("--set", action="append", default=[], help="as of `harness run`")
    given = parser.parse_args()
    file = Path(given.experiment)
    experiment = [str(file.resolve()) if file.suffix else given.experiment]
    experiment += [word for item in given.set for word in ("--set", item)]
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        scratch = Path(name)
        local, far, server = given.against or scratch / "local", scratch / "far", scratch / "server"
        for folder in (scratch / "local", far, server):
            folder.mkdir()
        store = f"sqlite:///{far / 'mlflow.db'}"
        options = []
        if given.apart:
            store = stack.enter_context(tracking_server(server, f"sqlite:///{server / 'mlflow.db'}")).url
            options = ["--set", f"tracking.uri={store}"]
        if given.against is None:
            say("the same on this machine alone")
            start(local, experiment).wait()
        cluster = stack.enter_context(ray_cluster(scratch, far if given.apart else None, given.nodes))
        say(
            f"Ray cluster at {cluster.address}: {given.nodes} nodes{', which do not see the folder' if given.apart else ''}"
        )
        options += ["--set", "launch.kind=ray", "--set", f"launch.address={cluster.address}"]
        began = time.monotonic()
        lost = run_with_loss(far, scratch, cluster, [*experiment, *options])
        say(f"done after {time.monotonic() - began:.0f} s")
        wrong = compare(local, far, store, lost)
    print("\n".join(wrong) or "every curve, score and the ranking are those of the local run")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
