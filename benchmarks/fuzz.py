"""Looks for input that makes a reader of foreign files raise anything but a HarnessError, for as long as you let it.

    python -m benchmarks.fuzz --minutes 10

Every target of `tests/fuzzing.py` gets the same share of the time. What is found is printed with the input that does it,
and counted in benchmarks/fuzz.md; a target that crashes nowhere says how many inputs it took.
"""

import argparse
import json
import logging
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzzing import TARGETS, Target, attempt
from tests.guards import Hang

TABLE = Path(__file__).with_suffix(".md")
ROUND = 200
"""Inputs of one round; every round has a seed of its own."""


@dataclass
class Found:
    """What came of one target."""

    cases: int = 0
    refused: int = 0
    seconds: float = 0.0
    crashes: dict[str, str] = field(default_factory=dict)
    """Exception and place -> the first input that raised it."""


def signature(error: BaseException) -> str:
    """Tells crashes apart: the type, and the innermost line of ours."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/harness/" in frame.filename]
    where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "outside"
    return f"{type(error).__name__} at {where}"


def fuzz(target: Target, seconds: float, first_seed: int) -> Found:
    """Gives a target hostile input until the time is over."""
    found = Found()
    started = time.monotonic()

    def look(hostile: Any) -> None:
        if time.monotonic() - started > seconds:
            return
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found.refused += attempt(target, hostile, Path(folder))
            except (Exception, Hang) as error:  # a crash is what is looked for
                found.crashes.setdefault(signature(error), repr(hostile))
        found.cases += 1

    number = first_seed
    while time.monotonic() - started < seconds:
        quiet = settings(
            database=None,
            deadline=None,
            max_examples=ROUND,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        seed(number)(quiet(given(target.hostile)(look)))()
        number += 1
    found.seconds = time.monotonic() - started
    return found


def table(results: Mapping[str, Found], mended: Sequence[str]) -> str:
    """The figures as Markdown."""
    rows = [
        f"| {name} | {one.cases:,} | {one.refused:,} | {one.seconds:.0f} | {len(one.crashes)} |"
        for name, one in results.items()
    ]
    total = Found(
        sum(one.cases for one in results.values()),
        sum(one.refused for one in results.values()),
        sum(one.seconds for one in results.values()),
    )
    crashes = sum(len(one.crashes) for one in results.values())
    return "\n".join(
        [
            "# Fuzzing", "",
            "Hostile input for everything that reads foreign files, made by `python -m benchmarks.fuzz`: mutations of good files, and random",
            "ones. Anything but a `HarnessError` is a crash, and so is a case that takes more than 20 seconds.", "",
            "| what reads it | cases | refused | seconds | crashes |", "|---|---:|---:|---:|---:|", *rows,
            f"| **all** | {total.cases:,} | {total.refused:,} | {total.seconds:.0f} | {crashes} |", "",
            *mended,
        ]
    )  # fmt: skip


def main() -> int:
    """The exit code: 1 where anything crashed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="for all targets together")
    parser.add_argument("--target", action="append", choices=list(TARGETS), help="only this one; may be repeated")
    parser.add_argument("--seed", type=int, default=0, help="of the first round")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON, and write no table")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    names = arguments.target or list(TARGETS)
    results: dict[str, Found] = {}
    for name in names:
        results[name] = fuzz(TARGETS[name], arguments.minutes * 60 / len(names), arguments.seed)
        print(f"{name}: {results[name].cases} cases, {len(results[name].crashes)} crashes", file=sys.stderr, flush=True)
        for where, hostile in results[name].crashes.items():
            print(f"  {where}: {hostile[:2000]}", file=sys.stderr, flush=True)
    if arguments.json:
        print(json.dumps({name: vars(one) for name, one in results.items()}, indent=2))
    else:
        before = TABLE.read_text(encoding="utf-8").partition("## ")[1:] if TABLE.exists() else ()
        TABLE.write_text(table(results, ["".join(before)]), encoding="utf-8")
    return 1 if any(one.crashes for one in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
