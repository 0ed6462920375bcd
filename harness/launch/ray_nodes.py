"""What a Ray cluster's nodes have, what a cell takes of them, and what they run."""

import math
import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import harness
from harness.launch_config import LaunchConfig


class Node(NamedTuple):
    """One of the cluster."""

    id: str
    resources: Mapping[str, float]
    """What it has in all."""


def living_nodes() -> list[Node]:
    """Those that live."""
    import ray

    listed: Any = ray.nodes  # without types
    return [Node(node["NodeID"], node["Resources"]) for node in listed() if node["Alive"]]


def share_of(config: LaunchConfig, nodes: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """What a cell takes: what the file says, and of CPUs as many as go with its GPUs where it says nothing of them."""
    given = dict(config.resources_per_cell)
    processes = config.processes_per_cell
    with_gpus = [node for node in nodes if node.get("GPU")]
    if not given:
        given = {"GPU": float(processes)} if with_gpus else {"CPU": float(processes)}
    if "CPU" not in given:
        gpus = given.get("GPU", 0.0)
        shares = [math.floor(node.get("CPU", 0) / node["GPU"] * gpus) for node in with_gpus] if gpus else []
        given["CPU"] = float(max(1, min(shares, default=processes)))
    return given


def far_task() -> Callable[[bytes], tuple[Any, ...]]:
    """What a node runs. Ray sends a function within a function by its code, so that it runs without the harness, too, and says so."""
    wanted = harness.__version__

    def run(order: bytes) -> tuple[Any, ...]:
        import socket

        import ray

        node_id = ray.get_runtime_context().get_node_id()
        try:
            import harness
            from harness.launch.ray_task import run_order

            trouble = "" if harness.__version__ == wanted else f"it has sft-harness {harness.__version__}, not {wanted}"
        except ImportError as error:
            trouble = f"{error}; install sft-harness {wanted} there"
        if trouble:
            return socket.gethostname(), node_id, 1, False, trouble
        return tuple(run_order(pickle.loads(order), node_id))

    return run
