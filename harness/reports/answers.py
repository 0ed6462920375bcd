"""Generations beside each other: a bounded choice of examples with everybody's answer and score."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup
from pydantic import ValidationError

from harness.forked import MANY, each
from harness.gates import per_example, sign_of
from harness.records import CellResult, Example, Generation, SuiteResult
from harness.reports.visible import cut, cut_front, visible
from harness.score_columns import failures_of
from harness.store import ExperimentFolder, read_lines

MAX_EXAMPLES = 40
"""Of one suite."""
STARTS = b'{"example_id":"'
"""Of a line as it is written."""
MAX_PROMPT = 1500
MAX_TEXT = 1500
TEXT_SHARE = 60_000
"""Characters that the answers to one example may take together."""
BASE_BUDGET, BUDGET_A_RUN, MAX_BUDGET = 600_000, 15_000, 2_500_000
"""Characters of all examples together."""


class Answer(NamedTuple):
    """One answer, and who gave it."""

    text: str
    score: float | None
    ended: str
    """Why it stopped, and how it failed."""
    runs: list[int]
    """Positions in `Browser.runs`."""


class Asked(NamedTuple):
    """One example with all answers, the best first."""

    id: str
    prompt: str
    reference: str
    slices: list[str]
    spread: float
    """Variance of the scores: 0 where all agree."""
    answers: list[Answer]


class SuiteAnswers(NamedTuple):
    """What is shown of one suite."""

    name: str
    metric: str
    """That decides what is right and where runs disagree."""
    is_graded: bool
    """Whether a score of 1 is right."""
    num_examples: int
    """Of the suite, most of which may not be shown."""
    examples: list[Asked]


class Browser(NamedTuple):
    """Everything that can be looked through."""

    runs: list[str]
    suites: list[SuiteAnswers]


class _Question(NamedTuple):
    reference: str
    slices: list[str]


def browse(folder: ExperimentFolder, results: Sequence[CellResult], metrics: Sequence[str]) -> Browser:
    """Of every suite the examples that divide the runs most, and those that single runs fail.

    Args:
        folder: where generations and questions are.
        results: cells and references that finished.
        metrics: preferred ones, as `suite.metric`; for other suites the first metric decides.
    """
    runs = [result for result in results if result.suites]
    suites: dict[str, SuiteResult] = {}
    for result in runs:
        for suite in result.suites:
            suites.setdefault(suite.suite, suite)
    budget = min(BASE_BUDGET + BUDGET_A_RUN * len(runs), MAX_BUDGET) // max(len(suites), 1)
    wanted = [_metric_of(suite, metrics) for suite in suites.values()]
    # The suite that decides comes first.
    order = sorted(
        wanted, key=lambda metric: (metric not in metrics, metrics.index(metric) if metric in metrics else 0)
    )
    deciding = [metric for metric in order if metric]
    found = each(
        lambda place: _suite_answers(folder, runs, deciding[place], budget),
        len(deciding),
        worth_it=2 if len(runs) >= MANY else len(deciding) + 1,
    )
    return Browser([result.name for result in runs], [suite for suite in found if suite.examples])


def _metric_of(suite: SuiteResult, preferred: Sequence[str]) -> str:
    own = {f"{suite.suite}.{name}" for name in (*suite.metrics, *suite.slice_metrics)}
    chosen = next((metric for metric in preferred if metric in own), "")
    return chosen or next((f"{suite.suite}.{name}" for name in suite.metrics), "")


def _suite_answers(
    folder: ExperimentFolder, runs: Sequence[CellResult], metric: str, budget: int
) -> SuiteAnswers:  # fmt: skip
    name = metric.partition(".")[0]
    scores = [per_example(run, metric) for run in runs]
    sign = sign_of(metric)
    chosen = chosen_examples(scores, sign, MAX_EXAMPLES)
    given: dict[str, dict[int, Generation]] = {example: {} for example in chosen}
    questions: dict[str, _Question] = {}
    failures: list[dict[str, str]] = []
    for position, run in enumerate(runs):
        suite = next((suite for suite in run.suites if suite.suite == name), None)
        failures.append(_failures(suite, given) if suite else {})
        if suite is None:
            continue
        for line in _answers_to(folder.holding(run).generations(suite.suite, suite.digest), given):
            if line.sample == 0:
                given[line.example_id][position] = line
        if not questions:
            questions = _questions(folder, run, suite, given)
    limit = max(100, min(MAX_TEXT, TEXT_SHARE // max(len(runs), 1)))
    examples: list[Asked] = []
    spent = 0
    for example in chosen:
        if not given[example]:
            continue
        each = [values.get(example) for values in scores]
        asked = _asked(example, given[example], questions.get(example), each, failures, limit=limit, sign=sign)
        spent += len(asked.prompt) + len(asked.reference) + sum(len(answer.text) + 60 for answer in asked.answers)
        if examples and spent > budget:
            break
        examples.append(asked)
    total = len({example for values in scores for example in values})
    return SuiteAnswers(name, metric, sign > 0 and _is_graded(scores), total, examples)


def _answers_to(path: Path, wanted: Mapping[str, object]) -> Iterator[Generation]:
    """The generations of some examples; of a thousand runs it takes long to check all that nobody will see."""
    if not path.exists():
        return
    names = {name.encode("utf-8", "surrogatepass") for name in wanted}
    for line in filter(None, path.read_bytes().split(b"\n")):
        if line.startswith(STARTS):
            name = line[len(STARTS) : line.find(b'"', len(STARTS))]
            # One with a backslash may be cut short.
            if name not in names and b"\\" not in name:
                continue
        try:
            found = Generation.model_validate_json(line)
        except ValidationError:  # the last line of a process that was killed, or a file that says no more
            yield from (line for line in read_lines(path, Generation) if line.example_id in wanted)
            return
        if found.example_id in wanted:
            yield found


def _is_graded(scores: Iterable[Mapping[str, float]]) -> bool:
    """Whether scores lie between 0 (wrong) and 1 (right)."""
    return all(0 <= value <= 1 for values in scores for value in values.values())


def chosen_examples(scores: Sequence[Mapping[str, float]], sign: float, limit: int) -> list[str]:
    """The examples that divide the runs most, then in turns the worst of every run.

    Args:
        scores: example id -> score, of each run.
        sign: -1 where less is better.
        limit: how many.
    """
    shared = sorted({example for values in scores for example in values})
    spread = {example: _spread([values[example] for values in scores if example in values]) for example in shared}
    divided = sorted((example for example in shared if spread[example] > 0), key=lambda example: -spread[example])
    kept = dict.fromkeys(divided[: limit - limit // 3])
    worst = [sorted(values, key=lambda example: (sign * values[example], example)) for values in scores]
    for turn in range(max((len(examples) for examples in worst), default=0)):
        for examples in worst:
            if len(kept) >= limit:
                return list(kept)
            if turn < len(examples):
                kept[examples[turn]] = None
    return list(kept)


def _spread(values: Sequence[float]) -> float:
    mean = sum(values) / len(values)
    return sum((value - mean) ** 2 for value in values) / len(values)


def _failures(suite: SuiteResult, wanted: Mapping[str, object]) -> dict[str, str]:
    """Example id -> kinds of failure, of all metrics of the suite."""
    kinds: dict[str, dict[str, None]] = {}
    for example, failure in failures_of(suite):
        if example in wanted:
            kinds.setdefault(example, {})[failure] = None
    return {example: ", ".join(found) for example, found in kinds.items()}


def _questions(
    folder: ExperimentFolder, run: CellResult, suite: SuiteResult, wanted: Mapping[str, object]
) -> dict[str, _Question]:
    """What was asked, where the questions are kept; predictions and benchmarks keep none."""
    lines = read_lines(folder.holding(run).asked(suite.suite, suite.digest), Example)
    return {line.id: _Question(line.reference, list(line.slices)) for line in lines if line.id in wanted}


def _asked(
    example: str, given: Mapping[int, Generation], question: _Question | None, scores: Sequence[float | None],
    failures: Sequence[Mapping[str, str]], *, limit: int, sign: float,
) -> Asked:  # fmt: skip
    """An example; runs that answer the same and score the same share one entry."""
    grouped: dict[tuple[str, float | None, str], list[int]] = {}
    for position, generation in given.items():
        ended = "; ".join(filter(None, (generation.stop_reason.replace("_", " "), failures[position].get(example, ""))))
        grouped.setdefault((visible(generation.text), scores[position], visible(ended)), []).append(position)
    answers = [Answer(cut(text, limit), score, ended, runs) for (text, score, ended), runs in grouped.items()]
    answers.sort(key=lambda answer: (answer.score is None, -sign * (answer.score or 0.0), -len(answer.runs)))
    prompt = cut_front(visible(next(iter(given.values())).prompt), MAX_PROMPT)
    return Asked(
        visible(example), prompt, cut(visible(question.reference), MAX_TEXT) if question else "",
        [visible(name) for name in question.slices] if question else [],
        _spread([score for score in scores if score is not None] or [0.0]), answers,
    )  # fmt: skip


def as_island(browser: Browser) -> Markup:
    """The data as JSON for a script element, which nothing in it can end."""
    content = {
        "runs": [visible(name) for name in browser.runs],
        "suites": [
            suite._asdict() | {"examples": [_example_json(example) for example in suite.examples]} for suite in browser.suites
        ],
    }  # fmt: skip
    return island(content)


def _example_json(example: Asked) -> dict[str, object]:
    return example._asdict() | {
        "spread": round(example.spread, 6),
        "answers": [list(answer) for answer in example.answers],
    }


def island(content: object) -> Markup:
    """JSON that stands in a script element: in ASCII, and without the character that could end it."""
    return Markup(json.dumps(content, separators=(",", ":")).replace("<", "\\u003c"))
