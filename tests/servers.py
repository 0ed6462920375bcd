"""OpenAI-shaped servers for tests: one that answers as a test says, and `transformers serve`."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from harness.eval_config import ReferenceConfig
from harness.models.respondent import Sampling
from harness.models.served import ServedModel
from harness.records import Example, Generation, Message

os.environ["NO_PROXY"] = "127.0.0.1"
for _name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_CUSTOM_HEADERS"):
    os.environ.pop(_name, None)

GREEDY = Sampling(max_new_tokens=24)
Body = dict[str, Any] | str | bytes
"""str: HTML; bytes: sent as JSON, whatever they are."""
Reply = Body | tuple[int, Body] | tuple[int, Body, dict[str, str]]
"""A body, or status, body and headers."""
Script = Callable[[str, dict[str, Any]], Reply]
"""From path and body of a request."""


def question(text: str, name: str = "", **fields: Any) -> Example:
    """One user's turn."""
    return Example(id=name or text, messages=(Message(role="user", content=text),), reference="", **fields)


def chat(content: str | None = "fine", finish: str | None = "stop", **message: Any) -> dict[str, Any]:
    """The body of an answered chat."""
    turn = {"role": "assistant", "content": content, **message}
    return {
        "choices": [{"index": 0, "message": turn, "finish_reason": finish}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3},
    }


def only(model: ServedModel, example: Example, sampling: Sampling = GREEDY, *, as_text: bool = False) -> Generation:
    """The only answer to one example."""
    [(generation,)] = model.generations([example], as_text=as_text, sampling=sampling)
    return generation


class Scripted:
    """A server that answers as a test says, and what it was sent."""

    def __init__(self, script: Script) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.authorizations: list[str | None] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def _reply(self, body: dict[str, Any]) -> None:
                reply = script(self.path, body)
                status, content, headers = (*reply, {})[:3] if isinstance(reply, tuple) else (200, reply, {})
                text = json.dumps(content) if isinstance(content, dict) else content
                raw = text.encode() if isinstance(text, str) else text
                kind = "text/html" if isinstance(content, str) else "application/json"
                self.send_response(status)
                for name, value in {"Content-Type": kind, "Content-Length": str(len(raw)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(raw)

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.bodies.append(body)
                outer.authorizations.append(self.headers["Authorization"])
                self._reply(body)

            def do_GET(self) -> None:
                self._reply({})

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        # Clients that give up are part of the tests.
        self.server.handle_error = lambda *_: None
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    def model(self, **fields: Any) -> ServedModel:
        """The reference that asks it."""
        given = {"name": "parent", "model": "tiny", "url": self.url, "max_retries": 0, "timeout_seconds": 10}
        return ServedModel(ReferenceConfig(**(given | fields)))


@contextmanager
def serving(script: Script) -> Iterator[Scripted]:
    """A scripted server on a port of its own."""
    scripted = Scripted(script)
    threading.Thread(target=scripted.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield scripted
    finally:
        scripted.server.shutdown()
        scripted.server.server_close()


@contextmanager
def transformers_serve(model: Path, folder: Path) -> Iterator[str]:
    """The address of a real server of the model in a folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # The command of this environment, which needn't be the one on the PATH.
    command = [sys.executable, "-c", "from transformers.cli.transformers import main; main()", "serve", str(model)]
    options = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(folder)}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([*command, *options], env=environment, stdout=log, stderr=log)
    try:
        _wait_until_ready(process, f"http://127.0.0.1:{port}/health", folder / "log")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for _ in range(900):
        assert process.poll() is None, log.read_text()
        try:
            opener.open(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"not ready: {log.read_text()}")
