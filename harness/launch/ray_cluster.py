"""Runs packs as tasks of a Ray cluster: one a node's share of GPUs and CPUs, again elsewhere where a node is lost."""

import contextlib
import logging
import math
import pickle
import re
import signal
import time
import uuid
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from harness.config import api_key
from harness.errors import LaunchError
from harness.grid import CellSpec
from harness.launch.base import FINISHED, PackJob, PackState
from harness.launch.ray_connection import connect, quiet
from harness.launch.ray_nodes import far_task, living_nodes, share_of
from harness.launch.ray_task import Order, Outcome
from harness.launch_config import LaunchConfig
from harness.stopping import SAME_SECONDS
from harness.store import CellFolder, ExperimentFolder, read_record, write_text
from harness.tracking.cell_runs import store_environment
from harness.travel import Bundle, bring_back, send

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5
STOP_SECONDS = 40.0
ROOM_SECONDS = 120.0
"""For nodes to come back when none is left that a cell fits on."""
MAX_NODE_LOSSES = 3
"""Of one cell in one launch; each time it goes on elsewhere."""
KILLED = -int(signal.SIGKILL)
MARK = "ray-"
NODE_ADDRESS = re.compile(r"Node IP: ([^,\s]+)")


class _Running(NamedTuple):
    place: int
    """Of the pack among all."""
    order: Order


class RayLauncher:
    """Tasks of a cluster that `ray start` made; this process becomes its driver."""

    def __init__(self, config: LaunchConfig, folder: ExperimentFolder) -> None:
        """Connects to the cluster.

        Raises: LaunchError: Ray isn't installed, the cluster doesn't answer, or none of its nodes has what a cell takes.
        """
        connect(config.address)
        self._folder = folder
        self._workers = config.workers
        self._resources = share_of(config, [node.resources for node in living_nodes()])
        self._threads = max(1, int(self._resources["CPU"]) // config.processes_per_cell)
        self._bundle: Bundle | None = None
        self._unfit: dict[str, str] = {}
        self._has_worked = self._is_store_lost = False
        self._cells: Sequence[CellFolder] = ()
        if not self._room():
            raise LaunchError(self._no_room())

    @property
    def threads(self) -> int:
        """CPU threads of each process: its share of what a cell takes."""
        return self._threads

    def launch(self, packs: Sequence[PackJob], environment: Mapping[str, str]) -> Generator[PackState]:
        """Runs every pack once the cluster has room for it; nodes that join are used, what a lost one ran goes on elsewhere."""
        mark = self._folder.path / f"{MARK}{uuid.uuid4().hex}"
        waiting = [_Running(index, self._order(pack, mark, environment)) for index, pack in enumerate(packs)]
        self._cells = [CellFolder(path) for pack in packs for path in pack.folders]
        running: dict[Any, _Running] = {}
        losses = [0] * len(packs)
        started: set[int] = set()
        with quiet():
            try:
                for old in self._folder.path.glob(f"{MARK}*"):
                    old.unlink()
                write_text(mark, "A node that sees this file shares the folder.")
                last_room = time.monotonic()
                while waiting or running:
                    room = self._num_at_once()
                    last_room = time.monotonic() if room else last_room
                    if not room and self._is_hopeless(running, time.monotonic() - last_room):
                        raise LaunchError(f"{self._no_room()}; `harness run` then goes on where it stopped")
                    while waiting and len(running) < room:
                        item = waiting.pop(0)
                        running[self._submit(item.order)] = item
                        if item.place not in started:
                            started.add(item.place)
                            yield PackState(item.place, None)
                    for task in _ended(list(running)):
                        item = running.pop(task)
                        state = self._state(task, item, losses)
                        if state is None:
                            # First in the queue: what has begun holds a place in the display.
                            waiting.insert(0, item._replace(order=item.order._replace(bundle=self._bundle)))
                        else:
                            yield state
            finally:
                _stop(list(running))
                self._take_back(running)
                mark.unlink(missing_ok=True)

    def _is_hopeless(self, running: Mapping[Any, _Running], seconds: float) -> bool:
        """Whether nothing more can come of a cluster that has had no room for so long."""
        patience = 0.0 if self._unfit and not self._has_worked else ROOM_SECONDS
        # On unfit nodes what has begun goes on; elsewhere a task may wait for a node that was believed alive.
        at_work = bool(running) and any(node.id in self._unfit for node in living_nodes())
        return seconds >= patience and not at_work

    def _order(self, pack: PackJob, mark: Path, environment: Mapping[str, str]) -> Order:
        cells = [read_record(CellFolder(folder).spec, CellSpec).cell for folder in pack.folders]
        keys = {cell.reference.api_key_env: api_key(cell.reference) for cell in cells if cell.reference}
        far = {**store_environment(), **{name: key for name, key in keys.items() if key}, **environment}
        names = ", ".join(cell.name for cell in cells)
        return Order(pack, names, mark, Path.cwd(), far, self._bundle)

    def _submit(self, order: Order) -> Any:
        import ray

        custom = {name: amount for name, amount in self._resources.items() if name not in ("CPU", "GPU", "memory")}
        elsewhere = {"ray.io/node-id": f"!in({','.join(self._unfit)})"} if self._unfit else None
        # Whether a lost task is worth another try is decided here, where it can be told.
        task = ray.remote(far_task()).options(
            num_cpus=self._resources["CPU"], num_gpus=self._resources.get("GPU", 0), resources=custom,
            memory=self._resources.get("memory"), label_selector=elsewhere, max_retries=0, name=f"{self._folder.path.name}: {order.names}",
        )  # fmt: skip
        # As bytes: a node without the harness can't make an `Order`.
        return task.remote(pickle.dumps(order))

    def _num_at_once(self) -> int:
        room = self._room()
        return room if self._workers == "auto" else min(room, self._workers)

    def _state(self, task: Any, item: _Running, losses: list[int]) -> PackState | None:
        """What became of a task; None where it is to be run again.

        Raises: LaunchError: nodes can't have what it needs.
        """
        import ray
        from ray.exceptions import NodeDiedError, RayError, RayTaskError, TaskCancelledError

        index, names = item.place, item.order.names
        try:
            outcome = Outcome(*ray.get(task))
        except NodeDiedError as error:
            self._has_worked = True
            losses[index] += 1
            address = NODE_ADDRESS.search(str(error))
            why = f"node {address[1] if address else '(unknown)'} of the Ray cluster died"
            if losses[index] > MAX_NODE_LOSSES:
                return PackState(index, KILLED, f"{why}, after {MAX_NODE_LOSSES} others under this cell")
            logger.warning("%s: %s; it goes on elsewhere", names, why)
            return None
        except TaskCancelledError:
            return PackState(index, 128 + signal.SIGTERM, "cancelled (ray.cancel)")
        except RayTaskError as error:
            return PackState(index, KILLED, f"its Ray task failed: {_cause(error)}")
        except RayError as error:
            return PackState(index, KILLED, f"its Ray worker died: {_first_sentence(error)}")
        return self._told(outcome, item)

    def _take_back(self, stopped: Mapping[Any, _Running]) -> None:
        """What workers that were stopped on nodes of another folder have recorded."""
        import ray

        for task in _ended(list(stopped)) if stopped and ray.is_initialized() else ():
            with contextlib.suppress(Exception):  # the node is gone, say: the next `harness run` starts the cell anew
                self._told(Outcome(*ray.get(task)), stopped[task], is_stopping=True)

    def _told(self, outcome: Outcome, item: _Running, *, is_stopping: bool = False) -> PackState | None:
        """What a task that ended says."""
        if outcome.trouble:
            self._avoid(outcome.node_id, outcome.node, outcome.trouble)
            return None
        if outcome.is_absent:
            if self._bundle is None and not is_stopping:
                logger.warning("node %s doesn't share %s; what it needs travels through the tracking server",
                               outcome.node, self._folder.path)  # fmt: skip
                self._bundle = send(self._folder, self._cells, outcome.node)
            return None
        self._has_worked = True
        if outcome.log is not None:
            with item.order.job.log.open("a", encoding="utf-8") as log:
                log.write(outcome.log)
            folders = [CellFolder(path) for path in item.order.job.folders]
            # A store that was away for so long with one cell is asked once with the next.
            missing = bring_back(folders, outcome.results, is_patient=not (is_stopping or self._is_store_lost))
            self._is_store_lost = bool(missing)
            if missing:
                return PackState(item.place, KILLED, f"{missing} did not come back from node {outcome.node}")
        why = "" if outcome.exit_code == FINISHED else f"on node {outcome.node}"
        return PackState(item.place, outcome.exit_code, why if outcome.exit_code < 0 else "")

    def _avoid(self, node_id: str, name: str, trouble: str) -> None:
        """Lets a node that can't run a worker be for the rest of this launch."""
        if node_id not in self._unfit:
            logger.warning("node %s of the Ray cluster can't run a worker: %s; cells go elsewhere", name, trouble)
        self._unfit[node_id] = f"node {name} can't run a worker: {trouble}"

    def _room(self) -> int:
        """How many cells the living nodes hold at a time, whoever else uses them."""
        wanted = {name: amount for name, amount in self._resources.items() if amount > 0}
        return sum(
            min(
                (math.floor(node.resources.get(name, 0.0) / amount + 1e-9) for name, amount in wanted.items()),
                default=1,
            )
            for node in living_nodes()
            if node.id not in self._unfit
        )

    def _no_room(self) -> str:
        wanted = ", ".join(f"{name}: {amount:g}" for name, amount in self._resources.items())
        names = ("CPU", "GPU", *(name for name in self._resources if name not in ("CPU", "GPU")))
        fit = [node.resources for node in living_nodes() if node.id not in self._unfit]
        has = "; ".join(", ".join(f"{name}: {node.get(name, 0):g}" for name in names) for node in fit) or "no node"
        why = "".join(f"; {trouble}" for trouble in dict.fromkeys(self._unfit.values()))
        advice = "mend it" if why else "change launch.resources_per_cell"
        return f"no node of the Ray cluster has what a cell takes ({wanted}): it has {has}{why}; {advice} or add a node"


def _ended(tasks: Sequence[Any]) -> list[Any]:
    import ray

    if not tasks:
        time.sleep(POLL_SECONDS)
        return []
    ready, _ = ray.wait(list(tasks), num_returns=len(tasks), timeout=POLL_SECONDS)
    return list(ready)


def _stop(tasks: Sequence[Any]) -> None:
    """Lets workers finish their step and save, however long that takes; a second Ctrl-C ends them now."""
    import ray

    if not tasks or not ray.is_initialized():
        return
    asked = time.monotonic()
    for task in tasks:
        ray.cancel(task)
    logger.warning("workers finish their step and save; Ctrl-C again stops them now")
    try:
        ray.wait(list(tasks), num_returns=len(tasks))
    except BaseException:
        time.sleep(max(0.0, SAME_SECONDS - (time.monotonic() - asked)))
        for task in tasks:
            ray.cancel(task)
        ray.wait(list(tasks), num_returns=len(tasks), timeout=STOP_SECONDS)
        for task in tasks:
            ray.cancel(task, force=True)
        raise


def _first_sentence(error: Exception) -> str:
    return " ".join(str(error).split()).partition(". ")[0].rstrip(".")


def _cause(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
