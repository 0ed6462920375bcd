"""Train, validation and test rows of a cell."""

import hashlib
import json
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from harness.config import DataConfig
from harness.data.formats import Conversation, convert
from harness.data.layouts import parse_template
from harness.data.quality import kept, row_scores
from harness.data.sources import fingerprint, load_rows
from harness.errors import DataError
from harness.eval_config import SourceConfig
from harness.records import Dropped, Message, SplitName
from harness.resources import digest

logger = logging.getLogger(__name__)

IfdScores = Callable[[Sequence[Conversation]], Sequence[float | None]]
Keys = Callable[[Conversation], tuple[str, ...]]


class Splits(NamedTuple):
    """Conversations by use; no prompt is in two of them."""

    train: list[Conversation]
    validation: list[Conversation]
    test: list[Conversation]
    dropped: tuple[Dropped, ...] = ()
    """Rows that were left out, each with its reason."""
    formats: tuple[str, ...] = ()
    """What the sources turned out to be."""

    @property
    def is_plain(self) -> bool:
        """Whether no row has turns, so that no template is a good answer; mixed rows are all treated as turns."""
        return all(row.is_plain for part in (self.train, self.validation, self.test) for row in part)


class _Loaded(NamedTuple):
    rows: list[Conversation]
    dropped: list[Dropped]
    formats: list[str]


def data_fingerprint(config: DataConfig) -> str:
    """Digest of the content of all sources of a cell."""
    parts = (config.train, config.validation, config.test)
    return digest([[[fingerprint(source), source.weight] for source in part] if part else None for part in parts])


def instruction_of(row: Conversation) -> str:
    """What the user says, without system prompts and tools' answers."""
    return row.prompt if row.is_plain else "\n".join(turn.content for turn in row.messages if turn.role == "user")


def answer_of(row: Conversation) -> str:
    """All that the assistant says in a row."""
    return row.completion if row.is_plain else "\n".join(t.content for t in row.messages if t.role == "assistant")


def text_of(row: Conversation) -> str:
    """All that a row says, turn after turn, thoughts and tool calls included."""
    if row.is_plain:
        return f"{row.prompt}\n{row.completion}" if row.prompt else row.completion
    said = [part for turn in row.messages for part in (turn.reasoning_content, turn.content, _called(turn)) if part]
    return "\n".join(said)


def _called(turn: Message) -> str:
    return json.dumps([call["function"] for call in turn.tool_calls], ensure_ascii=False) if turn.tool_calls else ""


def load_splits(config: DataConfig, ifd: IfdScores | None = None) -> Splits:
    """The three splits: as given, or cut from the training rows by a hash of their prompts.

    The hash makes a split stable: adding rows moves no other row to another split, and rows with the same prompt (or
    the same value of `group_by`) stay together.

    Args:
        config: the data section of a cell.
        ifd: scores rows for a filter on `ifd`; without it that filter is not applied.

    Raises: DataError: rows are broken, or a split is empty.
    """
    splits = _split(config, data_fingerprint(config))
    train, filtered = _filtered(splits.train, config, ifd)
    train, limited = _limited(train, config)
    splits = splits._replace(train=train, dropped=(*splits.dropped, *filtered, *limited))
    if not train:
        raise DataError(f"{config.train[0].path}: data.filter leaves no row to train on; loosen it")
    return splits


@lru_cache(maxsize=4)
def _split(config: DataConfig, content: str) -> Splits:
    """Read once a process: planning, preflight and the suites all ask for them."""
    train = _load(config.train, config, "train")
    validation = _load(config.validation, config, "validation") if config.validation else None
    test = _load(config.test, config, "test") if config.test else None
    test_share = 0.0 if test is not None else config.test_share
    validation_share = 0.0 if validation is not None else config.validation_share
    keys = _keys_of(config)
    buckets = [(row, _bucket(keys(row)[0])) for row in train.rows]
    splits = Splits(
        train=[row for row, bucket in buckets if bucket >= test_share + validation_share],
        validation=validation.rows
        if validation is not None
        else [row for row, bucket in buckets if test_share <= bucket < test_share + validation_share],
        test=test.rows if test is not None else [row for row, bucket in buckets if bucket < test_share],
        dropped=tuple(item for part in (train, validation, test) if part for item in part.dropped),
        formats=tuple(dict.fromkeys(name for part in (train, validation, test) if part for name in part.formats)),
    )
    splits = _without_overlap(splits, config.train[0].path, keys)
    names: tuple[SplitName, ...] = ("train", "validation", "test")
    for name in names:
        if not getattr(splits, name):
            raise DataError(_empty(config, name, splits.dropped))
    return splits


def _empty(config: DataConfig, name: SplitName, dropped: Sequence[Dropped]) -> str:
    lost = Counter(item.reason for item in dropped if item.split == name)
    reasons = f" ({', '.join(f'{count} {reason}' for reason, count in lost.items())} left out)" if lost else ""
    return (
        f"{config.train[0].path}: the {name} split is empty{reasons}; add rows with other prompts or name a file for it "
        f"in data.{name}"
    )


def _load(sources: Sequence[SourceConfig], config: DataConfig, split: SplitName) -> _Loaded:
    """All usable rows of the sources of one split, mixed by their weights."""
    loaded = [_load_source(source, config, split) for source in sources]
    if len(loaded) > 1:
        loaded = _numbered(loaded)
    weights = [source.weight for source in sources]
    mixed = [row for rows in _mixed([part.rows for part in loaded], weights, config.shuffle_seed) for row in rows]
    left = _missing([row for part in loaded for row in part.rows], mixed)
    dropped = [item for part in loaded for item in part.dropped]
    dropped += dropped_rows(left, split, "mix", "the weights of the sources leave it out")
    return _Loaded(mixed, dropped, [name for part in loaded for name in part.formats])


def _numbered(parts: Sequence[_Loaded]) -> list[_Loaded]:
    """The same with ids and row numbers that no two sources share, though both may count their rows from 0."""
    numbered, start = [], 0
    for number, part in enumerate(parts):
        rows = [row.model_copy(update={"id": f"{number}:{row.id}", "index": start + row.index}) for row in part.rows]
        numbered.append(part._replace(rows=rows))
        start += len(part.rows) + len(part.dropped)
    return numbered


def _mixed(
    parts: Sequence[list[Conversation]], weights: Sequence[float | None], seed: int
) -> Sequence[list[Conversation]]:
    """The largest mix with these shares that repeats no row."""
    shares = [weight for weight in weights if weight is not None]
    if len(shares) < len(parts):
        return parts
    total = min(len(rows) / share for rows, share in zip(parts, shares, strict=True))
    draw = random.Random(seed)
    return [draw.sample(rows, round(total * share)) for rows, share in zip(parts, shares, strict=True)]


def _load_source(source: SourceConfig, config: DataConfig, split: SplitName) -> _Loaded:
    converted = convert(load_rows(source), config.format, text=config.text, group_by=config.group_by)
    broken = [fault for fault in converted.faults if fault.kind in ("broken_row", "preference_pairs")]
    if broken:
        more = f" ({len(broken)} rows are broken; `harness data {source.path}` lists them)" if len(broken) > 1 else ""
        raise DataError(f"{broken[0].where}: {broken[0].message}{more}")
    dropped = [
        Dropped(split=split, where=fault.where, id="", reason=fault.kind, message=fault.message)
        for fault in converted.faults
    ]
    if not converted.rows:
        counts = ", ".join(f"{count} {kind}" for kind, count in Counter(f.kind for f in converted.faults).items())
        raise DataError(
            f"{source.path}: no row ends with an assistant turn that says something ({counts}), "
            "so there is nothing to learn; check the roles"
        )
    for kind, count in Counter(fault.kind for fault in converted.faults).items():
        logger.warning("%s: %d of %d rows are left out: %s", source.path, count,
                       len(converted.rows) + len(converted.faults), kind)  # fmt: skip
    return _Loaded(converted.rows, dropped, [converted.format])


def _without_overlap(splits: Splits, path: str, keys: Keys) -> Splits:
    """Leaves out training and validation rows whose prompt is asked in a later split, else evaluation measures memory."""
    test, validation = _unique(splits.test, path), _unique(splits.validation, path)
    tested = {key for row in test for key in keys(row)}
    kept_validation = [row for row in validation if tested.isdisjoint(keys(row))]
    held_out = tested | {key for row in kept_validation for key in keys(row)}
    train = [row for row in splits.train if held_out.isdisjoint(keys(row))]
    reason = ("overlap", "its prompt or its group is in a held-out row")
    dropped = (
        *dropped_rows(_missing(splits.validation, validation), "validation", "repetition", "an exact repetition"),
        *dropped_rows(_missing(splits.test, test), "test", "repetition", "an exact repetition"),
        *dropped_rows(_missing(validation, kept_validation), "validation", *reason),
        *dropped_rows(_missing(splits.train, train), "train", *reason),
    )
    overlapping = sum(item.reason == "overlap" for item in dropped)
    if overlapping:
        logger.warning(
            "%s: %d rows have the same prompt as a held-out row, or its group, and are left out", path, overlapping
        )
    return splits._replace(train=train, validation=kept_validation, test=test, dropped=(*splits.dropped, *dropped))


def _missing(before: Sequence[Conversation], after: Sequence[Conversation]) -> list[Conversation]:
    """Rows that are not there any more, the very objects."""
    left = {id(row) for row in after}
    return [row for row in before if id(row) not in left]


def dropped_rows(rows: Iterable[Conversation], split: SplitName, reason: str, message: str) -> list[Dropped]:
    """The record that these rows were left out."""
    return [Dropped(split=split, where=row.where, id=row.id, reason=reason, message=message) for row in rows]


def _unique(rows: Sequence[Conversation], path: str) -> list[Conversation]:
    """Held-out rows without exact repetitions, which would count twice.

    Raises: DataError: different rows share an id.
    """
    known: dict[str, Conversation] = {}
    for row in rows:
        first = known.setdefault(row.id, row)
        if (first.messages, first.prompt, first.completion) != (row.messages, row.prompt, row.completion):
            raise DataError(
                f"{path}: two different held-out rows have the id {row.id!r}; make the ids unique or leave them out"
            )
    if len(known) < len(rows):
        logger.warning("%s: %d held-out rows are exact repetitions and are left out", path, len(rows) - len(known))
    return list(known.values())


def _keys_of(config: DataConfig) -> Keys:
    """What must not be in two splits: the group where rows are grouped, then the prompt; the first one decides the split."""
    # Before its only column, data.text says the same in every row.
    has_prompts = config.text is None or len(parse_template(config.text).columns) > 1

    def keys(row: Conversation) -> tuple[str, ...]:
        prompt = _prompt_key(row) if has_prompts else row.completion
        return (f"\0group {row.group}", prompt) if row.group else (prompt,)

    return keys


def _prompt_key(row: Conversation) -> str:
    if row.is_plain:
        return row.prompt or row.completion
    return repr([turn.as_turn() for turn in row.messages[:-1]])


def _bucket(key: str) -> float:
    """A number in [0, 1) that depends on the key alone."""
    return int(hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()[:8], 16) / 16**8


def _filtered(
    rows: list[Conversation], config: DataConfig, ifd: IfdScores | None
) -> tuple[list[Conversation], list[Dropped]]:
    """The training rows that `data.filter` keeps."""
    filters = [item for item in config.filter if item.score != "ifd" or ifd is not None]
    if not filters:
        return rows, []
    measured = [row_scores(instruction_of(row), answer_of(row)) for row in rows]
    scores: dict[str, Sequence[float | None]] = {
        name: [getattr(item, name) for item in measured] for name in measured[0]._fields
    }
    if ifd is not None and any(item.score == "ifd" for item in filters):
        scores["ifd"] = ifd(rows)
    reasons = kept(scores, filters)
    dropped = [
        Dropped(split="train", where=row.where, id=row.id, reason="filter", message=reason.removeprefix("filter: "))
        for row, reason in zip(rows, reasons, strict=True)
        if reason
    ]
    if dropped:
        logger.info("data.filter leaves out %d of %d training rows", len(dropped), len(rows))
    return [row for row, reason in zip(rows, reasons, strict=True) if not reason], dropped


def _limited(rows: list[Conversation], config: DataConfig) -> tuple[list[Conversation], list[Dropped]]:
    if config.limit is None or config.limit >= len(rows):
        return rows, []
    taken = random.Random(config.shuffle_seed).sample(rows, config.limit)
    return taken, dropped_rows(_missing(rows, taken), "train", "limit", f"data.limit is {config.limit}")
