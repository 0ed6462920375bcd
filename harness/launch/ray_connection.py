"""The way to a Ray cluster: found, of the same version, and quiet."""

import contextlib
import io
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator

from harness.errors import LaunchError

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 5.0
PORT = 6379
INSTALL = "pip install 'sft-harness[ray]'"


def connect(address: str | None) -> None:
    """Raises: LaunchError: Ray isn't installed, or no cluster of its version answers."""
    # Read when Ray is imported: it would report its use to its makers.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise LaunchError(f"launch.kind ray needs Ray; install it with `{INSTALL}`") from error
    if ray.is_initialized():
        return
    target = address or "auto"
    start = "start a cluster with `ray start --head`, or set launch.address"
    if target == "local":
        raise LaunchError(
            f"launch.address: 'local' is no cluster; {start}, or use `kind: local` for this machine alone"
        )
    _check_listening(target)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with quiet():
            ray.init(address=target, log_to_driver=False, configure_logging=False, logging_level=logging.ERROR)
    except (Exception, SystemExit) as error:  # Ray ends a process that its cluster doesn't answer in time
        raise LaunchError(_refused(target, error, start)) from error
    finally:
        # Ray's own would end this process without a word to the workers.
        signal.signal(signal.SIGTERM, handler)


def _refused(target: str, error: BaseException, start: str) -> str:
    text = " ".join(str(error).split())
    if "ersion mismatch" in text:
        return f"the Ray cluster and this process have different versions ({text}); install the same Ray and Python on both"
    if "ray[client]" in text:
        return f"launch.address {target!r} needs Ray's client; install it with `pip install 'ray[client]'`"
    if target == "auto" and isinstance(error, ConnectionError):
        return f"no Ray cluster runs on this machine; {start}"
    said = "" if isinstance(error, SystemExit) else f" ({text[:300]})"
    return f"the Ray cluster at {target!r} doesn't answer{said}; check launch.address and `ray status`, or {start}"


def _check_listening(target: str) -> None:
    """Raises: LaunchError: nobody listens at an address; Ray itself would try for a minute and a half."""
    host, _, port = target.partition("://")[2].partition(":") if "://" in target else target.partition(":")
    if target == "auto":
        return
    if not host or not (port or str(PORT)).isdigit():
        raise LaunchError(f"launch.address {target!r} is no address; write HOST:{PORT} or ray://HOST:10001")
    try:
        socket.create_connection((host, int(port or PORT)), ANSWER_SECONDS).close()
    except OSError as error:
        raise LaunchError(
            f"the Ray cluster at {target!r} doesn't answer ({error}); check launch.address and `ray status` there"
        ) from error


class _Noise(io.TextIOBase):
    """Takes what Ray prints of its nodes among our results."""

    def write(self, text: str) -> int:
        logger.debug("%s", text.rstrip())
        return len(text)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Ray's listener prints what happens to nodes to the standard output, whatever its settings say."""
    before = sys.stdout
    sys.stdout = _Noise()
    try:
        yield
    finally:
        sys.stdout = before
