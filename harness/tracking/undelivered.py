"""The note in a folder that says what its MLflow run may lack."""

from collections.abc import Sequence

from harness.errors import StoreError
from harness.records import Record
from harness.secrets import without_password
from harness.store import CellFolder, read_record, write_record
from harness.tracking.connection import current_uri


class Undelivered(Record):
    """What a run may lack, and where it belongs."""

    what: tuple[str, ...]
    store: str
    """Without any password."""


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
