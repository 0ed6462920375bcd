"""Which files hold what is known of a cell: findings are made from them, and its tracking run carries them."""

from pathlib import Path

from harness.cell_checks import CellCheck
from harness.records import CellResult, TrainResult
from harness.store import CellFolder, overlap_key, read_record


def recorded_training(folder: CellFolder, result: CellResult) -> TrainResult | None:
    """What the training did; it is on disk before anything is evaluated, so also where that failed."""
    path = folder.path / "train.json"
    return result.train or (read_record(path, TrainResult) if path.exists() else None)


def train_digest(trained: TrainResult | None) -> str:
    """Names the training rows; empty where there are none."""
    return trained.splits["train"].digest if trained and "train" in trained.splits else ""


def answer_files(folder: CellFolder, result: CellResult) -> list[Path]:
    """What was answered to the suites of a result; a file may not be there."""
    return [folder.generations(suite.suite, suite.digest) for suite in result.suites]


def evidence_files(folder: CellFolder, result: CellResult) -> list[Path]:
    """All that the findings of a cell are made from, beside its result, its base and its siblings; a file may not be there."""
    train = train_digest(recorded_training(folder, result))
    shared = []
    for suite in result.suites:
        shared += [folder.asked(suite.suite, suite.digest)]
        shared += [folder.contamination(suite.suite, overlap_key(suite.digest, train))]
    if train:
        shared.append(folder.trained_answers(train))
    own = [folder.spec, folder.path / "train.json", folder.state, folder.trace, folder.probes, folder.batches,
           folder.extraction, folder.verification]  # fmt: skip
    return [*own, *answer_files(folder, result), *shared]


def record_files(folder: CellFolder, result: CellResult) -> list[Path]:
    """All that a ranking, a report, a comparison or a card of a cell is made from, beside its result."""
    files = [*evidence_files(folder, result), folder.check, folder.dropped]
    if folder.check.exists():
        files.append(folder.data_report(read_record(folder.check, CellCheck).data_report))
    return [path for path in files if path.is_file()]
