"""Does a grid survive whatever happens to it? Real faults in real processes, each compared with an uninterrupted run.

    python benchmarks/chaos.py [--quick] [--only matrix|kills] [--kills 100] [--seed 0] [--minutes 20] [--json] [--markdown FILE]
    python benchmarks/chaos.py --only workers|parents|outages|disks --beside EARLIER.json --markdown FILE

Prints `{"kills", "lost", "duplicated", "wrong_status", "table"}` with `--json`, else the tables; progress goes to stderr.
`--quick` takes a part of the matrix and as many kills as 20 minutes allow. Exit code 1: something was lost, doubled or wrong.
"""

import argparse
import json
import logging
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from subprocess import run
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.chaos_cases import STAGES, Case, parent_cases, report_cases, store_cases, worker_cases
from benchmarks.chaos_kills import Killer
from benchmarks.chaos_matrix import Campaign
from benchmarks.chaos_page import page, tables
from benchmarks.chaos_server import tracking_server

logger = logging.getLogger("chaos")

QUICK_MINUTES, FULL_MINUTES = 20.0, 600.0
# What is begun is brought to its end: so long before the time is up nothing more begins.
RESERVE_SECONDS = 240.0
MATRIX_SHARE = 0.6
"""Of the time: after it no further part of the matrix begins, so that some is left for random kills."""
DISK_BYTES = 1 << 30
PARTS = ("workers", "parents", "outages", "disks")
"""Of the matrix."""
# Each kind once or twice, each stage several times.
QUICK = (
    "exception-at-splits", "sys-exit-at-training", "SIGTERM-at-training", "SIGTERM-at-result-write", "SIGKILL-at-checkpoint-save",
    "SIGSEGV-at-evaluation", "SIGTERM-at-logging", "SIGKILL-at-result-write", "OOM-at-training", "OOM-at-evaluation", "full-disk-at-checkpoint-save",
    "database-locked-at-training", "corrupt-checkpoint-at-checkpoint-saved", "corrupt-checkpoint-at-evaluation",
)  # fmt: skip
QUICK_PARENT = (
    "SIGINT-to-group-at-training", "SIGTERM-to-parent-at-evaluation", "SIGKILL-to-parent-at-training",
    "SIGKILL-to-group-at-checkpoint-save", "SIGKILL-at-report", "exception-at-report", "full-disk-at-report",
)  # fmt: skip


class Table(NamedTuple):
    """What the benchmark found."""

    kills: int
    rows: Sequence[dict[str, Any]]

    def as_json(self) -> dict[str, Any]:
        """The contract."""
        totals = {key: sum(row[key] for row in self.rows) for key in ("lost", "duplicated", "wrong_status")}
        return {"kills": self.kills, **totals, "table": list(self.rows)}

    @property
    def is_clean(self) -> bool:
        """Whether nothing is wrong."""
        return not any(row["what"] for row in self.rows)


@contextmanager
def small_disk(folder: Path) -> Iterator[Path | None]:
    """A file system of its own; None where this user may not mount one."""
    folder.mkdir()
    mounted = run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)], capture_output=True, check=False
    )
    try:
        yield folder if mounted.returncode == 0 else None
    finally:
        if mounted.returncode == 0:
            run(["umount", "-l", str(folder)], check=False)


def chosen(names: Sequence[str]) -> list[Case]:
    """Cases by name."""
    known = {case.name: case for case in (*worker_cases(), *parent_cases(), *report_cases())}
    return [known[name] for name in names]


def matrix(root: Path, until: float, *, quick: bool, only: str | None) -> list[dict[str, Any]]:
    """The rows of all faults, or of one part of them, that there was time for."""
    workers, parents = (
        (chosen(QUICK), chosen(QUICK_PARENT)) if quick else (worker_cases(), [*parent_cases(), *report_cases()])
    )
    stages = ("training", "report") if quick else (*STAGES, "report")
    parts: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "workers": lambda: campaign(root / "workers", workers, workers=2),
        "parents": lambda: campaign(root / "parents", parents, workers=1),
        "outages": lambda: with_server(root / "server", store_cases("server down", stages)),
        "disks": lambda: with_small_disk(root / "disk", store_cases("disk fills up", stages)),
    }
    rows: list[dict[str, Any]] = []
    for part in [parts[only]] if only in parts else parts.values():
        if time.monotonic() > until:
            logger.warning("no time is left for a part of the matrix")
            break
        rows += part()
    return rows


def campaign(folder: Path, cases: Sequence[Case], **options: Any) -> list[dict[str, Any]]:
    """The rows of one campaign."""
    logger.info("%d faults in %s", len(cases), folder)
    folder.mkdir(exist_ok=True)
    return [outcome.row() for outcome in Campaign(folder, cases, **options).run()]


def with_server(folder: Path, cases: Sequence[Case]) -> list[dict[str, Any]]:
    """Every outage lasts until its life ends, so each case has a grid of its own, and a server that knows of no other."""
    rows = []
    for index, case in enumerate(cases):
        place = folder / f"outage{index}"
        with tracking_server(place / "server", place / "outage") as server:
            rows += campaign(place, [case], workers=1, server=server)
    return rows


def with_small_disk(folder: Path, cases: Sequence[Case]) -> list[dict[str, Any]]:
    """The same for a disk without a free byte."""
    rows = []
    for index, case in enumerate(cases):
        folder.mkdir(exist_ok=True)
        with small_disk(folder / f"disk{index}") as disk:
            if disk is None:
                logger.warning("no file system can be mounted here; the full disk is not tried for real")
                break
            rows += campaign(folder / f"full{index}", [case], workers=1, disk=disk)
    return rows


def measure(root: Path, options: argparse.Namespace) -> Table:
    """Runs what was asked for."""
    minutes = options.minutes or (QUICK_MINUTES if options.quick else FULL_MINUTES)
    started = time.monotonic()
    until = started + 60 * minutes - RESERVE_SECONDS
    rows, kills = [], 0
    if options.only != "kills":
        share = 1.0 if options.only else MATRIX_SHARE
        rows += matrix(root, started + share * (until - started), quick=options.quick, only=options.only)
        # An hour of kills is still to come.
        publish(rows, options)
    if options.only in (None, "kills") and time.monotonic() < until:
        found = Killer(root / "kills", seed=options.seed, until=until).run(options.kills)
        kills = found.total
        rows.append(found.row())
        publish(rows, options)
    return Table(kills, rows)


def publish(rows: Sequence[dict[str, Any]], options: argparse.Namespace) -> None:
    """Writes the page with what is known so far, and with the rows of an earlier run that this one doesn't make again."""
    if options.markdown:
        earlier = json.loads(options.beside.read_text())["table"] if options.beside else []
        both = {(row["fault"].lstrip("0123456789 "), row["stage"], row["to"]): row for row in (*earlier, *rows)}
        options.markdown.write_text(page(list(both.values())))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="a part of the matrix, and kills as long as 20 minutes last"
    )
    parser.add_argument(
        "--only", choices=("matrix", *PARTS, "kills"), help="the faults, one part of them, or the kills"
    )
    parser.add_argument("--kills", type=int, default=100, help="random SIGKILLs (default 100)")
    parser.add_argument("--seed", type=int, default=0, help="of their moments and victims")
    parser.add_argument("--minutes", type=float, help="time for all of it (default 20 with --quick)")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--markdown", type=Path, help="also write the page to this file")
    parser.add_argument(
        "--beside", type=Path, help="what an earlier run printed with --json: its rows go to the page, too"
    )
    parser.add_argument("--keep", type=Path, help="work in this folder, which must not exist, and leave it")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s")
    # A job in the background of a script ignores SIGINT, and so would all that is started here.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if options.keep:
        options.keep.mkdir(parents=True)
        table = measure(options.keep.resolve(), options)
    else:
        with tempfile.TemporaryDirectory() as folder:
            table = measure(Path(folder), options)
    print(json.dumps(table.as_json()) if options.json else "\n".join(tables(table.rows)))
    sys.exit(0 if table.is_clean else 1)


if __name__ == "__main__":
    main()
