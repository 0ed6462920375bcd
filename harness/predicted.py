"""Experiments whose rows are other systems' predictions alone: scored in this process, for there is no model to ask."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from harness.asked import asked_suites
from harness.config import DataConfig, ExperimentConfig, ModelConfig, RunConfig, TemplateConfig
from harness.data.sources import fingerprint
from harness.delivery import conclude
from harness.diagnose.advice import as_untrained
from harness.diagnose.cell import output_findings
from harness.diagnose.evidence import Evidence
from harness.errors import ConfigError, DataError, EvalError
from harness.eval_config import EvalConfig, ReferenceConfig, SourceConfig
from harness.evaluate import evaluate
from harness.grid import Cell, CellSpec
from harness.predictions import PredictedAnswers, load_predictions
from harness.records import CellResult, Example, Finding, Generation, SuiteResult
from harness.resources import digest
from harness.store import CellFolder, once, read_lines, write_lines, write_record
from harness.suite import load_suite, suite_examples
from harness.tracking.base import Tracker
from harness.tracking.mlflow_tracker import open_tracker
from harness.yaml_text import Location

EXAMPLE_ENTRY = "`- {suite: held_out, data: test.jsonl}`"


def predicted_rows(config: ExperimentConfig, where: Callable[[Location], str]) -> tuple[Cell, ...]:
    """A row for every file of predictions.

    Args:
        config: an experiment without a model.
        where: names the file and line of a key, for complaints.

    Raises: ConfigError: a file is missing, or what the predictions answer isn't said.
    """
    if "evals" not in config.model_fields_set:
        raise ConfigError(f"{where(())}: evals is missing; say what the predictions answer, such as {EXAMPLE_ENTRY}")
    for index, options in enumerate(config.evals):
        _check_examples(options, where(("evals", index)))
    return tuple(_row(item, where(("references", index))) for index, item in enumerate(config.references))


def _check_examples(options: EvalConfig, place: str) -> None:
    if options.lm_eval:
        raise ConfigError(f"{place}: {options.label} asks a model, and this experiment has none; delete the entry")
    if options.data is not None:
        return
    try:
        suite_examples(load_suite(options.suite), options, ())
    except EvalError as error:
        raise ConfigError(
            f"{place}: {options.label} needs `data`, for there is no test split; write it as {EXAMPLE_ENTRY}"
        ) from error


def _row(reference: ReferenceConfig, place: str) -> Cell:
    source = SourceConfig(path=reference.predictions or "")
    try:
        content = fingerprint(source)
    except DataError as error:
        raise ConfigError(f"{place}: {error}") from error
    # Where the file lies must not matter.
    row_id = digest(["predictions", reference.model_dump(exclude={"predictions"}), content])
    # The system that answered, and what is known of it.
    config = RunConfig(
        model=ModelConfig(name=reference.name), template=TemplateConfig(name="none"),
        data=DataConfig(train=(source,)),
    )  # fmt: skip
    return Cell(
        id=row_id, name=reference.name, group=row_id, overrides={}, seed=None, config=config, reference=reference
    )


class Answered(NamedTuple):
    """How much of what was asked predictions answer."""

    predictions: str
    """Their file."""
    suite: str
    examples: int
    missing: int
    """Examples without a prediction."""


def check_rows(rows: Sequence[Cell], evals: Sequence[EvalConfig]) -> list[Answered]:
    """What every row answers.

    Raises: HarnessError: predictions can't be read, or answer none of the examples.
    """
    found = []
    for row in rows:
        assert row.reference is not None, "the experiment has nothing else"
        asked = asked_suites(row, evals, ())[0]
        answers = _answers(row).answers_to(asked.examples)
        missing = sum(not answer.is_answered for answer in answers)
        found.append(Answered(row.reference.predictions or "", asked.options.label, len(answers), missing))
    return found


def _answers(row: Cell) -> PredictedAnswers:
    assert row.reference is not None and row.reference.predictions is not None, "the experiment has nothing else"
    return PredictedAnswers(load_predictions(Path(row.reference.predictions)))


def score_row(row: Cell, evals: Sequence[EvalConfig], folder: CellFolder, tracker: Tracker) -> CellResult:
    """What the predictions of a row are worth, kept in its folder.

    Raises: HarnessError: they can't be read or scored.
    """
    suites = []
    for asked in asked_suites(row, evals, ()):
        assert asked.suite is not None, "benchmarks are refused before"
        path = folder.suite_result(asked.options.label, asked.digest)
        make = partial(evaluate, asked.suite, asked.options, asked.examples, _answers(row), folder)
        result = once(path, SuiteResult, make)
        keep_asked(folder, result, asked.examples)
        tracker.log_suite(result, _generations(folder, result))
        suites.append(result)
    return CellResult(
        cell=row.id, name=row.name, group=row.group, seed=None, reference="predictions", overrides={}, status="finished",
        mlflow_run_id=tracker.run_id, suites=tuple(suites),
    )  # fmt: skip


def score_and_log(spec: CellSpec, folder: CellFolder) -> None:
    """Scores a row as one MLflow run, and writes its result.

    Raises: HarnessError: its predictions can't be read or scored.
    """
    tracker = open_tracker(spec, folder)
    try:
        result = score_row(spec.cell, spec.evals, folder, tracker)
    except BaseException as error:
        tracker.close("FAILED" if isinstance(error, Exception) else "KILLED")
        raise
    conclude(tracker, folder, result)
    tracker.close("FINISHED")
    write_record(folder.result, result)


def keep_asked(folder: CellFolder, result: SuiteResult, examples: Sequence[Example]) -> None:
    """Writes down what was asked, once for all rows of an experiment."""
    questions = folder.asked(result.suite, result.digest)
    if not questions.exists():
        write_lines(questions, examples)


def _generations(folder: CellFolder, result: SuiteResult) -> list[Generation]:
    return list(read_lines(folder.generations(result.suite, result.digest), Generation))


def answers_findings(name: str, folder: CellFolder, results: Sequence[SuiteResult]) -> tuple[Finding, ...]:
    """What answers alone tell of a row, from its records."""
    generations, examples = {}, {}
    for suite in results:
        generations[suite.suite] = [given for given in _generations(folder, suite) if given.is_answered]
        examples[suite.suite] = list(read_lines(folder.asked(suite.suite, suite.digest), Example))
    suites = {suite.suite: suite for suite in results}
    evidence = Evidence(
        loss=(), grad_norm=(), eval_loss=(), name=name, suites=suites, generations=generations, examples=examples
    )
    return as_untrained(output_findings(evidence))


def missing_answers(rows: Sequence[CellResult], criterion: str) -> Iterator[str]:
    """Says of every row that lacks predictions how many."""
    suite = criterion.partition(".")[0]
    for row in rows:
        for result in row.suites:
            lacking = Counter(score.metric for score in result.scores if score.failure == "not_asked")
            if result.suite == suite and lacking:
                yield f"{row.name} has no prediction for {max(lacking.values())} of {len(result.clusters)} examples."
