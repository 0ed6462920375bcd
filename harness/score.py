"""Scores another system's predictions with the ruler of a suite."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from harness.data.splits import load_splits
from harness.errors import ConfigError
from harness.eval_config import NAME, EvalConfig, SourceConfig
from harness.evaluate import evaluate
from harness.plan import Plan, plan_experiment
from harness.predicted import answers_findings, keep_asked
from harness.predictions import PredictedAnswers, load_predictions
from harness.records import CellResult, Example, Finding, SuiteResult
from harness.resources import digest
from harness.store import CellFolder, read_record, write_record
from harness.suite import Suite, load_suite, suite_examples


class Scored(NamedTuple):
    """What predictions are worth."""

    name: str
    result: SuiteResult
    findings: tuple[Finding, ...]


class Ruler(NamedTuple):
    """What predictions are held against, where the experiment doesn't say it."""

    suite: str = "held_out"
    """Asks its own examples; of an experiment, the name of one of its `evals`."""
    data: str | None = None
    """Examples to compare with instead, lines of `{"id", "prompt", "reference"}`."""
    scorers: tuple[str, ...] = ()
    """Which; by default the suite's."""
    allow_code_execution: bool = False
    """Whether the predictions may be run as code."""


def score_predictions(
    predictions: Path, ruler: Ruler, *, name: str | None = None, experiment: str | None = None
) -> Scored:
    """Scores predictions; with an experiment they become one of its references.

    Args:
        predictions: lines of `{"id", "prediction"}`.
        ruler: what they are held against.
        name: of the row; by default the file's name.
        experiment: whose examples and scorers count, and whose tables the row joins.

    Raises: HarnessError: there is nothing to compare with, or ids don't match.
    """
    row = name or predictions.stem
    if not NAME.fullmatch(row):
        raise ConfigError(f"--name: {row!r} can't be used; use letters, digits, '.', '_' and '-' only, 100 at most")
    made = plan_experiment(experiment) if experiment else None
    if made is not None and row in {cell.name for cell in made.everything()}:
        raise ConfigError(f"--name: {row!r} is a row of {made.config.name} already; choose another name")
    options, examples, chosen = _asked(ruler, made)
    answered = PredictedAnswers(load_predictions(predictions))
    if made is None:
        with tempfile.TemporaryDirectory() as scratch:
            return _scored(row, chosen, options, examples, answered, CellFolder(Path(scratch)))
    folder = made.folder.imported(row)
    scored = _scored(row, chosen, options, examples, answered, folder)
    # A row may answer several suites, scored one after the other.
    before = read_record(folder.result, CellResult).suites if folder.result.exists() else ()
    suites = (*(suite for suite in before if suite.suite != scored.result.suite), scored.result)
    key = digest([row, *(suite.digest for suite in suites), predictions.name])
    write_record(
        folder.result,
        CellResult(
            cell=key, name=row, group=key, seed=None, reference="predictions", overrides={}, status="finished", suites=suites
        ),
    )  # fmt: skip
    return scored


def _asked(ruler: Ruler, made: Plan | None) -> tuple[EvalConfig, list[Example], Suite]:
    """The options, examples and suite that predictions are held against."""
    options = _of_experiment(ruler, made) if made else of_data(ruler)
    suite = load_suite(options.suite)
    test = [row.example() for row in load_splits(made.cells[0].config.data).test] if made and made.cells else []
    return options, suite_examples(suite, options, test), suite


def of_data(ruler: Ruler) -> EvalConfig:
    """The options of a ruler that brings its own examples.

    Raises: ConfigError: it brings none.
    """
    if ruler.data is None:
        raise ConfigError(
            f"{ruler.suite}: say what the predictions answer, with --data FILE or --experiment EXPERIMENT"
        )
    options = EvalConfig(
        suite=ruler.suite, data=SourceConfig(path=ruler.data), allow_code_execution=ruler.allow_code_execution
    )
    return options.model_copy(update={"scorers": ruler.scorers}) if ruler.scorers else options


def _of_experiment(ruler: Ruler, made: Plan) -> EvalConfig:
    """The entry of `evals` that predictions answer: a row is compared with cells only by the same ruler."""
    if ruler.data is not None or ruler.scorers or ruler.allow_code_execution:
        raise ConfigError(
            "with --experiment the examples and scorers are the experiment's own; use --suite to name one of its evals, "
            "and leave --data, --scorers and --allow-code-execution out"
        )
    return entry_of(made.config.evals, ruler.suite, "the experiment's evals")


def entry_of(evals: Sequence[EvalConfig], suite: str, whose: str) -> EvalConfig:
    """The entry of this name among those that predictions can answer.

    Raises: ConfigError: there is none; `whose` says where it was looked for.
    """
    entries = {entry.label: entry for entry in evals if not entry.lm_eval}
    if suite not in entries:
        raise ConfigError(f"--suite: {suite!r} is none of {whose}; choose one of {', '.join(entries) or '(none)'}")
    return entries[suite]


def _scored(
    name: str, suite: Suite, options: EvalConfig, examples: list[Example], answered: PredictedAnswers, folder: CellFolder
) -> Scored:  # fmt: skip
    result = evaluate(suite, options, examples, answered, folder)
    # What only the model itself could tell was never measured.
    measured = tuple(score for score in result.scores if score.metric in result.metrics)
    if not measured:
        names = ", ".join(dict.fromkeys(score.metric for score in result.scores))
        raise ConfigError(f"--scorers: answers alone can't tell {names}; choose others, `harness suites` lists them")
    result = result.model_copy(update={"scores": measured})
    keep_asked(folder, result, examples)
    return Scored(name, result, answers_findings(name, folder, (result,)))
