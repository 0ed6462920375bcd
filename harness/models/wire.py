"""What is sent to an OpenAI-compatible server for an example, and what its answer becomes."""

import contextlib
import json
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, BeforeValidator, Field, ValidationError, model_validator

from harness.models.respondent import Sampling
from harness.records import Example, Generation, Message, StopReason
from harness.scoring.structure import THINK_CLOSE, THINK_OPEN

CHAT, TEXT = "/chat/completions", "/completions"
# `eos_token` is what older text-generation-inference says for `stop`.
STOP_REASONS: dict[str, StopReason] = {
    "stop": "end_of_turn", "tool_calls": "end_of_turn", "function_call": "end_of_turn", "eos_token": "end_of_turn", "length": "length",
}  # fmt: skip


class Request(NamedTuple):
    """One completion that is asked for."""

    example_id: str
    path: str
    body: dict[str, Any]
    prompt: str
    """For people to read: how the server renders it isn't known."""

    @property
    def key(self) -> str:
        """The same for requests that can only have the same answer."""
        return json.dumps([self.path, self.body], sort_keys=True)

    @property
    def continues(self) -> bool:
        """Whether the answer is begun already."""
        return "continue_final_message" in self.body


class Answer(NamedTuple):
    """One completion, whichever example it is for."""

    text: str
    stop_reason: StopReason
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float | None = None


def request_for(example: Example, *, model: str, as_text: bool, sampling: Sampling, sample: int) -> Request:
    """What is asked for one sample of an example.

    Every sample is a request of its own with the next seed, because servers differ in whether they know `n`. A seed and
    `top_p` go along only where something is drawn: some servers refuse what they don't know.
    """
    body: dict[str, Any] = {"model": model, "max_tokens": sampling.max_new_tokens, "temperature": sampling.temperature}
    if sampling.temperature > 0:
        body |= {"top_p": sampling.top_p, "seed": sampling.seed + sample}
    if as_text:
        prompt = example.plain_prompt + example.expect.prefill
        return Request(example.id, TEXT, {**body, "prompt": prompt}, prompt)
    body |= {"messages": _turns(example.turns)}
    if example.expect.prefill:
        body["messages"].append({"role": "assistant", "content": example.expect.prefill})
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    given = {
        "tools": list(example.inputs.tools),
        "documents": list(example.inputs.documents),
        "chat_template_kwargs": example.inputs.chat_template_kwargs,
    }
    body |= {name: value for name, value in given.items() if value}
    return Request(example.id, CHAT, body, _readable(body))


def _turns(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Turns as the API has them: arguments are a string of JSON, and every call and its result share an id."""
    turns = []
    waiting: list[str] = []
    for place, message in enumerate(messages):
        turn = message.as_turn()
        if message.tool_calls:
            turn["tool_calls"] = [
                _sent_call(call, f"call_{place}_{number}") for number, call in enumerate(message.tool_calls)
            ]
            waiting = [call["id"] for call in turn["tool_calls"]]
        if message.role == "tool":
            answered = turn.setdefault("tool_call_id", waiting[0] if waiting else f"call_{place}")
            waiting = [name for name in waiting if name != answered]
        turns.append(turn)
    return turns


def _sent_call(call: dict[str, Any], name: str) -> dict[str, Any]:
    function = dict(call.get("function") or call)
    arguments = function.get("arguments", {})
    if not isinstance(arguments, str):
        function["arguments"] = json.dumps(arguments, ensure_ascii=False)
    return {"id": call.get("id") or name, "type": "function", "function": function}


def _readable(body: dict[str, Any]) -> str:
    """One line a turn, with what else the template gets in front."""
    lines = [f"{name}: {_json(body[name])}" for name in ("tools", "documents", "chat_template_kwargs") if name in body]
    for turn in body["messages"]:
        calls = [
            _call_text(call["function"]["name"], call["function"]["arguments"]) for call in turn.get("tool_calls", ())
        ]
        lines.append(f"{turn['role']}: " + "\n".join(filter(None, [turn["content"], *calls])))
    return "\n".join(lines if "continue_final_message" in body else [*lines, "assistant: "])


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _encodable(value: object) -> object:
    """Text without halves of surrogate pairs, which some servers send and no file can hold."""
    if not isinstance(value, str):
        return value
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


CleanText = Annotated[str, BeforeValidator(_encodable)]


class _Function(BaseModel):
    name: CleanText = ""
    arguments: CleanText | dict[str, Any] | None = None


class _Call(BaseModel):
    function: _Function


class _Message(BaseModel):
    content: CleanText | None = None
    reasoning_content: CleanText | None = None
    reasoning: CleanText | None = None
    """What newer vLLM calls `reasoning_content`."""
    tool_calls: list[_Call] | None = None


class _Choice(BaseModel):
    message: _Message | None = None
    text: CleanText | None = None
    finish_reason: str | None = None

    @model_validator(mode="after")
    def _says_something(self) -> "_Choice":
        if self.message is None and self.text is None:
            raise ValueError("it has neither message nor text")
        return self


class _Usage(BaseModel):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Reply(BaseModel):
    """The body of an answer, as far as it is used."""

    choices: Annotated[list[_Choice], Field(min_length=1)]
    usage: _Usage | None = None
    system_fingerprint: str | None = None


def reply_of(body: object) -> Reply:
    """The answer in a body of JSON.

    Raises: ValueError: there is none; says why, in a few words.
    """
    if not isinstance(body, dict) or "choices" not in body:
        raise ValueError(f"no choices in {str(body)!r}")
    try:
        return Reply.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ValueError(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from None


def answer_of(reply: Reply, seconds: float) -> Answer:
    """An answer as the template would have had the model write it; 0 tokens where the server doesn't count them."""
    choice = reply.choices[0]
    usage = reply.usage or _Usage()
    text = choice.text or ""
    if choice.message is not None:
        text = _written(choice.message, is_cut=choice.finish_reason == "length")
    stop_reason = STOP_REASONS.get(choice.finish_reason or "", "unknown")
    return Answer(text, stop_reason, usage.prompt_tokens or 0, usage.completion_tokens or 0, seconds)


def _written(message: _Message, *, is_cut: bool) -> str:
    """Thinking, content and calls in one text, in the tags that scorers know."""
    content = message.content or ""
    calls = [_call_text(call.function.name, call.function.arguments) for call in message.tool_calls or ()]
    text = "\n".join(filter(None, [content, *calls]))
    thinking = message.reasoning_content or message.reasoning
    if not thinking:
        return text
    opened = f"{THINK_OPEN}\n" + thinking.strip("\n")
    # A limit that fell inside the thinking left it open.
    return opened if is_cut and not text else f"{opened}\n{THINK_CLOSE}\n\n" + text.lstrip("\n")


def _call_text(name: str, arguments: str | dict[str, Any] | None) -> str:
    """A call in its tags; arguments that are no JSON stay as they came, so that a malformed call stays malformed."""
    given = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    with contextlib.suppress(ValueError, RecursionError):
        given = json.dumps(json.loads(given), ensure_ascii=False)
    return f'<tool_call>\n{{"name": {_json(name)}, "arguments": {given}}}\n</tool_call>'


def generation_of(request: Request, answer: Answer, sample: int) -> Generation:
    """The record of an answer."""
    return Generation(
        example_id=request.example_id,
        prompt=request.prompt,
        text=answer.text,
        stop_reason=answer.stop_reason,
        prompt_tokens=answer.prompt_tokens,
        completion_tokens=answer.completion_tokens,
        seconds=answer.seconds,
        sample=sample,
    )
