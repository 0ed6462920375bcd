"""Findings by check, so that many cells don't make many sections."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from harness.records import Finding

SEVERITIES = ("error", "warning", "info")
OUTCOMES = ("fired", "clear", "insufficient", "not_applicable")


class Sign(NamedTuple):
    """One check that fired, and where."""

    check: str
    severity: str
    """The worst of any cell."""
    found: list[tuple[str, Finding]]
    """Name of the cell and what was found in it, the worst first."""
    advice: list[str]
    """What to do, each once."""

    @property
    def is_warning(self) -> bool:
        """Whether it is more than an info."""
        return self.severity != "info"


class Tally(NamedTuple):
    """How often one check came out which way."""

    check: str
    counts: dict[str, int]
    """Outcome -> cells."""
    thresholds: list[str]
    """With their sources, each once."""


def signs(findings: Mapping[str, Sequence[Finding]]) -> list[Sign]:
    """Every check that fired in a cell, the worst and most frequent first.

    Args:
        findings: name of the cell -> its findings.
    """
    fired: dict[str, list[tuple[str, Finding]]] = {}
    for name, found in findings.items():
        for finding in found:
            if finding.outcome == "fired":
                fired.setdefault(finding.check, []).append((name, finding))
    grouped = []
    for check, found_in in fired.items():
        ordered = sorted(found_in, key=lambda item: SEVERITIES.index(item[1].severity))
        advice = list(dict.fromkeys(finding.advice for _, finding in ordered if finding.advice))
        grouped.append(Sign(check, ordered[0][1].severity, ordered, advice))
    return sorted(grouped, key=lambda sign: (SEVERITIES.index(sign.severity), -len(sign.found)))


def tallies(findings: Mapping[str, Sequence[Finding]]) -> list[Tally]:
    """How every check came out, in the order in which they are made."""
    counts: dict[str, Counter[str]] = {}
    thresholds: dict[str, dict[str, None]] = {}
    for found in findings.values():
        for finding in found:
            counts.setdefault(finding.check, Counter())[finding.outcome] += 1
            if finding.threshold is not None:
                source = f" ({finding.source})" if finding.source else ""
                thresholds.setdefault(finding.check, {})[f"{finding.threshold:g}{source}"] = None
    return [
        Tally(check, {outcome: by[outcome] for outcome in OUTCOMES}, list(thresholds.get(check, {})))
        for check, by in counts.items()
    ]


def clear_of_warnings(findings: Mapping[str, Sequence[Finding]]) -> list[str]:
    """Names of the cells in which nothing fired as more than an info."""
    return [name for name, found in findings.items() if found and not any(finding.is_warning for finding in found)]
