"""All that is known of an experiment, from its records alone: results, findings, ranking."""

import logging
from collections.abc import Sequence
from typing import NamedTuple

from harness.diagnose.cell import diagnose_cell
from harness.diagnose.siblings import siblings
from harness.errors import ConfigError
from harness.grid import Cell
from harness.plan import Plan
from harness.rank_cells import rank
from harness.ranking import Exclusion, Ranking
from harness.records import CellResult, Finding, untouched_bases
from harness.store import ExperimentFolder, read_record

logger = logging.getLogger(__name__)


class Collected(NamedTuple):
    """All that is known of an experiment."""

    cells: list[CellResult]
    references: list[CellResult]
    findings: dict[str, tuple[Finding, ...]]
    """Cell id -> findings."""


def collect(made: Plan) -> Collected:
    """Results and findings, from records alone.

    Raises: ConfigError: no cell has been run.
    """

    def results(cells: Sequence[Cell]) -> list[CellResult]:
        files = [made.folder.cell(cell.id).result for cell in cells]
        return [read_record(path, CellResult) for path in files if path.exists()]

    own, cells = results(made.references), results(made.cells)
    references = [*own, *_imported(made.folder, [*own, *cells])]
    if not cells:
        raise ConfigError(f"experiment {made.config.name!r} has no results yet; start it with `harness run`")
    bases = untouched_bases(references)
    related = siblings(made.folder, cells)
    findings = {
        result.cell: diagnose_cell(
            made.folder.cell(result.cell), result, bases.get(result.base), related.get(result.cell, ())
        )
        for result in cells
    }
    return Collected(cells, references, findings)


def _imported(folder: ExperimentFolder, beside: Sequence[CellResult]) -> list[CellResult]:
    """Predictions that were scored later, with the suites of which cells and references answered the same examples."""
    asked = {(suite.suite, suite.digest) for result in beside for suite in result.suites}
    found = []
    for path in sorted(folder.imported("x").path.parent.glob("*/result.json")):
        row = read_record(path, CellResult)
        kept = tuple(suite for suite in row.suites if (suite.suite, suite.digest) in asked)
        for suite in row.suites:
            if suite not in kept:
                logger.warning("%s: left out of the tables with %s, which the cells were asked otherwise; repeat `harness score`",
                               row.name, suite.suite)  # fmt: skip
        if kept:
            found.append(row.model_copy(update={"suites": kept}))
    return found


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
        if cell.id not in asked
    ]
    update = {"excluded": (*ranking.excluded, *missing), "caveats": (*ranking.caveats, *absent)}
    return ranking.model_copy(update=update)
