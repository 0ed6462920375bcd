"""The tokenized splits of a cell, shared by all cells that see the same rows through the same tokenizer and template."""

from collections.abc import Sequence
from pathlib import Path

import harness
from harness.config import RunConfig
from harness.data.formats import Conversation
from harness.data.prepare import PreparedSplit, Tokenization, prepared_split
from harness.data.splits import data_fingerprint
from harness.models.load import LoadedModel, LoadedTokenizer, model_fingerprint
from harness.models.templates import template_key
from harness.records import SplitName
from harness.resources import digest

# Raise it when the files of a tokenized split change.
LAYOUT = 2


def prepare(
    config: RunConfig,
    split: SplitName,
    rows: Sequence[Conversation],
    loaded: LoadedTokenizer | LoadedModel,
    folder: Path,
) -> PreparedSplit:
    """One split of a cell as its model sees it, from the folder of tokenized data or made there.

    Raises: DataError: no row of it can be learned from.
    """
    cuts = split != "train" or not config.packs_long_rows
    max_length = config.max_length if cuts else None
    made_from = [
        # A filter on `ifd` leaves other rows than the data section alone tells.
        harness.__version__, LAYOUT, data_fingerprint(config.data), split, digest([[row.id, row.index] for row in rows]),
        config.data.model_dump(mode="json"),
        model_fingerprint(config.model), template_key(config.template), loaded.tokens.mask,
        config.trains_on_answers_only, max_length,
    ]  # fmt: skip
    how = Tokenization(split, loaded.tokenizer, loaded.tokens, config.trains_on_answers_only, max_length)
    return prepared_split(rows, how, folder / f"{split}-{digest(made_from)}")
