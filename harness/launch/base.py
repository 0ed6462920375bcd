"""What every launcher takes and gives: packs in, states out."""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from harness.stopping import STOP_SIGNALS

# What a worker ends with; `128 + N` says that signal N stopped it after it had saved.
FINISHED, FAILED, TAKEN = 0, 1, 75
"""TAKEN: another living process works on the cell (EX_TEMPFAIL of sysexits.h)."""
SIGNALLED = 128


def was_stopped(exit_code: int) -> bool:
    """Whether a worker ended because it was told to."""
    return exit_code in {code for number in STOP_SIGNALS for code in (-number, SIGNALLED + number)}


@dataclass(frozen=True, slots=True)
class PackJob:
    """Cell folders that one process trains, and where its output goes."""

    folders: tuple[Path, ...]
    log: Path
    processes: int = 1
    """More than one: they train each cell together, under `accelerate launch`."""
    accelerate_config: str | None = None


@dataclass(frozen=True, slots=True)
class PackState:
    """What became of one pack."""

    index: int
    exit_code: int | None
    """None while it runs; 0 when every cell finished; negative: the signal that killed it."""
    why: str = ""
    """What the launcher knows of its end that the exit code doesn't say, such as `cancelled (scancel)`."""


class Launcher(Protocol):
    """A place where packs run."""

    @property
    def threads(self) -> int:
        """CPU threads of each process."""

    def launch(self, packs: Sequence[PackJob], environment: Mapping[str, str]) -> Generator[PackState]:
        """Runs every pack, first things first; yields a state whenever one starts (exit code None) or ends.

        An exception inside (Ctrl-C), or closing it, asks the workers to save and stop, and waits for them; a second one stops them now.

        Args:
            packs: what to run.
            environment: variables of the workers; they may hold passwords.
        """
