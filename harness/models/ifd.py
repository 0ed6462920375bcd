"""Instruction-following difficulty: how much an instruction helps the base model to predict its answer.

Li et al. 2024 ("From Quantity to Quality", arXiv 2308.12032): loss of the answer given the instruction, over loss of the
answer alone. Above 1 the instruction doesn't help: the pair is wrong, or beyond the model.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import harness
from harness.config import RunConfig
from harness.data.formats import Conversation
from harness.data.prepare import only_one
from harness.data.splits import data_fingerprint
from harness.data.tokenize import IGNORED, Tokenized, tokenize
from harness.errors import TemplateError
from harness.models.generate import row_losses
from harness.models.load import LoadedModel, load_base, model_fingerprint
from harness.models.templates import template_key
from harness.resources import digest
from harness.store import write_text

logger = logging.getLogger(__name__)

BATCH_SIZE = 16


def ifd_scores(loaded: LoadedModel, rows: Sequence[Conversation], max_length: int | None) -> list[float | None]:
    """The score of every row's last answer; None where it can't be had (no answer within `max_length`, say)."""
    tokenized = [_tokenized(loaded, row, max_length) for row in rows]
    known = [index for index, row in enumerate(tokenized) if row is not None]
    given = [row for row in tokenized if row is not None]
    alone = [_alone(row) for row in given]
    pad = loaded.tokenizer.pad_token_id
    helped = row_losses(loaded.model, given, pad_token_id=pad, batch_size=BATCH_SIZE)
    bare = row_losses(loaded.model, alone, pad_token_id=pad, batch_size=BATCH_SIZE)
    scores: list[float | None] = [None] * len(rows)
    for index, with_it, without in zip(known, helped, bare, strict=True):
        if without.num_tokens and without.nll > 0:
            scores[index] = with_it.nll / without.nll
    if missing := scores.count(None):
        logger.warning("%d of %d rows have no ifd score, so that no filter on it leaves them out", missing, len(rows))
    return scores


def shared_ifd_scores(config: RunConfig, rows: Sequence[Conversation], folder: Path) -> list[float | None]:
    """The scores by the cell's untouched base, computed once for all cells (and processes) that filter the same rows."""
    made_from = [
        harness.__version__, data_fingerprint(config.data), digest([[row.id, row.index] for row in rows]), config.max_length,
        model_fingerprint(config.model), template_key(config.template),
    ]  # fmt: skip
    path = folder / f"ifd-{digest(made_from)}.json"
    with only_one(path):
        if not path.exists():
            base = load_base(config, plain_rows=all(row.is_plain for row in rows))
            write_text(path, json.dumps(ifd_scores(base, rows, config.max_length)))
    scores: list[float | None] = json.loads(path.read_text(encoding="utf-8"))
    return scores


def _tokenized(loaded: LoadedModel, row: Conversation, max_length: int | None) -> Tokenized | None:
    """A row with its last answer supervised, but for its first token, which nothing stands before when it is alone."""
    limit = min(max_length or loaded.context, loaded.context)
    try:
        done = tokenize(row, loaded.tokenizer, loaded.tokens, assistant_only=True, max_length=limit)
    except TemplateError:
        return None
    supervised = [position for position, label in enumerate(done.labels) if label != IGNORED]
    if len(supervised) < 2:
        return None
    last = supervised[-1]
    first = last
    while first > 0 and done.labels[first - 1] != IGNORED:
        first -= 1
    if first == last:
        return None
    labels = [IGNORED] * (first + 1) + done.labels[first + 1 : last + 1]
    return Tokenized(row.id, done.input_ids[: last + 1], labels, is_truncated=False)


def _alone(row: Tokenized) -> Tokenized:
    start = next(position for position, label in enumerate(row.labels) if label != IGNORED) - 1
    return Tokenized(row.id, row.input_ids[start:], row.labels[start:], is_truncated=False)
