"""Gates: conditions, written as strings, that a run must meet to be ranked at all."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

from harness.errors import ConfigError
from harness.records import CellResult, Estimate, Finding
from harness.stats import paired_difference

Part = Literal["value", "low", "high"]
THRESHOLD = re.compile(
    r"(?P<metric>[\w.-]+?)(?:\.(?P<part>low|high))?\s*(?P<sign>>=|<=|>|<)\s*(?P<number>-?[\d.]+(?:[eE]-?\d+)?)"
)
NOT_WORSE = re.compile(r"(?P<metric>[\w.-]+)\s+not_worse_than\s+base\s+by\s+(?P<margin>[\d.]+)")
NO_ERRORS = re.compile(r"no error findings")
SIGNS: Mapping[str, Callable[[float, float], bool]] = {
    ">=": lambda a, b: a >= b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    "<": lambda a, b: a < b,
}


class Candidate(NamedTuple):
    """What a gate looks at."""

    result: CellResult
    findings: Sequence[Finding]
    base: CellResult | None


Gate = Callable[[Candidate], str]


def parse_gate(text: str) -> Gate:
    """A function that gives the reason why a candidate fails the gate, or "".

    Raises: ConfigError: the text is no gate.
    """
    stripped = text.strip()
    if NO_ERRORS.fullmatch(stripped):
        return _no_errors
    if found := NOT_WORSE.fullmatch(stripped):
        metric, margin = found["metric"], float(found["margin"])
        return lambda candidate: _not_worse(candidate, metric, margin)
    if found := THRESHOLD.fullmatch(stripped):
        metric, number, sign = found["metric"], float(found["number"]), found["sign"]
        part: Part = "low" if found["part"] == "low" else "high" if found["part"] == "high" else "value"
        return lambda candidate: _threshold(candidate, metric, part, sign, number)
    raise ConfigError(
        f"ranking.gates: {text!r} is no gate; write `suite.metric >= 0.9`, `suite.metric.low >= 0.9`, "
        "`suite.metric not_worse_than base by 0.02` or `no error findings`"
    )


def gate_metric(text: str) -> str:
    """The metric that a gate looks at; empty where it looks at findings."""
    found = NOT_WORSE.fullmatch(text.strip()) or THRESHOLD.fullmatch(text.strip())
    return found["metric"] if found else ""


def _no_errors(candidate: Candidate) -> str:
    errors = [f for f in candidate.findings if f.outcome == "fired" and f.severity == "error"]
    return "; ".join(f"{f.check}: {f.message}" for f in errors)


def _threshold(candidate: Candidate, metric: str, part: Part, sign: str, number: float) -> str:
    estimate = candidate.result.metrics().get(metric)
    if estimate is None:
        return f"{metric} was not measured"
    value = {"value": estimate.value, "low": estimate.low, "high": estimate.high}[part]
    name = metric if part == "value" else f"{metric}.{part}"
    return "" if SIGNS[sign](value, number) else f"{name} is {value:.3f}, not {sign} {number:g}"


def per_example(result: CellResult, metric: str) -> dict[str, float]:
    """Example id -> score of one `suite.metric`; unscored examples are absent."""
    suite_name, _, name = metric.partition(".")
    return {
        score.example_id: score.value
        for suite in result.suites
        if suite.suite == suite_name
        for score in suite.scores
        if score.metric == name and score.value is not None
    }


def clusters_of(result: CellResult, metric: str) -> dict[str, str]:
    """Example id -> cluster, of the suite that a metric belongs to."""
    suite_name = metric.partition(".")[0]
    return next((dict(suite.clusters) for suite in result.suites if suite.suite == suite_name), {})


def _not_worse(candidate: Candidate, metric: str, margin: float) -> str:
    """Non-inferiority: the lower bound of the paired difference to the base is above minus the margin."""
    ours = per_example(candidate.result, metric)
    theirs = per_example(candidate.base, metric) if candidate.base else {}
    shared = sorted(ours.keys() & theirs.keys())
    if not shared:
        return f"{metric} can't be compared with the base: it was not measured for both"
    clusters = clusters_of(candidate.result, metric)
    difference = paired_difference(
        [ours[i] for i in shared], [theirs[i] for i in shared], [clusters.get(i, i) for i in shared], resamples=4000
    )
    if difference.low > -margin:
        return ""
    verdict = "is worse than" if difference.high < -margin else "may be worse than"
    return (
        f"{metric} {verdict} the base by more than {margin:g}: difference {difference.mean:+.3f} "
        f"[{difference.low:+.3f}, {difference.high:+.3f}]"
    )


def shown(estimate: Estimate) -> str:
    """`0.912 [0.880, 0.938]`."""
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"
