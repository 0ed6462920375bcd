"""Findings of recorded cells, kept beside them for as long as nothing that they are made from changes."""

import importlib.metadata
import logging
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from harness.cell_files import answer_files, evidence_files
from harness.diagnose.cell import diagnose
from harness.diagnose.cell_reader import cell_evidence
from harness.diagnose.evidence import Sibling
from harness.errors import StoreError
from harness.forked import each
from harness.records import CellResult, Finding, Record
from harness.resources import digest, file_digest
from harness.score_columns import fingerprint
from harness.store import CellFolder, ExperimentFolder, read_record, write_record

logger = logging.getLogger(__name__)

# What computes beside this package.
LIBRARIES = ("numpy", "scipy", "scikit-learn")


class KeptFindings(Record):
    """Findings, and a digest of all that they were made from."""

    made_from: str
    findings: tuple[Finding, ...]


def recorded_findings(
    folder: ExperimentFolder, results: Sequence[CellResult], bases: Mapping[str, CellResult],
    related: Mapping[str, Sequence[Sibling]],
) -> dict[str, tuple[Finding, ...]]:  # fmt: skip
    """Cell id -> findings; one cell's evidence at a time is in memory.

    Args:
        folder: of the experiment.
        results: of the cells to diagnose.
        bases: digest of a base model -> that model untouched.
        related: cell id -> its siblings at other learning rates.
    """
    of_base = {key: _base_digest(folder, base) for key, base in bases.items()}

    def findings_at(position: int) -> tuple[Finding, ...]:
        result = results[position]
        others = related.get(result.cell, ())
        made_from = [of_base.get(result.base, ""), [_sibling_digest(other) for other in others]]
        return _findings(folder.cell(result.cell), result, bases.get(result.base), others, made_from)

    found = each(findings_at, len(results))
    return {result.cell: findings for result, findings in zip(results, found, strict=True)}


def _findings(
    folder: CellFolder, result: CellResult, base: CellResult | None, siblings: Sequence[Sibling], beside: Sequence[object]
) -> tuple[Finding, ...]:  # fmt: skip
    key = _made_from(folder, result, beside)
    kept = _kept(folder)
    if kept is not None and kept.made_from == key:
        return kept.findings
    evidence = cell_evidence(folder, result, base, siblings)
    findings = diagnose(evidence)
    # Time passes over a run that hangs; and a file may have been replaced while it was read.
    if evidence.idle_seconds is None and _made_from(folder, result, beside) == key:
        try:
            write_record(folder.findings, KeptFindings(made_from=key, findings=findings))
        except StoreError as error:
            logger.info("%s", error)
    return findings


def _kept(folder: CellFolder) -> KeptFindings | None:
    try:
        return read_record(folder.findings, KeptFindings) if folder.findings.exists() else None
    except StoreError:
        # Another version wrote it.
        return None


def _made_from(folder: CellFolder, result: CellResult, beside: Sequence[object]) -> str:
    return digest([_code(), fingerprint(result), _contents(evidence_files(folder, result)), beside])


def _base_digest(folder: ExperimentFolder, base: CellResult) -> str:
    return digest([fingerprint(base), _contents(answer_files(folder.cell(base.cell), base))])


def _sibling_digest(sibling: Sibling) -> list[object]:
    validation = sibling.validation
    return [sibling.name, sibling.learning_rate, validation.model_dump(mode="json") if validation else None]


def _contents(files: Sequence[Path]) -> list[str]:
    return [_content(path) for path in files]


def _content(path: Path) -> str:
    """Digest of a file; cells share some, which are read once."""
    try:
        known = path.stat()
    except FileNotFoundError:
        return ""
    return _content_as_of(path, (known.st_size, known.st_mtime_ns, known.st_ino))


@lru_cache(maxsize=256)
def _content_as_of(path: Path, _: tuple[int, int, int]) -> str:
    return file_digest(path)


@lru_cache(maxsize=1)
def _code() -> str:
    """Digest of this package's source and of the libraries that compute: a changed check is a changed finding."""
    package = Path(__file__).parent.parent
    sources = [file_digest(path) for path in sorted(package.rglob("*.py"))]
    return digest([sources, [importlib.metadata.version(name) for name in LIBRARIES]])
