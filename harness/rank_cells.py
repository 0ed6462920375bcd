"""Orders configurations by one declared criterion and shows ties as ties. Reads records only."""

from collections import Counter
from collections.abc import Mapping, Sequence

from harness.comparability import differences, some
from harness.config import RankingConfig
from harness.configurations import Contest, confirms, make_contest
from harness.errors import ConfigError
from harness.gates import Candidate, Gate, clusters_of, gate_metric, parse_gate, per_example
from harness.library_fields import did_you_mean
from harness.ranking import Exclusion, Ranking, ReferenceRow
from harness.ranking_rows import Standing, make_rows, weighed
from harness.ranking_words import caveats, method
from harness.records import CellResult, Estimate, Finding
from harness.results import ending, untouched_bases
from harness.stats import estimate

MOST_SENTENCES = 6
"""Of one kind, or names in one: more are told together."""


def rank(
    experiment: str,
    config: RankingConfig,
    cells: Sequence[CellResult],
    references: Sequence[CellResult],
    findings: Mapping[str, Sequence[Finding]],
) -> Ranking:
    """The ranking of an experiment.

    Args:
        experiment: its name.
        config: criterion, gates, error level.
        cells: results of all cells, failed ones included, or of imported predictions.
        references: results of the references; gates compare a cell with the one that shares its base.
        findings: cell id -> findings.

    Raises: ConfigError: a gate can't be parsed, or no cell has the criterion.
    """
    bases = untouched_bases(references)
    eligible, excluded = _sieved(config, cells, bases, findings)
    _check_criterion(config.by, cells)
    contest = make_contest(eligible, config.by, config.confirm_share)
    standing = make_rows(contest, config, findings, bases) if eligible else Standing((), None, None, None, "")
    is_choice = standing.selection is not None and len(standing.rows) > 1
    return Ranking(
        experiment=experiment,
        criterion=config.by,
        gates=config.gates,
        rows=standing.rows,
        excluded=tuple(excluded),
        references=tuple(
            ReferenceRow(name=r.name, metrics=_metrics(r, config)) for r in references if r.status == "finished"
        ),
        secondary=tuple(name for name in weighed(standing.rows, config) if name != config.by) if standing.rows else (),
        num_examples=len(contest.items.ids),
        num_clusters=contest.items.num_clusters,
        num_confirm_examples=len(contest.confirm.ids),
        num_seeds=contest.num_seeds,
        minimum_detectable_difference=standing.detectable,
        optimism=standing.selection.optimism if standing.selection and is_choice else None,
        method=method(config, contest, standing),
        caveats=(
            *_asked_otherwise(eligible, bases, config.by),
            *caveats(config, contest, standing),
            *_survivors(contest, excluded, cells),
            *_unasked(cells, references),
        ),
        not_comparable=differences(cells),
    )


def _sieved(
    config: RankingConfig, cells: Sequence[CellResult], bases: Mapping[str, CellResult],
    findings: Mapping[str, Sequence[Finding]],
) -> tuple[list[CellResult], list[Exclusion]]:  # fmt: skip
    """Cells that pass all gates, and the others with their reasons."""
    gates = [parse_gate(text) for text in config.gates]
    eligible: list[CellResult] = []
    excluded: list[Exclusion] = []
    for cell in cells:
        found = tuple(findings.get(cell.cell, ()))
        reasons = _reasons(cell, found, bases.get(cell.base), gates, config.by)
        if not reasons:
            eligible.append(cell)
            continue
        excluded.append(
            Exclusion(
                cell=cell.cell,
                name=cell.name,
                reason="; ".join(reasons),
                is_finished=cell.status == "finished",
                mlflow_run_id=cell.mlflow_run_id,
                metrics=_metrics(cell, config),
                findings=found,
            )
        )
    return eligible, excluded


def _reasons(
    cell: CellResult, findings: Sequence[Finding], base: CellResult | None, gates: Sequence[Gate], criterion: str
) -> list[str]:
    if cell.status != "finished":
        return [ending(cell)]
    candidate = Candidate(cell, findings, base)
    reasons = [reason for gate in gates if (reason := gate(candidate))]
    if not per_example(cell, criterion):
        reasons.append(f"{criterion} was not measured")
    return reasons


def _metrics(result: CellResult, config: RankingConfig) -> dict[str, Estimate]:
    """The metrics of what is not ranked; the criterion on the same examples as that of the rows."""
    metrics = result.metrics_with(config.by)
    clusters = clusters_of(result, config.by)
    scores = {
        item: score
        for item, score in per_example(result, config.by).items()
        if not confirms(clusters.get(item, item), config.confirm_share)
    }
    if config.confirm_share and scores:
        names = [clusters.get(item, item) for item in scores]
        metrics[config.by] = estimate(list(scores.values()), metrics[config.by].unscored, names)
    return metrics


def _asked_otherwise(eligible: Sequence[CellResult], bases: Mapping[str, CellResult], criterion: str) -> list[str]:
    """A sentence where the criterion's suite isn't the same for all that are held against each other."""
    suite_name, names = criterion.partition(".")[0], dict[str, list[str]]()
    held = {result.cell: result for cell in eligible for result in (cell, bases.get(cell.base)) if result is not None}
    for result in held.values():
        for suite in result.suites:
            if suite.suite == suite_name:
                names.setdefault(suite.digest, []).append(result.name)
    if len(names) < 2:
        return []
    first, *others = sorted(names.values(), key=len, reverse=True)
    listed = [name for group in others for name in group]
    return [
        f"Not quite comparable: {suite_name} was asked of {some(listed, 5)} otherwise (other examples, options or version) than of "
        f"{first[0]}{' and others' if len(first) > 1 else ''}; `harness evaluate` asks trained cells anew."
    ]


def _survivors(contest: Contest, excluded: Sequence[Exclusion], cells: Sequence[CellResult]) -> list[str]:
    """A sentence for every configuration of which some seeds are ranked and others failed or were kept out by a gate."""
    groups = {cell.cell: cell.group for cell in cells if cell.seed is not None}
    lost = Counter(groups[entry.cell] for entry in excluded if entry.cell in groups)
    found = [c for c in contest.configurations if c.is_trained and lost[c.results[0].group]]
    if len(found) > MOST_SENTENCES:
        names = some([f"{c.name} ({len(c.results)} of {len(c.results) + lost[c.results[0].group]})" for c in found], 5)
        return [
            f"{len(found)} configurations are ranked on some of their seeds: {names}. Those that failed or did not pass the gates are "
            "left out, so their numbers are those of the survivors."
        ]
    return [
        f"{c.name} is ranked on {len(c.results)} of {len(c.results) + lost[c.results[0].group]} seeds: those that failed or did not "
        "pass the gates are left out, so its numbers are those of the survivors."
        for c in found
    ]


def _unasked(cells: Sequence[CellResult], references: Sequence[CellResult]) -> list[str]:
    """What couldn't be asked of whom, one sentence for all that share a reason."""
    names: dict[str, list[str]] = {}
    for result in (*cells, *references):
        for error in result.suite_errors.values():
            names.setdefault(f"could not be asked everything: {error}", []).append(result.name)
        if result.status != "finished" and result.reference is not None:
            names.setdefault(ending(result), []).append(result.name)
    return [f"{some(who, MOST_SENTENCES)} {why}" for why, who in names.items()]


def check_gates(gates: Sequence[str], results: Sequence[CellResult]) -> None:
    """Raises: ConfigError: a gate can't be parsed, or looks at something that was measured for nobody."""
    known = _measured(results)
    for text in gates:
        parse_gate(text)
        metric = gate_metric(text)
        if metric and metric not in known:
            raise ConfigError(f"--gate {text!r}: {metric} was measured for no cell{did_you_mean(metric, known)}")


def _measured(results: Sequence[CellResult]) -> list[str]:
    return sorted({name for result in results for name in (*result.metrics(), *result.slice_metrics())})


def _check_criterion(criterion: str, cells: Sequence[CellResult]) -> None:
    known = _measured(cells)
    if known and criterion not in known:
        raise ConfigError(
            f"ranking.by {criterion!r} was not measured; `harness evaluate` asks trained cells the suites of the file as it is "
            f"now{did_you_mean(criterion, known)}"
        )
