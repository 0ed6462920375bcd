"""Faults and what each may leave: kind, stage, whom it strikes, exit code and status."""

from collections.abc import Sequence
from dataclasses import dataclass

STAGES = ("splits", "training", "checkpoint save", "evaluation", "logging", "result write")
"""logging: a suite's record and estimates are there, its table of answers isn't."""
STEPS = {"training": 3, "checkpoint save": 4, "checkpoint saved": 4}
"""The first checkpoint, of step 2, is whole by then."""
ENDS = {"SIGINT": 130, "SIGTERM": 143, "SIGKILL": -9}
UNTELLABLE = ("server down", "disk fills up")


@dataclass(frozen=True, slots=True)
class Case:
    """One fault at one stage."""

    kind: str
    stage: str
    whom: str = "worker"
    """Who gets a signal: worker, parent (`harness run`) or group (all processes of the terminal)."""
    exits: tuple[int, ...] = ()
    """What `harness run` may end with; empty: 0 where all cells finish, 1 where not."""
    statuses: tuple[str, ...] = ("FINISHED",)
    """What the cell's MLflow run may say then, or at `report` the experiment's."""
    is_exact: bool = True
    """Whether the numbers are those of an uninterrupted training to the last bit."""

    @property
    def name(self) -> str:
        """Of its cell, too."""
        whom = f"-to-{self.whom}" if self.kind.startswith("SIG") and self.whom != "worker" else ""
        return f"{self.kind}{whom}-at-{self.stage}".replace(" ", "-").replace(".", "-")

    @property
    def leaves_running(self) -> bool:
        """Whether a run may be RUNNING until somebody looks after it: nobody lived, or could write, to say more."""
        return -9 in self.exits or -11 in self.exits or self.kind in UNTELLABLE


def worker_cases(stages: Sequence[str] = STAGES) -> list[Case]:
    """Faults of a single worker: its siblings go on."""
    cases = []
    for stage in stages:
        # What MLflow doesn't take is no reason for a cell to fail: it is sent again.
        fails = ("FINISHED",) if stage == "logging" else ("FAILED",)
        trained = ("training", "checkpoint save")
        oom = ("FINISHED",) if stage in trained else ("FINISHED", "FAILED")
        cases += [
            Case("exception", stage, statuses=fails),
            # A process that ends itself was neither killed nor did it say what went wrong.
            Case("sys.exit", stage, statuses=("FAILED", "KILLED")),
            Case("SIGTERM", stage, statuses=("KILLED",)),
            Case("SIGKILL", stage),
            Case("SIGSEGV", stage),
            Case("OOM", stage, statuses=oom, is_exact=stage not in trained),
            Case("full disk", stage, statuses=fails),
            Case("database locked", stage),
        ]
        if stage != "splits":
            # Nothing is saved before.
            saved = "checkpoint saved" if stage == "checkpoint save" else stage
            cases.append(Case("corrupt checkpoint", saved))
    return cases


def parent_cases(stages: Sequence[str] = STAGES) -> list[Case]:
    """What ends `harness run` itself while a worker is at a stage."""
    ways = (("SIGINT", "group"), ("SIGTERM", "parent"), ("SIGKILL", "parent"), ("SIGKILL", "group"))
    return [
        Case(kind, stage, whom, exits=(ENDS[kind],), statuses=("KILLED",)) for stage in stages for kind, whom in ways
    ]


def report_cases() -> list[Case]:
    """Faults of `harness run` itself while it writes the report."""
    killed = [Case(kind, "report", exits=(code,), statuses=("KILLED",)) for kind, code in ENDS.items()]
    return [
        Case("exception", "report", exits=(1,), statuses=("FAILED",)),
        Case("sys.exit", "report", exits=(3,), statuses=("FAILED", "KILLED")),
        *killed,
        Case("SIGSEGV", "report", exits=(-11,), statuses=("KILLED",)),
        Case("OOM", "report", exits=(1,), statuses=("FAILED",)),
        Case("full disk", "report", exits=(1, 2), statuses=("FAILED",)),
        Case("database locked", "report"),
        Case("corrupt checkpoint", "report", exits=(-9,), statuses=("KILLED",)),
    ]


def store_cases(kind: str, stages: Sequence[str] = (*STAGES, "report")) -> list[Case]:
    """A tracking server that goes away, or a disk that fills up, for the rest of the life of `harness run`."""
    if kind == "server down":
        return [Case(kind, stage, exits=(0,)) for stage in stages]
    return [Case(kind, stage, exits=(1, 2), statuses=("FAILED", "KILLED")) for stage in stages]
