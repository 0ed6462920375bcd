"""What is read off the results of cells and references."""

from collections.abc import Iterable

from harness.records import CellResult


def untouched_bases(references: Iterable[CellResult]) -> dict[str, CellResult]:
    """Digest of a base model -> that model untouched and zero-shot, where it was evaluated."""
    return {r.base: r for r in references if r.reference == "base" and r.status == "finished"}


def ending(result: CellResult) -> str:
    """How a row that didn't finish ended, as half a sentence."""
    how = "was stopped" if result.status == "killed" else "failed"
    return f"{how} while {result.stage}: {result.error}"
