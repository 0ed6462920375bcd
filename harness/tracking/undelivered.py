"""The note in a folder that says what its MLflow run may lack, of a cell and of a whole experiment."""

from collections.abc import Sequence

from harness.errors import StoreError
from harness.records import Record
from harness.secrets import without_password
from harness.store import CellFolder, ExperimentFolder, read_record, write_record
from harness.tracking.base import RunStatus
from harness.tracking.connection import current_uri


class Undelivered(Record):
    """What a run may lack, and where it belongs."""

    what: tuple[str, ...]
    store: str
    """Without any password."""


class Untold(Record):
    """What the run of an experiment may not have heard of its end."""

    run_id: str
    status: RunStatus | None = None
    """How it ended; None: it hasn't, or its process died first."""
    error: str = ""


def note_untold(folder: ExperimentFolder, status: RunStatus | None = None, error: str = "") -> None:
    """Writes the note of an experiment."""
    run_id = folder.parent_run_id.read_text().strip()
    write_record(folder.undelivered, Untold(run_id=run_id, status=status, error=error))


def note_undelivered(folder: CellFolder, what: Sequence[str]) -> None:
    """Writes the note of a cell or reference."""
    missed = tuple(dict.fromkeys(what)) or ("what an earlier process left out",)
    write_record(folder.undelivered, Undelivered(what=missed, store=without_password(current_uri())))


def read_undelivered(folder: CellFolder) -> Undelivered | None:
    """The note; None where nothing is missing.

    Raises: StoreError: the run belongs to another store than the chosen one.
    """
    if not folder.undelivered.exists():
        return None
    note = read_record(folder.undelivered, Undelivered)
    chosen = without_password(current_uri())
    if note.store != chosen:
        raise StoreError(f"{folder.path.name}: its run belongs to {note.store}, not to {chosen}; set MLFLOW_TRACKING_URI")  # fmt: skip
    return note
