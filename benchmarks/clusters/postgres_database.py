"""A PostgreSQL database of one's own in a temporary folder, on loopback, for as long as it is needed."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

USER, DATABASE = "harness", "mlflow"
# What a password may hold and an address must quote: whoever shows one has to hide all of it.
PASSWORD = "s3cr@t/w:th%marks"
UNPRIVILEGED = ("postgres", "nobody")


class Database(NamedTuple):
    """A running server with an empty database."""

    uri: str
    """With user and password."""
    version: str


def postgres_programs() -> Path | None:
    """The folder of `initdb` and `postgres`; None where PostgreSQL isn't installed."""
    found = shutil.which("initdb")
    # Debian keeps those of all versions out of the PATH.
    folders = [Path(found).resolve().parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return next((folder for folder in reversed(folders) if (folder / "postgres").exists()), None)


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def postgres_database() -> Iterator[Database]:
    """Makes a database, runs its server, and removes both."""
    programs = postgres_programs()
    assert programs is not None, "PostgreSQL isn't installed; Debian: apt install postgresql"
    folder = Path(tempfile.mkdtemp(prefix="harness-postgres-"))
    try:
        user = _owner_of(folder)
        _run(programs, user, folder, "initdb", "--pgdata", str(folder / "data"), "--username", USER,
             "--auth", "scram-sha-256", "--pwfile", str(_password_file(folder, user)), "--encoding", "UTF8")  # fmt: skip
        port = free_port()
        command = [str(programs / "postgres"), "-D", str(folder / "data"), "-h", "127.0.0.1", "-p", str(port), "-k", ""]
        with (folder / "log").open("w") as log:
            server = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, user=user)
        try:
            _run(programs, user, folder, "pg_isready", "-h", "127.0.0.1", "-p", str(port), "-t", "60", attempts=300)
            _run(programs, user, folder, "createdb", "-h", "127.0.0.1", "-p", str(port), "-U", USER, DATABASE)
            version = subprocess.run([programs / "postgres", "--version"], capture_output=True, text=True, check=True)
            yield Database(f"postgresql+psycopg2://{USER}:{quote(PASSWORD, safe='')}@127.0.0.1:{port}/{DATABASE}", version.stdout.split()[2])  # fmt: skip
        finally:
            server.send_signal(signal.SIGINT)  # "fast": open connections are closed
            server.wait(60)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _owner_of(folder: Path) -> str | None:
    """Who the server runs as, and owns the folder: PostgreSQL refuses to be root. None: the user of this process."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    user = next(name for name in UNPRIVILEGED if name in known)
    shutil.chown(folder, user)
    return user


def _password_file(folder: Path, user: str | None) -> Path:
    path = folder / "password"
    path.write_text(PASSWORD)
    path.chmod(0o600)
    if user is not None:
        shutil.chown(path, user)
    return path


def _run(programs: Path, user: str | None, folder: Path, *command: str, attempts: int = 1) -> None:
    environment = os.environ | {"PGPASSWORD": PASSWORD, "LC_ALL": "C.UTF-8"}
    for left in reversed(range(attempts)):
        done = subprocess.run(
            [programs / command[0], *command[1:]], cwd=folder, user=user, env=environment, capture_output=True, text=True, check=False
        )  # fmt: skip
        if done.returncode == 0:
            return
        if not left:
            raise RuntimeError(f"{command[0]}: {done.stdout}{done.stderr}\n{(folder / 'log').read_text() if (folder / 'log').exists() else ''}")  # fmt: skip
