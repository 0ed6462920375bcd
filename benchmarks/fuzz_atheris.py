"""One target of `tests/fuzzing.py` under atheris, which looks for input that reaches lines not reached before.

Started by `python -m benchmarks.fuzz --engine atheris`, a process for every target, because libFuzzer ends the process that
it runs in. The bytes that it makes are what hypothesis draws its choices from, so both engines try the same kinds of input.
"""

import argparse
import json
import logging
import random
import sys
import tempfile
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import atheris
from hypothesis import HealthCheck, Phase, given, settings

from benchmarks.fuzz_case import Found, look_at
from harness.errors import HarnessError
from tests.fuzzing import TARGETS, Target

SEEDS, SEED_BYTES = 40, 2048
"""Random inputs to begin with: from nothing, most of the time would go by until inputs are long enough for one case."""
WRITTEN_EVERY_SECONDS = 1.0


def import_readers(target: Target) -> None:
    """Imports what the target needs, with one input, so that no case waits for that; its branches are reported from now on.

    Those of the libraries are not: they would take most of the time.
    """

    @settings(
        database=None, deadline=None, max_examples=1, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    @given(target.hostile)
    def read(hostile: Any) -> None:
        with tempfile.TemporaryDirectory() as folder, suppress(HarnessError):
            target.read(hostile, Path(folder))

    with atheris.instrument_imports(include=["harness"]):
        read()


def main() -> None:
    """Fuzzes until the time is over, which ends the process; the figures so far are in a file at any time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=list(TARGETS))
    parser.add_argument("seconds", type=int)
    parser.add_argument("seed", type=int)
    parser.add_argument("figures", type=Path)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    target, found = TARGETS[arguments.target], Found()
    import_readers(target)
    started = written = time.monotonic()

    @settings(database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(target.hostile)
    def look(hostile: Any) -> None:
        nonlocal written
        look_at(target, hostile, found)
        now = time.monotonic()
        if now - written > WRITTEN_EVERY_SECONDS:
            found.seconds, written = now - started, now
            arguments.figures.write_text(json.dumps(vars(found)), encoding="utf-8")

    with tempfile.TemporaryDirectory() as corpus:
        draw = random.Random(arguments.seed)
        for number in range(SEEDS):
            (Path(corpus) / str(number)).write_bytes(draw.randbytes(SEED_BYTES))
        # The cases have a time limit of their own, by the signal that libFuzzer would take for its own.
        options = [f"-max_total_time={arguments.seconds}", f"-seed={arguments.seed + 1}", "-timeout=0", "-max_len=8192"]
        options += ["-rss_limit_mb=0", f"-artifact_prefix={corpus}/"]
        atheris.Setup([sys.argv[0], *options, corpus], look.hypothesis.fuzz_one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
