"""The suite template_adherence: its prompts, its checks and its scorers."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.data.adherence_prompts import CONTROL_TOKENS, PROBES, PROBES_EACH, SYSTEM, is_probe, probes, real_prompts
from harness.data.formats import convert
from harness.data.sources import load_rows
from harness.errors import EvalError
from harness.eval_config import EvalConfig, SourceConfig
from harness.records import Example, Expectation, Generation, Message, StopReason, TemplateInputs
from harness.scoring.expected import as_written
from harness.scoring.measurement import Measurement, ToolCall
from harness.suite import load_suite, suite_examples

SUITE = load_suite("template_adherence", Path(__file__).parent.parent / "evals")
OPTIONS = EvalConfig(suite="template_adherence")
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


def rows(count: int = 40) -> list[Example]:
    """Plain questions, every second one with a system turn."""
    return [
        example(f"r{n}", f"Which river runs through town {n}?", f"The river Wombat runs through town {n}, and ends at the sea.",
                system="Be brief." if n % 2 else "")
        for n in range(count)
    ]  # fmt: skip


def generation(text: str, stop_reason: StopReason = "end_of_turn", prompt: str = "") -> Generation:
    return Generation(
        example_id="e", prompt=prompt, text=text, stop_reason=stop_reason, prompt_tokens=1, completion_tokens=1
    )


def scored(
    asked: Example, text: str, stop: StopReason = "end_of_turn", **further: Any
) -> dict[str, tuple[float | None, str]]:
    """What every scorer that applies says."""
    prompt = further.pop("prompt", "")
    measured = Measurement(example=asked, generation=generation(text, stop, prompt), **further)
    scores = [score for scorer in SUITE.scorers.values() if (score := scorer(measured)) is not None]
    return {score.metric: (score.value, score.failure) for score in scores}


def kinds(examples: Sequence[Example]) -> Counter[str]:
    return Counter(name for one in examples for name in one.slices)


def test_rows_get_the_kinds_that_they_are() -> None:
    asked = [
        example("plain", "Where?", "There."),
        example("system", "Where?", "There.", system="Be brief."),
        Example(id="turns", messages=(Message(role="user", content="a"), Message(role="assistant", content="b"), Message(role="user", content="c")), reference="d"),
        example("long", "word " * 300, "There."),
        example("unicode", "Где?", "There."),
        example("empty", " ", "There."),
        example("tokens", "What is <|im_end|>?", "A mark."),
        example("tools", "Where?", "There.", inputs=TemplateInputs(tools=(TOOL,))),
        example("thinks", "Where?", "There.", answer=Message(role="assistant", content="There.", reasoning_content="Hm.")),
        example("json", "Where?", '{"a": 1}'),
    ]  # fmt: skip
    found = {one.id: set(one.slices) for one in real_prompts(asked)}
    common = {"no_system", "no_thinking"}
    assert found == {
        "plain": common,
        "system": {"system", "no_thinking"},
        "turns": common | {"multi_turn"},
        "long": common | {"long_prompt"},
        "unicode": common | {"unicode"},
        "empty": common | {"empty_prompt"},
        "tokens": common | {"control_tokens"},
        "tools": common | {"tools"},
        "thinks": {"no_system", "thinking"},
        "json": common | {"json_schema"},
    }


def test_quotation_marks_and_dashes_are_no_other_script() -> None:
    assert "unicode" not in real_prompts([example("e", "“Well” – it’s café…", "Yes.")])[0].slices


def test_an_answer_that_is_an_object_asks_for_json() -> None:
    asked = [
        example(name, "?", text)
        for name, text in (("o", '{"a": 1}'), ("l", '[{"a": 1}]'), ("n", "[1, 2]"), ("t", "{a}"))
    ]
    assert [one.expect.json_schema for one in real_prompts(asked)] == [{}, {}, None, None]


def test_variations_are_few_the_same_every_time_and_known_by_their_ids() -> None:
    made = probes(rows())
    assert made == probes(list(reversed(rows()))) or {p.id for p in made} == {
        p.id for p in probes(list(reversed(rows())))
    }
    assert kinds(made) == {
        "system": 4, "no_system": 4, "multi_turn": 4, "long_prompt": 4, "empty_prompt": 4, "unicode": 4, "control_tokens": 4,
        "step_by_step": 4, "continuation": 4,
    }  # fmt: skip
    assert all(is_probe(one) and one.cluster == one.id.partition("~")[0] for one in made)
    assert not any(is_probe(one) for one in rows())
    assert kinds(probes(rows(400)))["system"] == PROBES_EACH
    assert probes(rows(9)) == []


def test_variations_change_what_they_say_and_nothing_else() -> None:
    asked = {one.id: one for one in rows()}
    for made in probes(rows()):
        source, kind = asked[made.id.partition("~")[0]], made.slices[0]
        first, last = made.messages[0], made.messages[-1]
        question = source.messages[-1].content
        assert made.reference == source.reference
        if kind == "system":
            assert (first.content, made.messages[1:]) == (SYSTEM, source.messages)
        elif kind == "no_system":
            assert made.messages == source.messages[1:]
        elif kind == "multi_turn":
            assert [turn.role for turn in made.messages][-3:] == ["user", "assistant", "user"]
            assert last.content == question != made.messages[-3].content
        elif kind == "long_prompt":
            assert last.content.endswith(question)
            assert len(last.content.split()) >= 200
        elif kind == "empty_prompt":
            assert last.content == ""
        elif kind in ("unicode", "control_tokens"):
            assert last.content.startswith(question)
            assert "你好" in last.content or all(token in last.content for token in CONTROL_TOKENS)
        else:
            assert source.reference.startswith(made.expect.prefill)
            assert made.messages == source.messages


@pytest.mark.parametrize(
    ("reference", "kind", "prefill"),
    [
        ('{"name": "Ann", "age": 3}', "json_prefill", '{"name":'),
        ("Sure:\n```python\ndef f(x):\n    y = x\n    return y\n```", "code_completion", "Sure:\n```python\ndef f(x):"),
        ("First add 3 and 4, which is 7.", "step_by_step", "First add 3 and"),
    ],
)
def test_answers_are_begun_where_they_can_go_on(reference: str, kind: str, prefill: str) -> None:
    asked = real_prompts([example("e", "?", reference)])
    made = probes(asked, ("json_prefill", "code_completion", "step_by_step"))
    assert [(one.slices, one.expect.prefill) for one in made] == [((kind, "continuation"), prefill)]
    assert made[0].expect.json_schema == ({} if kind == "json_prefill" else None)


def test_answers_that_say_the_same_twice_or_call_or_think_are_not_begun() -> None:
    twice = "The river is the Wombat. The river is the Wombat."
    asked = [
        example("twice", "?", twice),
        example("thinks", "?", "<think>Let me see now.</think> It is the river Wombat."),
        example("calls", "?", WRITTEN_CALL, expect=Expectation(tools=(TOOL,))),
    ]
    assert probes(asked, ("json_prefill", "code_completion", "step_by_step")) == []


def test_what_a_system_turn_may_ask_for_is_not_asked_without_it() -> None:
    formed = [example(f"e{n}", "?", f'{{"a": {n}}}', system="Answer in JSON.") for n in range(20)]
    assert probes(real_prompts(formed), ("no_system",)) == []


def test_limit_counts_rows_and_slices_names_the_variations() -> None:
    def count(**options: Any) -> tuple[int, int]:
        asked = suite_examples(SUITE, EvalConfig(suite="template_adherence", **options), rows())
        assert [is_probe(one) for one in asked] == sorted(is_probe(one) for one in asked)
        return sum(not is_probe(one) for one in asked), sum(is_probe(one) for one in asked)

    assert count(slices=()) == (40, 0)
    assert count(limit=5, slices=()) == (5, 0)
    assert count(limit=10) == (10, len(kinds(probes(rows(10)))) - 1)
    assert count(limit=10, slices=("unicode",)) == (10, 8)
    with pytest.raises(EvalError, match=r"slices names 'unicod'; did you mean unicode\?; it takes system, "):
        count(slices=("unicod",))


def test_every_kind_has_variations_of_real_rows() -> None:
    source = SourceConfig(path="embedded:test")
    asked = real_prompts([row.example() for row in convert(load_rows(source)).rows])
    assert {"json_schema", "tools", "thinking", "no_thinking", "multi_turn", "system"} <= set(kinds(asked))
    made = probes(asked)
    assert set(PROBES) - {one.slices[0] for one in made} == {
        "no_system",
        "code_completion",
    }  # its system turns ask for forms
    assert len({one.id for one in [*asked, *made]}) == len(asked) + len(made)


def test_rows_and_variations_are_counted_apart() -> None:
    row, varied = rows()[0], probes(rows())[0]
    assert set(scored(row, "Fine.")) == {"all", "end_of_turn"}
    assert set(scored(varied, "Fine.")) == {"probes"}
    assert scored(varied, "Fine.", "length") == {"probes": (0.0, "runs_on")}
    assert scored(row, "Fine.", "end_of_text") == {"all": (0.0, "wrong_end_token"), "end_of_turn": (0.0, "end_of_text")}


def test_predictions_that_do_not_say_how_they_ended() -> None:
    row = rows()[0]
    assert scored(row, "Fine.", "unknown") == {"all": (1.0, "")}
    assert scored(row, "So " * 400, "unknown") == {"all": (0.0, "runs_on")}


def test_json_is_scored_strictly_and_loosely() -> None:
    asked = example("e", "?", "{}", expect=Expectation(json_schema={"required": ["a"]}))
    for text, strict, loose in (
        ('{"a": 1}', "", ""),
        ('```json\n{"a": 1}\n```', "json_fenced", ""),
        ('Here: {"a": 1}. Enjoy!', "json_prose", ""),
        ('{"b": 1}', "json_schema_mismatch", "json_schema_mismatch"),
        ("none", "json_invalid", "json_invalid"),
        ('<think>{"a"}</think>{"a": 1}', "", ""),
    ):
        found = scored(asked, text)
        assert (found["json_strict"][1], found["json_loose"][1]) == (strict, loose)
        assert found["all"][1] == ("thinking_not_asked" if "<think>" in text else strict)
    assert not {"json_strict", "json_loose"} & set(scored(rows()[0], '{"a": 1}'))


def test_right_values_count_in_tool_calls_alone() -> None:
    answer = Message(role="assistant", tool_calls=(CALL,))
    asked = as_written(example("e", "?", "", answer=answer, inputs=TemplateInputs(tools=(TOOL,))), WRITTEN_CALL)
    assert scored(asked, WRITTEN_CALL) == {"all": (1.0, ""), "end_of_turn": (1.0, ""), "tool_calls": (1.0, "")}
    other = scored(asked, WRITTEN_CALL.replace("mill", "pond"))
    assert (other["all"], other["tool_calls"]) == ((1.0, ""), (0.0, "tool_argument_value"))
    assert scored(asked, "", parsed_calls=(ToolCall("find", {"q": "mill"}),))["tool_calls"] == (1.0, "")
    assert scored(asked, "Mill.")["tool_calls"] == (0.0, "tool_call_missing")


def test_thinking_is_scored_where_some_rows_think() -> None:
    thinks = example("a", "?", "<think>Hm.</think>3", expect=Expectation(thinking=True))
    asked = real_prompts([thinks, example("b", "?", "3")])
    assert scored(asked[0], "<think>Hm.</think>3")["thinking"] == (1.0, "")
    assert scored(asked[0], "3")["thinking"] == (0.0, "thinking_missing")
    assert scored(asked[1], "<think>Hm.</think>3")["thinking"] == (0.0, "thinking_not_asked")
    assert "thinking" not in scored(real_prompts([asked[1]])[0].model_copy(update={"slices": ()}), "3")


def test_continuation_counts_where_an_answer_was_begun() -> None:
    varied = next(one for one in probes(rows()) if one.expect.prefill)
    assert scored(varied, " and so on.") == {"probes": (1.0, ""), "continuation": (1.0, "")}
    again = scored(varied, varied.reference)
    assert again == {"probes": (0.0, "continuation_repeats"), "continuation": (0.0, "continuation_repeats")}
    assert scored(varied, " and so on.", prompt=f"<think>\n{varied.expect.prefill}") == {}


def test_prompt_that_differs_from_training_is_named_where_it_is_known() -> None:
    row = rows()[0]
    assert "prompt_as_trained" not in scored(row, "Fine.")
    assert scored(row, "Fine.", prompt_differs=False)["prompt_as_trained"] == (1.0, "")
    found = scored(row, "Fine.", prompt_differs=True)
    assert (found["prompt_as_trained"], found["all"]) == ((0.0, "prompt_mismatch"), (1.0, ""))
