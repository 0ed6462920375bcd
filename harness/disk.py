"""Full disks, quotas and read-only file systems: told from other errors, and measured."""

import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

GIB = 2**30
CODES = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
# What libraries make of the system's own words: safetensors, SQLite, torch's archive writer.
WORDS = ("no space left on device", "disk quota exceeded", "read-only file system", "file too large",
         "database or disk is full", "attempt to write a readonly database")  # fmt: skip
TORCH_WRITER = ("PytorchStreamWriter failed writing", "unexpected pos")


def free_bytes(path: Path) -> int:
    """What this user may still write to the file system of a path, which need not exist yet."""
    return shutil.disk_usage(next(folder for folder in (path, *path.parents) if folder.exists())).free


def size_words(gib: float) -> str:
    """`1.5 GiB`, or `12.0 MiB` where it is less than one."""
    return f"{gib:,.1f} GiB" if gib >= 1 else f"{gib * 1024:,.1f} MiB"


def disk_trouble(error: BaseException, path: Path) -> str:
    """Why nothing can be written, and what to do, where the error or one behind it says so; else empty."""
    for cause in _chain(error):
        text = str(cause)
        words = text.lower()
        code = cause.errno if isinstance(cause, OSError) else None
        if code not in CODES and not any(w in words for w in WORDS) and not any(w in text for w in TORCH_WRITER):
            continue
        if code == errno.EROFS or "read-only" in words or "readonly" in words:
            return f"the disk is read-only ({path}): {text}; make it writable, or run in another folder"
        what = "the quota is used up" if code == errno.EDQUOT or "quota" in words else "the disk is full"
        return f"{what} ({size_words(free_bytes(path) / GIB)} free at {path}): {text}; free some space and run again"
    return ""


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was raised from, or while handling."""
    seen: list[BaseException] = []
    while error not in seen:
        seen.append(error)
        yield error
        following = error.__cause__ or error.__context__
        if following is None:
            return
        error = following
