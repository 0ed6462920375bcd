"""What a person sees while cells train: a live table on a terminal, plain lines in a log file."""

import json
import threading
import time
from types import TracebackType
from typing import NamedTuple

from rich.live import Live
from rich.markup import escape
from rich.table import Table

from harness.cli.terminal import SafeConsole
from harness.follow import Progress
from harness.plan import Plan
from harness.records import TracePoint
from harness.store import CellFolder

ENDED = ("finished", "failed", "stopped")
REFRESH_SECONDS = 1.0
LINE_SECONDS = 15.0


class CellView(NamedTuple):
    """One cell as shown."""

    stage: str
    step: int
    planned_steps: int
    loss: float | str | None
    seconds_left: float | None = None
    """Of its training, at the pace so far."""


def view(folder: CellFolder) -> CellView:
    """Stage, step and loss of a running cell, from the files that its worker writes."""
    try:
        state = json.loads(folder.state.read_text())
        with folder.trace.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - 4000))
            lines = file.read().decode(errors="ignore").splitlines()
    except (OSError, json.JSONDecodeError):
        return CellView("starting", 0, 0, None)
    for line in reversed(lines):
        try:
            point = TracePoint.model_validate_json(line)
        except ValueError:
            continue
        if "loss" in point.values:
            planned = state["planned_steps"]
            left = point.seconds / point.step * max(0, planned - point.step) if point.step and planned else None
            return CellView(
                state["stage"],
                point.step,
                planned,
                point.values["loss"],
                left if state["stage"] == "training" else None,
            )
    return CellView(state["stage"], 0, state["planned_steps"], None)


class ProgressDisplay:
    """Follows the workers of one `harness run`; writes to stderr."""

    def __init__(self, made: Plan) -> None:
        self._plan = made
        self._console = SafeConsole(stderr=True)
        self._states: dict[str, str] = {}
        self._started = time.monotonic()
        # Most workers seen at once: right after one ended, fewer are running than can.
        self._width = 1
        self._begun: dict[str, float] = {}
        self._seconds: dict[str, float] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._live: Live | None = None

    def __enter__(self) -> "ProgressDisplay":
        rows = self._plan.references if self._plan.config.is_predictions_alone else self._plan.cells
        count, kind = len(rows), "row" if rows is self._plan.references else "cell"
        self._line(f"{self._plan.config.name}: checking {count} {kind}{'s' if count != 1 else ''}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if self._live is not None:
            self._live.update(self._table())
            self._live.stop()

    def warn(self, text: str) -> None:
        """One thing that preflight found."""
        self._console.print(f"[yellow]warning:[/yellow] {escape(text)}", highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """One thing that was decided on the way."""
        self._line(f"{self._plan.config.name}: {text}")

    def update(self, progress: Progress) -> None:
        """A worker started or ended."""
        is_new = self._thread is None or progress.plan is not self._plan
        self._plan = progress.plan
        before, self._states = self._states, dict(progress.states)
        now = time.monotonic()
        self._width = max(self._width, sum(state == "running" for state in self._states.values()))
        changed = {cell_id: state for cell_id, state in self._states.items() if state != before.get(cell_id)}
        # First of all: what is said of one that ended counts those that run.
        self._begun |= {cell_id: now for cell_id, state in changed.items() if state == "running"}
        for cell_id, state in changed.items():
            if state in ENDED and cell_id in self._begun:
                self._seconds[cell_id] = now - self._begun[cell_id]
            if not self._console.is_terminal and state in ENDED:
                self._line(
                    f"{self._name(cell_id)} {state} after {self._seconds.get(cell_id, 0):.0f} s ({self._summary()})"
                )
        if is_new:
            self._begin()

    def _begin(self) -> None:
        reused = sum(state == "reused" for state in self._states.values())
        todo = len(self._states) - reused
        self._line(f"{self._plan.config.name}: {todo} to do, {reused} already done")
        if self._thread is not None:
            return
        if self._console.is_terminal:
            self._live = Live(self._table(), console=self._console, refresh_per_second=4)
            self._live.start()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        wait = REFRESH_SECONDS if self._live is not None else LINE_SECONDS
        while not self._stop.wait(wait):
            if self._live is not None:
                self._live.update(self._table())
            else:
                running = [
                    f"{self._name(c)} {self._shown(c)}" for c, state in self._states.items() if state == "running"
                ]
                if running:
                    self._line(f"{'; '.join(running)} ({self._summary()})")

    def _line(self, text: str) -> None:
        self._console.print(f"[{time.strftime('%H:%M:%S')}] {text}", markup=False, highlight=False, soft_wrap=True)

    def _name(self, cell_id: str) -> str:
        return next(cell.name for cell in self._plan.everything() if cell.id == cell_id)

    def _shown(self, cell_id: str) -> str:
        seen = view(self._plan.folder.cell(cell_id))
        if seen.stage != "training" or seen.loss is None:
            return seen.stage
        loss = f"{seen.loss:.3f}" if isinstance(seen.loss, float) else str(seen.loss)
        steps = f"{seen.step}/{seen.planned_steps}" if seen.planned_steps else str(seen.step)
        return f"step {steps} loss {loss}"

    def _summary(self) -> str:
        done = sum(state in (*ENDED, "reused") for state in self._states.values())
        text = f"{done}/{len(self._states)} done, {_minutes(time.monotonic() - self._started)} elapsed"
        left = self._seconds_left()
        return f"{text}, about {_minutes(left)} left" if left is not None and left >= 1 else text

    def _seconds_left(self) -> float | None:
        """From the cells that were trained so far and the pace of those in training, spread over the workers that are busy."""
        now = time.monotonic()
        waiting = sum(state == "waiting" for state in self._states.values())
        since = {cell_id: now - self._begun[cell_id] for cell_id, state in self._states.items() if state == "running"}
        paced = {cell_id: view(self._plan.folder.cell(cell_id)).seconds_left for cell_id in since}
        known = {cell_id: left for cell_id, left in paced.items() if left is not None}
        # What failed or was stopped says nothing of how long a whole cell takes.
        whole = [
            self._seconds[c.id]
            for c in self._plan.cells
            if self._states.get(c.id) == "finished" and c.id in self._seconds
        ]
        whole = whole or [since[cell_id] + left for cell_id, left in known.items()]
        if not whole:
            return None
        each = sum(whole) / len(whole)
        rest = sum(max(each - seconds, known.get(cell_id, 0.0), 0.0) for cell_id, seconds in since.items())
        return (rest + waiting * each) / self._width

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False, title=self._summary(), title_justify="left", title_style="bold")
        table.add_column("cell", overflow="ellipsis", no_wrap=True)
        table.add_column("state", no_wrap=True)
        table.add_column("time", justify="right", no_wrap=True)
        styles = {
            "failed": "red",
            "stopped": "yellow",
            "finished": "green",
            "reused": "dim",
            "waiting": "dim",
            "running": "bold",
            "elsewhere": "dim",
        }
        for cell in self._plan.everything():
            state = self._states.get(cell.id, "waiting")
            text = self._shown(cell.id) if state == "running" else state
            since = self._seconds.get(cell.id) or (
                time.monotonic() - self._begun[cell.id] if state == "running" else None
            )
            table.add_row(cell.name, f"[{styles[state]}]{text}[/]", _minutes(since) if since is not None else "")
        return table


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
