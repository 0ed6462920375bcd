"""The checks of curves while a training goes on: the same code as it runs and when a finished one is replayed."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from harness.config import CurveCheck
from harness.diagnose.cell import CHECKS, DOOMED
from harness.diagnose.cell_reader import trace_evidence
from harness.diagnose.evidence import as_float
from harness.records import Finding, Probe, TracePoint

NON_FINITE: CurveCheck = "non_finite"
MIN_LOSSES_BETWEEN_LOOKS = 10
MAX_LOOKS = 50
STOPS_ON_ERRORS = (*DOOMED, "loss_spike")
"""A warning of these is no reason to stop: the loss came back. Other checks are asked for by name: a warning is enough."""
EARLIEST: Mapping[CurveCheck, float] = {"underfitting": 0.5}
"""Share of the planned steps before which a check says nothing: every training has learned little when it begins."""


class Stop(NamedTuple):
    """Why and where a training is ended."""

    check: CurveCheck
    step: int
    planned_steps: int
    message: str

    @property
    def sentence(self) -> str:
        """`diverged: stopped at step 120 of 900, 780 steps saved: The training loss ...`."""
        saved = max(0, self.planned_steps - self.step)
        return f"{self.check}: stopped at step {self.step} of {self.planned_steps}, {saved} steps saved: {self.message}"


class Watch:
    """Looks at a training at every evaluation, and between them often enough to be of use and seldom enough to be cheap."""

    def __init__(self, checks: Sequence[CurveCheck], planned_steps: int, settings: Mapping[str, str]) -> None:
        self._checks = checks
        self._planned_steps = planned_steps
        self._settings = settings
        self._points: list[TracePoint] = []
        self._probes: list[Probe] = []
        self._unseen = 0
        self._suspected_since: dict[CurveCheck, int] = {}

    def add(self, point: TracePoint, new_probes: Callable[[], Iterable[Probe]]) -> Stop | None:
        """The reason to stop after this point, if there is one.

        Args:
            point: what was logged, in the order of training.
            new_probes: gives the probes that came since the last evaluation; called only where there was another.
        """
        self._points.append(point)
        loss = as_float(point.values.get("loss", 0.0))
        if NON_FINITE in self._checks and not math.isfinite(loss):
            return self._stop(NON_FINITE, f"The training loss is {loss}, so the weights are lost.")
        self._unseen += "loss" in point.values
        if point.step >= self._planned_steps:
            return None  # there is nothing left to be saved
        if "eval_loss" in point.values:
            self._probes += new_probes()
        elif self._unseen < max(MIN_LOSSES_BETWEEN_LOOKS, self._planned_steps // MAX_LOOKS):
            return None
        self._unseen = 0
        return self._look()

    def _look(self) -> Stop | None:
        evidence = trace_evidence(self._points, self._probes, self._settings, self._planned_steps)
        fired = {name: found for name in self._due() if _ends_training(found := CHECKS[name](evidence))}
        step = self._points[-1].step
        self._suspected_since = {name: self._suspected_since.get(name, step) for name in fired}
        # A curve may touch a threshold by chance; a training is ended only where a later look says the same.
        sure = [name for name, since in self._suspected_since.items() if since < step]
        return self._stop(sure[0], fired[sure[0]].message) if sure else None

    def _due(self) -> list[CurveCheck]:
        share = self._points[-1].step / max(1, self._planned_steps)
        return [
            name for name in self._checks if name != NON_FINITE and name in CHECKS and share >= EARLIEST.get(name, 0)
        ]

    def _stop(self, check: CurveCheck, message: str) -> Stop:
        return Stop(check, self._points[-1].step, self._planned_steps, message)


def _ends_training(finding: Finding) -> bool:
    return finding.is_warning and (finding.severity == "error" or finding.check not in STOPS_ON_ERRORS)


def first_stop(watch: Watch, points: Iterable[TracePoint], probes: Sequence[Probe]) -> Stop | None:
    """Where a recorded training would have been ended, told point by point as if it went on."""
    by_step = defaultdict[int, list[Probe]](list)
    for probe in probes:
        by_step[probe.step].append(probe)
    stops = (watch.add(point, partial(by_step.__getitem__, point.step)) for point in points)
    return next((stop for stop in stops if stop is not None), None)
