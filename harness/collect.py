"""All that is known of an experiment, from its records alone: results, findings, ranking."""

import gc
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from harness.diagnose.kept import recorded_findings
from harness.diagnose.siblings import siblings
from harness.errors import ConfigError
from harness.forked import each
from harness.grid import Cell
from harness.plan import Plan, is_evaluated
from harness.predicted import answers_findings, missing_answers, score_row
from harness.rank_cells import rank
from harness.ranking import Exclusion, Ranking
from harness.recorded import write_plan
from harness.records import CellResult, Finding
from harness.results import untouched_bases
from harness.score_columns import Sharing, compact
from harness.store import ExperimentFolder, read_record, write_record
from harness.tracking.base import NullTracker

logger = logging.getLogger(__name__)


class Collected(NamedTuple):
    """All that is known of an experiment."""

    cells: list[CellResult]
    references: list[CellResult]
    findings: dict[str, tuple[Finding, ...]]
    """Cell id -> findings."""


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Scores by the hundred thousand hold no cycles; looking for some takes most of the time of reading them, and 3 s of a report on 1,000."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@no_garbage_collection()
def collect(made: Plan) -> Collected:
    """Results and findings, from records alone.

    Raises: ConfigError: no cell has been run.
    """
    if made.config.is_predictions_alone:
        return _collect_predictions(made)

    def results(cells: Sequence[Cell]) -> list[CellResult]:
        files = [made.folder.cell(cell.id).result for cell in cells]
        return read_results([path for path in files if path.exists()])

    own, cells = results(made.references), results(made.cells)
    references = [*own, *_imported(made.folder, [*own, *cells])]
    if not cells:
        raise ConfigError(f"experiment {made.config.name!r} has no results yet; start it with `harness run`")
    findings = recorded_findings(made.folder, cells, untouched_bases(references), siblings(made.folder, cells))
    return Collected(cells, references, findings)


def read_results(files: Sequence[Path]) -> list[CellResult]:
    """The results in some files, their scores in columns: a few hundred KB each instead of several MB.

    Raises: StoreError: one of them isn't a result.
    """
    sharing = Sharing()
    read = each(lambda place: compact(read_record(files[place], CellResult)), len(files))
    return [sharing.shared(result) for result in read]


def _collect_predictions(made: Plan) -> Collected:
    """Predictions are all there is to rank; those that were not scored yet are scored now, which takes no model."""
    folders = [made.folder.cell(row.id) for row in made.references]
    todo = [row for row in made.references if not made.is_recorded and not is_evaluated(made, row)]
    for row in todo:
        folder = made.folder.cell(row.id)
        write_record(folder.result, score_row(row, made.config.evals, folder, NullTracker()))
    if todo:
        write_plan(made)
    folders = [folder for folder in folders if folder.result.exists()]
    rows = read_results([folder.result for folder in folders])
    later = _imported(made.folder, rows)
    folders += [made.folder.imported(row.name) for row in later]
    rows += later
    findings = {
        row.cell: answers_findings(row.name, folder, row.suites) for row, folder in zip(rows, folders, strict=True)
    }
    return Collected(rows, [], findings)


def _imported(folder: ExperimentFolder, beside: Sequence[CellResult]) -> list[CellResult]:
    """Predictions that were scored later, with the suites of which cells and references answered the same examples."""
    asked = {(suite.suite, suite.digest) for result in beside for suite in result.suites}
    found = []
    for row in read_results(sorted(folder.imported("x").path.parent.glob("*/result.json"))):
        kept = tuple(suite for suite in row.suites if (suite.suite, suite.digest) in asked)
        for suite in row.suites:
            if suite not in kept:
                logger.warning("%s: left out of the tables with %s, which the cells were asked otherwise; repeat `harness score`",
                               row.name, suite.suite)  # fmt: skip
        if kept:
            found.append(row.model_copy(update={"suites": kept}))
    return found


@no_garbage_collection()
def rank_experiment(made: Plan, collected: Collected) -> Ranking:
    """The ranking; cells without a result are listed as not trained yet."""
    ranking = rank(made.config.name, made.config.ranking, *collected)
    done = {result.cell for result in collected.cells}
    missing = tuple(
        Exclusion(cell=cell.id, name=cell.name, reason="not trained yet; start it with `harness run`")
        for cell in made.cells
        if cell.id not in done
    )
    asked = {result.cell for result in collected.references}
    absent = [
        f"{cell.name} was not evaluated yet; start it with `harness run`"
        for cell in made.references
        if cell.id not in asked and not made.config.is_predictions_alone
    ]
    unanswered = missing_answers(collected.cells, made.config.ranking.by) if made.config.is_predictions_alone else ()
    update = {
        "excluded": (*ranking.excluded, *missing),
        "caveats": (*ranking.caveats, *absent, *unanswered),
    }
    return ranking.model_copy(update=update)
