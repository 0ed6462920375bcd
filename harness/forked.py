"""The same work on many things, on all cores."""

import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, ClassVar, TypeVar

from harness.stopping import end_with

logger = logging.getLogger(__name__)

T = TypeVar("T")
MANY = 24
"""Things from which several processes work on them."""
THREADED = ("torch", "vl_convert")
"""Libraries with threads of their own."""
MAX_PROCESSES = 8


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
    fork = multiprocessing.get_context("fork")
    done = 0
    with ProcessPoolExecutor(processes, mp_context=fork, initializer=_take, initargs=(work, os.getpid())) as pool:
        try:
            for made in pool.map(_taken, range(count), chunksize=4 if count >= MANY else 1):
                yield made
                done += 1
        except BrokenProcessPool:  # one was killed, for memory say
            logger.warning("a process died; its work is done here")
    yield from (work(position) for position in range(done, count))


class _Forked:
    """An initializer can't hand anything on, so what it leaves behind belongs to the process."""

    work: ClassVar[Callable[[int], Any] | None] = None


def _take(work: Callable[[int], Any], parent: int) -> None:
    # Each of these processes holds the pipe by whose end the others would notice that nobody is left to ask for more.
    end_with(parent, signal.SIGKILL)
    _Forked.work = work


def _taken(position: int) -> Any:
    assert _Forked.work is not None, "set when the process began"
    return _Forked.work(position)
