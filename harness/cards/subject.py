"""A trained cell with all that its card says."""

from pathlib import Path
from typing import NamedTuple

from harness.cell_checks import CellCheck
from harness.config import RunConfig
from harness.data.report import DataReport
from harness.grid import CellSpec
from harness.languages import UNDETERMINED
from harness.ranking import Ranking, RankingRow
from harness.records import CellResult, Finding, TrainResult
from harness.store import CellFolder, read_record

MIN_LANGUAGE_SHARE = 0.05
"""Of the rows, for a language to count as one of the model's."""


class CardSubject(NamedTuple):
    """A trained cell with all that its card says."""

    spec: CellSpec
    result: CellResult
    folder: CellFolder
    findings: tuple[Finding, ...]
    base: CellResult | None
    """The untouched base, where it was evaluated."""
    ranking: Ranking | None
    """None where the experiment was not ranked yet."""

    @property
    def config(self) -> RunConfig:
        """What was trained."""
        return self.spec.cell.config

    @property
    def train(self) -> TrainResult:
        """What training did."""
        assert self.result.train is not None, "only trained cells have a card"
        return self.result.train

    @property
    def row(self) -> RankingRow | None:
        """The configuration's row in the ranking; None where it isn't ranked."""
        rows = self.ranking.rows if self.ranking else ()
        return next((row for row in rows if self.result.cell in row.cells), None)

    @property
    def checkpoint(self) -> Path:
        """Folder of the evaluated weights, which may be gone."""
        return self.folder.path / self.train.evaluated_checkpoint


def data_report(subject: CardSubject) -> DataReport | None:
    """What preflight found in the rows; None where it is not kept here."""
    if not subject.folder.check.exists():
        return None
    path = subject.folder.data_report(read_record(subject.folder.check, CellCheck).data_report)
    return read_record(path, DataReport) if path.is_file() else None


def languages(report: DataReport | None) -> list[str]:
    """Codes of the languages that a good part of the rows is in."""
    shares = report.languages if report else {}
    return [code_ for code_, share in shares.items() if code_ != UNDETERMINED and share >= MIN_LANGUAGE_SHARE]
