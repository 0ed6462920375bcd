"""What the checks look at, and what they answer."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from harness.records import (
    Contamination,
    Example,
    ExtractionItem,
    Finding,
    Generation,
    NonFinite,
    Outcome,
    Probe,
    Severity,
    SplitSummary,
    SuiteResult,
)
from harness.verification import Verification

CONVENTION = "a convention of this harness"
HUGE = 1e100
"""A larger loss is no number: the mean of two of them may overflow."""


@dataclass(frozen=True, slots=True)
class Point:
    """A value at a step; it may be NaN or infinite."""

    step: int
    value: float


@dataclass(frozen=True, slots=True)
class Sibling:
    """Another cell of the same experiment that differs in nothing but its learning rate."""

    name: str
    learning_rate: float
    validation: Probe | None
    """Its last one; None where it recorded none."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything known of one run; what was not recorded is empty."""

    loss: Sequence[Point]
    grad_norm: Sequence[Point]
    eval_loss: Sequence[Point]
    learning_rate: Sequence[Point] = ()
    """As scheduled, step by step."""
    epochs: Sequence[Point] = ()
    """The epoch (a float) at every logged step."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Settings that were in force, such as `training.learning_rate`; advice quotes them."""
    name: str = ""
    """Of the cell, as advice about its siblings calls it."""
    planned_steps: int | None = None
    is_finished: bool | None = None
    """Whether training came to its end; None where nobody knows."""
    idle_seconds: float | None = None
    """Since the last log of a run that isn't finished; None where nobody knows."""
    siblings: Sequence[Sibling] = ()
    generations: Mapping[str, Sequence[Generation]] = field(default_factory=dict)
    """Suite -> this model's completions."""
    base_generations: Mapping[str, Sequence[Generation]] = field(default_factory=dict)
    """Suite -> those of the untouched base."""
    examples: Mapping[str, Sequence[Example]] = field(default_factory=dict)
    """Suite -> what was asked."""
    trained_answers: Sequence[str] = ()
    """Answers of the training rows (a sample of many)."""
    contamination: Mapping[str, Contamination] = field(default_factory=dict)
    """Suite -> which of its examples occur in the training rows."""
    batch_rows: Mapping[int, Sequence[str]] = field(default_factory=dict)
    """Step -> ids of the rows in its batch, where they were recorded."""
    stopped_on: str = ""
    """Why training was ended before its time, where a check ended it."""
    validation: Sequence[Probe] = ()
    train_probe: Sequence[Probe] = ()
    splits: Mapping[str, SplitSummary] = field(default_factory=dict)
    extraction: Sequence[ExtractionItem] = ()
    suites: Mapping[str, SuiteResult] = field(default_factory=dict)
    base: Mapping[str, SuiteResult] = field(default_factory=dict)
    verification: Verification | None = None
    loss_is_nll: bool = True
    """False with TRL's dft loss or label smoothing: then the level of the training loss says nothing."""
    batches_are_alike: bool = True
    """False where batches are grouped by length: then one step's loss says little of the next one's."""

    @property
    def finite_loss(self) -> list[Point]:
        """Training losses that are numbers."""
        return [point for point in self.loss if abs(point.value) <= HUGE]


def as_float(value: float | NonFinite) -> float:
    """The number behind a recorded value; float() reads "nan" and "inf"."""
    return float(value)


def probe_mean(probe: Probe) -> float:
    """Mean NLL over the supervised tokens of a probe, in nats; NaN where it has none."""
    total = sum(probe.tokens)
    rows = zip(probe.nll, probe.tokens, strict=True)
    return sum(as_float(n) * t for n, t in rows if t) / total if total else math.nan


def comparable(probes: Sequence[Probe]) -> list[Probe]:
    """Probes of one split that have supervised tokens and as many rows as the last of them."""
    known = [probe for probe in probes if sum(probe.tokens)]
    return [probe for probe in known if len(probe.nll) == len(known[-1].nll)]


class BeforeAfter(NamedTuple):
    """The same rows at step 0 and at the last probe."""

    before: Probe
    after: Probe

    @property
    def ratio(self) -> float:
        """Mean NLL after training over that before."""
        return probe_mean(self.after) / probe_mean(self.before)


def before_after(probes: Sequence[Probe]) -> BeforeAfter | None:
    """First and last probe of a split; None unless one is of step 0 and every row of both is a number, above 0 before."""
    if len(probes) < 2 or probes[0].step != 0 or len(probes[0].nll) != len(probes[-1].nll):
        return None
    means = (probe_mean(probes[0]), probe_mean(probes[-1]))
    rows = [as_float(value) for probe in (probes[0], probes[-1]) for value in probe.nll]
    is_known = all(map(math.isfinite, (*means, *rows))) and means[0] > 0
    return BeforeAfter(probes[0], probes[-1]) if is_known else None


class Measure(NamedTuple):
    """The number a check decided on, the number it was held against, and where that one comes from."""

    statistic: float | None = None
    threshold: float | None = None
    source: str = ""


def finding(
    check: str,
    outcome: Outcome,
    message: str,
    severity: Severity = "info",
    *,
    advice: str = "",
    measure: Measure | None = None,
    evidence: Sequence[str] = (),
) -> Finding:
    """A finding; a statistic that is no number is left out."""
    measure = measure or Measure()
    is_number = measure.statistic is not None and math.isfinite(measure.statistic)
    return Finding(
        check=check,
        outcome=outcome,
        severity=severity,
        message=message,
        advice=advice,
        statistic=measure.statistic if is_number else None,
        threshold=measure.threshold,
        source=measure.source,
        evidence=tuple(evidence),
    )
