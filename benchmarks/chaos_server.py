"""A real `mlflow server` behind a port that can be closed: what a training sees when the server goes away and comes back."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

START_SECONDS = 120.0
# It would start workers for jobs that nobody submits.
ALONE = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
POLL_SECONDS = 0.05


class Server(NamedTuple):
    """Where it is and what it keeps."""

    uri: str
    database: Path
    artifacts: Path
    outage: Path
    """As long as this file exists the port is closed; whoever runs a fault makes it."""


@contextmanager
def tracking_server(folder: Path, outage: Path) -> Iterator[Server]:
    """`mlflow server` on SQLite with artifacts served over HTTP, as long as this lasts."""
    folder.mkdir(parents=True, exist_ok=True)
    database, artifacts = folder / "server.db", folder / "artifacts"
    behind, front = _free_port(), _free_port()
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(behind), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{database}", "--artifacts-destination", str(artifacts), "--serve-artifacts",
    ]  # fmt: skip
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=os.environ | ALONE, stdout=log, stderr=log, start_new_session=True
        )
    gate = _Gate(front, behind, outage)
    try:
        _wait_until_ready(process, f"http://127.0.0.1:{behind}/health", folder / "server.log")
        gate.start()
        yield Server(f"http://127.0.0.1:{front}", database, artifacts, outage)
    finally:
        gate.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            opener.open(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"mlflow server is not ready: {log.read_text()[-2000:]}")


class _Gate(threading.Thread):
    """Passes bytes to and fro; closes its port and cuts what is open while there is an outage."""

    def __init__(self, front: int, behind: int, outage: Path) -> None:
        super().__init__(daemon=True)
        self._front, self._behind, self._outage = front, behind, outage
        self._open: list[socket.socket] = []
        self._is_over = False

    def run(self) -> None:
        """Opens and closes the port as the outage says."""
        listener: socket.socket | None = None
        while not self._is_over:
            if self._outage.exists():
                self._cut(listener)
                listener = None
                time.sleep(POLL_SECONDS)
                continue
            listener = listener or _listening(self._front)
            with contextlib.suppress(TimeoutError):
                self._connect(listener.accept()[0])
        self._cut(listener)

    def close(self) -> None:
        """Ends it."""
        self._is_over = True
        if self.ident is not None:
            self.join()

    def _connect(self, near: socket.socket) -> None:
        near.settimeout(None)
        far = socket.create_connection(("127.0.0.1", self._behind))
        self._open = [one for one in self._open if one.fileno() >= 0] + [near, far]
        for source, target in ((near, far), (far, near)):
            threading.Thread(target=_pass, args=(source, target), daemon=True).start()

    def _cut(self, listener: socket.socket | None) -> None:
        for one in (*([listener] if listener else []), *self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._open = []


def _listening(port: int) -> socket.socket:
    listener = socket.create_server(("127.0.0.1", port), reuse_port=False)
    listener.settimeout(POLL_SECONDS)
    return listener


def _pass(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for one in (source, target):
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
        one.close()
