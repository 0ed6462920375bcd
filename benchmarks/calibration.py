"""How often the checks find what was planted, and how often they see what isn't there: `python benchmarks/calibration.py`.

Trains small cells on the embedded base: some with one planted fault each, others healthy, several seeds of all. A fault
counts as detected when its check fires as a warning or an error (as anything, where the check never says more than info).
A cell counts as a false alarm when it is healthy and any check fires as a warning or an error. Healthy is what was meant
to be so and shows it by its figures: three quarters of the held-out answers right, 95 % of them in form, and no more than
2 points of the base's knowledge lost; cells that miss this are listed and left out. Planted cells are never left out.

Then holds the checks against the labelled real curves (`calibration_curves.py`), where they are. Exit status 1 where a
goal is missed. 15 to 20 minutes on 2 cores; `--quick` takes two. `--folder` keeps what was trained and goes on from there.
"""

import argparse
import contextlib
import json
import math
import os
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from benchmarks import calibration_curves
from benchmarks.calibration_cells import QUICK, Group, chosen, write_experiment, write_files
from harness.collect import Collected, collect
from harness.diagnose.cell import CHECKS
from harness.experiment import Progress, run_experiment
from harness.plan import Plan, plan_experiment
from harness.records import CellResult, Finding, TracePoint
from harness.results import untouched_bases
from harness.store import read_lines

DETECTED, FALSE_ALARMS = 0.95, 0.02
RIGHT, ADHERENCE, FORGOTTEN = 0.75, 0.95, 0.02
INFO_ONLY = ("gap_growth", "slow_validation", "still_improving")
"""Checks that say a sign of the curve and mostly no more than that."""
KILLED_AFTER = 30
AN_HOUR = 3600.0


class Case(NamedTuple):
    """One trained cell."""

    name: str
    seed: int
    plants: tuple[str, ...]
    """Checks that must fire; none: meant to be healthy."""
    is_healthy: bool
    findings: tuple[Finding, ...]
    figures: Mapping[str, float | None]
    seconds: float

    @property
    def detected(self) -> tuple[str, ...]:
        """Planted faults that were found."""
        return tuple(f.check for f in self.findings if f.check in self.plants and _is_detected(f))

    @property
    def alarms(self) -> tuple[Finding, ...]:
        """What fired as a warning or an error."""
        return tuple(finding for finding in self.findings if finding.is_warning)


class Row(NamedTuple):
    """One check over all cells."""

    check: str
    planted: int
    detected: int
    healthy: int
    warnings: int
    """Healthy cells with a warning of this check."""
    errors: int


class Totals(NamedTuple):
    """All checks together."""

    planted: int
    """Planted faults, once for every check that must find them."""
    detected: int
    healthy: int
    alarmed: int
    """Healthy cells with any warning or error."""
    excluded: int
    """Cells that were meant to be healthy and are not."""

    @property
    def is_good(self) -> bool:
        """Whether both goals are met."""
        return self.detected >= DETECTED * self.planted and self.alarmed <= FALSE_ALARMS * self.healthy


def _is_detected(finding: Finding) -> bool:
    return finding.is_warning or (finding.outcome == "fired" and finding.check in INFO_ONLY)


def tally(cases: Sequence[Case]) -> list[Row]:
    """Every check with what it found, missed and made up."""
    healthy = [case for case in cases if case.is_healthy]
    rows = []
    for check in CHECKS:
        severities = [finding.severity for case in healthy for finding in case.alarms if finding.check == check]
        rows.append(
            Row(
                check,
                sum(check in case.plants for case in cases),
                sum(check in case.detected for case in cases),
                len(healthy),
                severities.count("warning"),
                severities.count("error"),
            )
        )
    return rows


def totals(cases: Sequence[Case]) -> Totals:
    """The two figures that the goals are stated for."""
    healthy = [case for case in cases if case.is_healthy]
    return Totals(
        sum(len(case.plants) for case in cases),
        sum(len(case.detected) for case in cases),
        len(healthy),
        sum(bool(case.alarms) for case in healthy),
        sum(not case.plants and not case.is_healthy for case in cases),
    )


def run_groups(groups: Sequence[Group], seeds: Sequence[int], folder: Path, max_workers: int) -> list[Case]:
    """Trains, evaluates and diagnoses all cells of the groups, as `harness run` does."""
    write_files(folder)
    cases = []
    with contextlib.chdir(folder):
        for group in groups:
            made = plan_experiment(str(write_experiment(folder, group, seeds, max_workers)))
            _run_killed(made) if group.kills else run_experiment(made, _shown(group.name), _say)
            cases += list(_cases(made, collect(made), group, len(seeds)))
    return cases


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _shown(name: str) -> Callable[[Progress], None]:
    def show(progress: Progress) -> None:
        ended = sum(state in ("finished", "failed", "reused") for state in progress.states.values())
        _say(f"{time.strftime('%H:%M:%S')} {name}: {ended} of {len(progress.states)} done")

    return show


def _run_killed(made: Plan) -> None:
    """Kills every worker in the middle of its training, and lets an hour pass by."""
    traces = {made.folder.cell(cell.id).log: made.folder.cell(cell.id).trace for cell in made.cells}
    if not all(made.folder.cell(cell.id).result.exists() for cell in made.cells):
        is_over = threading.Event()
        killer = threading.Thread(target=_kill, args=(traces, is_over), daemon=True)
        killer.start()
        run_experiment(made, _shown("killed"), _say)
        is_over.set()
        killer.join()
    for trace in traces.values():
        os.utime(trace, (time.time() - AN_HOUR,) * 2)


def _kill(traces: Mapping[Path, Path], is_over: threading.Event) -> None:
    """SIGKILL for the worker that writes a log, once its trace is long enough."""
    left = dict(traces)
    while left and not is_over.wait(0.2):
        for log, trace in list(left.items()):
            if trace.exists() and len(trace.read_text(encoding="utf-8").splitlines()) >= KILLED_AFTER:
                for process in psutil.Process().children(recursive=True):
                    # Others may end while they are asked.
                    with contextlib.suppress(psutil.Error):
                        if str(log.resolve()) in {file.path for file in process.open_files()}:
                            process.kill()
                            left.pop(log, None)


def _cases(made: Plan, found: Collected, group: Group, num_seeds: int) -> Iterator[Case]:
    """Cells stand in the order of the file, the seeds of each side by side."""
    bases = untouched_bases(found.references)
    results = {result.cell: result for result in found.cells}
    for index, cell in enumerate(made.cells):
        variant, result = group.variants[index // num_seeds], results[cell.id]
        assert cell.seed is not None
        base = bases.get(result.base)
        trace = list(read_lines(made.folder.cell(cell.id).trace, TracePoint))
        seconds = (result.train.seconds if result.train else 0.0) + sum(suite.seconds for suite in result.suites)
        is_healthy = not variant.plants and base is not None and is_sound(result, base)
        findings = found.findings[cell.id]
        yield Case(variant.name, cell.seed, variant.plants, is_healthy, findings, figures(result, trace), seconds)


def is_sound(result: CellResult, base: CellResult) -> bool:
    """Whether a cell learned its rows, answers in form and knows what the base knew, by its figures alone."""
    ours, theirs = ({f"{s.suite}.{n}": e for s in r.suites for n, e in s.metrics.items()} for r in (result, base))
    if not {"held_out.exact_match", "template_adherence.all", "retention.accuracy"} <= ours.keys():
        return False
    return (
        ours["held_out.exact_match"].value >= RIGHT
        and ours["template_adherence.all"].value >= ADHERENCE
        and ours["retention.accuracy"].value >= theirs["retention.accuracy"].value - FORGOTTEN
    )


def figures(result: CellResult, trace: Sequence[TracePoint]) -> dict[str, float | None]:
    """What shows that a fault is there, or that none is."""
    metrics = {f"{s.suite}.{name}": estimate.value for s in result.suites for name, estimate in s.metrics.items()}
    losses = [float(point.values["loss"]) for point in trace if "loss" in point.values]
    validation = [float(point.values["eval_loss"]) for point in trace if "eval_loss" in point.values]
    return {
        "steps": float(trace[-1].step) if trace else None,
        "first_eval_loss": validation[0] if validation else None,
        "best_eval_loss": min(validation, default=None),
        "last_eval_loss": validation[-1] if validation else None,
        "last_loss": losses[-1] if losses else None,
        "exact_match": metrics.get("held_out.exact_match"),
        "adherence": metrics.get("template_adherence.all"),
        "retention": metrics.get("retention.accuracy"),
    }


def report(cases: Sequence[Case]) -> str:
    """The published page: totals, the table by check, what was planted, the healthy cells."""
    sums = totals(cases)
    lines = [
        f"- **{sums.detected} of {sums.planted} planted faults detected** ({_share(sums.detected, sums.planted)}).",
        f"- **{sums.alarmed} of {sums.healthy} healthy cells with a false alarm** ({_share(sums.alarmed, sums.healthy)}); "
        f"{sums.excluded} cells that were meant to be healthy are not and were left out.",
        "",
        *_table(
            ("check", "planted", "detected", "missed", "healthy cells", "false warnings", "false errors"),
            [(r.check, r.planted, r.detected, r.planted - r.detected, r.healthy, r.warnings, r.errors) for r in tally(cases)],
        ),
        "",
        "What was planted, with the figures that show it (means over the seeds):",
        "",
        *_table(("cell", "must fire", "fired", *COLUMNS.values()), list(_by_name(cases, planted=True))),
        "",
        "Healthy cells:",
        "",
        *_table(("cell", "sound", "alarms", *COLUMNS.values()), list(_by_name(cases, planted=False))),
    ]  # fmt: skip
    return "\n".join(lines)


COLUMNS = {
    "steps": "steps", "first_eval_loss": "first eval loss", "best_eval_loss": "best", "last_eval_loss": "last",
    "last_loss": "last training loss", "exact_match": "exact match", "adherence": "in form", "retention": "retention",
}  # fmt: skip


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "none"


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    return ["| " + " | ".join(map(str, line)) + " |" for line in (header, ["---"] * len(header), *rows)]


def _by_name(cases: Sequence[Case], *, planted: bool) -> Iterator[tuple[object, ...]]:
    groups: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        if bool(case.plants) == planted:
            groups[case.name].append(case)
    for name, group in groups.items():
        known = [[v for case in group if (v := case.figures[column]) is not None] for column in COLUMNS]
        means = [f"{statistics.fmean(values):.3g}" if values else "" for values in known]
        if planted:
            counts = [f"{check} {sum(check in c.detected for c in group)}/{len(group)}" for check in group[0].plants]
            yield name, ", ".join(group[0].plants), ", ".join(counts), *means
        else:
            alarms = sorted({finding.check for case in group if case.is_healthy for finding in case.alarms})
            yield name, f"{sum(c.is_healthy for c in group)}/{len(group)}", ", ".join(alarms) or "none", *means


def details(cases: Sequence[Case]) -> Iterator[str]:
    """A line for each cell that is not as it should be, with what the checks said."""
    for case in cases:
        said = {finding.check: finding for finding in case.findings}
        for check in case.plants:
            if check not in case.detected:
                yield f"missed: {case.name} seed {case.seed}: {check}: {said[check].outcome}: {said[check].message}"
        if not case.plants:
            kind = "false alarm" if case.is_healthy else "left out, not healthy"
            alarms = [f"{finding.check} ({finding.severity}): {finding.message}" for finding in case.alarms]
            if alarms or not case.is_healthy:
                yield f"{kind}: {case.name} seed {case.seed}: {'; '.join(alarms) or case.figures}"


def _agree(curves: Sequence[calibration_curves.Verdict]) -> bool:
    """Whether the real curves meet their goals; without any nothing speaks against it."""
    share = statistics.fmean([verdict.agrees for verdict in curves]) if curves else 1.0
    return share >= calibration_curves.NEEDED and not calibration_curves.errors_on_healthy(curves)


def _finite(figures: Mapping[str, float | None]) -> dict[str, float | str | None]:
    """The same with names for what JSON has no number for."""
    return {name: value if value is None or math.isfinite(value) else str(value) for name, value in figures.items()}


def as_json(cases: Sequence[Case], curves: Sequence[calibration_curves.Verdict]) -> dict[str, Any]:
    """All of it for a script."""
    return {
        "totals": totals(cases)._asdict(),
        "checks": [row._asdict() for row in tally(cases)],
        "cells": [
            {
                **case._asdict(), "detected": case.detected, "figures": _finite(case.figures),
                "findings": [f.model_dump(mode="json") for f in case.findings if f.outcome == "fired"],
            }
            for case in cases
        ],
        "curves": json.loads(calibration_curves.as_json(curves)) if curves else None,
    }  # fmt: skip


def arguments() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three faults and three healthy cells, one seed")
    parser.add_argument("--only", default="", help="names of groups or cells, with commas between them")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--max-workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where to train; what is done there already is kept")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--markdown", type=Path, help="file to write the tables to")
    return parser.parse_args()


def main() -> None:
    """Runs the grid and the curves, and prints the figures."""
    given = arguments()
    # `kill` and `timeout` then stop the workers too, as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda signum, _: sys.exit(128 + signum))
    names = QUICK if given.quick else [name for name in given.only.split(",") if name]
    with tempfile.TemporaryDirectory() as temporary:
        folder = (given.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        cases = run_groups(chosen(names), range(1 if given.quick else given.seeds), folder, given.max_workers)
    _say(f"{len(cases)} cells in {(time.monotonic() - started) / 60:.1f} minutes")
    labels = calibration_curves.FOLDER / "labels.tsv"
    curves = calibration_curves.judge_all(labels.parent) if labels.exists() and not given.quick else []
    is_good = totals(cases).is_good and _agree(curves)
    page = report(cases)
    if curves:
        page += f"\n\nReal curves, labelled by eye:\n\n```\n{calibration_curves.report(curves)}\n```"
    if given.markdown:
        given.markdown.write_text(page + "\n", encoding="utf-8")
    print(json.dumps(as_json(cases, curves), indent=2) if given.json else "\n".join([page, "", *details(cases)]))
    sys.exit(0 if is_good else 1)


if __name__ == "__main__":
    main()
