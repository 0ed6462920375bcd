"""Whether answers keep to the form that was asked for, everywhere alike, and what keeps them from it."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from harness.data.quality import looks_truncated
from harness.diagnose.answers import ID, MIN_ANSWERS, answers_of, reference_of, short
from harness.diagnose.evidence import CONVENTION, Evidence, Measure, finding
from harness.diagnose.format_cause import cause_of
from harness.diagnose.wordings import wording_spread
from harness.records import Estimate, Finding, Generation, SuiteResult
from harness.score_columns import scored
from harness.scoring.endings import never_stops
from harness.stats import estimate, holm

ADHERENCE_FLOOR = 0.95
SPREAD = 0.05
LEVEL = 0.01
"""Of all kinds of prompts together. At 5 % every twentieth even model would be called uneven."""
MIN_SLICE = 20
SHOWN = 10
METRIC = "all"
NAME = "format_inconsistency"
LIMIT = "max_new_tokens"
"""The limit ended an answer that had to be longer: no fault of the model's, so it counts for nothing."""


class Verdict(NamedTuple):
    """Whether one answer keeps to its form."""

    id: str
    value: float
    failure: str
    slices: tuple[str, ...]
    text: str


class _Slice(NamedTuple):
    """A kind of prompts that is surely worse than the others."""

    name: str
    inside: float
    outside: float
    n: int
    p_value: float

    @property
    def sentence(self) -> str:
        """The numbers."""
        return f"{self.inside:.1%} of {self.n}, others {self.outside:.1%}"


def format_inconsistency(evidence: Evidence) -> Finding:
    """Answers surely below the floor of adherence, or far apart between kinds of prompts or wordings; with the cause."""
    found = _form(evidence)
    return found if found.outcome == "fired" else _uneven_wording(evidence) or found


def _uneven_wording(evidence: Evidence) -> Finding | None:
    """Fires where the same questions are surely answered worse in one wording than in another."""
    for suite in evidence.suites.values():
        spread = wording_spread(suite) if "same_answer" in suite.metrics else None
        if spread is not None and spread.difference > SPREAD and spread.p_value < LEVEL:
            return finding(
                NAME, "fired", f"The wording decides: {spread.n} questions of {suite.suite} are answered right more often as "
                f"{spread.best} than as {spread.worst}, by {spread.difference:.1%} [{spread.low:.1%}, {spread.high:.1%}].", "warning",
                advice="Train on several wordings and formats of the same questions, or fewer epochs. What else it could be: a wording that "
                "says less than the others.",
                evidence=[f"slice: {spread.worst}"], measure=Measure(spread.difference, SPREAD, f"paired, Holm over wordings; {CONVENTION}"),
            )  # fmt: skip
    return None


def _form(evidence: Evidence) -> Finding:
    """Of template adherence, or of how the answers end where no suite looked at their form."""
    suite = next((s for s in evidence.suites.values() if _is_adherence(s)), None)
    found = _of_suite(suite, evidence) if suite is not None else _of_texts(evidence)
    verdicts = [verdict for verdict in found if verdict.failure != LIMIT]
    if not verdicts or (suite is None and len(verdicts) < MIN_ANSWERS):
        return _too_few(suite, len(found) - len(verdicts))
    adherence = estimate([verdict.value for verdict in verdicts])
    numbers = _numbers(adherence, suite)
    if len(found) > len(verdicts):
        numbers += f"; {len(found) - len(verdicts)} more were cut before their reference would have ended"
    measure = Measure(adherence.value, ADHERENCE_FLOOR, CONVENTION)
    worst = _worst_slice(verdicts)
    if adherence.high < ADHERENCE_FLOOR:
        failures = _failures(verdicts)
        kind = f", most of all prompts of kind {worst.name} ({worst.sentence})" if worst else ""
        return finding(
            NAME, "fired", f"{numbers}: {_counts(failures)}{kind}.", "error", advice=cause_of(failures, evidence),
            evidence=_shown(verdicts), measure=measure,
        )  # fmt: skip
    if worst is not None:
        failures = _failures([verdict for verdict in verdicts if worst.name in verdict.slices])
        source = f"Fisher's exact test, Holm over kinds of prompts: p {worst.p_value:.2g}; {CONVENTION}"
        return finding(
            NAME, "fired", f"{numbers}, but for prompts of kind {worst.name} only {worst.sentence}: {_counts(failures)}.", "warning",
            advice=cause_of(failures, evidence), evidence=[f"slice: {worst.name}", *_shown(verdicts)],
            measure=Measure(worst.outside - worst.inside, SPREAD, source),
        )  # fmt: skip
    if adherence.low >= ADHERENCE_FLOOR:
        return finding(NAME, "clear", f"{numbers}.", measure=measure)
    return finding(
        NAME, "insufficient", f"{numbers}: too few to tell whether it is above {ADHERENCE_FLOOR:.0%}.", measure=measure
    )


def _failures(verdicts: Sequence[Verdict]) -> Counter[str]:
    return Counter(verdict.failure for verdict in verdicts if verdict.failure)


def _counts(failures: Counter[str]) -> str:
    return ", ".join(f"{failure} {count}" for failure, count in failures.most_common(3))


def _shown(verdicts: Sequence[Verdict]) -> list[str]:
    counts = [f"failure: {failure}: {count} of {len(verdicts)}" for failure, count in _failures(verdicts).most_common()]
    return counts + [f"{short(v.id, ID)}: {v.failure}: {short(v.text)}" for v in verdicts if v.failure][:SHOWN]


def _is_adherence(suite: SuiteResult) -> bool:
    return METRIC in suite.metrics and (suite.is_kind("template_adherence") or "end_of_turn" in suite.metrics)


def _numbers(adherence: Estimate, suite: SuiteResult | None) -> str:
    what = "keep to the template" if suite is not None else "end by themselves"
    return f"{adherence.value:.1%} [{adherence.low:.1%}, {adherence.high:.1%}] of {adherence.n} generations {what}"


def _too_few(suite: SuiteResult | None, too_short: int) -> Finding:
    if too_short:
        return finding(
            NAME, "insufficient", f"{too_short} answers were cut before their reference would have ended: raise the suite's "
            "max_new_tokens."
        )  # fmt: skip
    if suite is not None:
        return finding(NAME, "insufficient", f"The suite {suite.suite} could score no answer.")
    return finding(NAME, "insufficient", "The suite template_adherence was not run.")


def _of_suite(suite: SuiteResult, evidence: Evidence) -> list[Verdict]:
    """What the suite's scorers said."""
    generations = {generation.example_id: generation for generation in evidence.generations.get(suite.suite, ())}
    references = {example.id: reference_of(example) for example in evidence.examples.get(suite.suite, ())}
    verdicts = []
    for score in scored(suite, METRIC):
        if score.value is None:
            continue
        generation = generations.get(score.example_id)
        failure = score.failure or ("" if score.value == 1 else "unknown")
        if (
            failure == "runs_on"
            and generation is not None
            and _is_cut_early(generation, references.get(score.example_id))
        ):
            failure = LIMIT
        text = generation.text if generation is not None else ""
        slices = tuple(suite.slices.get(score.example_id, ()))
        verdicts.append(Verdict(score.example_id, score.value, failure if score.value < 1 else "", slices, text))
    return verdicts


def _of_texts(evidence: Evidence) -> list[Verdict]:
    """What the answers themselves show of how they ended, where no suite looked at their form."""
    verdicts = []
    for answer in answers_of(evidence):
        failure = _end_failure(answer.generation, answer.prompt)
        if failure and _is_cut_early(answer.generation, answer.reference):
            failure = LIMIT
        verdicts.append(Verdict(answer.id, float(not failure), failure, (), answer.text))
    return verdicts


def _end_failure(generation: Generation, prompt: str) -> str:
    if generation.stop_reason != "unknown":
        return "runs_on" if generation.stop_reason == "length" else ""
    return "runs_on" if never_stops(generation.text, prompt) or looks_truncated(generation.text) else ""


def _is_cut_early(generation: Generation, reference: str | None) -> bool:
    """Whether the limit of new tokens ended an answer that is no longer than its reference: no fault of the model's."""
    if generation.stop_reason != "length" or not reference:
        return False
    return len(generation.text.strip()) <= len(reference.strip())


def _worst_slice(verdicts: Sequence[Verdict]) -> _Slice | None:
    """The kind of prompts with the largest gap to the others, of those surely worse (Fisher's exact test, Holm)."""
    tested: list[_Slice] = []
    for name in sorted({name for verdict in verdicts for name in verdict.slices}):
        inside = [verdict.value == 1 for verdict in verdicts if name in verdict.slices]
        outside = [verdict.value == 1 for verdict in verdicts if name not in verdict.slices]
        if min(len(inside), len(outside)) < MIN_SLICE:
            continue
        table = [[sum(inside), len(inside) - sum(inside)], [sum(outside), len(outside) - sum(outside)]]
        p_value = float(stats.fisher_exact(np.array(table), alternative="less").pvalue)
        tested.append(_Slice(name, float(np.mean(inside)), float(np.mean(outside)), len(inside), p_value))
    adjusted = holm({(index, 0): slice_.p_value for index, slice_ in enumerate(tested)})
    sure = [
        slice_._replace(p_value=adjusted[index, 0])
        for index, slice_ in enumerate(tested)
        if adjusted[index, 0] < LEVEL and slice_.outside - slice_.inside > SPREAD
    ]
    return max(sure, key=lambda slice_: slice_.outside - slice_.inside, default=None)
