"""Draws a training with what the checks found in it."""

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.diagnose.advice import what_would_tell_more
from harness.diagnose.evidence import Evidence, Point
from harness.diagnose.phases import loss_phases
from harness.errors import ConfigError
from harness.records import Finding
from harness.reports.run_figure import RunCurves, run_chart
from harness.reports.run_marks import Band, Mark, Pairs
from harness.reports.run_page import RunPage, write_page

FORMATS = (".html", ".png")
MAX_MARKS_PER_CHECK = 3
MAX_SPIKES = 40
STEP = re.compile(r"\bstep (\d+)", re.IGNORECASE)
# These say everything on the curve itself, or concern the curve as a whole.
ON_THE_CURVE = ("non_finite", "loss_spike", "overfitting", "loss_phases")


def write_plot(evidence: Evidence, findings: Sequence[Finding], path: Path) -> None:
    """Writes an HTML page or a PNG picture of the curves, with findings marked and listed.

    Raises: ConfigError: the file's ending is neither, or it can't be written.
    """
    if path.suffix not in FORMATS:
        raise ConfigError(f"--plot {path}: the file must end in {' or '.join(FORMATS)}")
    curves = RunCurves(
        *(_pairs(p) for p in (evidence.loss, evidence.eval_loss, evidence.grad_norm, evidence.learning_rate))
    )
    chart = run_chart(curves, _bands(evidence), [*_best(evidence), *_marks(findings)])
    more = what_would_tell_more(findings, evidence)
    try:
        write_page(RunPage(evidence.name or "training", _facts(evidence), chart, findings, more), path)
    except OSError as error:
        raise ConfigError(
            f"--plot {path}: the file can't be written ({error.strerror}); choose another place"
        ) from error


def _pairs(points: Sequence[Point]) -> Pairs:
    return [(point.step, point.value) for point in points]


def _bands(evidence: Evidence) -> list[Band]:
    phases = loss_phases(evidence.finite_loss)
    return [Band(phase.name.replace("_", " "), phase.first_step, phase.last_step) for phase in phases]


def _best(evidence: Evidence) -> list[Mark]:
    """The lowest evaluation of a trained model, where there are several to choose from."""
    points = [point for point in evidence.eval_loss if math.isfinite(point.value) and point.step > 0]
    if len(points) < 2:
        return []
    best = min(points, key=lambda point: point.value)
    return [Mark(best.step, f"best {best.value:.4g} at step {best.step:,}", "best")]


def _marks(findings: Sequence[Finding]) -> Iterator[Mark]:
    """The steps that fired findings name in their evidence, else in their message."""
    for finding in findings:
        if finding.outcome != "fired":
            continue
        steps = [int(step) for line in finding.evidence for step in STEP.findall(line)[:1]]
        if finding.check == "loss_spike":
            yield from (Mark(step, "spike", "spike") for step in steps[:MAX_SPIKES])
        elif finding.check not in ON_THE_CURVE:
            steps = steps or [int(step) for step in STEP.findall(finding.message)[:1]]
            yield from (Mark(step, finding.check, finding.severity) for step in steps[:MAX_MARKS_PER_CHECK])


def _facts(evidence: Evidence) -> str:
    last = max((points[-1].step for points in (evidence.loss, evidence.eval_loss) if points), default=0)
    planned = evidence.planned_steps or last
    parts = [f"{planned:,} steps" if evidence.is_finished or planned <= last else f"{last:,} of {planned:,} steps"]
    if evidence.epochs:
        parts.append(f"{evidence.epochs[-1].value:.4g} epochs")
    for name, points in (("training loss", evidence.loss), ("eval loss", evidence.eval_loss)):
        if points:
            parts.append(f"{name} {points[0].value:.4g} to {points[-1].value:.4g}")
    return " · ".join(parts)
