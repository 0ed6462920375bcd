"""Which characters of a rendered conversation are an assistant's own, for any chat template.

A template says nowhere what the model is to write. It is found out by rendering the conversation a second time with
marks in place of every answer: what stands outside the marked turns is the same in both renderings, so what stands
between is the answer, however the template trims, moves or wraps it. Nothing here depends on a tokenizer.
"""

import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from harness.errors import TemplateError
from harness.records import Message, TemplateInputs

CONTROL_TOKEN = re.compile(
    r"<\|[^|<>\s]{1,60}\|>|<｜[^<>\s]{1,60}｜>|<\|[a-z_]{1,30}>|<[a-z_]{1,30}\|>|<(?:start|end)_of_\w{1,30}>|</s>|<eo[a-z]>"
    r"|<\w{1,20}_\d{1,4}>|\[\|\w{1,30}\|\]"
)
# Tags such as `<think>` and whole words: a header is compared piece by piece.
PIECE = re.compile(rf"{CONTROL_TOKEN.pattern}|</?\w{{1,30}}>|\s+|\w+|[^\s\w]")
MARK = "ZQV"
# A template may write the time, which can change between two renderings.
ATTEMPTS = 3


class Render(Protocol):
    """`apply_chat_template(tokenize=False)` of one tokenizer with its template."""

    def __call__(self, turns: Sequence[dict[str, Any]], *, add_generation_prompt: bool = False, **options: Any) -> str:
        """The conversation as text."""


@dataclass(frozen=True, slots=True)
class Grammar:
    """What a template puts around an assistant's turn."""

    headers: tuple[str, ...]
    """What may stand before an answer: the generation prompt, then ever shorter starts of it."""
    generation_prompt: str
    """What `add_generation_prompt` adds."""
    ends: tuple[str, ...]
    """Texts that end a turn in training; empty where nothing does."""
    stops: tuple[str, ...]
    """Those of them that end the last turn, or one that calls a tool: where generation must stop."""
    closing: str = ""
    """What must be added after the last turn, because the template ends a turn only when another one follows."""
    call_closing: str = ""
    """The same after a last turn that calls a tool."""


class Masked(NamedTuple):
    """A rendered conversation and where in it the assistant speaks, its end of turn included."""

    text: str
    spans: tuple[tuple[int, int], ...]


def mask_answers(render: Render, grammar: Grammar, messages: Sequence[Message], inputs: TemplateInputs) -> Masked:
    """The rendered conversation and the spans of its supervised answers.

    Raises: TemplateError: the template leaves an answer out or repeats it, or changes more than the answers when they
        change.
    """
    turns = [message.as_turn() for message in messages]
    for _ in range(ATTEMPTS):
        text = render(turns, **inputs.options())
        try:
            return _masked(render, grammar, messages, inputs, text)
        except TemplateError:
            if render(turns, **inputs.options()) == text:
                raise
    raise unsteady()


def unsteady() -> TemplateError:
    """What is said of a template that writes fractions of a second, or anything by chance."""
    return TemplateError(
        "the chat template renders the same conversation differently every time; perhaps it writes the time"
    )


def _masked(render: Render, grammar: Grammar, messages: Sequence[Message], inputs: TemplateInputs, text: str) -> Masked:
    mark = MARK
    while mark in text:
        mark += MARK[-1]
    turns = [_marked(message.as_turn(), f"{mark}{number}") for number, message in enumerate(messages)]
    marked = render(turns, **inputs.options())
    closing = _closing(grammar, messages[-1], marked)
    scene = _Scene(render, grammar, messages, inputs, turns, marked + closing)
    spans = _aligned(text + closing, scene.marked, _places(scene, mark))
    answers = [message for message in messages if message.role == "assistant"]
    return Masked(text + closing, tuple(span for span, turn in zip(spans, answers, strict=True) if turn.is_supervised))


class _Scene(NamedTuple):
    """A conversation with marks in place of its answers."""

    render: Render
    grammar: Grammar
    messages: Sequence[Message]
    """As they truly are."""
    inputs: TemplateInputs
    turns: Sequence[dict[str, Any]]
    """With marks."""
    marked: str
    """The turns with marks, rendered."""


class _Place(NamedTuple):
    """Where an answer lies in the marked rendering."""

    start: int
    end: int
    """Where the text that ends the turn begins."""
    stop: int
    """Where it is over."""


def _closing(grammar: Grammar, last: Message, marked: str) -> str:
    """What ends the last turn where the template doesn't."""
    wanted = grammar.call_closing if last.tool_calls else grammar.closing
    return wanted if wanted and last.role == "assistant" and not marked.rstrip().endswith(grammar.ends) else ""


def _marked(turn: dict[str, Any], mark: str) -> dict[str, Any]:
    """An assistant's turn with marks for all that it says, each another one; its shape stays."""
    if turn["role"] != "assistant":
        return turn
    changed = dict(turn)
    for key in ("content", "reasoning_content"):
        if str(turn.get(key) or "").strip():
            changed[key] = f"{mark}{key[0]}X"
    if turn.get("tool_calls"):
        changed["tool_calls"] = [_marked_call(call, mark, number) for number, call in enumerate(turn["tool_calls"])]
    return changed


def _marked_call(call: dict[str, Any], mark: str, number: int) -> dict[str, Any]:
    # The name stays: some templates repeat it in the header of the tool's answer.
    arguments = {f"{mark}k{number}X": f"{mark}v{number}X"}
    is_text = isinstance(call["function"].get("arguments"), str)
    function = {**call["function"], "arguments": json.dumps(arguments) if is_text else arguments}
    return {**call, "function": function}


def _places(scene: _Scene, mark: str) -> list[_Place]:
    """Where the answers lie in the marked rendering."""
    answers = [number for number, message in enumerate(scene.messages) if message.role == "assistant"]
    marks = [_marks(scene.marked, f"{mark}{number}", order) for order, number in enumerate(answers, 1)]
    limits = [*(first for first, _ in marks), len(scene.marked)][1:]
    places: list[_Place] = []
    for number, (first, last), limit in zip(answers, marks, limits, strict=True):
        start = _start_of_turn(scene, number, places[-1].stop if places else 0, first)
        places.append(_Place(start, *_end_of_turn(scene, number, last, limit)))
    return places


def _marks(marked: str, mark: str, order: int) -> tuple[int, int]:
    """Where the marks of one answer begin and end."""
    found = list(re.finditer(rf"{mark}[a-z]\d*X", marked))
    if not found:
        raise TemplateError(f"the assistant's turn {order} is empty, or the chat template leaves it out")
    if len({match.group() for match in found}) < len(found):
        raise TemplateError(f"the chat template writes the assistant's turn {order} more than once")
    return found[0].start(), found[-1].end()


def _start_of_turn(scene: _Scene, number: int, position: int, first: int) -> int:
    """Where an answer begins: after what inference would ask with, or what there is of it."""
    marked, headers = scene.marked, [header for header in scene.grammar.headers if header.strip()]
    position = _after_others(scene, number, position, first)
    if headers and (found := marked.rfind(headers[0], position, first)) >= 0:
        return found + len(headers[0])
    asked = _after_prompt(scene, number, position, first)
    if asked is not None and position <= asked <= first:
        return asked
    for header in headers[1:]:
        if (found := marked.rfind(header, position, first)) >= 0:
            return found + len(header)
    # Some templates write a header once and leave it out of later turns: such a turn begins where the others end.
    if (ended := _after_turns(scene, number)) is not None and position <= ended <= first:
        return ended
    tokens = list(CONTROL_TOKEN.finditer(marked, position, first))
    return tokens[-1].end() if tokens else first


def _after_others(scene: _Scene, number: int, position: int, first: int) -> int:
    """After the turns of others that stand before an answer, where they are found; never too late."""
    others = itertools.takewhile(lambda turn: turn.role != "assistant", reversed(scene.messages[:number]))
    for turn in reversed(list(others)):
        said = turn.content.strip()
        if said and (found := scene.marked.find(said, position, first)) >= 0:
            position = found + len(said)
    return position


def _after_prompt(scene: _Scene, number: int, position: int, first: int) -> int | None:
    """Where the conversation up to an answer, rendered alone, ends in the whole one; None where it isn't in there."""
    try:
        prompt = scene.render(scene.turns[:number], add_generation_prompt=True, **scene.inputs.options())
    except TemplateError:
        return None
    if scene.marked.startswith(prompt):
        return len(prompt)
    # Earlier turns may have changed (tools that go with the last question, say), but not what follows the last one.
    said = str(scene.turns[number - 1]["content"]).strip() if number else ""
    if said and said in prompt:
        tail = prompt[prompt.rindex(said) :]
        found = scene.marked.rfind(tail, max(position - len(said), 0), first)
        if found >= 0:
            return found + len(tail)
    shared = next(i for i, (one, other) in enumerate(zip(prompt, f"{scene.marked}\0", strict=False)) if one != other)
    header = len(prompt) - len(scene.grammar.generation_prompt)
    ends = [match.end() for match in PIECE.finditer(prompt, header) if match.end() <= shared]
    return ends[-1] if ends else None


def _after_turns(scene: _Scene, number: int) -> int | None:
    """Where the conversation up to an answer ends in the whole one, when nothing asks for the answer yet."""
    try:
        before = scene.render(scene.turns[:number], **scene.inputs.options())
    except TemplateError:
        return None
    return len(before) if before and scene.marked.startswith(before) else None


def _end_of_turn(scene: _Scene, number: int, last: int, limit: int) -> tuple[int, int]:
    """Where the first text that ends a turn begins and is over; it must come before anybody else speaks."""
    found = [(scene.marked.find(end, last), end) for end in scene.grammar.ends if end in scene.marked[last:]]
    if not found:
        return last, last
    position, end = min(found)
    stop = position + len(end)
    others = (turn.content.strip() for turn in scene.messages[number + 1 :] if turn.role != "assistant")
    said = next((content for content in others if content), "")
    # A short text is found anywhere: it is spoken too early only if it isn't said after the end as well.
    is_spoken = said in scene.marked[last:position] and said not in scene.marked[stop:limit] if said else False
    if stop > limit or is_spoken:
        raise TemplateError("nothing ends the assistant's turn before the next one begins")
    return position, stop


def _aligned(text: str, marked: str, places: Sequence[_Place]) -> list[tuple[int, int]]:
    """The spans of the answers in the true rendering, between texts that are the same in both."""
    if not places:
        return []
    head, tail = marked[: places[0].start], marked[places[-1].end :]
    between = [marked[one.end : other.start] for one, other in itertools.pairwise(places)]
    low, high = len(head), len(text) - len(tail)
    if low > high or not text.startswith(head) or not text.endswith(tail) or "" in between:
        raise _moved()
    first, last = _from_start(text, between, low, high), _from_end(text, between, low, high)
    if first != last:
        raise TemplateError("an answer contains what stands between two turns, so the answers can't be told apart")
    starts = [low, *(found + len(gap) for found, gap in zip(first, between, strict=True))]
    stops = [found + place.stop - place.end for found, place in zip([*first, high], places, strict=True)]
    return list(zip(starts, stops, strict=True))


def _moved() -> TemplateError:
    return TemplateError(
        "the chat template renders other turns differently when the answers change, so the answers can't be told apart"
    )


def _from_start(text: str, between: Sequence[str], low: int, high: int) -> list[int]:
    """Where the texts between the answers are found in order, each as early as it can be."""
    positions = []
    for gap in between:
        found = text.find(gap, low, high)
        if found < 0:
            raise _moved()
        positions.append(found)
        low = found + len(gap)
    return positions


def _from_end(text: str, between: Sequence[str], low: int, high: int) -> list[int]:
    """The same, each as late as it can be."""
    positions = []
    for gap in reversed(between):
        found = text.rfind(gap, low, high)
        if found < 0:
            raise _moved()
        positions.append(found)
        high = found
    return positions[::-1]
