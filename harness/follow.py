"""Follows the workers of a `harness run`: who runs, who died and is tried again, whom another `harness run` has."""

import contextlib
import logging
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from harness.errors import StoreError
from harness.grid import Cell
from harness.launch.base import FAILED, FINISHED, TAKEN, Launcher, PackJob, PackState, was_stopped
from harness.locks import holding, is_held
from harness.plan import Plan, is_done
from harness.records import CellResult
from harness.store import CellFolder, read_record, write_record
from harness.tracking import connection, experiment_run, record_files
from harness.tracking.base import STATUS_OF

logger = logging.getLogger(__name__)

POLL_SECONDS = 2.0
# NFS: `acdirmax`, after which a folder is looked at again, and a little.
SHARED_FOLDER_SECONDS = 75.0
LOG_TAIL = 4000


@dataclass(frozen=True, slots=True)
class Progress:
    """What a display needs to know while workers run."""

    plan: Plan
    states: Mapping[str, str]
    """Cell id -> waiting | running | elsewhere | finished | failed | stopped | reused."""


Show = Callable[[Progress], None]


class Following:
    """The cells of one `harness run`, from their launch until each has ended."""

    def __init__(self, made: Plan, todo: Sequence[Cell], show: Show) -> None:
        self._made = made
        self._show = show
        self._states = {cell.id: "waiting" if cell in todo else "reused" for cell in made.everything()}
        self._deaths: dict[str, list[str]] = {}
        self._unwritten: list[Callable[[], None]] = []

    def run(self, todo: Sequence[Cell], launcher: Launcher, *, waits: bool = True) -> None:
        """Launches cells until each has ended.

        A worker that dies without a word costs one attempt: its cell is tried once more when the others are done.

        Raises: StoreError: a cell's end can't be recorded, after all others had their turn.

        Args:
            todo: cells to launch, first things first.
            launcher: where they run.
            waits: for cells that another process has, and takes them where it dies; else they are left to it.
        """
        taken: list[Cell] = []
        while todo := self._unfinished(todo):
            again, found = self._round(todo, launcher)
            taken = [*taken, *found] if waits else []
            # One that died here waits for nobody.
            todo = again or self._freed(taken)
        for record in self._unwritten:
            record()

    def _unfinished(self, todo: Sequence[Cell]) -> list[Cell]:
        """Cells without those that a worker of another `harness run` has finished meanwhile."""
        ended = [cell for cell in todo if is_done(self._made, cell)]
        for cell in ended:
            self._end(cell)
        self._tell()
        return [cell for cell in todo if cell not in ended]

    def _round(self, todo: Sequence[Cell], launcher: Launcher) -> tuple[list[Cell], list[Cell]]:
        """Launches cells once; those to be tried again, and those that another process has."""
        again: list[Cell] = []
        taken: list[Cell] = []
        jobs = [self._job(cell) for cell in todo]
        states = launcher.launch(jobs, connection.worker_environment())
        # An exception anywhere in here must reach the launcher, which asks its workers to stop.
        with self._recording_the_stopped(todo), contextlib.closing(states):
            for state in states:
                cell = todo[state.index]
                if state.exit_code is None:
                    self._states[cell.id] = "running"
                elif state.exit_code == TAKEN or self._is_at_work(cell, state.exit_code):
                    self._states[cell.id] = "elsewhere"
                    taken.append(cell)
                elif self._is_retried(cell, state):
                    self._states[cell.id] = "waiting"
                    again.append(cell)
                else:
                    self._end(cell)
                self._tell()
        return again, taken

    def _job(self, cell: Cell) -> PackJob:
        folder, config = self._made.folder.cell(cell.id), self._made.config.launch
        processes = config.processes_per_cell if cell.seed is not None else 1
        return PackJob((folder.path,), folder.log, processes=processes, accelerate_config=config.accelerate_config)

    def _is_at_work(self, cell: Cell, exit_code: int) -> bool:
        """Whether a cell without a result has a living worker all the same, of which `accelerate launch` tells nothing."""
        folder = self._made.folder.cell(cell.id)
        patience = 0.0 if self._made.config.launch.kind == "local" else SHARED_FOLDER_SECONDS
        if exit_code in (FINISHED, FAILED) and not _shows(folder.result, patience):
            logger.warning("%s: its worker ended, and %s can't be seen from here", cell.name, folder.result)
        return not folder.result.exists() and is_held(folder.lock)

    @contextlib.contextmanager
    def _recording_the_stopped(self, todo: Sequence[Cell]) -> Iterator[None]:
        """Writes what workers left out that were killed while they were being stopped."""
        try:
            yield
        except BaseException:
            for cell in todo:
                folder = self._made.folder.cell(cell.id)
                if self._states[cell.id] == "running" and not folder.result.exists() and not is_held(folder.lock):
                    self._record(
                        cell, "killed", "killed while it was being stopped; `harness run` goes on where it stopped"
                    )
            raise

    def _is_retried(self, cell: Cell, state: PackState) -> bool:
        """Whether a worker died without a word for the first time; the second time the parent writes the record."""
        folder = self._made.folder.cell(cell.id)
        assert state.exit_code is not None, "it ended"
        if folder.result.exists():
            return False
        cause = state.why or cause_of(state.exit_code)
        deaths = self._deaths.setdefault(cell.id, [])
        deaths.append(cause)
        if was_stopped(state.exit_code):
            self._record(cell, "killed", f"{cause}; `harness run` goes on where it stopped")
            return False
        if len(deaths) == 1:
            logger.warning("%s: the worker died (%s); it is tried once more", cell.name, cause)
            return True
        self._record(cell, "failed", f"the worker died twice ({', then '.join(deaths)}); see {folder.log}")
        return False

    def _record(self, cell: Cell, status: Literal["failed", "killed"], error: str) -> None:
        """Writes what a worker left out; where the disk has no room even for that, the others go on and it is tried again."""
        record = partial(record_death, self._made.folder.cell(cell.id), cell, status, error)
        try:
            record()
        except StoreError as refused:
            logger.error("%s: %s", cell.name, refused)
            self._unwritten.append(record)

    def _freed(self, taken: list[Cell]) -> list[Cell]:
        """Waits until one of the cells that another process has is left unfinished, or all are finished; takes them off the list."""
        while taken:
            free = [cell for cell in taken if not is_held(self._made.folder.cell(cell.id).lock)]
            for cell in free:
                taken.remove(cell)
                # Another machine's result may not be seen from here at once.
                _shows(self._made.folder.cell(cell.id).result, 0.0)
            if left := self._unfinished(free) if free else []:
                for cell in left:
                    forget_end(self._made, cell)
                return left
            if taken:
                time.sleep(POLL_SECONDS)
        return []

    def _end(self, cell: Cell) -> None:
        path = self._made.folder.cell(cell.id).result
        status = read_record(path, CellResult).status if path.exists() else "failed"
        self._states[cell.id] = "stopped" if status == "killed" else status

    def _tell(self) -> None:
        self._show(Progress(self._made, dict(self._states)))


def forget_end(made: Plan, cell: Cell) -> None:
    """Takes away how a cell ended before, else it would pass for what becomes of it now.

    Not while a worker has it, as one may that outlived its `harness run`, nor where one has finished it meanwhile.
    """
    folder = made.folder.cell(cell.id)
    with holding(folder.lock) as is_mine:
        if is_mine and not is_done(made, cell):
            folder.result.unlink(missing_ok=True)


def _shows(path: Path, seconds: float) -> bool:
    """Whether a file is there, or appears: network file systems remember for a while that one wasn't."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError):
            # Opening the folder makes them ask again.
            list(path.parent.iterdir())
        if path.exists():
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_SECONDS)


def cause_of(exit_code: int) -> str:
    """What an exit code says, in words."""
    if exit_code >= 0:
        return f"exit code {exit_code}"
    name = signal.Signals(-exit_code).name if -exit_code in set(signal.Signals) else f"signal {-exit_code}"
    return f"{name}, often the kernel's when memory runs out" if name == "SIGKILL" else name


def record_death(folder: CellFolder, cell: Cell, status: Literal["failed", "killed"], error: str) -> None:
    """A worker that was killed leaves no result; its parent writes one."""
    tail = folder.log.read_text(encoding="utf-8", errors="replace")[-LOG_TAIL:] if folder.log.exists() else ""
    run_id = folder.run_id.read_text().strip() if folder.run_id.exists() else ""
    result = CellResult(
        cell=cell.id, name=cell.name, group=cell.group, seed=cell.seed, base=cell.base, overrides=cell.overrides,
        status=status, stage="worker", error=error, traceback=tail, mlflow_run_id=run_id,
    )  # fmt: skip
    write_record(folder.result, result)
    if run_id:
        record_files.log_cell(run_id, folder, result)
        connection.deliver("status", lambda: experiment_run.end_run(run_id, STATUS_OF[status], f"worker: {error}"))
