"""What can go wrong, by where it is noticed.

HarnessError
├── ConfigError     the experiment file
├── DataError       a dataset or a row of it
├── TemplateError   a chat template
├── ModelError      loading or running a model
├── TrainError      a training run
├── EvalError       a suite or a scorer
├── LaunchError     starting or following a worker
└── StoreError      reading or writing a record

A message is one sentence: what, where, and what to do. No class takes constructor arguments of its own, so that
every error can cross a process boundary.
"""

from collections.abc import Iterator
from contextlib import contextmanager


class HarnessError(Exception):
    """A mistake that the user can put right; printed without a traceback."""


class ConfigError(HarnessError):
    """The experiment file, an override or a name given on the command line is wrong."""


class DataError(HarnessError):
    """A dataset can't be read or doesn't have the shape that training needs."""


class TemplateError(HarnessError):
    """A chat template can't render or mask the conversations."""


class ModelError(HarnessError):
    """A model can't be found, loaded or run."""


class TrainError(HarnessError):
    """Training was started with settings that can't work, or stopped by its own rule."""


class EvalError(HarnessError):
    """A suite can't be loaded or run."""


class LaunchError(HarnessError):
    """A worker died or could not be started."""


class StoreError(HarnessError):
    """A record or folder can't be read or written."""


@contextmanager
def boundary(kind: type[HarnessError], stage: str) -> Iterator[None]:
    """Attributes any exception inside to a stage; a HarnessError passes through as it is.

    Raises: kind: with the stage and the original type and message.
    """
    try:
        yield
    except HarnessError:
        raise
    except Exception as error:
        raise kind(f"{stage}: {type(error).__name__}: {error}") from error
