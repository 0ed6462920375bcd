"""Checkpoints of a cell: which are whole, which one to go on from, and which stay."""

import contextlib
import json
import logging
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from harness.checkpoint_config import Keep
from harness.errors import ModelError
from harness.records import TrainResult
from harness.resources import BAD_ZIP
from harness.store import CellFolder, read_record

logger = logging.getLogger(__name__)

STATE = "trainer_state.json"
BROKEN = "broken-"
# Needed to train on, and by nobody who loads the model.
OPTIMIZER_FILES = ("optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt", "rng_state*.pth", "optimizer_[0-9]*")
PICKLED_ZIPS = ("*.pt", "*.pth", "*.bin")


def checkpoint_step(path: Path) -> int:
    """The optimizer step in the name of a checkpoint, or of one that is set aside."""
    return int(path.name.rpartition("-")[2])


def saved_checkpoints(folder: CellFolder) -> list[Path]:
    """All of a cell, oldest first, whole or not."""
    found = (path for path in folder.checkpoints.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit())
    return sorted(found, key=checkpoint_step)


def last_whole(folder: CellFolder, check: Callable[[Path], str], *, may_rename: bool = True) -> Path | None:
    """The newest checkpoint that nothing is wrong with; broken ones after it are set aside, and said so.

    Args:
        folder: of the cell.
        check: what is wrong with a checkpoint; empty: nothing.
        may_rename: whether broken ones are set aside, which one of several processes does.
    """
    for path in reversed(saved_checkpoints(folder)):
        wrong = check(path)
        if not wrong:
            return path
        if may_rename:
            set_aside(path, wrong)
    return None


def set_aside(path: Path, wrong: str) -> None:
    """Renames a checkpoint so that nothing takes it for one; broken ones stay until the cell is done, for whoever wants to look."""
    aside = path.with_name(f"{BROKEN}{path.name}")
    shutil.rmtree(aside, ignore_errors=True)
    path.rename(aside)
    logger.warning("%s is not whole (%s) and is set aside as %s", path, wrong, aside.name)


def what_is_wrong(path: Path, *, trains_on: bool = True) -> str:
    """Why a checkpoint can't be used, in a few words; empty where it is whole.

    Args:
        path: the checkpoint's folder.
        trains_on: whether a training goes on from it, which takes the trainer's and the optimizer's states too.
    """
    return next(_problems(path, trains_on=trains_on), "")


def _problems(path: Path, *, trains_on: bool) -> Iterator[str]:
    # The trainer writes its state last.
    names = [STATE] if trains_on else []
    for name in (*names, *(file.name for file in sorted(path.glob("*.json")) if file.name != STATE)):
        yield from _json_problems(path / name, checkpoint_step(path))
    weights = sorted(path.glob("*.safetensors"))
    has_others = any(path.glob("pytorch_model_fsdp*")) or any(file.is_dir() for file in path.glob("*"))
    if not weights and not has_others:
        yield "it holds no weights"
    for file in weights:
        yield from _weight_problems(file)
    if trains_on:
        for pattern in PICKLED_ZIPS:
            for file in sorted(path.glob(pattern)):
                yield from _zip_problems(file)


def _json_problems(file: Path, step: int) -> Iterator[str]:
    try:
        content = json.loads(file.read_bytes())
    except FileNotFoundError:
        yield f"{file.name} is missing"
    except (ValueError, RecursionError):
        yield f"{file.name} can't be read"
    except OSError as error:
        # A disk or a share that is away says nothing of the file.
        raise ModelError(f"{file} can't be read ({error.strerror}); mend that, then run again") from error
    else:
        if file.name == STATE and not (isinstance(content, dict) and content.get("global_step") == step):
            yield f"{file.name} is not of step {step}"
        if file.name.endswith(".index.json"):
            parts = content.get("weight_map") if isinstance(content, dict) else None
            names = sorted({str(name) for name in parts.values()}) if isinstance(parts, dict) else ["weight_map"]
            yield from (f"{name} is missing" for name in names if not (file.parent / name).is_file())


def _weight_problems(file: Path) -> Iterator[str]:
    """Opening reads the header and compares the file's size with it."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        yield f"{file.name}: {error}"


def _zip_problems(file: Path) -> Iterator[str]:
    """What torch saves is a zip archive: its directory comes last, and its entries have checksums."""
    try:
        with zipfile.ZipFile(file) as archive:
            if bad := archive.testzip():
                yield f"{file.name}: {bad} has another checksum"
    except BAD_ZIP as error:
        yield f"{file.name}: {error}"


def evaluated_checkpoint(folder: CellFolder, trained: TrainResult, keep: Keep) -> Path:
    """The checkpoint of a cell that is evaluated.

    Raises: ModelError: it is not there any more.
    """
    path = folder.path / trained.evaluated_checkpoint
    if path.is_dir():
        return path
    if keep == "none":
        raise ModelError(
            f"{path}: the weights were deleted once the cell was evaluated, as `checkpoints: {{keep: none}}` says; to have them, "
            f"delete {folder.path} and run again with keep: best+last"
        )
    raise ModelError(
        f"{path}: the checkpoint is not there any more; go to where it was trained, or delete the cell's folder and run again"
    )


def forget_broken_training(folder: CellFolder) -> None:
    """Makes a cell train on from the checkpoint before, where the one that is to be evaluated can't be loaded."""
    path, wrong = _evaluated(folder)
    if path is not None and wrong:
        # In this order: another process of the cell, which looks at the same moment, must train too.
        (folder.path / "train.json").unlink()
        set_aside(path, wrong)


def needs_training(folder: CellFolder) -> bool:
    """Whether a cell isn't trained, or is about to be trained on because its checkpoint is broken: so for each of several processes."""
    path, wrong = _evaluated(folder)
    return path is None or bool(wrong)


def _evaluated(folder: CellFolder) -> tuple[Path | None, str]:
    """The checkpoint that a trained cell is evaluated with, and what is wrong with it; None: not trained."""
    record = folder.path / "train.json"
    if not record.exists():
        return None, ""
    path = folder.path / read_record(record, TrainResult).evaluated_checkpoint
    return path, what_is_wrong(path, trains_on=False) if path.is_dir() else ""


def drop_unfinished(folder: CellFolder) -> None:
    """Deletes a checkpoint that was being written when the disk filled up: it makes room for the records."""
    for path in saved_checkpoints(folder):
        if what_is_wrong(path):
            logger.warning("%s was written in part only and is deleted", path)
            shutil.rmtree(path, ignore_errors=True)


def tidy(folder: CellFolder, keep: Keep) -> None:
    """What the policy leaves of a cell that is done; call it only then, for nothing can be trained on afterwards.

    Weights stay unless nothing is kept; the optimizer's state, twice as large in a full fine-tune, stays with `all` alone.
    """
    if keep == "all" or not folder.checkpoints.is_dir():
        return
    if keep == "none":
        shutil.rmtree(folder.checkpoints, ignore_errors=True)
        return
    for path in folder.checkpoints.glob(f"{BROKEN}*"):
        shutil.rmtree(path, ignore_errors=True)
    for path in saved_checkpoints(folder):
        for pattern in OPTIMIZER_FILES:
            for file in path.glob(pattern):
                with contextlib.suppress(OSError):  # somebody else's, or on a disk that is read-only by now
                    # FSDP keeps the states of its processes in a folder.
                    shutil.rmtree(file) if file.is_dir() else file.unlink(missing_ok=True)
