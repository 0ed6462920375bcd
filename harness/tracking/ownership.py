"""Which process a run belongs to, so that anybody can tell whether it still lives."""

import os
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

HOST_TAG, PID_TAG, HEARTBEAT_TAG, ERROR_TAG = "harness.host", "harness.pid", "harness.heartbeat", "harness.error"
MAX_TAG_LENGTH = 5000
# The first PID namespace of every Linux; in any other one (a container) the same number is another process.
FIRST_NAMESPACE = "pid:[4026531836]"
# Two readings of the start time of one process differ when the clock is set in between.
TOLERANCE_SECONDS = 2.0

Life = Literal["alive", "dead", "elsewhere"]


def this_host() -> str:
    """The machine whose process numbers are seen here."""
    try:
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # not Linux
        return socket.gethostname()
    return socket.gethostname() + ("" if namespace == FIRST_NAMESPACE else f" {namespace}")


def now_text() -> str:
    """This moment, as a heartbeat states it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def owner_tags() -> dict[str, str]:
    """What a run states of the process that writes it."""
    import psutil

    started = psutil.Process().create_time()
    return {HOST_TAG: this_host(), PID_TAG: f"{os.getpid()}@{started:.2f}", HEARTBEAT_TAG: now_text()}


def owner_life(tags: Mapping[str, str]) -> Life:
    """Whether the process that a run states is alive; another machine's can't be seen from here."""
    import psutil

    if tags.get(HOST_TAG) != this_host():
        return "elsewhere"
    number, _, started = tags.get(PID_TAG, "").partition("@")
    try:
        process = psutil.Process(int(number))
        is_same = abs(process.create_time() - float(started)) <= TOLERANCE_SECONDS
        # Nobody has asked yet how a zombie ended, but it has.
        return "alive" if is_same and process.status() != psutil.STATUS_ZOMBIE else "dead"
    except (psutil.NoSuchProcess, ValueError):
        return "dead"


def silent_seconds(tags: Mapping[str, str]) -> float | None:
    """Since the last heartbeat; None where none can be read."""
    try:
        last = datetime.fromisoformat(tags.get(HEARTBEAT_TAG, ""))
        return (datetime.now(UTC) - last).total_seconds()
    except (ValueError, TypeError):
        return None
