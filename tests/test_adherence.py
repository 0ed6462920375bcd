"""The checks of an answer's form: thinking, continuation, roles, JSON, and the form that a reference has."""

from typing import Any

import pytest

from harness.records import Example, Expectation, Message, TemplateInputs
from harness.scoring.continuation import continuation_failure
from harness.scoring.expected import as_stated, as_written
from harness.scoring.json_form import is_json_object, json_failure, loose_json_failure
from harness.scoring.schemas import schema_errors
from harness.scoring.structure import Around, adherence_failure
from harness.scoring.thinking import DELIMITERS, answer_in, has_thinking, opened_by, thinking_failure, without_thinking

TOOL = {
    "type": "function",
    "function": {
        "name": "find",
        "parameters": {"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"]},
    },
}
CALL = {"type": "function", "function": {"name": "find", "arguments": {"q": "mill"}}}
WRITTEN_CALL = '<tool_call>{"name": "find", "arguments": {"q": "mill"}}</tool_call>'


def example(id: str, question: str, reference: str, *, system: str = "", **fields: Any) -> Example:
    """One question with its answer."""
    turns = ([Message(role="system", content=system)] if system else []) + [Message(role="user", content=question)]
    return Example(id=id, messages=tuple(turns), reference=reference, **fields)


@pytest.mark.parametrize(
    ("text", "failure"),
    [
        (" goes on here.", ""),
        (" The river goes on.", ""),
        ("The river Wombat runs again.", "continuation_repeats"),
        ("\nwhere it was quiet and more", "continuation_repeats"),
        ("<think>Hm.</think> here", "continuation_reopens_turn"),
        ("assistant\nThe river", "continuation_reopens_turn"),
        ("", ""),
    ],
)
def test_continuation(text: str, failure: str) -> None:
    assert continuation_failure(text, "The river Wombat runs through town, where it was quiet and") == failure


def test_short_beginning_is_repeated_only_as_a_whole() -> None:
    assert continuation_failure('{"name": "Ann"}', '{"name":') == "continuation_repeats"
    assert continuation_failure(' "Ann"}', '{"name":') == ""
    assert continuation_failure("A man", "A") == ""


def test_begun_json_is_judged_with_its_beginning() -> None:
    expect = Expectation(json_schema={}, prefill='{"a":')
    assert adherence_failure(" 1}", "end_of_turn", expect) == ""
    assert adherence_failure(" 1", "end_of_turn", expect) == "json_invalid"
    assert adherence_failure('{"a": 1}', "end_of_turn", expect) == "continuation_repeats"


@pytest.mark.parametrize("pair", DELIMITERS, ids=lambda pair: pair.open.strip())
def test_every_delimiter_of_thinking(pair: Any) -> None:
    thought = f"{pair.open}Hm.{pair.close}3"
    assert thinking_failure(thought, wanted=True) == ""
    assert thinking_failure(thought, wanted=False) == "thinking_not_asked"
    assert thinking_failure(f"{pair.open}\n\n{pair.close}3", wanted=False) == ""
    assert thinking_failure(f"{pair.open}Hm. 3", wanted=True) == "thinking_not_closed"
    assert thinking_failure(f"{pair.open}Hm.{pair.close}{thought}", wanted=True) == "thinking_repeated"
    assert (without_thinking(thought), has_thinking(thought), opened_by(f"x{pair.open}").strip()) == (
        "3",
        True,
        pair.open.strip(),
    )


def test_answer_is_taken_out_of_its_wrapping() -> None:
    harmony = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>{}"
    assert [
        answer_in(text) for text in (harmony, "<|START_RESPONSE|>{}<|END_RESPONSE|>", " {} ", "<think>a</think>{}")
    ] == ["{}"] * 4
    assert opened_by("<|im_start|>assistant\n<think>\n") == "<think>\n"
    assert opened_by("<|im_start|>assistant\n<think>\n\n</think>\n\n") == ""


@pytest.mark.parametrize(
    ("text", "prompt", "failure"),
    [
        ("It is 3.\nUser: And then?", "User: What?\nAssistant:", "role_header_in_answer"),
        ("It is 3.\nUser: And then?", "<|user|>What?<|assistant|>", ""),
        ("### Instruction: more", "### Instruction: What?", "role_header_in_answer"),
        ("  Assistant :  ", "", "role_header_in_answer"),
        ("The user: a person.", "User: What?", ""),
    ],
)
def test_headers_written_as_text(text: str, prompt: str, failure: str) -> None:
    assert adherence_failure(text, "end_of_turn", Expectation(), (), Around(prompt)) == failure


def test_control_tokens_of_thinking_and_calls_are_named_by_their_own_checks() -> None:
    tokens = ("<|START_THINKING|>", "<|python_tag|>", "<|im_end|>")
    for text, failure in (
        ("<|START_THINKING|>Hm.<|END_THINKING|>3", "thinking_not_asked"),
        ('<|python_tag|>{"name": "find", "parameters": {}}', "tool_call_not_asked"),
        ("3<|im_end|>", "special_token_in_answer"),
    ):
        assert adherence_failure(text, "end_of_turn", Expectation(), tokens) == failure
        assert adherence_failure(text, "end_of_turn", Expectation(is_free=True), tokens) == "special_token_in_answer"


def test_a_perfect_answer_passes_whatever_its_form() -> None:
    for written in (
        "3",
        "<think>a</think>3",
        WRITTEN_CALL,
        f"Well:\n{WRITTEN_CALL}",
        "<think>a 3",
        "user\nuser",
        "",
        "</tool_call>",
    ):
        asked = as_written(example("e", "?", "x", inputs=TemplateInputs(tools=(TOOL,))), written)
        around = Around(reference=asked.reference)
        assert adherence_failure(written, "end_of_turn", asked.expect, (), around) == ""


def test_calls_that_do_not_fit_their_own_schema_are_checked_by_name() -> None:
    written = WRITTEN_CALL.replace('"mill"', "3")
    asked = as_written(example("e", "?", "x", inputs=TemplateInputs(tools=(TOOL,))), written)
    assert not asked.expect.is_free
    assert adherence_failure(written.replace("find", "kill"), "end_of_turn", asked.expect) == "tool_unknown"


def test_reasoning_that_the_template_leaves_out_is_not_asked_for() -> None:
    answer = Message(role="assistant", content="3", reasoning_content="Hm.")
    asked = example("e", "?", "3", answer=answer, expect=Expectation(thinking=True))
    assert as_written(asked, "3").expect == Expectation()
    assert as_written(asked, "<think>Hm.</think>3").expect == Expectation(thinking=True)
    assert as_stated(asked).expect.is_free


def test_form_is_as_stated_where_the_template_cannot_write_the_answer() -> None:
    answer = Message(role="assistant", content="Well:", tool_calls=(CALL, CALL))
    stated = as_stated(example("e", "?", "", answer=answer, inputs=TemplateInputs(tools=(TOOL,))))
    assert stated.expect == Expectation(tools=(TOOL,), num_calls=2, allows_prose=True)
    assert as_stated(example("e", "?", "3")) == example("e", "?", "3")


@pytest.mark.parametrize(
    ("text", "strict", "loose"),
    [
        ("1", "", ""),
        ('"a\ud800"', "", ""),
        ("9" * 5000, "json_invalid", "json_invalid"),
        ("[NaN]", "json_invalid", "json_invalid"),
        ("[1, 2,]", "json_invalid", "json_invalid"),
        ('{"a": 1, "a": 2}', "json_duplicate_key", ""),
        ('Use {braces}: {"a": 1}', "json_prose", ""),
        ('{"a": ["b"], "c"', "json_invalid", "json_invalid"),
        ('Cut: {"a": ["b"], "c"', "json_invalid", "json_invalid"),
        ("```\n[1]\n```", "json_fenced", ""),
        ("```json\n[1\n```", "json_invalid", "json_invalid"),
        ("[" * 900 + "]" * 900, "", ""),
        ("[" * 50_000 + "]" * 50_000, "json_invalid", "json_invalid"),
        ("", "json_invalid", "json_invalid"),
    ],
)
def test_json_forms(text: str, strict: str, loose: str) -> None:
    assert (json_failure(text, {}), loose_json_failure(text, {})) == (strict, loose)
    assert not is_json_object(text) or strict == ""


def test_hostile_schemas_and_values_end_soon() -> None:
    assert schema_errors("a" * 50_000 + "!", {"pattern": "^(a+)+$"}) == ("pattern",)
    assert schema_errors([1, "a", {}] * 3_000, {"uniqueItems": True}) == ("uniqueItems",)
    assert schema_errors([[]] * 20_000, {"items": {"type": "integer"}}) == ("size",)
    nested: list[Any] = []
    for _ in range(900):
        nested = [nested]
    assert schema_errors(nested, {"items": {"$ref": "#"}}) == ("depth",)
    assert schema_errors(1, {"$ref": "#"}) == ("depth",)


@pytest.mark.parametrize("schema", [{"$ref": "http://127.0.0.1:1/x.json"}, {"properties": 3}, {"$ref": "#/nowhere"}])
def test_schema_that_cannot_be_used_asks_for_nothing_but_json(schema: dict[str, Any]) -> None:
    assert schema_errors({"a": 1}, schema) is None
    assert json_failure('{"a": 1}', schema) == ""


def test_patterns_of_names_are_left_out_with_what_depends_on_them() -> None:
    schema = {"patternProperties": {"(a+)+$": {"type": "string"}}, "additionalProperties": False, "required": ["b"]}
    assert schema_errors({"a": 1}, schema) == ("required",)
