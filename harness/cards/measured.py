"""What is known of how good a model is, and what is not."""

from collections.abc import Iterator

import numpy as np

from harness.cards.subject import CardSubject, data_report, languages
from harness.crossed import compare_two
from harness.gates import clusters_of, per_example, shown, sign_of, signed
from harness.markdown import escaped, table
from harness.records import Estimate


def metrics(subject: CardSubject) -> Iterator[str]:
    """Every metric with its interval, beside the base's; then the place in the ranking."""
    measured = subject.result.metrics()
    if not measured:
        yield "Not evaluated."
        return
    seed = f"training seed {subject.result.seed}"
    yield f"Of the run with {seed}; 95 % intervals over examples{_beside_base(subject)}."
    yield ""
    theirs = subject.base.metrics() if subject.base else {}
    header = ("metric", "this model", "n", *(("base", "difference to base") if theirs else ()))
    yield from table(header, (_metric_row(subject, name, value, theirs) for name, value in measured.items()))
    unscored = {name: value.unscored for name, value in measured.items() if value.unscored}
    if unscored:
        counts = ", ".join(f"{escaped(name)} {count}" for name, count in unscored.items())
        yield from ("", f"Examples that couldn't be scored and count neither way: {counts}.")
    yield from ("", *place(subject))


def _beside_base(subject: CardSubject) -> str:
    return "; differences are paired over the same examples" if subject.base else ""


def _metric_row(subject: CardSubject, name: str, value: Estimate, theirs: dict[str, Estimate]) -> list[str]:
    row = [escaped(name) + (" (less is better)" if sign_of(name) < 0 else ""), shown(value), str(value.n)]
    if not theirs:
        return row
    difference = difference_to_base(subject, name)
    return [*row, shown(theirs[name]) if name in theirs else "", signed(difference) if difference else ""]


def difference_to_base(subject: CardSubject, name: str) -> Estimate | None:
    """This model less the base, over the examples that both answered; None where there are too few."""
    if subject.base is None:
        return None
    digests = [{suite.suite: suite.digest for suite in r.suites} for r in (subject.result, subject.base)]
    suite = name.partition(".")[0]
    if digests[0].get(suite) != digests[1].get(suite):
        return None
    ours, theirs = per_example(subject.result, name), per_example(subject.base, name)
    shared, clusters = sorted(ours.keys() & theirs.keys()), clusters_of(subject.result, name)
    if not shared:
        return None
    new, old = (np.array([[run[item] for item in shared]]) for run in (ours, theirs))
    found = compare_two(new, old, [clusters.get(item, item) for item in shared], has_seeds=(True, False))
    return Estimate(value=found.mean, low=found.low, high=found.high, n=len(shared)) if found else None


def place(subject: CardSubject) -> Iterator[str]:
    """Where the ranking puts the configuration, and how sure that is."""
    ranking, row = subject.ranking, subject.row
    if ranking is None:
        yield "Not ranked yet."
        return
    if row is None:
        reasons = [entry.reason for entry in ranking.excluded if entry.cell == subject.result.cell]
        yield f"Not ranked: {escaped(reasons[0]) if reasons else 'it is not part of the last ranking'}."
        return
    low, high = row.rank_interval
    tied = "no other is surely better" if row.in_best_set else "others are surely better"
    others = f" ({len(ranking.excluded)} more were not ranked)" if ranking.excluded else ""
    yield (
        f"Ranked {_interval(low, high)} of {len(ranking.rows)}{others} by {escaped(ranking.criterion)} on {ranking.num_examples} "
        f"examples and {_seeds(row.seed_count)}: {tied}."
    )
    if row.seed_count > 1 and ranking.criterion in row.metrics:
        yield f"Mean of the configuration over its seeds: {shown(row.metrics[ranking.criterion])}."
    if row.difference_to_best is not None:
        yield f"Difference to the best: {signed(row.difference_to_best)}."
    if row.confirmed is not None:
        yield f"Confirmed on {row.confirmed.n} examples that took no part in choosing: {shown(row.confirmed)}."


def _interval(low: int, high: int) -> str:
    return str(low) if low == high else f"between {low} and {high}"


def _seeds(count: int) -> str:
    return "one training seed" if count == 1 else f"{count} training seeds"


def limits(subject: CardSubject) -> Iterator[str]:
    """The warning signs that fired, what couldn't be judged, and what was not measured at all."""
    fired = [finding for finding in subject.findings if finding.is_warning]
    for finding in fired:
        advice = f" What to do: {escaped(finding.advice)}" if finding.advice else ""
        yield f"- **{finding.check}** ({finding.severity}): {escaped(finding.message)}{advice}"
    if not fired:
        yield "- No warning sign was found by the checks that ran; that is no proof that there is none."
    if unsure := [finding.check for finding in subject.findings if finding.outcome == "insufficient"]:
        yield f"- Not enough evidence to judge: {escaped(', '.join(unsure))}."
    yield from (f"- {escaped(suite)} was not measured: {escaped(why)}" for suite, why in subject.result.suite_errors.items())  # fmt: skip
    yield from (f"- {sentence}" for sentence in _always(subject))


def _always(subject: CardSubject) -> Iterator[str]:
    suites = subject.result.suites
    asked = ", ".join(f"{escaped(suite.suite)} ({len(suite.clusters)} examples)" for suite in suites) or "nothing"
    yield (
        f"Measured on {asked} alone, {_decoding(subject)}. Safety, bias, and truth outside of these examples were not measured."
    )
    if not any(suite.is_kind("retention") for suite in suites):
        yield "Whether it forgot what the base knew was not measured."
    spoken = languages(data_report(subject))
    if spoken:
        yield f"Trained on rows in {', '.join(spoken)}; what it does in other languages was not measured."
    if subject.config.max_length is not None:
        yield f"Trained on rows of at most {subject.config.max_length:,} tokens; longer conversations were not measured."
    if subject.row is None or subject.row.seed_count == 1:
        yield "One training seed: how much another seed would change the numbers is unknown."
    if subject.ranking and subject.row and subject.row.confirmed is None and len(subject.ranking.rows) > 1:
        yield "Chosen among several on the examples that it is measured on, so the numbers are somewhat optimistic."
    yield "No license is stated here: those of the base model and of the data apply."


def _decoding(subject: CardSubject) -> str:
    measured = {suite.suite for suite in subject.result.suites}
    options = [item for item in subject.spec.evals if item.label in measured]
    ways = sorted({f"temperature {item.temperature:g}" for item in options if item.temperature})
    longest = max((item.max_new_tokens for item in options), default=0)
    return f"with {' or '.join(ways) or 'greedy decoding'} and at most {longest} new tokens"
