"""Curves drawn by hand for the tests of the checks."""

import math
from collections.abc import Sequence

import numpy as np

from harness.diagnose.evidence import Evidence, Point
from harness.records import Finding, Probe, finite_or_name

JITTER = 0.02 * np.random.default_rng(0).standard_normal(400)


def points(values: Sequence[float], every: int = 1, first: int = 1) -> list[Point]:
    return [Point(first + i * every, float(value)) for i, value in enumerate(values)]


def run(loss: Sequence[float], **known: object) -> Evidence:
    """A finished run of these losses."""
    values: dict[str, object] = {
        "loss": points(loss),
        "grad_norm": [],
        "eval_loss": [],
        "planned_steps": len(loss),
        "is_finished": True,
    }
    return Evidence(**{**values, **known})  # type: ignore[arg-type]


def falling(n: int = 100, start: float = 4.0, end: float = 1.0) -> list[float]:
    """From start to end, most of it in the first tenth, with 2 % of noise."""
    return [(end + (start - end) * math.exp(-i / (n / 20))) * (1 + JITTER[i % 400]) for i in range(n)]


def verdict(found: Finding) -> tuple[str, str]:
    return found.outcome, found.severity if found.outcome == "fired" else "-"


def probe(step: int, nll: Sequence[float]) -> Probe:
    return Probe(
        step=step, split="validation", nll=tuple(finite_or_name(value) for value in nll), tokens=(10,) * len(nll)
    )
