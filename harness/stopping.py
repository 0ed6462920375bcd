"""How a worker is asked to stop: the first signal lets it finish its step and save, the second one ends it now."""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import ClassVar

# `timeout` and schedulers signal a whole group, whose parent passes it on: within this time it is one request.
SAME_SECONDS = 2.0
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""SIGUSR1 comes from schedulers that start the worker again later."""
PR_SET_PDEATHSIG = 1
"""From <linux/prctl.h>."""


class Stopped(SystemExit):
    """A signal stopped this process; its code is what shells give such a process."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.signum = signum

    def __str__(self) -> str:
        """One half-sentence, as records keep it."""
        return f"stopped by {signal.Signals(self.signum).name}; `harness run` goes on where it stopped"


class _Request:
    """Handlers can't be handed anything, so what they leave behind belongs to the process."""

    signum: ClassVar[int | None] = None
    when: ClassVar[float] = 0.0
    is_deferred: ClassVar[bool] = False


def catch_stop_signals() -> None:
    """From here on STOP_SIGNALS raise Stopped: at once, or in training once its step is saved."""
    for number in STOP_SIGNALS:
        signal.signal(number, _ask)


def _ask(signum: int, _: FrameType | None) -> None:
    if _Request.signum is None:
        _Request.signum, _Request.when = signum, time.monotonic()
    elif time.monotonic() - _Request.when < SAME_SECONDS:
        return
    else:
        _Request.is_deferred = False
    if not _Request.is_deferred:
        raise Stopped(signum)


def is_stop_asked() -> bool:
    """Whether a signal waits for the step to end."""
    return _Request.signum is not None


@contextmanager
def stopping_after_step() -> Iterator[None]:
    """Defers the first signal as long as this lasts, for a caller that asks `is_stop_asked`; follow it with `stop_if_asked`."""
    _Request.is_deferred = True
    try:
        yield
    finally:
        _Request.is_deferred = False


def stop_if_asked() -> None:
    """Raises: Stopped: a signal came while it was deferred."""
    if _Request.signum is not None:
        raise Stopped(_Request.signum)


def end_with(parent: int, signum: signal.Signals) -> None:
    """Linux: has this process get a signal when its parent dies, or now if it has died already."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signum)
    if os.getppid() != parent:
        signal.raise_signal(signum)
