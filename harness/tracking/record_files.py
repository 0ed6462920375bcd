"""The records that a run carries, as one zip file: made where cells are trained, opened anywhere."""

import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from harness.cell_files import answer_files, record_files
from harness.errors import StoreError
from harness.records import CellResult
from harness.resources import BAD_ZIP, file_digest
from harness.store import CellFolder, ExperimentFolder, read_record, write_bytes
from harness.tracking.connection import client, deliver

ARTIFACT = "harness/records.zip"
DIGEST_TAG = "harness.records"
MAX_FILES = 100_000
MAX_BYTES = 1 << 30
"""Of one zip file, unpacked."""
# A zip that is made twice of the same files is the same, byte for byte.
TIMESTAMP = (1980, 1, 1, 0, 0, 0)
PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}"
SHARED = re.compile(rf"(?:asked|contamination|trained_answers|data)/{PART}")
OWN_NAMES = re.compile(rf"(?:experiment|confirm)\.json|(?:cells|imported)/{PART}/(?:generations/)?{PART}")


# As pydantic writes it; within a text the quotes would be escaped. Reading a thousand results takes half a minute.
HAS_NO_RUN = b'"mlflow_run_id":""'


def pack(root: Path, files: Sequence[Path], texts: Mapping[Path, str], to: Path) -> str:
    """Writes a zip of files and texts, named as they lie below a folder; returns its digest."""
    named = {str(path.relative_to(root)): path for path in (*files, *texts)}
    with zipfile.ZipFile(to, "w") as archive:
        for name, path in sorted(named.items()):
            info = zipfile.ZipInfo(name, TIMESTAMP)
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, texts[path] if path in texts else path.read_bytes())
    return file_digest(to)


def log_cell(run_id: str, folder: CellFolder, result: CellResult) -> bool:
    """Gives the run of a cell or reference its records, with the result that is about to be written; whether they arrived."""
    root = folder.path.parent.parent
    return _log(run_id, root, record_files(folder, result), {folder.result: result.model_dump_json()})


def log_experiment(run_id: str, folder: ExperimentFolder, cells: Sequence[str]) -> bool:
    """Gives the parent run what belongs to no cell's run: the plan, imported predictions, cells that never had a run.

    Returns whether it arrived.

    Args:
        run_id: of the parent run.
        folder: of the experiment.
        cells: ids of its cells and references.
    """
    files = [path for path in (folder.config, folder.confirmation) if path.exists()]
    imported = [CellFolder(path.parent) for path in folder.imported("x").path.parent.glob("*/result.json")]
    for cell in (*imported, *map(folder.cell, cells)):
        if not cell.result.exists() or HAS_NO_RUN not in cell.result.read_bytes():
            continue
        result = read_record(cell.result, CellResult)
        if not result.mlflow_run_id:
            files += [cell.result, *record_files(cell, result), *filter(Path.is_file, answer_files(cell, result))]
    return _log(run_id, folder.path, files, {})


def _log(run_id: str, root: Path, files: Sequence[Path], texts: Mapping[Path, str]) -> bool:
    def send() -> None:
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / Path(ARTIFACT).name
            digest = pack(root, files, texts, path)
            client().log_artifact(run_id, str(path), str(Path(ARTIFACT).parent))
            client().set_tag(run_id, DIGEST_TAG, digest)

    return deliver("records", send)


def unpack(archive: Path, root: Path, digest: str, cell: str | None) -> None:
    """Lays the records of a run below a folder, in place of those that it had.

    Args:
        archive: the zip file.
        root: folder of the experiment.
        digest: that the run states of it.
        cell: id of the cell whose run it is; None for the parent run.

    Raises: StoreError: it isn't what its run says, or holds what no record is called.
    """
    if file_digest(archive) != digest:
        raise StoreError(f"the records of {cell or 'the experiment'} are not those that their run states, "
                         "or are being replaced this moment; try again")  # fmt: skip
    replaced = [root / "cells" / cell] if cell else [root / "imported"]
    try:
        with zipfile.ZipFile(archive) as content:
            members = list(_checked(content.infolist(), cell))
            for folder in replaced:
                shutil.rmtree(folder, ignore_errors=True)
            for member in members:
                _lay(content, member, root / member.filename)
    except BAD_ZIP as error:
        raise StoreError(f"the records of {cell or 'the experiment'} can't be unpacked: {error}") from error
    if cell and read_record(root / "cells" / cell / "result.json", CellResult).cell != cell:
        raise StoreError(f"the records of {cell} are those of another cell")


def _checked(members: Sequence[zipfile.ZipInfo], cell: str | None) -> Iterator[zipfile.ZipInfo]:
    """The members, each of which has the name of a record: no other file can be written or overwritten."""
    if len(members) > MAX_FILES or sum(member.file_size for member in members) > MAX_BYTES:
        raise StoreError(f"the records of {cell or 'the experiment'} are too large: {len(members)} files")
    for member in members:
        name = member.filename
        is_own = OWN_NAMES.fullmatch(name) and (cell is None or name.startswith(f"cells/{cell}/"))
        if not is_own and not SHARED.fullmatch(name):
            raise StoreError(f"the records of {cell or 'the experiment'} hold {name!r}, which is no record")
        yield member


def _lay(content: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> None:
    """Writes one file, unless it is there: cells share some."""
    is_there = path.is_file() and path.stat().st_size == member.file_size
    if not (is_there and zlib.crc32(path.read_bytes()) == member.CRC):
        with content.open(member) as file:
            # So much and no more, whatever the compressed data hold.
            write_bytes(path, file.read(member.file_size))
