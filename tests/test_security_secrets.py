"""Passwords and tokens that are planted in a real run are found nowhere afterwards: not in files, not in MLflow, not on the screen."""

import base64
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

PASSWORD = "correct-horse-battery-9"
LOGIN = base64.b64encode(f"ada:{PASSWORD}".encode()).decode()
PLANTED: Mapping[str, str] = {
    "HF_TOKEN": "hf_" + "aB3dE6gH9jK2mN5pQ8",
    "OPENAI_API_KEY": "sk-proj-" + "Zy9Xw8Vu7Ts6Rq5Po4Nm3",
    "LAB_PASSWORD": "no known form at all",
}
ALONE = {
    "NO_PROXY": "127.0.0.1",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
}
SEARCHED = 10
"""At least so many files: a search that looks nowhere finds nothing."""

YAML = """\
name: planted
model: {{name: embedded:base}}
template: {{name: chatml}}
data: {{train: embedded:train, test: embedded:test, limit: 8}}
training: {{learning_rate: 1e-3, max_steps: 1, per_device_train_batch_size: 4, max_length: 96, gradient_checkpointing: false}}
evals: [{{suite: held_out, limit: 2, max_new_tokens: 2}}, {{suite: leaky, limit: 2, max_new_tokens: 2}}]
references: [{{name: served, url: "http://127.0.0.1:9/v1", model: m, max_retries: 0}}]
ranking: {{by: held_out.nll, gates: []}}
launch: {{workers: 1}}
tracking: {{system_metrics: false, uri: "{uri}"}}
"""
LEAKY = '''\
"""Says all that it knows, and breaks."""

import logging
import os
import sys

from harness.suite import Suite


def leaky(measured):
    known = f"{os.environ['HF_TOKEN']} {os.environ['OPENAI_API_KEY']} {os.environ['LAB_PASSWORD']}"
    print(f"out {known} SERVER")
    print(f"err {known} SERVER", file=sys.stderr)
    logging.getLogger("leaky").warning("logged %s SERVER", known)
    raise RuntimeError(f"401 Unauthorized for {known} at SERVER, Authorization: Basic LOGIN")


SUITE = Suite(name="leaky", version=1, description="leaks", scorers={"leaky": leaky})
'''


class Run(NamedTuple):
    """An experiment whose tracking server was reached with a password."""

    folder: Path
    code: int
    said: dict[str, str]
    """Command -> all that it wrote."""
    server: str
    """Address of the server, without the password."""


def free_port() -> int:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def environment(**more: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW")}
    return {**inherited, **ALONE, **more}


def harness(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment(**PLANTED), capture_output=True, text=True, check=False
    )  # fmt: skip


def plant(folder: Path, server: str) -> None:
    """The experiment and its suite, with the server's password in both."""
    uri = server.replace("://", f"://ada:{PASSWORD}@")
    (folder / "evals").mkdir()
    (folder / "planted.yaml").write_text(YAML.format(uri=uri))
    (folder / "evals" / "leaky.py").write_text(LEAKY.replace("SERVER", uri).replace("LOGIN", LOGIN))


def ask(url: str, **headers: str) -> int:
    """The status of an answer."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, headers=headers), timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What `harness ui` starts, as it is started, although the environment says that its checks shall be off."""
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    code = f"from harness.tracking.ui import become_ui; become_ui('sqlite:///{folder}/mlflow.db', {port})"
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=folder, stdout=log, stderr=log,
            env=environment(MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE="true"),
        )  # fmt: skip
    try:
        for _ in range(1200):
            assert process.poll() is None, (folder / "log").read_text()
            try:
                assert ask(f"http://127.0.0.1:{port}/health") == 200
                break
            except OSError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def planted(server: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("planted")
    plant(folder, server)
    done = harness(folder, "run", "planted.yaml")
    said = {"run": done.stdout + done.stderr}
    for command in (("plan", "planted.yaml", "--json"), ("rank", "planted.yaml"), ("show", "served")):
        other = harness(folder, *command)
        said[" ".join(command)] = other.stdout + other.stderr
    return Run(folder, done.returncode, said, server)


def leaks(content: bytes) -> list[str]:
    """Names of the secrets that bytes hold."""
    secrets = {**PLANTED, "the server's password": PASSWORD, "its login": LOGIN}
    return [name for name, value in secrets.items() if value.encode() in content]


def contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every file below a folder, and every file within a zip file."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield str(path.relative_to(folder)), path.read_bytes()
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as archive:
                    yield from ((f"{path.name}:{name}", archive.read(name)) for name in archive.namelist())


@pytest.mark.slow
def test_a_real_run_leaves_no_planted_secret_anywhere(planted: Run, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert planted.code == 1, planted.said["run"]
    stored = next(path for path in tmp_path_factory.getbasetemp().glob("server*") if (path / "mlflow.db").exists())
    files = [*contents(planted.folder / "mlruns"), *contents(stored)]
    found = {name: secrets for name, content in files if (secrets := leaks(content))}
    said = {name: secrets for name, text in planted.said.items() if (secrets := leaks(text.encode()))}
    assert (found, said) == ({}, {})
    names = {name for name, _ in files}
    assert len(files) >= SEARCHED
    assert {"harness/planted/report.html", "harness/planted/report.json", "mlflow.db"} <= names


@pytest.mark.slow
def test_what_was_planted_was_told_with_its_secrets_hidden(planted: Run) -> None:
    """The search above would find nothing in a run that never met them."""
    results = [
        json.loads(path.read_text()) for path in planted.folder.glob("mlruns/harness/planted/cells/*/result.json")
    ]
    errors = [text for result in results for text in (result["error"], *result["suite_errors"].values())]
    assert any("401 Unauthorized for *** *** *** at http://***@127.0.0.1" in text for text in errors), errors
    logs = "".join(path.read_text() for path in planted.folder.glob("mlruns/harness/planted/cells/*/log.txt"))
    assert "out *** *** *** http://***@127.0.0.1" in logs
    assert "logged *** *** *** http://***@127.0.0.1" in logs


def test_a_closed_port_is_named_without_its_password(tmp_path: Path) -> None:
    plant(tmp_path, f"http://127.0.0.1:{free_port()}")
    done = harness(tmp_path, "run", "planted.yaml")
    assert done.returncode == 2
    assert "the MLflow store http://***@127.0.0.1" in done.stderr
    assert leaks((done.stdout + done.stderr).encode()) == []
    assert [name for name, content in contents(tmp_path / "mlruns") if leaks(content)] == []


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:7000"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "localhost.evil.example:5000"}, 403),
    ],
)
def test_the_ui_answers_who_asks_for_this_machine_only(server: str, headers: dict[str, str], status: int) -> None:
    assert ask(f"{server}/ajax-api/2.0/mlflow/experiments/get?experiment_id=0", **headers) == status


def test_a_page_of_another_origin_changes_nothing(server: str) -> None:
    url = f"{server}/ajax-api/2.0/mlflow/experiments/create"
    for origin, status in (("http://evil.example", 403), (server, 200)):
        body = json.dumps({"name": f"made by {origin}"}).encode()
        request = urllib.request.Request(url, body, {"Origin": origin, "Content-Type": "application/json"})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            answered = opener.open(request, timeout=20).status
        except urllib.error.HTTPError as error:
            answered = error.code
        assert answered == status, origin


def test_the_ui_listens_on_no_other_address(server: str) -> None:
    port = int(server.rpartition(":")[2])
    listening = [
        line.split()[1].split(":")[0]
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
        if line.split()[3] == "0A" and int(line.split()[1].split(":")[1], 16) == port
    ]
    assert listening == ["0100007F"]
