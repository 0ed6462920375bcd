"""What ends code that hangs."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

SECONDS = 20


class Hang(BaseException):
    """Passes whatever catches exceptions: a TimeoutError would be taken for a file that can't be read."""


@contextmanager
def guarded(what: str) -> Iterator[None]:
    """Fails where the code inside hangs; Python's loops and those of its regular expressions look for signals."""

    def hang(*_: object) -> None:
        raise Hang(f"{what}: no end after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
