"""Locks that nobody has to clean up."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from harness.errors import StoreError
from harness.locks import LOOK_SECONDS, holder, holding, is_held, only_run
from harness.store import experiment_folder

HOLD = "import sys, time; from pathlib import Path; from harness.locks import holding\nwith holding(Path(sys.argv[1])) as mine:\n print(mine, flush=True); time.sleep(60)"


def hold_elsewhere(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "True"
    return process


def test_a_lock_belongs_to_one_process_and_names_it(tmp_path: Path) -> None:
    path = tmp_path / "cell.lock"
    assert not is_held(path)
    other = hold_elsewhere(path)
    try:
        assert is_held(path)
        assert f"process {other.pid} on " in holder(path)
        with holding(path) as is_mine:
            assert not is_mine
    finally:
        other.kill()
        other.wait()


def test_whoever_looks_at_a_lock_keeps_nobody_from_taking_it(tmp_path: Path) -> None:
    path = tmp_path / "cell.lock"
    looker = path.open("a+")
    fcntl.flock(looker, fcntl.LOCK_SH)
    assert not is_held(path)
    end = threading.Timer(LOOK_SECONDS / 4, looker.close)
    end.start()
    with holding(path) as is_mine:
        assert is_mine
    end.join()


def test_a_lock_dies_with_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "cell.lock"
    other = hold_elsewhere(path)
    os.kill(other.pid, signal.SIGKILL)
    other.wait()
    assert not is_held(path)
    with holding(path) as is_mine:
        assert is_mine
        assert f"process {os.getpid()} on " in holder(path)


def test_a_lock_does_not_live_on_in_what_its_owner_forked(tmp_path: Path) -> None:
    fork = HOLD.replace("print(mine", "child = os.fork()\n if not child: time.sleep(60); os._exit(0)\n print(child")
    path = tmp_path / "cell.lock"
    owner = subprocess.Popen([sys.executable, "-c", f"import os; {fork}", str(path)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    child = int(owner.stdout.readline())
    try:
        assert is_held(path)
        owner.kill()
        owner.wait()
        deadline = time.monotonic() + 20  # the child may not have come to run yet
        while is_held(path) and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(child, 0)
        assert not is_held(path)
    finally:
        os.kill(child, signal.SIGKILL)


def test_asking_whether_a_lock_is_held_makes_no_file(tmp_path: Path) -> None:
    assert not is_held(tmp_path / "nothing.lock")
    assert list(tmp_path.iterdir()) == []


def test_a_second_run_of_an_experiment_is_told_who_is_at_work(tmp_path: Path) -> None:
    folder = experiment_folder("mine", tmp_path)
    folder.path.mkdir(parents=True)
    other = hold_elsewhere(folder.lock)
    try:
        with pytest.raises(StoreError, match=rf"process {other.pid} on .*--join"), only_run(folder):
            pass
    finally:
        other.kill()
        other.wait()
    with only_run(folder):
        pass
