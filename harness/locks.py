"""Locks of experiments and cells: files that a living process holds, which nothing has to clean up after its death."""

import contextlib
import fcntl
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from harness.errors import StoreError
from harness.store import ExperimentFolder

logger = logging.getLogger(__name__)

# Whoever looks whether a lock is held (`list`, `reconcile`, another `harness run`) has it for that instant.
LOOK_SECONDS = 0.1
_held: set[TextIO] = set()


@contextmanager
def holding(path: Path) -> Iterator[bool]:
    """Holds a lock as long as this lasts; False where another process has it.

    A file system without locks gives it to everybody, with a warning.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            _lock(file)
        except BlockingIOError:
            yield False
            return
        except OSError as error:
            logger.warning(
                "%s: this file system has no locks (%s); see that nobody else runs this", path, error.strerror
            )
        _held.add(file)
        # On a full disk the lock holds all the same.
        with contextlib.suppress(OSError):
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}".encode())
        try:
            yield True
        finally:
            _held.discard(file)


def _lock(file: TextIO) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        time.sleep(LOOK_SECONDS)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _let_go() -> None:
    """A forked process has its parent's locks, which would outlive the parent with it."""
    while _held:
        _held.pop().close()


os.register_at_fork(after_in_child=_let_go)


def is_held(path: Path) -> bool:
    """Whether a living process holds a lock."""
    if not path.exists():
        return False
    with path.open("a+", encoding="utf-8") as file:
        try:
            # Shared, so that nobody who looks takes another one who does for a holder.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
    return False


def holder(path: Path) -> str:
    """Who took a lock last, as it says itself."""
    try:
        return path.read_text(encoding="utf-8", errors="replace") or "another process"
    except OSError:
        return "another process"


@contextmanager
def only_run(folder: ExperimentFolder) -> Iterator[None]:
    """Keeps a second `harness run` of the same experiment out while one is at work.

    Raises: StoreError: another one is, or the folder can't be written.
    """
    folder.check_writable()
    with holding(folder.lock) as is_mine:
        if not is_mine:
            raise StoreError(
                f"{folder.path}: another `harness run` of this experiment is at work ({holder(folder.lock)}); wait for it, stop it, "
                "or help it with `--join`"
            )
        yield
