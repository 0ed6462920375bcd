"""The kill matrix: faults strike an experiment one after the other, and `harness run` again must mend what they did."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.chaos_cases import STEPS, Case
from benchmarks.chaos_checks import Damage, damage, untrue
from benchmarks.chaos_drive import NAME, Life, environment, live, reference_run, write_grid
from benchmarks.chaos_server import Server
from benchmarks.chaos_snapshot import Snapshot, read_snapshot

logger = logging.getLogger(__name__)

MAX_IDLE_LIVES = 2


@dataclass(slots=True)
class Outcome:
    """What a fault did."""

    case: Case
    exit_code: int | None = None
    """Of `harness run`; None: the fault did not happen."""
    status: str = ""
    damage: Damage = field(default_factory=Damage)

    def row(self) -> dict[str, Any]:
        """For the table."""
        lost, duplicated, wrong = self.damage
        case = self.case
        return {
            "fault": case.kind, "stage": case.stage, "to": case.whom, "exit_code": self.exit_code, "status": self.status,
            "lost": len(lost), "duplicated": len(duplicated), "wrong_status": len(wrong), "what": [*lost, *duplicated, *wrong],
        }  # fmt: skip


class Campaign:
    """One experiment with a cell for every fault, run again until nothing happens any more."""

    def __init__(
        self,
        folder: Path,
        cases: Sequence[Case],
        *,
        workers: int,
        disk: Path | None = None,
        server: Server | None = None,
    ) -> None:
        """Writes the experiment and the plan of its faults.

        Args:
            folder: an empty one.
            cases: with different names.
            workers: 1 where cases end `harness run`, so that one does at a time.
            disk: where to run it, if not in the folder.
            server: where to log, if not to SQLite.
        """
        self.cases = {case.name: case for case in cases}
        self.outcomes = {name: Outcome(case) for name, case in self.cases.items()}
        self.folder, self.reference = (disk or folder) / "faulty", folder / "whole"
        cells = [case.name for case in cases if case.stage != "report"] or ["one", "two"]
        write_grid(self.folder, cells, workers=workers)
        write_grid(self.reference, cells, workers=2)
        if disk:
            # A terminal still has room.
            (self.folder / "out.txt").symlink_to(folder / "out.txt")
        self.plan, self._ballast, self._server = folder / "plan.json", self.folder / "ballast", server
        places = {"database": str(self.folder / "mlflow.db"), "ballast": str(self._ballast)}
        outage = {"outage": str(server.outage)} if server else {}
        self.plan.write_text(json.dumps({"faults": [self._fault(case) for case in cases], **places, **outage}))
        self._store: Mapping[str, str] = {"MLFLOW_TRACKING_URI": server.uri} if server else {}

    @staticmethod
    def _fault(case: Case) -> dict[str, Any]:
        cell = "*" if case.stage == "report" else case.name
        step = STEPS.get(case.stage, 0)
        return {
            "name": case.name,
            "cell": cell,
            "stage": case.stage,
            "kind": case.kind,
            "whom": case.whom,
            "step": step,
        }

    def run(self) -> list[Outcome]:
        """Lives through all faults, then compares with the uninterrupted experiment."""
        reference_run(self.reference)
        idle = 0
        while idle < MAX_IDLE_LIVES:
            before = self.fired()
            life = live(self.folder, "run", "chaos.yaml", env=environment(self.plan, self._store))
            self._end_of_trouble()
            happened = self.fired() - before
            self._judge(life, happened)
            idle = 0 if happened else idle + 1
            if not happened and life.exit_code == 0:
                break
        self._compare(self.found())
        return list(self.outcomes.values())

    def fired(self) -> set[str]:
        """Names of the faults that have happened."""
        return {path.name for path in (self.plan.parent / "fired").glob("*")}

    def found(self) -> Snapshot:
        """What there is now."""
        server = self._server
        return read_snapshot(self.folder, NAME, *((server.database, server.artifacts) if server else ()))

    def _end_of_trouble(self) -> None:
        """The disk has room again, and the server is back."""
        self._ballast.unlink(missing_ok=True)
        if self._server is not None:
            self._server.outage.unlink(missing_ok=True)

    def _judge(self, life: Life, happened: set[str]) -> None:
        """Exit code and statuses after one life."""
        cases = [self.cases[name] for name in happened]
        logger.info(
            "%s -> exit code %d after %.0f s", ", ".join(sorted(happened)) or "no fault", life.exit_code, life.seconds
        )
        found = self.found()
        all_finished = all(cell.status == "finished" for cell in found.cells.values())
        exits = next((case.exits for case in cases if case.exits), (0,) if all_finished else (1,))
        wrong = [f"it goes on without `harness run`: {command}" for command in life.left]
        if life.exit_code not in exits:
            wrong.append(f"exit code {life.exit_code}, and not {exits}: {life.output[-300:]}")
        if any(case.leaves_running for case in cases):
            wrong += untrue(found, may_run=True, allowed={})
            closed = live(self.folder, "reconcile", NAME, env=environment(None, self._store))
            wrong += [] if closed.exit_code == 0 else [f"harness reconcile: {closed.output[-300:]}"]
            found = self.found()
        # Of two faults that struck the same run, the one that ended the life says how.
        last = sorted(cases, key=lambda case: bool(case.exits))
        allowed = {f"{NAME} (report)" if case.stage == "report" else case.name: case.statuses for case in last}
        wrong += untrue(found, may_run=False, allowed=allowed)
        statuses = {run.name: run.status for run in found.runs}
        for case in cases:
            outcome = self.outcomes[case.name]
            outcome.exit_code = life.exit_code
            outcome.status = statuses.get(f"{NAME} (report)" if case.stage == "report" else case.name, "")
        self._blame(Damage(wrong_status=tuple(wrong)), cases)

    def _blame(self, damage: Damage, cases: Sequence[Case]) -> None:
        """Adds what is wrong to the fault of the cell that it names, or to the first of some."""
        for name, texts in damage._asdict().items():
            for text in texts:
                logger.warning("%s: %s", name, text)
                owner = next((case for case in self.cases.values() if text.startswith(f"{case.name}:")), None)
                blamed = self.outcomes[(owner or next(iter(cases or self.cases.values()))).name]
                blamed.damage += Damage(**{name: (text,)})

    def _compare(self, found: Snapshot) -> None:
        loose = [case.name for case in self.cases.values() if not case.is_exact]
        self._blame(damage(read_snapshot(self.reference, NAME), found, loose=loose), ())
        never = tuple(f"{name}: the fault did not happen" for name in self.cases.keys() - self.fired())
        self._blame(Damage(wrong_status=never), ())
