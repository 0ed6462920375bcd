"""The tokenized rows that a cell is trained and probed on, and what became of the others."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.config import RunConfig, process_rank
from harness.data.formats import Conversation
from harness.data.prepare import PreparedSplit
from harness.data.sources import fingerprint
from harness.data.splits import Splits
from harness.data.tokenize import Tokenized
from harness.models.load import LoadedModel
from harness.models.prepared import prepare
from harness.records import Dropped, SplitName, SplitSummary
from harness.resources import digest
from harness.store import CellFolder, write_lines

logger = logging.getLogger(__name__)

MAX_PROBE_ROWS = 100


@dataclass(frozen=True, slots=True)
class TrainingRows:
    """Tokenized rows of a cell; the probe sets are evaluated row by row at every evaluation."""

    train: PreparedSplit
    validation: list[Tokenized]
    train_probe: list[Tokenized]
    summaries: Mapping[str, SplitSummary]


def prepare_rows(config: RunConfig, splits: Splits, loaded: LoadedModel, folder: CellFolder) -> TrainingRows:
    """Tokenizes, cuts and counts; lists what is dropped in `dropped.jsonl`.

    Raises: DataError: no row has a supervised token left.
    """
    summaries: dict[str, SplitSummary] = {}
    dropped = list(splits.dropped)

    def prepared(name: SplitName, rows: Sequence[Conversation]) -> PreparedSplit:
        made = prepare(config, name, rows, loaded, folder.tokenized)
        dropped.extend(made.counts.dropped)
        summaries[name] = _summary(config, name, rows, made, [item for item in dropped if item.split == name])
        _warn_of_losses(name, summaries[name], config.max_length)
        return made

    train, validation = prepared("train", splits.train), prepared("validation", splits.validation)
    if process_rank() == 0:
        write_lines(folder.dropped, dropped)
    return TrainingRows(train, validation.rows(), probe_rows(config, train, validation), summaries)


def probe_rows(config: RunConfig, train: PreparedSplit, validation: PreparedSplit) -> list[Tokenized]:
    """The training rows that are probed for their loss and for memorization, no more than there are validation rows."""
    size = min(len(validation), len(train), MAX_PROBE_ROWS)
    return [_cut(row, config.max_length) for row in train.spread(size)]


def _cut(row: Tokenized, max_length: int | None) -> Tokenized:
    """A row no longer than the validation rows are, for packing may have kept it whole, with something to predict."""
    start = row._replace(input_ids=row.input_ids[:max_length], labels=row.labels[:max_length])
    if max_length is None or start.num_supervised:
        return start
    return row._replace(input_ids=row.input_ids[-max_length:], labels=row.labels[-max_length:])


def _summary(
    config: RunConfig, name: SplitName, rows: Sequence[Conversation], made: PreparedSplit, dropped: Sequence[Dropped]
) -> SplitSummary:
    sources = getattr(config.data, name) or config.data.train
    return SplitSummary(
        source=", ".join(source.path for source in sources),
        digest=digest([[fingerprint(source) for source in sources], [row.id for row in rows]]),
        rows_read=len(rows),
        rows_used=len(made),
        truncated=made.counts.truncated,
        dropped_unsupervised=len(rows) - len(made),
        dropped=dict(Counter(item.reason for item in dropped)),
        tokens=made.counts.tokens,
        supervised_tokens=made.counts.supervised_tokens,
    )


def _warn_of_losses(name: str, summary: SplitSummary, max_length: int | None) -> None:
    if summary.truncated:
        logger.warning(
            "%s: %d of %d rows are cut at max_length %s", name, summary.truncated, summary.rows_read, max_length
        )
    if summary.dropped_unsupervised:
        logger.warning("%s: %d of %d rows have no supervised token and are left out",
                       name, summary.dropped_unsupervised, summary.rows_read)  # fmt: skip
