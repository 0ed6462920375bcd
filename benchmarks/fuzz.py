"""Looks for input that makes a reader of foreign files raise anything but a HarnessError, for as long as you let it.

    python -m benchmarks.fuzz --minutes 10
    python -m benchmarks.fuzz --minutes 10 --engine atheris

Every target of `tests/fuzzing.py` gets the same share of the time. What is found is printed with the input that does it,
and counted in benchmarks/fuzz.md, or fuzz_atheris.md; a target that crashes nowhere says how many inputs it took.
"""

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from benchmarks.fuzz_case import Found, look_at
from tests.fuzzing import TARGETS

ROUND = 200
"""Inputs of one round; every round has a seed of its own."""


def with_hypothesis(name: str, seconds: float, first_seed: int) -> Found:
    """Gives a target hostile input until the time is over."""
    found, target = Found(), TARGETS[name]
    started = time.monotonic()

    def look(hostile: Any) -> None:
        if time.monotonic() - started <= seconds:
            look_at(target, hostile, found)

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


def with_atheris(name: str, seconds: float, first_seed: int) -> Found:
    """The same, guided by which lines of the harness an input reaches, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "figures.json"
        command = [
            sys.executable,
            "-m",
            "benchmarks.fuzz_atheris",
            name,
            str(max(1, round(seconds))),
            str(first_seed),
            str(figures),
        ]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode != 0 or not figures.exists():
            raise SystemExit(f"{name}: atheris ended with {done.returncode}\n{done.stderr[-2000:]}")
        return Found(**json.loads(figures.read_text(encoding="utf-8")))


ENGINES = {"hypothesis": with_hypothesis, "atheris": with_atheris}
TABLES = {
    name: Path(__file__).with_name(f"{file}.md") for name, file in (("hypothesis", "fuzz"), ("atheris", "fuzz_atheris"))
}


def table(results: Mapping[str, Found], engine: str, mended: str) -> str:
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
            "# Fuzzing" if engine == "hypothesis" else f"# Fuzzing with {engine}", "",
            f"Hostile input for everything that reads foreign files, made by `python -m benchmarks.fuzz --engine {engine}`: mutations of",
            "good files, and random ones. Anything but a `HarnessError` is a crash, and so is a case that takes more than 20 seconds.", "",
            "| what reads it | cases | refused | seconds | crashes |", "|---|---:|---:|---:|---:|", *rows,
            f"| **all** | {total.cases:,} | {total.refused:,} | {total.seconds:.0f} | {crashes} |", "",
            mended,
        ]
    )  # fmt: skip


def main() -> int:
    """The exit code: 1 where anything crashed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="for all targets together")
    parser.add_argument("--target", action="append", choices=list(TARGETS), help="only this one; may be repeated")
    parser.add_argument("--seed", type=int, default=0, help="of the first round")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON, and write no table")
    parser.add_argument("--engine", choices=list(ENGINES), default="hypothesis", help="what makes the input")
    arguments = parser.parse_args()
    if arguments.engine == "atheris" and not find_spec("atheris"):
        parser.error(
            "--engine atheris needs the package atheris, which has wheels for Linux; install it with `pip install atheris`"
        )
    logging.disable(logging.WARNING)
    names = arguments.target or list(TARGETS)
    results: dict[str, Found] = {}
    for name in names:
        results[name] = ENGINES[arguments.engine](name, arguments.minutes * 60 / len(names), arguments.seed)
        print(f"{name}: {results[name].cases} cases, {len(results[name].crashes)} crashes", file=sys.stderr, flush=True)
        for where, hostile in results[name].crashes.items():
            print(f"  {where}: {hostile[:2000]}", file=sys.stderr, flush=True)
    if arguments.json:
        print(json.dumps({name: vars(one) for name, one in results.items()}, indent=2))
    else:
        path = TABLES[arguments.engine]
        mended = "".join(path.read_text(encoding="utf-8").partition("## ")[1:]) if path.exists() else ""
        path.write_text(table(results, arguments.engine, mended), encoding="utf-8")
    return 1 if any(one.crashes for one in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
