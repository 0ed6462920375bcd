"""Evidence of our own cells, from the records in their folders."""

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TypedDict, TypeVar

from pydantic import BaseModel

from harness.cell_files import recorded_training, train_digest
from harness.diagnose.evidence import Evidence, Point, Sibling, as_float, comparable
from harness.grid import CellSpec
from harness.records import (
    Batch,
    CellResult,
    Contamination,
    Example,
    ExtractionItem,
    Generation,
    Probe,
    SuiteResult,
    TracePoint,
    TrainedAnswers,
    TrainResult,
)
from harness.store import CellFolder, overlap_key, read_lines, read_record
from harness.verification import Verification

R = TypeVar("R", bound=BaseModel)
SHARED_FILES = 8
"""Whose records are kept: what the suites ask, and what the base answered."""


def trace_evidence(
    points: Sequence[TracePoint],
    probes: Sequence[Probe],
    settings: Mapping[str, str],
    planned_steps: int | None = None,
) -> Evidence:
    """Evidence from what a training logged so far, while it goes on or after it."""

    def series(name: str) -> list[Point]:
        return [Point(point.step, as_float(point.values[name])) for point in points if name in point.values]

    smoothing = float(settings.get("training.label_smoothing_factor", "0") or 0)
    return Evidence(
        loss=series("loss"),
        grad_norm=series("grad_norm"),
        eval_loss=series("eval_loss"),
        learning_rate=series("learning_rate"),
        epochs=[Point(point.step, point.epoch) for point in points if "loss" in point.values],
        settings=settings,
        planned_steps=planned_steps,
        validation=comparable([probe for probe in probes if probe.split == "validation"]),
        train_probe=comparable([probe for probe in probes if probe.split == "train_probe"]),
        batches_are_alike="group" not in settings.get("training.train_sampling_strategy", "random"),
        loss_is_nll=settings.get("training.loss_type", "nll") == "nll" and smoothing == 0,
    )


def cell_evidence(
    folder: CellFolder, result: CellResult, base: CellResult | None, siblings: Sequence[Sibling] = ()
) -> Evidence:
    """Evidence of a cell, of the untouched base where that was evaluated, and of its siblings at other learning rates."""
    trained = recorded_training(folder, result)
    points, probes = list(read_lines(folder.trace, TracePoint)), list(read_lines(folder.probes, Probe))
    settings = trained.settings if trained else asked_settings(folder)
    planned_steps = trained.planned_steps if trained else announced_steps(folder)
    return dataclasses.replace(
        trace_evidence(points, probes, settings, planned_steps),
        name=result.name,
        is_finished=trained is not None if points else None,
        idle_seconds=None if trained or result.status != "finished" else _idle_seconds(folder),
        stopped_on=trained.stopped_on if trained else "",
        splits=trained.splits if trained else {},
        extraction=list(read_lines(folder.extraction, ExtractionItem)),
        verification=read_record(folder.verification, Verification) if folder.verification.exists() else None,
        suites={suite.suite: suite for suite in result.suites},
        base={suite.suite: suite for suite in base.suites} if base else {},
        generations=_generations(folder, result.suites),
        base_generations=_base_generations(CellFolder(folder.path.parent / base.cell), base.suites) if base else {},
        siblings=siblings,
        batch_rows={batch.step: batch.rows for batch in read_lines(folder.batches, Batch)},
        **_asked(folder, result.suites, trained),
    )


class _Asked(TypedDict):
    examples: dict[str, Sequence[Example]]
    contamination: dict[str, Contamination]
    trained_answers: tuple[str, ...]


def _asked(folder: CellFolder, suites: Sequence[SuiteResult], trained: TrainResult | None) -> _Asked:
    """What was asked, and what of it the training rows hold."""
    found = _Asked(examples={}, contamination={}, trained_answers=())
    for suite in suites:
        if examples := _shared_lines(folder.asked(suite.suite, suite.digest), Example):
            found["examples"][suite.suite] = examples
    train = train_digest(trained)
    for suite in suites:
        path = folder.contamination(suite.suite, overlap_key(suite.digest, train))
        if path.exists():
            found["contamination"][suite.suite] = read_record(path, Contamination)
    answers = folder.trained_answers(train)
    if train and answers.exists():
        found["trained_answers"] = read_record(answers, TrainedAnswers).answers
    return found


def asked_settings(folder: CellFolder) -> dict[str, str]:
    """What the experiment file set, where training never came to say what was in force."""
    if not folder.spec.exists():
        return {}
    config = read_record(folder.spec, CellSpec).cell.config
    return {f"training.{name}": str(value) for name, value in config.training.items()}


def announced_steps(folder: CellFolder) -> int | None:
    """The plan of a training that did not come to its end."""
    try:
        steps = json.loads(folder.state.read_text(encoding="utf-8"))["planned_steps"]
    except (OSError, json.JSONDecodeError, KeyError):
        return None
    return int(steps) or None


def _generations(folder: CellFolder, suites: Sequence[SuiteResult]) -> dict[str, list[Generation]]:
    found = {s.suite: list(read_lines(folder.generations(s.suite, s.digest), Generation)) for s in suites}
    return {suite: generations for suite, generations in found.items() if generations}


def _base_generations(folder: CellFolder, suites: Sequence[SuiteResult]) -> dict[str, Sequence[Generation]]:
    found = {s.suite: _shared_lines(folder.generations(s.suite, s.digest), Generation) for s in suites}
    return {suite: generations for suite, generations in found.items() if generations}


def _shared_lines(path: Path, kind: type[R]) -> Sequence[R]:
    """The records of a file that many cells are read against, read once while it stays as it is."""
    if not path.exists():
        return ()
    known = path.stat()
    return _lines_as_of(path, kind, (known.st_size, known.st_mtime_ns, known.st_ino))


@lru_cache(maxsize=SHARED_FILES)
def _lines_as_of(path: Path, kind: type[R], _: tuple[int, int, int]) -> tuple[R, ...]:
    return tuple(read_lines(path, kind))


def _idle_seconds(folder: CellFolder) -> float | None:
    """Since the last log."""
    if not folder.trace.exists():
        return None
    return max(0.0, time.time() - folder.trace.stat().st_mtime)
