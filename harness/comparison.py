"""Holds runs against the first of them, over the same examples. Reads records only; trains and asks nothing."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.compared import Comparison, MetricDifference, PairComparison
from harness.compared_answers import disagreements
from harness.compared_runs import Side, sides_of
from harness.compared_settings import config_diff, curves, findings_diff
from harness.crossed import LENT_FREEDOM, compare_two
from harness.errors import ConfigError
from harness.gates import clusters_of, per_example, sign_of
from harness.score import Ruler
from harness.stats import MIN_PAIRS, holm

ALPHA = 0.05
RESAMPLES, SLICE_RESAMPLES = 10_000, 2_000
"""Bootstrap draws. Slices are many and seldom asked for, and no interval is narrower than Student's t whatever is drawn."""
METHOD = (
    "Every difference is a - b over the examples that all runs of both were scored on, with a 95 % interval of its own. "
    "p is adjusted by Holm over all metrics of all pairs shown, and of slices over all slices of the pair; below 0.05 "
    "one is called better. One seed each and scores of 0 and 1: exact McNemar test and Tango's interval; other scores: a "
    "paired bootstrap over clusters, never surer than Student's t; several seeds: t over the variance crossed over seeds "
    f"and examples. With fewer than {MIN_PAIRS} independent examples nothing is claimed."
)


def compare(
    targets: Sequence[str], *, ruler: Ruler | None = None, experiment: str | None = None, limit: int = 10
) -> Comparison:
    """The first of the targets held against each of the others.

    Args:
        targets: two or more cells (id, start of it, name, `experiment/name`), configurations (a name without its seed),
            references, MLflow run ids, or files of predictions.
        ruler: what files of predictions are held against.
        experiment: whose examples they answer; by default those of the first of the cells.
        limit: how many examples on which the two disagree are shown of each pair.

    Raises: HarnessError: a target is unknown, two are the same, or nothing was asked of both.
    """
    if len(targets) < 2:
        raise ConfigError("name two or more runs to compare; the first is held against each of the others")
    sides = sides_of(targets, ruler or Ruler(), experiment)
    first, others = sides[0], sides[1:]
    measured = [_measured(first, other, len(others)) for other in others]
    metrics = _adjusted([pair.metrics for pair in measured])
    pairs = [
        _pair(first, other, pair._replace(metrics=own, slices=_adjusted([pair.slices])[0]), limit)
        for other, pair, own in zip(others, measured, metrics, strict=True)
    ]
    drawn, curve_notes = curves(sides)
    return Comparison(
        runs=tuple(side.record() for side in sides),
        pairs=tuple(pairs),
        curves=drawn,
        curve_notes=curve_notes,
        method=METHOD,
    )


class _Measured(NamedTuple):
    """All that two runs were both scored on."""

    metrics: dict[str, MetricDifference]
    slices: dict[str, MetricDifference]
    notes: tuple[str, ...]


def _measured(a: Side, b: Side, num_pairs: int) -> _Measured:
    """Raises: ConfigError: nothing was asked of both."""
    shared, notes = _shared_suites(a, b)
    first, second = ([name for name in side.parts[0].result.metrics() if _suite(name) in shared] for side in (a, b))
    for mine, theirs, side in ((first, second, a), (second, first, b)):
        if only := [name for name in mine if name not in theirs]:
            notes.append(f"Measured for {side.name} only, and left out: {', '.join(only)}.")
    names = [name for name in first if name in second]
    metrics = _differences(a, b, names, RESAMPLES, len(names) * num_pairs)
    if not metrics:
        why = " ".join(notes) or "they share no scored example"
        raise ConfigError(f"{a.name} and {b.name} can't be compared: {why[0].lower()}{why[1:]}")
    ours, theirs_too = (side.parts[0].result.slice_metrics() for side in (a, b))
    names = [name for name in ours if name in theirs_too and _suite(name) in shared]
    slices = _differences(a, b, names, SLICE_RESAMPLES, len(names))
    return _Measured(metrics, slices, (*notes, *_seed_notes(a, b)))


def _differences(
    a: Side, b: Side, names: Sequence[str], resamples: int, family: int
) -> dict[str, MetricDifference]:  # fmt: skip
    """The metrics that both were scored on.

    Where the family of tests is so large that a bootstrap of the usual size couldn't claim anything, the surest are
    drawn again and oftener.
    """
    compared = {name: _compared(a, b, name) for name in names}
    # Draws are shared by all that are of as many clusters, and only the last few are kept.
    order = sorted((c for c in compared.values() if c), key=lambda c: len(set(c.clusters)))
    found = {c.metric: _difference(c, resamples) for c in order}
    least = 2 / (resamples + 1)
    if least * family >= ALPHA / 2:
        unsure = [c for c in order if (p := found[c.metric].p_value) and p <= 2 * least]
        found |= {c.metric: _difference(c, 100 * family) for c in unsure}
    return {name: found[name] for name in names if name in found}


def _suite(metric: str) -> str:
    return metric.partition(".")[0]


def _shared_suites(a: Side, b: Side) -> tuple[set[str], list[str]]:
    """Names of the suites that both answered alike, and a sentence for each that they didn't."""
    asked = [
        {name: {suite.digest for part in side.parts for suite in part.result.suites if suite.suite == name} for name in _suites(side)}
        for side in (a, b)
    ]  # fmt: skip
    notes = []
    for name in dict.fromkeys((*asked[0], *asked[1])):
        if name not in asked[0] or name not in asked[1]:
            notes.append(f"{name} was asked of {(a if name in asked[0] else b).name} only, and is left out.")
        elif len(asked[0][name] | asked[1][name]) > 1:
            notes.append(
                f"{name} was asked otherwise of the two (other examples, options or version), and is left out; "
                "`harness evaluate` asks trained cells anew."
            )
    shared = {name for name in asked[0] if name in asked[1] and len(asked[0][name] | asked[1][name]) == 1}
    return shared, notes


def _suites(side: Side) -> list[str]:
    """Those that all of its runs answered."""
    each = [{suite.suite for suite in part.result.suites} for part in side.parts]
    return [suite.suite for suite in side.parts[0].result.suites if suite.suite in set.intersection(*each)]


def _seed_notes(a: Side, b: Side) -> Iterator[str]:
    trained = [side for side in (a, b) if side.is_trained]
    single = [side.name for side in trained if len(side.parts) == 1]
    if not trained:
        yield "Nothing was trained here: this compares these answers, not the systems that gave them."
    elif len(single) == len(trained):
        these = (
            "these two checkpoints, not the two configurations"
            if len(single) > 1
            else "this checkpoint, not its configuration"
        )
        yield f"Seed variance unknown: one seed of {' and '.join(single)}, so this compares {these}."
    elif single:
        if max(len(side.parts) for side in trained) > LENT_FREEDOM:
            yield f"{single[0]} has one seed; the variance of its seeds is taken to be that of the other."
        else:
            yield (
                f"Seed variance unknown: {single[0]} has one seed, and the other too few to lend it their variance (four are "
                "enough), so this compares these checkpoints, not the configurations."
            )
    for side in (a, b):
        yield from side.notes


def _applicable(side: Side, metric: str) -> set[str]:
    """Examples that a metric applies to, scored or not."""
    name, found = metric.partition(".")[2], set()
    for part in side.parts:
        suite = next(suite for suite in part.result.suites if suite.suite == _suite(metric))
        own, _, kind = name.partition(".") if name in suite.slice_metrics else (name, "", "")
        found |= {
            s.example_id for s in suite.scores if s.metric == own and (not kind or kind in suite.slices[s.example_id])
        }
    return found


class _Compared(NamedTuple):
    """One metric over the examples that all runs of both were scored on."""

    metric: str
    a: NDArray[np.float64]
    """(num_seeds, num_items)"""
    b: NDArray[np.float64]
    clusters: list[str]
    """One name an item."""
    unscored: int
    has_seeds: tuple[bool, bool]


def _compared(a: Side, b: Side, metric: str) -> _Compared | None:
    """None where there are no such examples."""
    runs = [per_example(part.result, metric) for part in (*a.parts, *b.parts)]
    shared = sorted(set.intersection(*(set(run) for run in runs)))
    if not shared:
        return None
    clusters = clusters_of(a.parts[0].result, metric)
    scores = np.array([[run[example] for example in shared] for run in runs])  # (num_runs, num_items)
    return _Compared(
        metric,
        scores[: len(a.parts)],
        scores[len(a.parts) :],
        [clusters.get(example, example) for example in shared],
        len(_applicable(a, metric) | _applicable(b, metric)) - len(shared),
        (a.is_trained, b.is_trained),
    )


def _difference(compared: _Compared, resamples: int) -> MetricDifference:
    _, ours, theirs, clusters, unscored, has_seeds = compared
    found = compare_two(ours, theirs, clusters, resamples=resamples, has_seeds=has_seeds)
    sign = sign_of(compared.metric)
    low, high = _within(found.low, found.high, ours, theirs) if found else (None, None)
    # Means over seeds that are equal on paper may differ in their last bits.
    by_example = np.round(sign * (ours.mean(axis=0) - theirs.mean(axis=0)), 12)
    return MetricDifference(
        a=float(ours.mean()),
        b=float(theirs.mean()),
        difference=float(ours.mean() - theirs.mean()),
        low=low,
        high=high,
        p_value=found.p_value if found else None,
        p_adjusted=None,
        wins=int((by_example > 0).sum()),
        losses=int((by_example < 0).sum()),
        ties=int((by_example == 0).sum()),
        n=len(clusters),
        unscored=unscored,
        lower_is_better=sign < 0,
    )


def _within(low: float, high: float, *scores: NDArray[np.float64]) -> tuple[float, float]:
    """The interval, cut where no difference can lie: means of scores between 0 and 1 are never more than 1 apart."""
    if all(bool(((values >= 0) & (values <= 1)).all()) for values in scores):
        return max(low, -1.0), min(high, 1.0)
    return low, high


def _adjusted(family: Sequence[Mapping[str, MetricDifference]]) -> list[dict[str, MetricDifference]]:
    """The same with p-values adjusted over all of them together, and with the claims that follow."""
    places = [(pair, name) for pair, found in enumerate(family) for name in found]
    p_values = {(0, i): p for i, (pair, name) in enumerate(places) if (p := family[pair][name].p_value) is not None}
    adjusted = holm(p_values)
    result: list[dict[str, MetricDifference]] = [{} for _ in family]
    for i, (pair, name) in enumerate(places):
        found, p = family[pair][name], adjusted.get((0, i))
        result[pair][name] = found.model_copy(update={"p_adjusted": p, "better": _better(found, p)})
    return result


def _better(found: MetricDifference, p_adjusted: float | None) -> str | None:
    if p_adjusted is None or p_adjusted >= ALPHA or math.isclose(found.difference, 0.0, abs_tol=1e-12):
        return None
    return "a" if (found.difference > 0) != found.lower_is_better else "b"


def _pair(a: Side, b: Side, measured: _Measured, limit: int) -> PairComparison:
    named = [side.criterion for side in (a, b) if side.criterion in {**measured.metrics, **measured.slices}]
    criterion = named[0] if named else next(iter(measured.metrics))
    found = disagreements(a, b, list(measured.metrics), criterion, limit)
    everything = {**measured.metrics, **measured.slices}
    return PairComparison(
        a=a.name,
        b=b.name,
        criterion=criterion,
        answer=_answer(a.name, b.name, criterion, everything[criterion]),
        metrics=measured.metrics,
        slices=measured.slices,
        config_diff=config_diff(a, b),
        disagreements=found.shown,
        num_disagreements=found.total,
        findings=findings_diff(a, b),
        notes=measured.notes,
    )


def _answer(a: str, b: str, criterion: str, found: MetricDifference) -> str:
    """Whether one is better by the criterion, with its uncertainty."""
    if found.low is None or found.high is None:
        return f"Too few examples to tell {a} and {b} apart in {criterion}: {found.n} shared, {MIN_PAIRS} independent ones needed."
    numbers = f"{found.difference:+.3f} [{found.low:+.3f}, {found.high:+.3f}], adjusted p {shown_p(found.p_adjusted)}, n = {found.n}"
    if found.better is None:
        return f"{a} and {b} can't be told apart in {criterion} (difference {numbers})."
    winner, loser = (a, b) if found.better == "a" else (b, a)
    return f"{winner} is better than {loser} in {criterion} ({a} - {b}: {numbers})."


def shown_p(p: float | None) -> str:
    """`0.012`, `<.001`, or nothing where there is none."""
    return "" if p is None else "<.001" if p < 0.001 else f"{p:.3f}"
