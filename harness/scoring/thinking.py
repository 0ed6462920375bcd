"""Thinking blocks, in the delimiters that models use for them."""

import re
from collections.abc import Iterator
from typing import NamedTuple


class Delimiters(NamedTuple):
    """What begins and what ends a thinking block."""

    open: str
    close: str


THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
DELIMITERS = (
    Delimiters(THINK_OPEN, THINK_CLOSE),
    Delimiters("<thinking>", "</thinking>"),
    Delimiters("<thought>", "</thought>"),
    Delimiters("<reasoning>", "</reasoning>"),
    Delimiters("[THINK]", "[/THINK]"),
    Delimiters("<seed:think>", "</seed:think>"),
    Delimiters("◁think▷", "◁/think▷"),
    Delimiters("<|START_THINKING|>", "<|END_THINKING|>"),
    Delimiters("<|begin_of_thought|>", "<|end_of_thought|>"),
    Delimiters("<|inner_prefix|>", "<|inner_suffix|>"),
    Delimiters("<|channel>thought\n", "<channel|>"),
    Delimiters("<|channel|>analysis<|message|>", "<|end|><|start|>assistant"),
)
"""Mistral, Seed, Kimi, Cohere, OpenThoughts, Apertus, Gemma and gpt-oss have their own; most others write `<think>`."""
# What some templates put around the answer itself, after the thinking.
WRAPPERS = (
    ("<|channel|>final<|message|>", ""),
    ("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
    ("<|START_TEXT|>", "<|END_TEXT|>"),
    ("<response>", "</response>"),
    (">>>all\n", ""),
    ("all\n", ""),
)
EMPTY_BLOCK = re.compile(
    "(?:" + "|".join(rf"{re.escape(pair.open)}\s*+{re.escape(pair.close)}" for pair in DELIMITERS) + r")\s*+"
)
OPENING = re.compile("|".join(re.escape(pair.open) for pair in DELIMITERS))
CLOSE_OF = {pair.open: pair.close for pair in DELIMITERS}
BLANKS = re.compile(r"\s*+")
# A generation prompt may break the line after the delimiter, which is part of the delimiter in one of them.
OPENED = re.compile("(?:" + "|".join(re.escape(pair.open.rstrip()) for pair in DELIMITERS) + r")\s*\Z")


def thinking_failure(text: str, *, wanted: bool) -> str:
    """Exactly one closed thinking block before the answer where wanted, and none where not; an empty one is none."""
    text = EMPTY_BLOCK.sub("", text)
    opened = sum(text.count(pair.open) for pair in DELIMITERS)
    closed = sum(text.count(pair.close) for pair in DELIMITERS)
    if not wanted:
        return "thinking_not_asked" if opened or closed else ""
    if opened == 0:
        return "thinking_missing"
    blocks = list(_blocks(text))
    if opened != closed or len(blocks) != opened:
        return "thinking_not_closed"
    if opened > 1:
        return "thinking_repeated"
    if text[: blocks[0].start].strip():
        return "prose_before_thinking"
    return "" if text[blocks[0].stop :].strip() else "no_answer_after_thinking"


def has_thinking(text: str) -> bool:
    """Whether there is a thinking block with something in it."""
    text = EMPTY_BLOCK.sub("", text)
    return OPENING.search(text) is not None


def without_thinking(text: str) -> str:
    """The text without its closed thinking blocks and the blanks after them."""
    kept, position = [], 0
    for block in _blocks(text):
        kept.append(text[position : block.start])
        position = BLANKS.match(text, block.stop).end()  # type: ignore[union-attr]
    return "".join([*kept, text[position:]])


def answer_in(text: str) -> str:
    """The answer itself: without thinking, and without what the template puts around an answer."""
    answer = without_thinking(text).strip()
    for before, after in WRAPPERS:
        if answer.startswith(before):
            return answer[len(before) :].strip().removesuffix(after).strip()
    return answer


def opened_by(prompt: str) -> str:
    """The thinking delimiter that a prompt ends with, so that the block belongs to the answer; else ""."""
    found = OPENED.search(prompt, max(0, len(prompt) - 100))
    return found.group() if found else ""


class _Block(NamedTuple):
    start: int
    stop: int
    """After what closes it."""


def _blocks(text: str) -> Iterator[_Block]:
    """Closed thinking blocks, in order."""
    # Looked for once: a text of a hundred thousand openings must not be searched to its end for every one.
    last_close = {pair.open: text.rfind(pair.close) for pair in DELIMITERS}
    position = 0
    while found := OPENING.search(text, position):
        position = found.end()
        if last_close[found.group()] >= position:
            close = CLOSE_OF[found.group()]
            position = text.index(close, position) + len(close)
            yield _Block(found.start(), position)
