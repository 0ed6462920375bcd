"""Folders and files of an experiment: the only place that knows paths."""

import os
import re
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from harness.disk import disk_trouble
from harness.errors import StoreError
from harness.records import CellResult
from harness.resources import digest

R = TypeVar("R", bound=BaseModel)
# What the first records of a run take.
PROBE_BYTES = 1 << 16
SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def write_text(path: Path, text: str) -> None:
    """Writes a whole file of text, as `write_bytes` does."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a whole file by renaming, so that a reader never sees half of it.

    Raises: StoreError: the folder can't be written to.
    """
    # Not the process's number: workers on two nodes may have the same one.
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content)
        os.replace(part, path)
    except OSError as error:
        # Half of it would keep room that a full disk needs.
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise StoreError(
            f"{path} can't be written ({error.strerror}); free or unlock the folder, then run again"
        ) from error


def write_record(path: Path, record: BaseModel) -> None:
    """Writes one record as JSON, atomically."""
    write_text(path, record.model_dump_json())


def read_record(path: Path, kind: type[R]) -> R:
    """The record in a file.

    Raises: StoreError: it is missing or isn't a record of that kind.
    """
    try:
        return kind.model_validate_json(path.read_bytes())
    except OSError as error:
        raise StoreError(f"{path} can't be read ({error.strerror}); delete it and run again") from error
    except ValidationError as error:
        why = first_problem(error)
        raise StoreError(f"{path} isn't a readable {kind.__name__} ({why}); delete it and run again") from error


def first_problem(error: ValidationError) -> str:
    """What is wrong with a record, in one line."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {first['msg']}" if where else first["msg"]


def read_lines(path: Path, kind: type[R]) -> Iterator[R]:
    """Records of a JSON-lines file; none where there is no file.

    A last line that a killed process left half-written is skipped.
    """
    if not path.exists():
        return
    # Bytes: half a line may end within a character. A generation may hold U+2028 or U+0085, which end no line.
    lines = [line for line in path.read_bytes().split(b"\n") if line]
    for number, line in enumerate(lines, 1):
        try:
            yield kind.model_validate_json(line)
        except ValidationError as error:
            if number == len(lines):
                return
            raise StoreError(f"{path}:{number} isn't a {kind.__name__}; delete the file and run again") from error


def whole_lines(path: Path, kind: type[R]) -> list[R]:
    """The records of a file that more will be added to: half a line that a killed process left would spoil the next one."""
    records = list(read_lines(path, kind))
    if path.exists() and not path.read_bytes().endswith(b"\n"):
        write_lines(path, records)
    return records


def append_lines(path: Path, records: Sequence[BaseModel]) -> None:
    """Adds records at the end of a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(f"{record.model_dump_json()}\n" for record in records)


def write_lines(path: Path, records: Sequence[BaseModel]) -> None:
    """Writes records as JSON lines, atomically."""
    write_text(path, "".join(f"{record.model_dump_json()}\n" for record in records))


@dataclass(frozen=True, slots=True)
class CellFolder:
    """Everything that one cell (or reference) leaves on disk."""

    path: Path

    @property
    def spec(self) -> Path:
        """What to do: written by the parent, read by the worker."""
        return self.path / "cell.json"

    @property
    def lock(self) -> Path:
        """Held by the worker of the cell as long as it lives; says which process that is."""
        return self.path / "cell.lock"

    @property
    def slurm_job(self) -> Path:
        """Id of the Slurm job that works on it."""
        return self.path / "slurm_job.txt"

    @property
    def result(self) -> Path:
        """What came of it: written last."""
        return self.path / "result.json"

    @property
    def trace(self) -> Path:
        """One TracePoint a line, as training goes on."""
        return self.path / "trace.jsonl"

    @property
    def probes(self) -> Path:
        """One Probe a line."""
        return self.path / "probes.jsonl"

    @property
    def batches(self) -> Path:
        """One Batch a line: the rows of steps whose loss stood out."""
        return self.path / "batches.jsonl"

    @property
    def extraction(self) -> Path:
        """One ExtractionItem a line."""
        return self.path / "extraction.jsonl"

    @property
    def log(self) -> Path:
        """All that the worker printed."""
        return self.path / "log.txt"

    @property
    def state(self) -> Path:
        """The stage that the worker is in, for the progress display."""
        return self.path / "state.json"

    @property
    def run_id(self) -> Path:
        """The id of the cell's MLflow run."""
        return self.path / "mlflow_run_id.txt"

    @property
    def undelivered(self) -> Path:
        """What its MLflow run may lack: there from the run's opening until all of it is known to have arrived."""
        return self.path / "undelivered.json"

    @property
    def check(self) -> Path:
        """What preflight found."""
        return self.path / "preflight.json"

    @property
    def verification(self) -> Path:
        """Whether the saved checkpoint is what was trained."""
        return self.path / "verification.json"

    @property
    def findings(self) -> Path:
        """Its warning signs, and a digest of all that they were made from."""
        return self.path / "findings.json"

    @property
    def dropped(self) -> Path:
        """One Dropped a line: every row that the cell was not trained or evaluated on."""
        return self.path / "dropped.jsonl"

    @property
    def tokenized(self) -> Path:
        """Tokenized splits, shared by the cells of an experiment."""
        return self.path.parent.parent / "tokenized"

    def forget_evaluations(self) -> None:
        """Deletes what was found out about weights that are trained anew."""
        for path in (self.extraction, self.verification, *self.path.glob("suites/*.json")):
            path.unlink(missing_ok=True)

    def answers(self, key: str) -> Path:
        """What a model has answered already, one answer a line; another model or template is another file."""
        return self.path / "answers" / f"{key}.jsonl"

    def asked(self, suite: str, digest: str) -> Path:
        """One Example a line: what a suite asks, the same for all cells of an experiment."""
        return self.path.parent.parent / "asked" / f"{suite}-{digest}.jsonl"

    def contamination(self, suite: str, digest: str) -> Path:
        """Which examples of a suite occur in these training rows."""
        return self.path.parent.parent / "contamination" / f"{suite}-{digest}.json"

    def trained_answers(self, digest: str) -> Path:
        """A sample of the answers of these training rows."""
        return self.path.parent.parent / "trained_answers" / f"{digest}.json"

    def data_report(self, digest: str) -> Path:
        """What is known of its rows, the same for all cells that share them."""
        return ExperimentFolder(self.path.parent.parent).data_report(digest)

    @property
    def retries(self) -> Path:
        """How the batch of a training is taken since it ran out of memory; there only if it did."""
        return self.path / "out_of_memory.json"

    @property
    def checkpoints(self) -> Path:
        """The trainer's output folder."""
        return self.path / "checkpoints"

    def generations(self, suite: str, digest: str) -> Path:
        """One Generation a line: what the suite's record of that digest scores."""
        return self.path / "generations" / f"{suite}-{digest}.jsonl"

    def suite_result(self, suite: str, digest: str) -> Path:
        """A suite's record; another digest is another file, so a changed suite is evaluated anew."""
        return self.path / "suites" / f"{suite}-{digest}.json"

    def once(self, name: str, kind: type[R], make: Callable[[], R]) -> R:
        """The record `name` if its file exists, else what `make` gives, written atomically: the whole of resume."""
        return once(self.path / f"{name}.json", kind, make)


def overlap_key(suite_digest: str, train_digest: str) -> str:
    """Names what a suite's examples and a cell's training rows have in common."""
    return digest([suite_digest, train_digest])


def once(path: Path, kind: type[R], make: Callable[[], R]) -> R:
    """The record in a file, made and written first where the file doesn't exist."""
    if path.exists():
        return read_record(path, kind)
    record = make()
    write_record(path, record)
    return record


@dataclass(frozen=True, slots=True)
class ExperimentFolder:
    """Everything that one experiment leaves on disk, under `mlruns/harness/NAME` of the working folder."""

    path: Path

    def cell(self, cell_id: str) -> CellFolder:
        """The folder of a cell or a reference."""
        return CellFolder(self.path / "cells" / cell_id)

    @property
    def slurm(self) -> Path:
        """What passes between `harness run` and its Slurm jobs."""
        return self.path / "slurm"

    @property
    def ranking(self) -> Path:
        """The last ranking."""
        return self.path / "ranking.json"

    @property
    def parent_run_id(self) -> Path:
        """The id of the MLflow run that holds the report."""
        return self.path / "mlflow_run_id.txt"

    @property
    def undelivered(self) -> Path:
        """There while the parent run may lack the report: from its opening until its end."""
        return self.path / "undelivered.json"

    @property
    def told(self) -> Path:
        """What MLflow was told of every run when the experiment was last ranked."""
        return self.path / "mlflow_told.json"

    @property
    def config(self) -> Path:
        """The experiment file that made this folder, with its overrides applied."""
        return self.path / "experiment.json"

    @property
    def confirmation(self) -> Path:
        """Which configurations are trained with more seeds than the experiment file lists."""
        return self.path / "confirm.json"

    @property
    def tokenized(self) -> Path:
        """Tokenized splits, shared by the cells."""
        return self.path / "tokenized"

    def imported(self, name: str) -> CellFolder:
        """The folder of another system's predictions that were scored beside the cells."""
        return CellFolder(self.path / "imported" / name)

    def holding(self, result: CellResult) -> CellFolder:
        """The folder of a row: a cell, a reference, or predictions that were scored later."""
        own = self.cell(result.cell)
        return (
            own if result.reference != "predictions" or own.result.exists() else self.imported(Path(result.name).name)
        )

    def data_report(self, digest: str) -> Path:
        """What is known of the rows of cells that share them."""
        # Records may come from elsewhere, and no name in them leads out of the folder.
        return self.path / "data" / f"{Path(digest).stem}.json"

    def report(self, suffix: str) -> Path:
        """report.html, report.md or report.json."""
        return self.path / f"report.{suffix}"

    def check_writable(self) -> None:
        """Leaves nothing behind.

        Raises: StoreError: nothing can be written here.
        """
        nearest = next(folder for folder in (self.path, *self.path.parents) if folder.exists())
        if not nearest.is_dir():
            raise StoreError(f"{self.path} can't be written: {nearest} is a file; move it out of the way")
        try:
            # Permission bits say nothing of quotas, full disks and read-only mounts, least of all to root.
            with tempfile.TemporaryFile(dir=nearest) as file:
                file.write(b"\0" * PROBE_BYTES)
                file.flush()
        except OSError as error:
            advice = disk_trouble(error, nearest) or f"{error.strerror}: {nearest}; run in another folder"
            raise StoreError(f"{self.path} can't be written: {advice}") from error

    @property
    def lock(self) -> Path:
        """Held by the `harness run` that is at work; says which process that is."""
        return self.path / ".lock"


def experiment_folder(name: str, root: Path | None = None) -> ExperimentFolder:
    """The folder of an experiment, by default below the working folder.

    Raises: StoreError: the name would leave its folder.
    """
    if not SAFE_NAME.fullmatch(name):
        raise StoreError(f"the name {name!r} can't be a folder; use letters, digits, '.', '_' and '-' only")
    return ExperimentFolder((root or Path.cwd() / "mlruns" / "harness") / name)


def restored_root() -> Path:
    """Where records that were fetched from a tracking server lie: never among those of trainings in this folder."""
    return Path.cwd() / "mlruns" / "restored"


def known_experiments(root: Path | None = None) -> tuple[str, ...]:
    """Names of the experiments below the working folder."""
    folder = root or Path.cwd() / "mlruns" / "harness"
    return tuple(sorted(path.parent.name for path in folder.glob("*/experiment.json")))
