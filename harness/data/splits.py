"""Train, validation and test rows of a cell."""

import hashlib
import logging
import random
from collections.abc import Sequence
from typing import NamedTuple

from harness.config import DataConfig, SourceConfig
from harness.data.formats import Conversation, conversations
from harness.data.sources import fingerprint, load_rows
from harness.errors import DataError
from harness.resources import digest

logger = logging.getLogger(__name__)


class Splits(NamedTuple):
    """Conversations by use; no prompt is in two of them."""

    train: list[Conversation]
    validation: list[Conversation]
    test: list[Conversation]


def data_fingerprint(config: DataConfig) -> str:
    """Digest of the content of all sources of a cell."""
    return digest(
        [fingerprint(source) if source else None for source in (config.train, config.validation, config.test)]
    )


def load_source(source: SourceConfig, config: DataConfig) -> list[Conversation]:
    """All conversations of one source.

    Raises: DataError: rows are broken, or none has an assistant turn to learn from.
    """
    loaded = conversations(load_rows(source), config.format)
    usable = [row for row in loaded if row.is_plain or row.messages[-1].role == "assistant"]
    if not usable:
        raise DataError(
            f"{source.path}: no row ends with an assistant turn, so there is nothing to learn; check the roles"
        )
    if len(usable) < len(loaded):
        logger.warning("%s: %d of %d rows don't end with an assistant turn and are left out",
                       source.path, len(loaded) - len(usable), len(loaded))  # fmt: skip
    return usable


def load_splits(config: DataConfig) -> Splits:
    """The three splits: as given, or cut from the training rows by a hash of their prompts.

    The hash makes a split stable: adding rows moves no other row to another split, and rows with the same prompt
    stay together.

    Raises: DataError: a split is empty.
    """
    train = load_source(config.train, config)
    validation = load_source(config.validation, config) if config.validation else None
    test = load_source(config.test, config) if config.test else None
    test_share = 0.0 if test is not None else config.test_share
    validation_share = 0.0 if validation is not None else config.validation_share
    if test is None:
        test = [row for row in train if _bucket(row) < test_share]
    if validation is None:
        validation = [row for row in train if test_share <= _bucket(row) < test_share + validation_share]
    train = [row for row in train if _bucket(row) >= test_share + validation_share]
    splits = Splits(train, validation, test)
    splits = _without_overlap(splits, config.train.path)
    for name, rows in zip(Splits._fields, splits, strict=True):
        if not rows:
            raise DataError(
                f"{config.train.path}: the {name} split is empty; add rows or name a file for it in data.{name}"
            )
    return splits._replace(train=_limited(splits.train, config))


def _without_overlap(splits: Splits, path: str) -> Splits:
    """Leaves out training and validation rows whose prompt is asked in a later split, else evaluation measures memory."""
    splits = splits._replace(test=_unique(splits.test, path), validation=_unique(splits.validation, path))
    tested = {_prompt_key(row) for row in splits.test}
    validation = [row for row in splits.validation if _prompt_key(row) not in tested]
    held_out = tested | {_prompt_key(row) for row in validation}
    train = [row for row in splits.train if _prompt_key(row) not in held_out]
    num_dropped = len(splits.train) - len(train) + len(splits.validation) - len(validation)
    if num_dropped:
        logger.warning("%s: %d rows have the same prompt as a held-out row and are left out", path, num_dropped)
    return Splits(train, validation, splits.test)


def _unique(rows: Sequence[Conversation], path: str) -> list[Conversation]:
    """Held-out rows without exact repetitions, which would count twice.

    Raises: DataError: different rows share an id.
    """
    known: dict[str, Conversation] = {}
    for row in rows:
        if known.setdefault(row.id, row) != row:
            raise DataError(
                f"{path}: two different held-out rows have the id {row.id!r}; make the ids unique or leave them out"
            )
    if len(known) < len(rows):
        logger.warning("%s: %d held-out rows are exact repetitions and are left out", path, len(rows) - len(known))
    return list(known.values())


def _prompt_key(row: Conversation) -> str:
    return row.prompt if row.is_plain else repr([(turn.role, turn.content) for turn in row.messages[:-1]])


def _bucket(row: Conversation) -> float:
    """A number in [0, 1) that depends on the prompt alone."""
    return int(hashlib.sha256(_prompt_key(row).encode()).hexdigest()[:8], 16) / 16**8


def _limited(rows: Sequence[Conversation], config: DataConfig) -> list[Conversation]:
    if config.limit is None or config.limit >= len(rows):
        return list(rows)
    return random.Random(config.shuffle_seed).sample(list(rows), config.limit)
