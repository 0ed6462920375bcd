"""Right answers of real data, as real templates write them, pass; the same answers with one fault are caught by its name."""

from collections import Counter
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from benchmarks.template_table import with_template
from harness.data.adherence_prompts import real_prompts
from harness.data.formats import Conversation, convert
from harness.data.masks import mask_answers
from harness.data.sources import load_rows
from harness.data.tokenize import TokenPlan, prompt_ids, renderer, tokenized_answer
from harness.errors import TemplateError
from harness.eval_config import SourceConfig
from harness.models.load import tokenizer_at
from harness.models.templates import plan_tokens
from harness.records import Example, Expectation, Message
from harness.scoring.expected import as_written
from harness.scoring.json_form import json_failure, loose_json_failure
from harness.scoring.structure import Around, adherence_failure
from harness.scoring.thinking import opened_by
from harness.scoring.tool_calls import calls_failure, read_calls, reference_calls

TOOL_DATA = ("lf_glaive_toolcall_en_demo.json", "lf_reason_tool_use_demo_50.jsonl")
EVERY = 4
"""Of so many answers one is tried."""


class Written(NamedTuple):
    """An answer in a template, with what the checks are given."""

    example: Example
    prompt: str
    text: str
    control_tokens: tuple[str, ...]
    write: Callable[[Message], str]
    """Another answer to the same prompt, as the template writes it."""

    def failure(self, text: str) -> str:
        """What the checks say of a generation in place of the right answer."""
        return adherence_failure(
            text, "end_of_turn", self.example.expect, self.control_tokens, Around(self.prompt, self.example.reference)
        )

    def verdict(self, text: str) -> str:
        """What BFCL's rules say of its calls."""
        return calls_failure(text, self.example.expect, reference_calls(self.example))


@lru_cache(maxsize=4)
def tool_examples(folder: Path) -> list[Example]:
    """Every assistant's turn of the tool data as an example of its own."""
    examples = []
    for name in TOOL_DATA:
        for row in convert(load_rows(SourceConfig(path=str(folder / "datasets" / name)))).rows:
            for number, turn in enumerate(row.messages):
                if turn.role == "assistant" and number:
                    thinks = bool(turn.reasoning_content and not turn.tool_calls)
                    update = {"messages": row.messages[: number + 1], "expect": Expectation(thinking=thinks)}
                    examples.append(row.model_copy(update={**update, "id": f"{row.id}:{number}"}).example())
    return examples[::EVERY]


@lru_cache(maxsize=32)
def template(folder: Path, name: str) -> tuple[Any, TokenPlan]:
    tokenizer = with_template(
        tokenizer_at(str(folder / "tokenizers" / "qwen2.5")), folder / "templates" / f"{name}.jinja"
    )
    return tokenizer, plan_tokens(tokenizer)


def written(folder: Path, name: str, examples: list[Example]) -> Iterator[Written]:
    """The examples that the template can write, without those whose prompt it renders otherwise once they are answered."""
    tokenizer, plan = template(folder, name)
    for example in examples:
        try:
            asked = prompt_ids(tokenizer, example.messages, inputs=example.inputs)

            def write(answer: Message, example: Example = example, asked: list[int] = asked) -> str:
                row = Conversation(id=example.id, messages=(*example.messages, answer), inputs=example.inputs)
                labels = tokenized_answer(tokenizer, plan, asked, row).labels
                return opened_by(tokenizer.decode(asked)) + str(tokenizer.decode([i for i in labels if i >= 0]))

            text = write(example.answer or Message(role="assistant", content=example.reference))
        except TemplateError:
            continue
        control_tokens = tuple(token for token in plan.control_tokens if token not in text)
        prompt = tokenizer.decode(asked)
        yield Written(as_written(example, text, prompt), prompt, text, control_tokens, write)


TEMPLATES = {
    "Qwen-Qwen2.5-7B-Instruct": 260,
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use": 190,
    "Qwen-Qwen3-Coder-30B-A3B-Instruct": 260,
    "meta-llama-Llama-3.2-3B-Instruct": 250,
    "openai-gpt-oss-120b": 250,
    "Apertus-8B-Instruct": 200,
    "Bielik-11B-v3.0-Instruct": 200,
    "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": 20,
    "GLM-4.7-Flash": 15,
    "Cohere2MoE": 20,
    "HuggingFaceTB-SmolLM3-3B": 260,
}
"""Template -> how many of the answers it can write after their prompts, at least."""


@pytest.mark.slow
@pytest.mark.parametrize("name", TEMPLATES)
def test_right_answers_pass_and_nearly_all_are_checked_in_full(real_data: Path, name: str) -> None:
    answers = list(written(real_data, name, tool_examples(real_data)))
    assert len(answers) >= TEMPLATES[name]
    assert Counter(answer.failure(answer.text) for answer in answers) == {"": len(answers)}
    assert Counter(a.verdict(a.text) for a in answers if a.example.expect.tools) in (
        {}, {"": sum(bool(a.example.expect.tools) for a in answers)},
    )  # fmt: skip
    empty = sum(not answer.text.strip() for answer in answers)
    assert sum(answer.example.expect.is_free for answer in answers) <= 0.01 * len(answers) + empty


def changed(answer: Written, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> str | None:
    """The answer with its first call changed; None where it can't be changed so."""
    stated = answer.example.answer
    if stated is None or not stated.tool_calls:
        return None
    function = change(stated.tool_calls[0]["function"])
    if function is None:
        return None
    calls = ({**stated.tool_calls[0], "function": function}, *stated.tool_calls[1:])
    return answer.write(stated.model_copy(update={"tool_calls": calls}))


def parameters(answer: Written, name: str) -> dict[str, Any]:
    tools = {tool["function"]["name"]: tool["function"].get("parameters") or {} for tool in answer.example.expect.tools}
    return dict(tools.get(name, {}))


def renamed(answer: Written) -> str | None:
    return changed(answer, lambda function: {**function, "name": "no_such_tool"})


def without_argument(answer: Written) -> str | None:
    def drop(function: dict[str, Any]) -> dict[str, Any] | None:
        needed = [
            name for name in parameters(answer, function["name"]).get("required") or () if name in function["arguments"]
        ]
        left = {name: value for name, value in function["arguments"].items() if name not in needed[:1]}
        return {**function, "arguments": left} if needed else None

    return changed(answer, drop)


def with_another_argument(answer: Written) -> str | None:
    def add(function: dict[str, Any]) -> dict[str, Any] | None:
        names_any = "properties" in parameters(answer, function["name"])
        return {**function, "arguments": function["arguments"] | {"no_such_argument": "x"}} if names_any else None

    return changed(answer, add)


def with_wrong_type(answer: Written) -> str | None:
    def retype(function: dict[str, Any]) -> dict[str, Any] | None:
        properties = parameters(answer, function["name"]).get("properties") or {}
        numbers = [n for n in function["arguments"] if properties.get(n, {}).get("type") in ("number", "integer")]
        return {**function, "arguments": function["arguments"] | {numbers[0]: "many"}} if numbers else None

    return changed(answer, retype)


def cut(answer: Written) -> str | None:
    """Without the last fifth of a call, which generation never does where calls end their turn with a token."""
    return answer.text[: len(answer.text) * 4 // 5] if answer.example.expect.tools else None


def called_twice(answer: Written) -> str | None:
    stated = answer.example.answer
    if stated is None or not stated.tool_calls:
        return None
    return answer.write(stated.model_copy(update={"tool_calls": (*stated.tool_calls, stated.tool_calls[0])}))


def thought_twice(answer: Written) -> str | None:
    if not answer.example.expect.thinking or "<think>" not in answer.text:
        return None
    block, _, rest = answer.text.partition("</think>")
    return f"{block}</think>{block}</think>{rest}"


def never_closed(answer: Written) -> str | None:
    return answer.text.replace("</think>", "") if answer.example.expect.thinking and "</think>" in answer.text else None


def unasked_thinking(answer: Written) -> str | None:
    return None if answer.example.expect.thinking else f"<think>\nHm.\n</think>\n\n{answer.text}"


def with_role(answer: Written) -> str | None:
    return f"{answer.text}\nuser\nAnd then?" if not answer.example.expect.tools else None


def with_control_token(answer: Written) -> str | None:
    token = next((token for token in answer.control_tokens if token.startswith("<|")), None)
    return f"{answer.text[:1]}{token}{answer.text[1:]}" if token else None


def said_before(answer: Written) -> str | None:
    expect = answer.example.expect
    return (
        f"Let me look that up.\n{answer.text}"
        if expect.tools and not expect.allows_prose and not expect.thinking
        else None
    )


FAULTS: dict[str, tuple[Callable[[Written], str | None], tuple[str, ...]]] = {
    "renamed tool": (renamed, ("tool_unknown",)),
    "argument left out": (without_argument, ("tool_argument_missing",)),
    "argument invented": (with_another_argument, ("tool_argument_unexpected",)),
    "argument of another type": (with_wrong_type, ("tool_argument_type",)),
    "cut": (cut, ("tool_call_malformed", "tool_call_missing", "thinking_not_closed", "no_answer_after_thinking")),
    "called twice": (called_twice, ("tool_call_wrong_count",)),
    "thought twice": (thought_twice, ("thinking_repeated",)),
    "never closed": (never_closed, ("thinking_not_closed",)),
    "thinking not asked for": (unasked_thinking, ("thinking_not_asked",)),
    "role header": (with_role, ("role_header_in_answer",)),
    "control token": (with_control_token, ("special_token_in_answer",)),
    # Where only its first letters tell a call from prose, prose before it hides it.
    "prose before the call": (said_before, ("prose_around_tool_call", "tool_call_missing")),
}
"""Fault -> how it is made, and the names it may be caught by."""


@pytest.mark.slow
@pytest.mark.parametrize("name", TEMPLATES)
def test_faults_are_caught_by_their_names(real_data: Path, name: str) -> None:
    answers = [a for a in written(real_data, name, tool_examples(real_data)) if not a.example.expect.is_free]
    missed, made = [], 0
    for fault, (make, names) in FAULTS.items():
        for answer in answers:
            try:
                text = make(answer)
            except TemplateError:
                continue  # one call a turn is all that some templates write
            if text is not None and text != answer.text:
                made += 1
                if (failure := answer.failure(text)) not in names:
                    missed.append((fault, failure, answer.example.id))
    assert made > 50
    assert missed == []


# The formats of templates that can't write calls after these prompts, or only ones whose ids have nine letters.
READ_FROM_THE_MASK = {
    "Apertus-8B-Instruct": "apertus",
    "Bielik-11B-v3.0-Instruct": "tool_call:json",
    "Cohere2MoE": "cohere",
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": "cohere",
    "GLM-4.7-Flash": "tool_call:arg_key",
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use": "tool_call:json",
    "Qwen-Qwen3-Coder-30B-A3B-Instruct": "tool_call:function",
    "Qwen3.5-4B": "tool_call:function",
    "StepFun3.5-Flash": "tool_call:function",
    "deepseek-ai-DeepSeek-V3.2": "dsml",
    "google-gemma-4-31B-it-interleaved": "gemma",
    "meta-llama-Llama-3.2-3B-Instruct": "bare_json",
    "unsloth-Apriel-1.5": "tool_calls",
}
"""Template -> how it writes calls."""


@pytest.mark.slow
@pytest.mark.parametrize("name", READ_FROM_THE_MASK)
def test_calls_are_read_as_the_data_have_them(real_data: Path, name: str) -> None:
    tokenizer, plan = template(real_data, name)
    assert plan.grammar is not None
    num_read = 0
    for example in tool_examples(real_data):
        if example.answer is None or not example.answer.tool_calls:
            continue
        try:
            rendered = mask_answers(
                renderer(tokenizer), plan.grammar, (*example.messages, example.answer), example.inputs
            )
        except TemplateError:
            continue
        start, stop = rendered.spans[-1]
        text = rendered.text[start:stop]
        for end in plan.grammar.ends:
            text = text.removesuffix(end)
        found = read_calls(text, example.inputs.tools)
        if not found.format and name.startswith("Apertus"):
            continue  # after a tool's result it goes on without saying again that a call follows
        stated = [(call["function"]["name"], call["function"]["arguments"]) for call in example.answer.tool_calls]
        assert (found.format, [tuple(call) for call in found.calls]) == (READ_FROM_THE_MASK[name], stated)
        num_read += 1
    assert num_read >= 40


def test_real_json_answers_and_their_faults(real_data: Path) -> None:
    rows = convert(load_rows(SourceConfig(path=str(real_data / "datasets" / "text2json_val.jsonl")))).rows
    for example in real_prompts([row.example() for row in rows]):
        schema, answer = example.expect.json_schema, example.reference
        assert schema == {}
        assert (json_failure(answer, schema), loose_json_failure(answer, schema)) == ("", "")
        faults = {
            f"```json\n{answer}\n```": ("json_fenced", ""),
            f"Here it is: {answer}": ("json_prose", ""),
            answer[:-1]: ("json_invalid", "json_invalid"),
            answer.replace('"date"', '"action"', 1): ("json_duplicate_key", ""),
        }
        found = {text: (json_failure(text, schema), loose_json_failure(text, schema)) for text in faults}
        assert found == faults
