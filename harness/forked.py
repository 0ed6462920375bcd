"""The same work on many things, on all cores."""

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")
MANY = 24
"""Things from which several processes work on them."""
THREADED = ("torch", "vl_convert")
"""Libraries with threads of their own."""
MAX_PROCESSES = 8
_work: Callable[[int], Any] | None = None
"""Of a forked process."""


def each(work: Callable[[int], T], count: int, *, worth_it: int = MANY) -> Iterator[T]:
    """What the work makes of 0, 1, ..., count - 1, in this order, on all cores where that is worth it.

    Processes that are forked share what is in memory without a copy. Beside other threads, those of libraries among them, a fork could hang.

    Args:
        work: whose results can be pickled.
        count: of things.
        worth_it: so many things are worth several processes.
    """
    is_alone = threading.active_count() == 1 and not any(name in sys.modules for name in THREADED)
    is_safe = sys.platform == "linux" and is_alone
    processes = min(len(os.sched_getaffinity(0)), MAX_PROCESSES, count) if is_safe and count >= worth_it else 1
    if processes == 1:
        yield from (work(position) for position in range(count))
        return
    # Functions that are not at the top of a module can't be sent to a process, but a forked one has them already.
    with multiprocessing.get_context("fork").Pool(processes, _take, (work,)) as pool:
        yield from pool.imap(_taken, range(count), chunksize=4 if count >= MANY else 1)


def _take(work: Callable[[int], Any]) -> None:
    global _work  # noqa: PLW0603
    _work = work


def _taken(position: int) -> Any:
    assert _work is not None, "set when the process began"
    return _work(position)
