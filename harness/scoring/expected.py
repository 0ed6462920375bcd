"""The form that an example asks for, as its right answer has it."""

from typing import Any

from harness.records import Example, Expectation
from harness.scoring.structure import Around, adherence_failure
from harness.scoring.thinking import has_thinking
from harness.scoring.tool_calls import read_calls


def as_written(example: Example, written: str, prompt: str = "") -> Example:
    """An example with its reference as the template writes it, and the form that this reference has.

    A perfect answer must pass: what the checks don't know, they can't ask for. Where the reference's own calls don't
    fit their schemas, only the names of the tools count; where it fails otherwise, only its end and its control tokens.

    Args:
        example: with the form as its data state it.
        written: the reference from where the model takes over, with what the prompt opened of it.
        prompt: what is asked, as the template writes it.
    """
    expect = example.expect
    tools = expect.tools or example.inputs.tools
    found = read_calls(written, tools)
    update: dict[str, Any] = {}
    if found.calls and tools:
        prose = expect.allows_prose or bool(found.beside.strip())
        update |= {"tools": tools, "num_calls": len(found.calls), "allows_prose": prose}
    if has_thinking(written):
        update["thinking"] = True
    elif example.answer is not None and example.answer.reasoning_content:
        # The template leaves reasoning out, so no model trained with it thinks.
        update["thinking"] = False
    expect = expect.model_copy(update=update)
    failure = _failure(written, expect, prompt)
    if failure.startswith("tool_argument"):
        expect = expect.model_copy(update={"tools": tuple(_name_only(tool) for tool in expect.tools)})
        failure = _failure(written, expect, prompt)
    if failure:
        expect = expect.model_copy(update={"is_free": True})
    return example.model_copy(update={"reference": written, "expect": expect})


def as_stated(example: Example) -> Example:
    """An example whose reference the template can't write after its prompt, with the form that its data state.

    Whether such a template writes reasoning isn't known, so where there is any, nothing but the end is asked for.
    """
    answer = example.answer
    if answer is None:
        return example
    if answer.reasoning_content:
        return example.model_copy(update={"expect": example.expect.model_copy(update={"is_free": True})})
    tools = example.expect.tools or example.inputs.tools
    update = {"tools": tools, "num_calls": len(answer.tool_calls), "allows_prose": bool(answer.content.strip())}
    expect = example.expect.model_copy(update=update if answer.tool_calls and tools else {})
    return example.model_copy(update={"expect": expect})


def _failure(written: str, expect: Expectation, prompt: str) -> str:
    return adherence_failure(written, "end_of_turn", expect, (), Around(prompt, written))


def _name_only(tool: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": tool.get("function", tool).get("name", "")}}
