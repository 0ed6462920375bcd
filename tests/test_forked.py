"""Work on several forked processes."""

import os
import signal
import subprocess
import sys
import time

from benchmarks.chaos_drive import members
from harness.forked import MANY

WORK = """
import os, time
from harness.forked import MANY, each
os.sched_getaffinity = lambda _: {0, 1}
def work(position):
    time.sleep(30 if position else 0)
    return os.getpid()
for pid in each(work, MANY):
    print(pid, flush=True)
"""


def test_forked_processes_end_when_the_one_that_forked_them_is_killed() -> None:
    process = subprocess.Popen([sys.executable, "-c", WORK], stdout=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 30
    while len(members(process.pid)) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(members(process.pid)) == 3, f"two work on {MANY} things"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 10
    while (left := members(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left
