"""Did an experiment survive? Compares what it left with what an uninterrupted one left; functions of two snapshots alone."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.chaos_snapshot import CellState, Number, Run, Snapshot, repeated

# Times differ from run to run; that a point is there at all is checked of these too.
TIMES = ("tokens_per_second", "eval_runtime", "train_seconds", "peak_memory_gib")
# Of a whole training: where part of it had to be repeated, the last one counts.
TOTALS = ("train_seconds", "peak_memory_gib")
# Where a run is kept and how long it took is no part of a ranking.
NOT_RANKED = ("mlflow_run_ids", "mlflow_run_id", "seconds", "train_seconds")
# Rows that can't be told apart are ordered by what they cost, which is a time; their rank intervals are compared.
OF_TIES = ("rank", "difference_to_best")
# Of an attempt that failed, or of the folder that it ran in.
OF_ATTEMPTS = ("traceback.txt",)
TRUE_STATUS = {"finished": "FINISHED", "failed": "FAILED", "killed": "KILLED"}


class Damage(NamedTuple):
    """What is wrong, one sentence each."""

    lost: tuple[str, ...] = ()
    duplicated: tuple[str, ...] = ()
    wrong_status: tuple[str, ...] = ()

    def __add__(self, other: object) -> "Damage":
        """All of both."""
        assert isinstance(other, Damage)
        return Damage(*(mine + theirs for mine, theirs in zip(tuple(self), tuple(other), strict=True)))

    @property
    def is_none(self) -> bool:
        """Whether all is well."""
        return not any(self)


def damage(expected: Snapshot, found: Snapshot, *, loose: Sequence[str] = ()) -> Damage:
    """What an experiment that was interrupted and has come to its end lost, has twice, or says wrongly.

    Args:
        expected: the same experiment, uninterrupted.
        found: the interrupted one.
        loose: cells whose numbers may differ, for their batches were halved; the ranking is then not compared either.
    """
    unfinished = [
        f"{cell.name}: its result is {cell.status or 'missing'}"
        for cell in found.cells.values()
        if cell.status != "finished"
    ]
    open_runs = [f"{run.name}: {run.status}" for run in found.runs if run.status != "FINISHED"]
    return Damage(tuple(_lost(expected, found, loose)), tuple(_duplicated(expected, found)), (*unfinished, *open_runs))


def untrue(found: Snapshot, *, may_run: bool, allowed: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Runs whose status is false after `harness run` has ended, one sentence each.

    Args:
        found: what there is now.
        may_run: whether RUNNING is no lie yet, for nobody has looked since the process was killed.
        allowed: cell name -> the statuses that its fault may leave.
    """
    return tuple(_untrue(found, may_run=may_run, allowed=allowed))


def _untrue(found: Snapshot, *, may_run: bool, allowed: Mapping[str, Sequence[str]]) -> Iterator[str]:
    for run in found.runs:
        if run.status == "RUNNING":
            if not may_run:
                yield f"{run.name}: RUNNING, and its process is dead"
            continue
        if run.status == "FAILED" and not run.error and run.kind != "experiment":
            yield f"{run.name}: FAILED without the tag that says why"
        if run.name in allowed and run.status not in allowed[run.name]:
            yield f"{run.name}: {run.status}, and not {' or '.join(allowed[run.name])}"
        cell = found.cells.get(run.cell)
        if cell is not None and cell.status and TRUE_STATUS[cell.status] != run.status:
            yield f"{run.name}: {run.status}, and its result says {cell.status}"
        if cell is not None and not cell.status and run.status == "FINISHED":
            yield f"{run.name}: FINISHED, and it has no result"


def _lost(expected: Snapshot, found: Snapshot, loose: Sequence[str]) -> Iterator[str]:
    runs = {run.cell: run for run in found.runs}
    for cell_id, cell in expected.cells.items():
        there = found.cells.get(cell_id)
        if there is None:
            yield f"{cell.name}: the whole cell"
            continue
        is_exact = cell.name not in loose
        yield from (f"{cell.name}: {text}" for text in _lost_lines(cell, there, is_exact=is_exact))
        mine = next(run for run in expected.runs if run.cell == cell_id)
        if cell_id not in runs:
            yield f"{cell.name}: its MLflow run"
            continue
        yield from (f"{cell.name}: {text}" for text in _lost_in_run(mine, runs[cell_id], is_exact=is_exact))
    parents = [run for run in expected.runs if run.kind == "experiment"]
    for parent in parents:
        theirs = next((run for run in found.runs if run.kind == "experiment"), None)
        if theirs is None:
            yield "the run of the experiment"
        else:
            yield from (f"{parent.name}: {name}" for name in sorted(parent.files - theirs.files))
    if not loose:
        yield from (f"ranking: {text}" for text in differences(ranked(expected.ranking), ranked(found.ranking)))


def _lost_lines(expected: CellState, found: CellState, *, is_exact: bool) -> Iterator[str]:
    yield from _lost_points("trace.jsonl", _points(expected), _points(found), is_exact=is_exact)
    for name, lines in expected.lines.items():
        missing = Counter(lines) - Counter(found.lines.get(name, ()))
        if is_exact and missing:
            yield f"{name}: {missing.total()} of {len(lines)} lines, such as {next(iter(missing))[:80]}"


def _lost_in_run(expected: Run, found: Run, *, is_exact: bool) -> Iterator[str]:
    yield from _lost_points("MLflow", expected.curves, found.curves, is_exact=is_exact)
    for what in ("params", "files"):
        missing = getattr(expected, what) - getattr(found, what) - set(OF_ATTEMPTS)
        if missing and (is_exact or what == "files"):
            yield f"MLflow {what}: {', '.join(sorted(missing)[:5])}"
    for kind, count in (Counter(expected.models) - Counter(found.models)).items():
        yield f"MLflow: {count} logged model {kind}"
    if len(set(found.datasets)) < len(set(expected.datasets)):
        yield f"MLflow: {len(set(expected.datasets)) - len(set(found.datasets))} datasets"
    if is_exact and found.traces < expected.traces:
        yield f"MLflow: {expected.traces - found.traces} traces"


def _points(cell: CellState) -> Mapping[str, Sequence[tuple[int, Number]]]:
    curves: dict[str, list[tuple[int, Number]]] = {}
    for step, values in cell.trace:
        for name, value in values.items():
            curves.setdefault(name, []).append((step, value))
    return curves


def _lost_points(
    where: str, expected: Mapping[str, Sequence[tuple[int, Number]]], found: Mapping[str, Sequence[tuple[int, Number]]],
    *, is_exact: bool,
) -> Iterator[str]:  # fmt: skip
    for name, curve in expected.items():
        values = dict(found.get(name, ()))
        missing = [step for step, _ in curve if step not in values]
        if missing:
            yield f"{where}: {name} at step {', '.join(map(str, missing))}"
        if not is_exact or name in TIMES:
            continue
        yield from (
            f"{where}: {name} at step {step} is {values[step]!r} and was {value!r}"
            for step, value in curve
            if step in values and values[step] != value
        )


def _duplicated(expected: Snapshot, found: Snapshot) -> Iterator[str]:
    for cell in repeated([run.cell for run in found.runs if run.cell]):
        yield f"{found.cells[cell].name if cell in found.cells else cell}: more than one MLflow run"
    parents = [run for run in found.runs if run.kind == "experiment"]
    if len(parents) > 1:
        yield f"{len(parents)} runs of the experiment"
    yield from (
        f"{cell.name}: a cell that the other one has not"
        for key, cell in found.cells.items()
        if key not in expected.cells
    )
    for cell_state in found.cells.values():
        yield from (f"{cell_state.name}: trace.jsonl: {text}" for text in _repeated_points(_points(cell_state)))
        for name, lines in cell_state.lines.items():
            if found_twice := repeated(lines) if name == "probes.jsonl" else ():
                yield f"{cell_state.name}: {name}: {found_twice[0]}"
    whole = {run.cell: run for run in expected.runs}
    for run in found.runs:
        yield from (f"{run.name}: {text}" for text in _repeated_in_run(run, whole.get(run.cell)))


def _repeated_in_run(run: Run, expected: Run | None) -> Iterator[str]:
    yield from (f"MLflow: {text}" for text in _repeated_points(run.curves))
    if repeated(run.datasets):
        yield "MLflow: a dataset"
    if expected is None:
        return
    for name, curve in run.curves.items():
        steps = {step for step, _ in expected.curves.get(name, ())}
        more = sorted({step for step, _ in curve} - steps)
        if steps and more:
            yield f"MLflow: {name} has step {', '.join(map(str, more))}, which no training had"
    for kind, count in (Counter(run.models) - Counter(expected.models)).items():
        yield f"MLflow: {count} more logged model {kind}"
    if run.traces > expected.traces:
        yield f"MLflow: {run.traces - expected.traces} traces"


def _repeated_points(curves: Mapping[str, Sequence[tuple[int, Number]]]) -> Iterator[str]:
    for name, curve in curves.items():
        if name not in TOTALS and (steps := repeated([step for step, _ in curve])):
            yield f"{name} twice at step {', '.join(map(str, steps))}"


def ranked(ranking: Any) -> Any:
    """A ranking without what differs between two runs of one experiment."""
    if isinstance(ranking, dict) and "rank_interval" in ranking:
        return {key: ranked(value) for key, value in ranking.items() if key not in (*NOT_RANKED, *OF_TIES)}
    if isinstance(ranking, dict):
        return {
            key: {row["cell"]: ranked(row) for row in value} if key == "rows" else ranked(value)
            for key, value in ranking.items()
            if key not in NOT_RANKED
        }
    return [ranked(item) for item in ranking] if isinstance(ranking, list) else ranking


def differences(expected: Any, found: Any, place: str = "") -> Iterator[str]:
    """Where two JSON values differ."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in sorted(expected.keys() | found.keys()):
            yield from differences(expected.get(key), found.get(key), f"{place}.{key}" if place else key)
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for index, (mine, theirs) in enumerate(zip(expected, found, strict=True)):
            yield from differences(mine, theirs, f"{place}[{index}]")
    elif expected != found:
        yield f"{place} is {str(found)[:80]} and was {str(expected)[:80]}"
