"""A headless Chromium, driven through its DevTools pipe: what a page really does."""

import fcntl
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE_SECONDS = 60.0


class Browser:
    """One browser with one tab."""

    def __init__(self, profile: Path) -> None:
        assert CHROMIUM is not None
        to_child, ours = os.pipe()
        theirs, from_child = os.pipe()
        # Chromium reads commands from 3 and writes answers to 4: ours must not be those.
        child = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (to_child, from_child)]

        def placed() -> None:
            os.dup2(child[0], 3)
            os.dup2(child[1], 4)

        command = [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", f"--user-data-dir={profile}",
            # Else a sandboxed frame is a target of its own.
            "--disable-features=IsolateSandboxedIframes", "--window-size=1280,900", "about:blank",
        ]  # fmt: skip
        # No thread runs yet that could hold a lock in the child.
        self._process = subprocess.Popen(command, pass_fds=(3, 4), preexec_fn=placed, stderr=subprocess.DEVNULL)  # noqa: PLW1509
        for fd in (to_child, from_child, *child):
            os.close(fd)
        self._write, self._read = os.fdopen(ours, "wb", buffering=0), os.fdopen(theirs, "rb")
        self._pending = b""
        self._count = 0
        self._session = ""
        self.complaints: list[str] = []
        """Errors and warnings of the console since the page was opened."""
        self._contexts: list[tuple[int, str]] = []
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._ask(f"{domain}.enable")

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.terminate()
        self._process.wait(timeout=30)
        self._write.close()
        self._read.close()

    def open(self, page: Path, **media: str) -> None:
        """Opens a file and waits until it is loaded."""
        features = [{"name": name.replace("_", "-"), "value": value} for name, value in media.items()]
        self._ask("Emulation.setEmulatedMedia", features=features)
        self.complaints.clear()
        self._ask("Page.navigate", url=page.as_uri())
        self.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'")

    def resize(self, width: int, height: int) -> None:
        """Sets the size of the window."""
        self._ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def evaluate(self, expression: str, *, in_frame: bool = False) -> Any:
        """The value of an expression, in the page or in its frame."""
        where = {}
        if in_frame:
            self._ask("Runtime.evaluate", expression="0")  # reads what was announced of frames
            where = {"contextId": self._contexts[-1][0]}
        answer = self._ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True, **where)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, expression: str, *, in_frame: bool = False) -> Any:
        """Asks until the value is true."""
        end = time.monotonic() + PATIENCE_SECONDS
        while not (value := self.evaluate(expression, in_frame=in_frame)):
            assert time.monotonic() < end, f"never true: {expression}; {self.complaints}"
            time.sleep(0.1)
        return value

    def _ask(self, method: str, **params: Any) -> Any:
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._write.write(json.dumps(message).encode() + b"\0")
        while True:
            heard = self._hear()
            if heard.get("id") == self._count:
                assert "error" not in heard, f"{method}: {heard['error']}"
                return heard["result"]
            self._note(heard)

    def _hear(self) -> dict[str, Any]:
        while b"\0" not in self._pending:
            more = self._read.read1(1 << 20)
            assert more, "the browser ended"
            self._pending += more
        line, _, self._pending = self._pending.partition(b"\0")
        return dict(json.loads(line))

    def _note(self, event: dict[str, Any]) -> None:
        """Keeps what the page complained of, and where its frames run."""
        said = event.get("params", {})
        match event.get("method"):
            case "Runtime.executionContextCreated":
                self._contexts.append((said["context"]["id"], said["context"]["origin"]))
            case "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(said["exceptionDetails"]))
            case "Log.entryAdded" if said["entry"]["level"] in ("error", "warning"):
                self.complaints.append(said["entry"]["text"])
            case "Runtime.consoleAPICalled" if said["type"] in ("error", "warning"):
                self.complaints.append(" ".join(str(value.get("value", "")) for value in said["args"]))
