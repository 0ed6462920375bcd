"""Signals to a worker: the first is gentle, the second is not, and a burst is one."""

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

PRELUDE = """
import os, signal, sys, time
from harness import stopping
from harness.stopping import catch_stop_signals, is_stop_asked, stop_if_asked, stopping_after_step
catch_stop_signals()
def say(text): print(text, flush=True)
"""


def start(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", PRELUDE + textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_outside_of_training_the_first_signal_ends_the_process_with_its_code(number: signal.Signals) -> None:
    process = start("say('ready'); time.sleep(60)")
    assert line(process) == "ready"
    process.send_signal(number)
    assert process.wait(30) == 128 + number


def test_in_training_the_step_goes_on_and_the_process_ends_after_it() -> None:
    process = start("""
        with stopping_after_step():
            say('ready')
            while not is_stop_asked(): time.sleep(0.01)
            say('saved')
        stop_if_asked()
        say('never')
    """)
    assert line(process) == "ready"
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    assert line(process) == "saved"
    assert line(process) == ""


def test_a_burst_of_signals_is_one_request_and_a_later_one_ends_it_now() -> None:
    process = start("""
        stopping.SAME_SECONDS = 0.5
        with stopping_after_step():
            say('ready')
            while not is_stop_asked(): time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGTERM)
            say('still here')
            time.sleep(0.6)
            os.kill(os.getpid(), signal.SIGTERM)
            say('never')
    """)
    assert line(process) == "ready"
    process.send_signal(signal.SIGTERM)
    assert line(process) == "still here"
    assert process.wait(30) == 143
    assert line(process) == ""


def test_what_ends_a_step_on_its_own_is_told_before_the_signal(tmp_path: Path) -> None:
    process = start("""
        try:
            with stopping_after_step():
                say('ready')
                while not is_stop_asked(): time.sleep(0.01)
                raise ValueError('a fault of its own')
        except ValueError as error:
            say(error)
    """)
    assert line(process) == "ready"
    time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert line(process) == "a fault of its own"
    assert process.wait(30) == 0
