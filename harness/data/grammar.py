"""What a chat template puts around an assistant's turn, learned by rendering small conversations."""

from collections.abc import Sequence
from typing import Any

from harness.data.masks import ATTEMPTS, CONTROL_TOKEN, MARK, PIECE, Grammar, Render, unsteady
from harness.errors import TemplateError

QUESTION, ANSWER, QUESTION_2, ANSWER_2 = "Quokka7 asks", "Wombat8 replies", "Numbat9 asks", "Dingo6 replies"
TOOL_RESULT = "Bilby5 found"


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
    for _ in range(ATTEMPTS):
        asked = render([user_turn(QUESTION)])
        grammar = _learn(render, asked)
        if render([user_turn(QUESTION)]) == asked:
            return grammar
    raise unsteady()


def _learn(render: Render, asked: str) -> Grammar:
    prompted = render([user_turn(QUESTION)], add_generation_prompt=True)
    answered = render([user_turn(QUESTION), answer_turn(ANSWER)])
    for who, text, rendered in (
        ("user", QUESTION, prompted), ("user", QUESTION, answered), ("assistant", ANSWER, answered),
    ):  # fmt: skip
        if text not in rendered:
            raise TemplateError(f"the chat template leaves out what the {who} says, or doesn't write it word for word")
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
    # Some models stop with the header of whoever speaks next, where that is another one than their own.
    middle = middle or [token for token in CONTROL_TOKEN.findall(between)[:1] if token != opening]
    if last:
        return last[-1], middle[-1] if middle else "", ""
    if not tail.strip() and middle:
        return middle[-1], "", between[: between.index(middle[-1])] + middle[-1]
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
