"""How well every row keeps to its template, slice by slice, as a picture."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import altair as alt

from harness.configurations import configuration_name
from harness.records import CellResult, Estimate, SuiteResult
from harness.reports.effect_figures import heatmap
from harness.reports.figures import Picture, drawn, label_limit, names_shown, themed

KIND = "template_adherence"
METRICS = ("all", "probes")
"""Kept to the template: in the test rows, and in the variations of them. One example is in one of the two."""
MAX_ROWS = 80


class Rate(NamedTuple):
    """How often one configuration keeps to its template in one slice, over its seeds."""

    name: str
    slice: str
    mean: float
    lowest: float
    """Of its seeds."""
    num_examples: int
    """Of one seed."""
    num_seeds: int


def adherence_suites(results: Sequence[CellResult]) -> list[str]:
    """Names of the results of suites that measure adherence."""
    return list(dict.fromkeys(suite.suite for result in results for suite in result.suites if suite.is_kind(KIND)))


def adherence_rates(results: Sequence[CellResult], suite: str) -> list[Rate]:
    """The rate of every configuration in every slice, the worst configuration and the worst slice first."""
    found: dict[tuple[str, str], list[Estimate]] = {}
    for result in results:
        for measured in result.suites:
            if measured.suite == suite and measured.is_kind(KIND):
                for name, estimate in _slices(measured).items():
                    found.setdefault((configuration_name(result), name), []).append(estimate)
    rates = [
        Rate(name, part, sum(e.value for e in all_) / len(all_), min(e.value for e in all_), all_[0].n, len(all_))
        for (name, part), all_ in found.items()
    ]
    rows, parts = _means(rates, 0), _means(rates, 1)
    return sorted(rates, key=lambda rate: (rows[rate.name], rate.name, parts[rate.slice], rate.slice))


def _slices(suite: SuiteResult) -> dict[str, Estimate]:
    """Slice -> rate; a slice of test rows and of variations has both names."""
    found: dict[str, Estimate] = {}
    for metric in METRICS:
        for name, estimate in suite.slice_metrics.items():
            measured, _, part = name.partition(".")
            if measured == metric:
                found[f"{part} (varied)" if part in found else part] = estimate
    return found


def _means(rates: Sequence[Rate], field: int) -> dict[Any, float]:
    grouped: dict[Any, list[float]] = {}
    for rate in rates:
        grouped.setdefault(rate[field], []).append(rate.mean)
    return {name: sum(values) / len(values) for name, values in grouped.items()}


def adherence_picture(rates: Sequence[Rate], suite: str) -> Picture | None:
    """A row a configuration, a column a slice, the rate in per cent written into each place; the worst at the top left."""
    rows = list(dict.fromkeys(rate.name for rate in rates))[:MAX_ROWS]
    means = _means(rates, 1)
    parts = sorted(means, key=lambda part: (means[part], part))
    if not parts:
        return None
    shown = [rate for rate in rates if rate.name in set(rows)]
    values = [rate._asdict() | {"percent": 100 * rate.mean, "row": rows.index(rate.name)} for rate in shown]
    base = drawn("rates").encode(
        x=alt.X("slice:N", sort=parts, title=None, axis=alt.Axis(orient="top", labelAngle=-50, labelLimit=130, ticks=False, domain=False)),
        y=alt.Y("row:O", title=None, axis=alt.Axis(labelExpr=names_shown(rows, "datum.value"), labelLimit=label_limit(0.3), ticks=False, domain=False)),
    )  # fmt: skip
    tooltip = [
        alt.Tooltip("name:N", title="row"), alt.Tooltip("slice:N"), alt.Tooltip("mean:Q", title="rate", format=".3f"),
        alt.Tooltip("lowest:Q", title="lowest seed", format=".3f"), alt.Tooltip("num_examples:Q", title="examples"),
        alt.Tooltip("num_seeds:Q", title="seeds"),
    ]  # fmt: skip
    step = 24 if len(rows) <= 20 else 17
    chart = heatmap(base, "percent", f"{suite}: rate in %", ".0f", [0.0, 100.0], tooltip)
    spec = themed(chart, step * len(rows), rates=values)
    return Picture("Adherence by slice", _words(shown, suite), spec)


def _words(rates: Sequence[Rate], suite: str) -> str:
    parts, rows = _means(rates, 1), _means(rates, 0)
    worst = min(rates, key=lambda rate: rate.mean)
    part = min(parts, key=lambda name: parts[name])
    perfect = sum(rate.mean == 1 for rate in rates)
    return (
        f"{suite}: share of answers that keep to the template, for {len(rows)} rows in {len(parts)} slices. Lowest: {worst.name} in "
        f"{worst.slice}, {worst.mean:.3f} of {worst.num_examples} examples. Weakest slice over all rows: {part}, {parts[part]:.3f}. "
        f"{perfect} of {len(rates)} places are perfect."
    )  # fmt: skip
