"""One case of the fuzzers, and what came of all cases of a target."""

import tempfile
import traceback
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fuzzing import Target, attempt
from tests.guards import Hang


@dataclass
class Found:
    """What came of one target."""

    cases: int = 0
    refused: int = 0
    seconds: float = 0.0
    crashes: dict[str, str] = field(default_factory=dict)
    """Exception and place -> the first input that raised it."""


def look_at(target: Target, hostile: Any, found: Found) -> None:
    """Gives a target one input, in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found.refused += attempt(target, hostile, Path(folder))
        except (Exception, Hang) as error:  # a crash is what is looked for
            found.crashes.setdefault(_signature(error), repr(hostile))
    found.cases += 1


def _signature(error: BaseException) -> str:
    """Tells crashes apart: the type, and the innermost line of ours."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/harness/" in frame.filename]
    where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "outside"
    return f"{type(error).__name__} at {where}"
