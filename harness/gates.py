"""Gates: conditions, written as strings, that a run must meet to be ranked at all."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

from harness.errors import ConfigError
from harness.records import CellResult, Estimate, Finding
from harness.score_columns import values_of
from harness.stats import MIN_PAIRS, non_inferiority, num_independent
from harness.stats import estimate as estimate_of

Part = Literal["value", "low", "high"]
THRESHOLD = re.compile(
    r"(?P<metric>[\w.-]+?)(?:\.(?P<part>low|high))?\s*(?P<sign>>=|<=|>|<)\s*(?P<number>-?(?:\d+\.?\d*|\.\d+)(?:[eE]-?\d+)?)"
)
NOT_WORSE = re.compile(r"(?P<metric>[\w.-]+)\s+not_worse_than\s+base\s+by\s+(?P<margin>\d+\.?\d*|\.\d+)")
LOWER_IS_BETTER = frozenset({
    "nll", "bits_per_byte", "perplexity", "word_perplexity", "byte_perplexity", "ter", "wer",
})  # fmt: skip
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
    return "; ".join(f"{f.check}: {f.message.rstrip('.')}" for f in errors)


def _threshold(candidate: Candidate, metric: str, part: Part, sign: str, number: float) -> str:
    estimate = (candidate.result.metrics() | candidate.result.slice_metrics()).get(metric)
    if estimate is None:
        return f"{metric} was not measured"
    if part != "value":
        estimate = _by_clusters(candidate.result, metric, estimate)
    value = {"value": estimate.value, "low": estimate.low, "high": estimate.high}[part]
    name = metric if part == "value" else f"{metric}.{part}"
    return "" if SIGNS[sign](value, number) else f"{name} is {value:.3f}, not {sign} {number:g}"


def _by_clusters(result: CellResult, metric: str, known: Estimate) -> Estimate:
    """The estimate with bounds that know of examples which are not independent of each other."""
    scores, clusters = per_example(result, metric), clusters_of(result, metric)
    names = [clusters.get(item, item) for item in scores]
    return known if len(set(names)) == len(names) else estimate_of(list(scores.values()), known.unscored, names)


def scores_by_metric(result: CellResult) -> dict[str, dict[str, float]]:
    """`suite.metric` -> example id -> score, without the unscored."""
    return {
        f"{suite.suite}.{name}": values
        for suite in result.suites
        for name in suite.metrics
        if (values := values_of(suite, name))
    }


def per_example(result: CellResult, metric: str) -> dict[str, float]:
    """Example id -> score of one `suite.metric` or `suite.metric.slice`; unscored examples are absent."""
    suite_name, _, name = metric.partition(".")
    suite = next((suite for suite in result.suites if suite.suite == suite_name), None)
    if suite is None:
        return {}
    if name not in suite.slice_metrics:
        return values_of(suite, name)
    name, _, kind = name.partition(".")
    return {example: value for example, value in values_of(suite, name).items() if kind in suite.slices[example]}


def clusters_of(result: CellResult, metric: str) -> dict[str, str]:
    """Example id -> cluster, of the suite that a metric belongs to."""
    suite_name = metric.partition(".")[0]
    return next((dict(suite.clusters) for suite in result.suites if suite.suite == suite_name), {})


def sign_of(metric: str) -> float:
    """-1 where less of a `suite.metric` or `suite.metric.slice` is better, else 1."""
    return -1.0 if LOWER_IS_BETTER.intersection(metric.split(".")[1:]) else 1.0


def _not_worse(candidate: Candidate, metric: str, margin: float) -> str:
    """Non-inferiority to the base: surely not worse by the margin, at one-sided 95 %."""
    ours = per_example(candidate.result, metric)
    theirs = per_example(candidate.base, metric) if candidate.base else {}
    shared = sorted(ours.keys() & theirs.keys())
    if not shared:
        return f"{metric} can't be compared with the base: it was not measured for both"
    if len(shared) < MIN_PAIRS:
        return f"{metric} can't be compared with the base on {len(shared)} examples; {MIN_PAIRS} are needed"
    clusters, sign = clusters_of(candidate.result, metric), sign_of(metric)
    names = [clusters.get(i, i) for i in shared]
    if num_independent(names) < MIN_PAIRS:
        return (
            f"{metric} can't be compared with the base on {len(shared)} examples of {len(set(names))} sources, too few or too unequal "
            f"in size; {MIN_PAIRS} equal ones are needed"
        )
    found = non_inferiority(
        [sign * ours[i] for i in shared],
        [sign * theirs[i] for i in shared],
        names,
        margin,
    )
    if found.verdict == "retained":
        return ""
    verdict = "is worse than" if found.verdict == "forgot" else "may be worse than"
    low, high = sorted((sign * found.low, sign * found.high))
    return (
        f"{metric} {verdict} the base by more than {margin:g}: difference {sign * found.difference:+.3f} "
        f"[{low:+.3f}, {high:+.3f}]"
    )


def shown(estimate: Estimate) -> str:
    """`0.912 [0.880, 0.938]`."""
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def signed(difference: Estimate) -> str:
    """`+0.112 [+0.080, +0.138]`."""
    return f"{difference.value:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"
