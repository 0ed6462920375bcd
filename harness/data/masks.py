"""Which characters of a rendered conversation are an assistant's own, for any chat template.

A template says nowhere what the model is to write. It is found out by rendering the conversation a second time with
marks in place of every answer: what stands outside the marked turns is the same in both renderings, so what stands
between is the answer, however the template trims, moves or wraps it. Nothing here depends on a tokenizer.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from harness.errors import TemplateError
from harness.records import Message, TemplateInputs

CONTROL_TOKEN = re.compile(
    r"<\|[^|<>\s]{1,60}\|>|<｜[^<>\s]{1,60}｜>|<\|[a-z_]{1,30}>|<[a-z_]{1,30}\|>|<(?:start|end)_of_\w{1,30}>|</s>|<eo[stm]>"
)
# Tags such as `<think>` and whole words: a header is compared piece by piece.
PIECE = re.compile(rf"{CONTROL_TOKEN.pattern}|</?\w{{1,30}}>|\s+|\w+|[^\s\w]")
MARK = "ZQV"
QUESTION, ANSWER, QUESTION_2, ANSWER_2 = "Quokka7 asks", "Wombat8 replies", "Numbat9 asks", "Dingo6 replies"
TOOL_RESULT = "Bilby5 found"


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


def user_turn(text: str) -> dict[str, Any]:
    """A user's turn as templates take it."""
    return {"role": "user", "content": text}


def answer_turn(text: str, **fields: Any) -> dict[str, Any]:
    """An assistant's turn as templates take it."""
    return {"role": "assistant", "content": text, **fields}


def call_turn(value: str = MARK) -> dict[str, Any]:
    """An assistant's turn that calls the tool `lookup`."""
    call = {"id": "abcdef123", "type": "function", "function": {"name": "lookup", "arguments": {"key": value}}}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


LOOKUP_TOOL = {
    "type": "function",
    "function": {
        "name": "lookup",
        "description": "Looks a key up.",
        "parameters": {
            "type": "object",
            "properties": {"key": {"type": "string", "description": "The key."}},
            "required": ["key"],
        },
    },
}


def learn_grammar(render: Render) -> Grammar:
    """Finds out by rendering small conversations what surrounds an answer.

    Raises: TemplateError: the template can't render a question with its answer, or drops one of them.
    """
    asked = render([user_turn(QUESTION)])
    prompted = render([user_turn(QUESTION)], add_generation_prompt=True)
    answered = render([user_turn(QUESTION), answer_turn(ANSWER)])
    for text in (QUESTION, ANSWER):
        if text not in answered:
            raise TemplateError(
                f"the chat template leaves out what the {'user' if text == QUESTION else 'assistant'} says"
            )
    prompt = prompted[len(_common_start(asked, prompted)) :]
    before = answered[answered.index(QUESTION) + len(QUESTION) : answered.rindex(ANSWER)]
    tail = answered[answered.rindex(ANSWER) + len(ANSWER) :]
    opening = (CONTROL_TOKEN.findall(prompt) or [""])[0]
    between = _between(render, [answer_turn(ANSWER), user_turn(QUESTION_2)], ANSWER, QUESTION_2)
    last, middle, closing = _ends(tail, between, answered[: answered.index(QUESTION)], opening)
    call = _call_end(render, opening, [end for end in (last, middle) if end])
    ends = tuple(dict.fromkeys(end for end in (last, middle, call) if end))
    stops = tuple(dict.fromkeys(end for end in (last, call) if end))
    prompt_tail = prompted[prompted.index(QUESTION) + len(QUESTION) :]
    headers = _headers(prompt) or (_common_start(before, prompt_tail),)
    return Grammar(headers, prompt, ends, stops, closing, (call or closing) if closing else "")


def _common_start(first: str, second: str) -> str:
    """The start that two texts share, in whole pieces."""
    shared = []
    for one, other in zip(PIECE.finditer(first), PIECE.finditer(second), strict=False):
        if one.group() != other.group():
            break
        shared.append(one.group())
    return "".join(shared)


def _headers(prompt: str) -> tuple[str, ...]:
    """The generation prompt and its starts, longest first."""
    ends = [match.end() for match in PIECE.finditer(prompt)]
    return tuple(prompt[:end] for end in reversed(ends) if prompt[:end].strip())


def _between(render: Render, turns: Sequence[dict[str, Any]], first: str, second: str) -> str | None:
    """What stands between two texts of a conversation that goes on."""
    try:
        text = render([user_turn(QUESTION), *turns, answer_turn(ANSWER_2)])
    except TemplateError:
        return None
    if first not in text or second not in text:
        return None
    start = text.rindex(first) + len(first)
    return text[start : text.index(second, start)] if second in text[start:] else None


def _ends(tail: str, between: str | None, asking: str, opening: str) -> tuple[str, str, str]:
    """What ends the last turn, what ends an earlier one, and what must be added where the template leaves the last one open."""
    if between is None:
        found = CONTROL_TOKEN.findall(tail)
        return (found[-1] if found else tail.strip()), "", ""
    shared = CONTROL_TOKEN.findall(_common_start(tail, between))
    starts_a_turn = set(CONTROL_TOKEN.findall(asking)[-2:])
    while len(shared) > 1 and shared[-1] in starts_a_turn:
        shared.pop()
    if shared:
        return shared[-1], "", ""
    last, middle = _before(tail, opening), _before(between, opening)
    next_header = CONTROL_TOKEN.findall(asking)
    while middle and next_header and middle[-1] == next_header[-1]:
        middle.pop()
        next_header.pop()
    # Some models stop with the header of whoever speaks next.
    middle = middle or CONTROL_TOKEN.findall(between)[:1]
    if last:
        return last[-1], middle[-1] if middle else "", ""
    if not tail.strip() and middle:
        return middle[-1], "", middle[-1]
    return _common_start(tail, between).strip(), "", ""


def _before(text: str, opening: str) -> list[str]:
    """Control tokens up to the one that opens the next turn."""
    tokens = CONTROL_TOKEN.findall(text)
    return tokens[: tokens.index(opening)] if opening in tokens else tokens


def _call_end(render: Render, opening: str, ends: Sequence[str]) -> str:
    """The text that ends a turn that calls a tool, where it is another one."""
    result = {"role": "tool", "name": "lookup", "tool_call_id": "abcdef123", "content": TOOL_RESULT}
    try:
        text = render([user_turn(QUESTION), call_turn(), result, answer_turn(ANSWER_2)])
    except TemplateError:
        return ""
    if MARK not in text or TOOL_RESULT not in text[text.rindex(MARK) :]:
        return ""
    call, _, rest = text.rpartition(MARK)
    between = rest[: rest.index(TOOL_RESULT)]
    if any(end in between for end in ends):
        return ""
    # What stands on both sides of a value belongs to the call (a quotation mark, say).
    found = [token for token in _before(between, opening) if token not in call[call.rindex(QUESTION) :]]
    return found[0] if found else ""


def mask_answers(render: Render, grammar: Grammar, messages: Sequence[Message], inputs: TemplateInputs) -> Masked:
    """The rendered conversation and the spans of its supervised answers.

    Raises: TemplateError: the template leaves an answer out, or changes more than the answers when they change.
    """
    turns = [message.as_turn() for message in messages]
    text = render(turns, **inputs.options())
    marked = render([_marked(turn, number) for number, turn in enumerate(turns)], **inputs.options())
    closing = _closing(grammar, messages[-1], marked)
    text, marked = text + closing, marked + closing
    gaps = _gaps(marked, grammar, messages)
    spans = _aligned(text, gaps)
    answers = [message for message in messages if message.role == "assistant"]
    for number, (start, stop) in enumerate(spans):
        if not text[start:stop].strip():
            raise TemplateError(f"the chat template leaves out the assistant's turn {number + 1}")
    return Masked(text, tuple(span for span, turn in zip(spans, answers, strict=True) if turn.is_supervised))


def _closing(grammar: Grammar, last: Message, marked: str) -> str:
    """What ends the last turn where the template doesn't."""
    wanted = grammar.call_closing if last.tool_calls else grammar.closing
    return wanted if wanted and not marked.rstrip().endswith(grammar.ends) else ""


def _marked(turn: dict[str, Any], number: int) -> dict[str, Any]:
    """An assistant's turn with marks for all that it says; its shape stays."""
    if turn["role"] != "assistant":
        return turn
    changed = dict(turn)
    for key in ("content", "reasoning_content"):
        if str(turn.get(key) or "").strip():
            changed[key] = f"{MARK}{number}{key[0]}X"
    if turn.get("tool_calls"):
        changed["tool_calls"] = [_marked_call(call, number) for call in turn["tool_calls"]]
    return changed


def _marked_call(call: dict[str, Any], number: int) -> dict[str, Any]:
    # The name stays: some templates repeat it in the header of the tool's answer.
    function = {**call["function"], "arguments": {f"{MARK}{number}kX": f"{MARK}{number}vX"}}
    return {**call, "function": function}


def _gaps(marked: str, grammar: Grammar, messages: Sequence[Message]) -> list[str]:
    """What stands before, between and after the answers."""
    gaps, position = [], 0
    for number, message in enumerate(messages):
        if message.role != "assistant":
            continue
        marks = [match.span() for match in re.finditer(rf"{MARK}{number}[a-z]X", marked)]
        if not marks:
            raise TemplateError(f"the chat template leaves out the assistant's turn {number + 1}")
        first, last = marks[0][0], marks[-1][1]
        start = _start_of_turn(
            marked, _after_others(marked, position, first, messages[:number]), first, grammar.headers
        )
        stop = _end_of_turn(marked, last, grammar, messages[number + 1 :])
        gaps.append(marked[position:start])
        position = stop
    return [*gaps, marked[position:]]


def _after_others(marked: str, position: int, first: int, earlier: Sequence[Message]) -> int:
    """Where the turns of others that stand before an answer end: no answer begins earlier."""
    for turn in reversed(earlier):
        said = turn.content.strip()
        if turn.role == "assistant":
            return position
        if said and (found := marked.rfind(said, position, first)) >= 0:
            return found + len(said)
    return position


def _start_of_turn(marked: str, position: int, first: int, headers: Sequence[str]) -> int:
    """After the longest header that stands before an answer, else after the last control token before it."""
    for header in headers:
        found = marked.rfind(header, position, first)
        if found >= 0:
            return found + len(header)
    tokens = list(CONTROL_TOKEN.finditer(marked, position, first))
    return tokens[-1].end() if tokens else first


def _end_of_turn(marked: str, last: int, grammar: Grammar, later: Sequence[Message]) -> int:
    """Where the turn ends: after the first text that ends one, which must come before anybody else speaks."""
    found = [(marked.find(end, last), end) for end in grammar.ends if end in marked[last:]]
    if not found:
        return last
    position, end = min(found)
    said = next((turn.content.strip() for turn in later if turn.role != "assistant" and turn.content.strip()), "")
    spoken = marked.find(said, last) if said else -1
    if 0 <= spoken < position:
        raise TemplateError("nothing ends the assistant's turn before the next one begins")
    return position + len(end)


def _aligned(text: str, gaps: Sequence[str]) -> list[tuple[int, int]]:
    """The spans between the gaps, found in order in the true rendering."""
    moved = TemplateError(
        "the chat template renders other turns differently when the answers change, so the answers can't be told apart"
    )
    if not text.startswith(gaps[0]) or not text.endswith(gaps[-1]):
        raise moved
    spans, position = [], len(gaps[0])
    for number, gap in enumerate(gaps[1:], 1):
        stop = len(text) - len(gap) if number == len(gaps) - 1 else text.find(gap, position) if gap else -1
        if stop < position:
            raise moved
        spans.append((position, stop))
        position = stop + len(gap)
    return spans
