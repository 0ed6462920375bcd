"""Scores another system's predictions with the ruler of a suite."""

import tempfile
from pathlib import Path
from typing import NamedTuple

from harness.data.splits import load_splits
from harness.diagnose.cell import output_findings
from harness.diagnose.evidence import Evidence
from harness.errors import ConfigError
from harness.eval_config import NAME, EvalConfig, SourceConfig
from harness.evaluate import evaluate
from harness.plan import Plan, plan_experiment
from harness.predictions import PredictedAnswers, load_predictions
from harness.records import CellResult, Example, Finding, Generation, SuiteResult
from harness.resources import digest
from harness.store import CellFolder, read_lines, write_record
from harness.suite import Suite, load_suite, suite_examples


class Scored(NamedTuple):
    """What predictions are worth."""

    name: str
    result: SuiteResult
    findings: tuple[Finding, ...]


def score_predictions(
    predictions: Path,
    *,
    suite: str | None = None,
    data: str | None = None,
    scorers: tuple[str, ...] = (),
    name: str | None = None,
    experiment: str | None = None,
) -> Scored:
    """Scores predictions; with an experiment they become one of its references.

    Args:
        predictions: lines of `{"id", "prediction"}`.
        suite: asks its own examples; by default held_out.
        data: examples to compare with instead, lines of `{"id", "prompt", "reference"}`.
        scorers: which; by default the suite's.
        name: of the row; by default the file's name.
        experiment: whose test split is compared with, and whose tables the row joins.

    Raises: HarnessError: there is nothing to compare with, or ids don't match.
    """
    row = name or predictions.stem
    if not NAME.fullmatch(row):
        raise ConfigError(f"--name: {row!r} can't be used; use letters, digits, '.', '_' and '-' only, 100 at most")
    made = plan_experiment(experiment) if experiment else None
    options, examples, chosen = _asked(made, suite, data, scorers)
    answered = PredictedAnswers(load_predictions(predictions))
    if made is None:
        with tempfile.TemporaryDirectory() as scratch:
            return _scored(row, chosen, options, examples, answered, CellFolder(Path(scratch)))
    folder = made.folder.imported(row)
    scored = _scored(row, chosen, options, examples, answered, folder)
    key = digest([row, scored.result.digest, predictions.name])
    write_record(
        folder.result,
        CellResult(
            cell=key, name=row, group=key, seed=None, reference="predictions", overrides={}, status="finished", suites=(scored.result,)
        ),
    )  # fmt: skip
    return scored


def _asked(
    made: Plan | None, suite: str | None, data: str | None, scorers: tuple[str, ...]
) -> tuple[EvalConfig, list[Example], Suite]:
    """The options, examples and suite that predictions are held against."""
    wanted = suite or "held_out"
    entries = made.config.evals if made else ()
    options = next((entry for entry in entries if wanted == entry.label), EvalConfig(suite=wanted))
    if data is not None:
        options = options.model_copy(update={"data": SourceConfig(path=data)})
    if scorers:
        options = options.model_copy(update={"scorers": scorers})
    chosen = load_suite(options.suite)
    if options.data is None and made is None:
        raise ConfigError(f"{wanted}: say what the predictions answer, with --data FILE or --experiment EXPERIMENT")
    test = [row.example() for row in load_splits(made.cells[0].config.data).test] if made else []
    return options, suite_examples(chosen, options, test), chosen


def _scored(
    name: str, suite: Suite, options: EvalConfig, examples: list[Example], answered: PredictedAnswers, folder: CellFolder
) -> Scored:  # fmt: skip
    result = evaluate(suite, options, examples, answered, folder)
    # What only the model itself could tell was never measured.
    measured = tuple(score for score in result.scores if score.metric in result.metrics)
    result = result.model_copy(update={"scores": measured})
    generations = list(read_lines(folder.generations(options.label), Generation))
    given = [generation for generation in generations if generation.stop_reason != "not_asked"]
    evidence = Evidence(
        loss=(), grad_norm=(), eval_loss=(), name=name, suites={options.label: result}, generations={options.label: given},
        examples={options.label: examples},
    )  # fmt: skip
    return Scored(name, result, output_findings(evidence))
