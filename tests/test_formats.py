"""Rows of every format as conversations, and the faults of those that can't be learned from."""

import json
import time
from typing import Any

import pytest

from harness.data.formats import Conversation, Converted, Fault, convert, detect_format
from harness.data.sources import Row
from harness.errors import DataError

USER = {"role": "user", "content": "hi"}
ANSWER = {"role": "assistant", "content": "hello"}
CALL = {"type": "function", "function": {"name": "look_up", "arguments": {"city": "Oslo"}}}
FUNCTION = {"name": "look_up", "description": "Weather", "parameters": {"type": "object", "properties": {}}}


def rows_of(*contents: dict) -> list[Row]:
    return [Row(f"row {i}", content, i) for i, content in enumerate(contents)]


def converted(*contents: dict, **options: Any) -> Converted:
    return convert(rows_of(*contents), **options)


def one(content: dict, **options: Any) -> Conversation:
    result = converted(content, **options)
    assert not result.faults, result.faults
    return result.rows[0]


def fault(content: dict, **options: Any) -> Fault:
    result = converted(content, **options)
    assert not result.rows
    return result.faults[0]


def turns(*messages: dict, **columns: Any) -> dict:
    return {"messages": list(messages), **columns}


def texts(row: Conversation) -> list[tuple[str, str]]:
    return [(turn.role, turn.content) for turn in row.messages]


@pytest.mark.parametrize(
    ("content", "format"),
    [
        (turns(USER, ANSWER), "messages"),
        (turns(USER, ANSWER, prompt="hi", prompt_id="1"), "messages"),
        ({"conversations": [USER, ANSWER]}, "messages"),
        ({"conversation": [USER, ANSWER]}, "messages"),
        ({"dialog": [USER, ANSWER]}, "messages"),
        ({"messages": json.dumps([USER, ANSWER])}, "messages"),
        ({"conversations": [{"from": "human", "value": "hi"}]}, "sharegpt"),
        ({"conversation": [{"from": "human", "value": "hi"}]}, "sharegpt"),
        ({"prompt": "p", "completion": "c"}, "prompt_completion"),
        ({"prompt": "p", "completion": "c", "label": True}, "prompt_completion"),
        ({"prompt": [USER], "completion": [ANSWER]}, "prompt_completion"),
        ({"instruction": "i", "output": "o"}, "alpaca"),
        ({"instruction": "i", "input": "", "output": "o", "text": "all"}, "alpaca"),
        ({"instruction": "i", "context": "", "response": "o"}, "alpaca"),
        ({"instruction": "i", "instances": [{"input": "", "output": "o"}]}, "alpaca"),
        ({"question": "q", "answer": "a"}, "question_answer"),
        ({"question": "q", "context": "c", "answers": {"text": ["a"]}}, "question_answer"),
        ({"query": "q", "response": "a"}, "question_answer"),
        ({"question": "q", "response": "a"}, "question_answer"),
        ({"text": "t", "source": "web"}, "text"),
        ({"text": "t", "dialog": "A: hi B: hello"}, "text"),
        (turns(USER, ANSWER, chosen=None, rejected=None), "messages"),
    ],
)
def test_format_is_found_from_the_columns(content: dict, format: str) -> None:
    assert detect_format(rows_of(content)[0]) == format


def test_unknown_columns_are_named() -> None:
    with pytest.raises(DataError, match="row 0: the columns bar, foo are no known format; use messages"):
        converted({"foo": 1, "bar": 2})


def test_no_rows_have_no_format() -> None:
    with pytest.raises(DataError, match="there are no rows"):
        converted()
    assert converted(format="messages") == ("messages", [], [])


@pytest.mark.parametrize("format", ["auto", "prompt_completion", "sharegpt"])
def test_preference_rows_are_refused_with_advice(format: Any) -> None:
    row = {"prompt": "p", "completion": "c", "chosen": "a", "rejected": "b"}
    with pytest.raises(
        DataError, match="row 0: this is preference data .* the chosen one as `completion`, .*DPOTrainer"
    ):
        converted(row, row, format=format)


def test_single_preference_row_is_left_out() -> None:
    result = converted(turns(USER, ANSWER), {"chosen": [ANSWER], "rejected": [ANSWER]})
    assert (len(result.rows), result.faults[0].kind) == (1, "preference_pairs")


def test_broken_row_leaves_the_others_and_says_where_it_is() -> None:
    result = converted({"foo": 1}, turns(USER, ANSWER), {"messages": 3}, turns(USER, ANSWER, id="x"))
    assert result.format == "messages"
    assert [(row.index, row.where) for row in result.rows] == [(1, "row 1"), (3, "row 3")]
    assert [(fault.index, fault.where, fault.kind) for fault in result.faults] == [
        (0, "row 0", "broken_row"),
        (2, "row 2", "broken_row"),
    ]
    assert "messages must be a list of turns" in result.faults[1].message


# Turns


@pytest.mark.parametrize(
    ("role", "expected"),
    [("developer", "system"), ("human", "user"), *((name, "assistant") for name in ("gpt", "model", "bot", "chatgpt", "bing", "bard")),
     *((name, "tool") for name in ("function", "observation", "ipython", "function_response"))],
)  # fmt: skip
def test_roles_go_by_the_names_that_templates_know(role: str, expected: str) -> None:
    turn = {"role": role, "content": "x"}
    before, after = {
        "system": ([turn, USER], [ANSWER]),
        "user": ([turn], [ANSWER]),
        "assistant": ([USER], [turn]),
        "tool": ([USER, ANSWER], [turn, ANSWER]),
    }[expected]
    row = one(turns(*before, *after))
    assert (expected, "x") in texts(row)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"role": "robot", "content": "x"}, "the role 'robot' of turn 1 of messages is not one of system"),
        ({"content": "x"}, "the role None of turn 1"),
        ({"role": ["user"], "content": "x"}, r"the role \['user'\] of turn 1"),
        ("hi", "turn 1 of messages is not an object"),
        ({"role": "user"}, "turn 1 of messages has no text"),
        ({"role": "user", "content": None}, "turn 1 of messages has no text"),
        ({"role": "user", "content": 3}, "the content of turn 1 of messages must be text or a list of parts, not int"),
        ({"role": "user", "content": ["x"]}, "holds a part of type None"),
        ({"role": "user", "content": [{"type": "text"}]}, "holds a part of type 'text' without text"),
        ({"role": "assistant", "content": "x", "thinking": 3}, "thinking of turn 1 of messages must be text, not int"),
    ],
)
def test_broken_turn_is_told(message: object, reason: str) -> None:
    found = fault({"messages": [message, ANSWER]})
    assert found.kind == "broken_row"
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(found.message)


@pytest.mark.parametrize("value", [None, [], "[]", "[oops", {}], ids=repr)
def test_row_without_turns_is_broken(value: object) -> None:
    assert fault({"messages": value}, format="messages").kind == "broken_row"


def test_row_without_the_column_is_broken() -> None:
    assert (
        fault({"foo": 1}, format="messages").message
        == "the row has no messages or conversations or conversation or dialog"
    )


@pytest.mark.parametrize("key", ["text", "value"])
def test_text_parts_become_one_text(key: str) -> None:
    parts = [{"type": "text", key: "a"}, {"type": "text", key: "b"}]
    assert texts(one(turns({"role": "user", "content": parts}, ANSWER)))[0] == ("user", "ab")


@pytest.mark.parametrize(
    "part",
    [{"type": "reasoning", "value": "think"}, {"type": "thinking", "thinking": "think"}, {"type": "reasoning", "text": "think"}],
)  # fmt: skip
def test_reasoning_part_is_what_the_assistant_thought(part: dict) -> None:
    row = one(turns(USER, {"role": "assistant", "content": [part, {"type": "text", "text": "x"}]}))
    assert (row.messages[1].reasoning_content, row.messages[1].content) == ("think", "x")


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_key_is_what_the_assistant_thought(key: str) -> None:
    row = one(turns(USER, ANSWER | {key: "think"}))
    assert row.messages[1].reasoning_content == "think"
    assert row.example().answer == row.messages[1]


@pytest.mark.parametrize("kind", ["image", "image_url", "audio", "video"])
def test_part_that_is_no_text_is_refused(kind: str) -> None:
    found = fault(turns({"role": "user", "content": [{"type": "text", "text": "see"}, {"type": kind}]}, ANSWER))
    assert found.message == f"turn 1 of messages holds a part of type '{kind}'; only text can be trained"


@pytest.mark.parametrize(
    "fields",
    [
        {"content": None, "tool_calls": [CALL]},
        {"tool_calls": [{"name": "look_up", "arguments": {"city": "Oslo"}}]},
        {"content": "", "tool_calls": [{"function": {"name": "look_up", "arguments": '{"city": "Oslo"}'}}]},
        {"content": "", "tool_calls": json.dumps([CALL])},
        {"content": None, "function_call": {"name": "look_up", "arguments": '{"city": "Oslo"}'}},
        {"content": [{"type": "tool_call", "value": json.dumps(CALL["function"])}]},
        {"content": [{"type": "tool_call", "value": CALL["function"]}]},
    ],
)
def test_tool_calls_of_any_spelling_are_alike(fields: dict) -> None:
    row = one(turns(USER, {"role": "assistant", **fields}))
    assert row.messages[1].tool_calls == (CALL,)
    assert row.messages[1].content == ""


def test_tool_call_keeps_its_id_and_the_answer_names_it() -> None:
    call = {"role": "assistant", "content": "", "tool_calls": [CALL | {"id": "c1"}]}
    reply = {"role": "tool", "content": "rain", "name": "look_up", "tool_call_id": "c1"}
    row = one(turns(USER, call, reply, ANSWER))
    assert row.messages[1].tool_calls[0]["id"] == "c1"
    assert (row.messages[2].name, row.messages[2].tool_call_id) == ("look_up", "c1")


@pytest.mark.parametrize("arguments", [None, "", {}, "{}"], ids=repr)
def test_call_without_arguments_has_none(arguments: object) -> None:
    call = {"name": "now", "arguments": arguments}
    row = one(turns(USER, {"role": "assistant", "content": "", "tool_calls": [call]}))
    assert row.messages[1].tool_calls[0]["function"] == {"name": "now", "arguments": {}}


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        ({"name": "f", "arguments": "{'a': 1}"}, "the arguments of a tool call of turn 2 of messages is text, but not valid JSON"),
        ({"name": "f", "arguments": "[1]"}, "must be an object, not list"),
        ({"arguments": {}}, "a tool call of turn 2 of messages has no name"),
        ("f()", "a tool call of turn 2 of messages has no name"),
    ],
)  # fmt: skip
def test_broken_tool_call_is_told(call: object, reason: str) -> None:
    found = fault(turns(USER, {"role": "assistant", "content": "x", "tool_calls": [call]}))
    assert found.kind == "broken_row"
    assert reason in found.message


@pytest.mark.parametrize("mark", [{"weight": 0}, {"weight": 0.0}, {"loss_weight": 0.0}, {"train": False}])
def test_masked_answer_is_not_learned(mark: dict) -> None:
    row = one(turns(USER | mark, ANSWER | mark, USER, ANSWER))
    assert [turn.is_supervised for turn in row.messages] == [True, False, True, True]


@pytest.mark.parametrize(
    "mark", [{"weight": 1}, {"loss_weight": 1.0}, {"train": True}, {"weight": None, "train": None}]
)
def test_answer_with_a_weight_is_learned(mark: dict) -> None:
    assert one(turns(USER, ANSWER | mark)).messages[1].is_supervised


# Columns beside the turns


@pytest.mark.parametrize("tools", [[FUNCTION], json.dumps([FUNCTION]), [{"type": "function", "function": FUNCTION}]])
def test_tools_of_any_spelling_are_alike(tools: object) -> None:
    expected = ({"type": "function", "function": FUNCTION},)
    assert one(turns(USER, ANSWER, tools=tools)).inputs.tools == expected
    assert one({"prompt": "p", "completion": "c", "tools": tools}).inputs.tools == expected


@pytest.mark.parametrize("tools", [None, "", [], "[]"], ids=repr)
def test_row_without_tools_has_none(tools: object) -> None:
    assert one(turns(USER, ANSWER, tools=tools)).inputs.options() == {}


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"tools": ["look_up"]}, "tools must be a list of objects"),
        ({"tools": "[{]"}, "tools is text, but not valid JSON"),
        ({"tools": [{"description": "x"}]}, "every one of tools needs a name"),
        ({"documents": ["x"]}, "documents must be a list of objects"),
        ({"chat_template_kwargs": [1]}, "chat_template_kwargs must be an object"),
        ({"expect": {"schema": {}}}, "`expect` takes json_schema, tools and thinking only"),
        ({"system": 3}, "system must be text, not int"),
    ],
)
def test_broken_column_is_told(columns: dict, reason: str) -> None:
    found = fault(turns(USER, ANSWER, **columns))
    assert found.kind == "broken_row"
    assert reason in found.message


def test_documents_and_variables_reach_the_template() -> None:
    row = one(turns(USER, ANSWER, documents=[{"text": "d"}], chat_template_kwargs={"enable_thinking": False}))
    assert row.inputs.options() == {"documents": [{"text": "d"}], "enable_thinking": False}


def test_system_column_comes_first_unless_the_turns_have_one() -> None:
    system = {"role": "system", "content": "Be kind."}
    assert texts(one(turns(USER, ANSWER, system="Be brief.")))[0] == ("system", "Be brief.")
    assert texts(one(turns(system, USER, ANSWER, system="Be brief.")))[0] == ("system", "Be kind.")
    assert texts(one(turns(USER, ANSWER, system="")))[0] == ("user", "hi")


# The other formats


def test_sharegpt_turns_become_messages() -> None:
    said = [("system", "s"), ("human", "u"), ("gpt", "a"), ("user", "v"), ("assistant", "b")]
    row = one({"conversations": [{"from": role, "value": text} for role, text in said]})
    assert texts(row) == [("system", "s"), ("user", "u"), ("assistant", "a"), ("user", "v"), ("assistant", "b")]


@pytest.mark.parametrize("calls", [CALL["function"], [CALL["function"]]], ids=["one", "list"])
@pytest.mark.parametrize("reply", ["observation", "function_response", "tool"])
def test_sharegpt_function_call_is_an_assistant_turn_with_tool_calls(calls: object, reply: str) -> None:
    said = [("human", "u"), ("function_call", json.dumps(calls)), (reply, "rain"), ("gpt", "a")]
    row = one(
        {"conversations": [{"from": role, "value": text} for role, text in said], "tools": json.dumps([FUNCTION])}
    )
    assert texts(row) == [("user", "u"), ("assistant", ""), ("tool", "rain"), ("assistant", "a")]
    assert row.messages[1].tool_calls == (CALL,)
    assert row.inputs.tools[0]["function"] == FUNCTION


def test_sharegpt_function_call_that_is_no_json_is_broken() -> None:
    said = [("human", "u"), ("function_call", "look_up(Oslo)"), ("observation", "rain"), ("gpt", "a")]
    found = fault({"conversations": [{"from": role, "value": text} for role, text in said]})
    assert found.kind == "broken_row"
    assert "the tool call of turn 2 of conversations is text, but not valid JSON" in found.message


def test_prompt_completion_stays_plain_text() -> None:
    row = one({"prompt": "p", "completion": "c"})
    assert row.is_plain
    assert row.example().text == "p"
    assert row.example().reference == "c"


def test_prompt_and_completion_as_turns_are_one_conversation_of_which_the_completion_is_learned() -> None:
    row = one({"prompt": [USER, ANSWER, USER], "completion": [ANSWER]})
    assert [turn.role for turn in row.messages] == ["user", "assistant", "user", "assistant"]
    assert [turn.is_supervised for turn in row.messages] == [True, False, True, True]


def test_prompt_as_turns_takes_a_completion_as_text() -> None:
    assert texts(one({"prompt": [USER], "completion": "c"})) == [("user", "hi"), ("assistant", "c")]


def test_prompt_with_a_system_column_becomes_turns() -> None:
    row = one({"prompt": "p", "completion": "c", "system": "s"})
    assert texts(row) == [("system", "s"), ("user", "p"), ("assistant", "c")]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"prompt": "p"}, "the row has no completion"),
        ({"prompt": None, "completion": "c"}, "prompt must be text, not NoneType"),
        ({"prompt": "p", "completion": 3}, "completion must be text, not int"),
    ],
)
def test_row_with_half_a_pair_is_broken(content: dict, reason: str) -> None:
    assert fault(content, format="prompt_completion").message == reason


def test_alpaca_rows_become_turns() -> None:
    row = one({"instruction": "Add.", "input": "1 2", "output": "3", "system": "Be brief."})
    assert texts(row) == [("system", "Be brief."), ("user", "Add.\n1 2"), ("assistant", "3")]


@pytest.mark.parametrize("given", [{}, {"input": ""}, {"input": None}])
def test_alpaca_row_without_input_asks_the_instruction_alone(given: dict) -> None:
    assert texts(one({"instruction": "Sing.", **given, "output": "La."}))[0] == ("user", "Sing.")


def test_alpaca_history_comes_before_the_instruction() -> None:
    row = one({"instruction": "i", "output": "o", "history": [["a", "b"], ["c", "d"]], "system": "s"})
    assert [text for _, text in texts(row)] == ["s", "a", "b", "c", "d", "i", "o"]


@pytest.mark.parametrize("history", [["a", "b"], [["a"]], [["a", 1]], {"a": "b"}], ids=repr)
def test_alpaca_history_that_is_no_pairs_is_broken(history: object) -> None:
    assert "history must be a list of pairs" in fault({"instruction": "i", "output": "o", "history": history}).message


def test_dolly_context_and_response_are_input_and_output() -> None:
    assert texts(one({"instruction": "i", "context": "c", "response": "r"})) == [("user", "i\nc"), ("assistant", "r")]


def test_self_instruct_task_is_its_first_instance() -> None:
    row = one({"instruction": "i", "instances": [{"input": "x", "output": "o"}, {"input": "y", "output": "p"}]})
    assert texts(row) == [("user", "i\nx"), ("assistant", "o")]
    assert "neither an output" in fault({"instruction": "i", "instances": []}, format="alpaca").message


@pytest.mark.parametrize("answer", ["a", ["a", "b"], {"text": ["a", "b"], "answer_start": [1, 2]}], ids=repr)
def test_question_gets_its_first_answer(answer: object) -> None:
    assert texts(one({"question": "q", "answer": answer})) == [("user", "q"), ("assistant", "a")]


def test_question_comes_after_its_context() -> None:
    assert texts(one({"question": "q", "context": "c", "answer": "a"}))[0] == ("user", "c\n\nq")


def test_question_without_an_answer_is_left_out() -> None:
    found = fault({"question": "q", "answers": {"text": [], "answer_start": []}})
    assert (found.kind, found.message) == ("empty_answer", "turn 2 (assistant) is empty")


def test_question_with_a_number_for_an_answer_is_broken() -> None:
    assert fault({"question": "q", "choices": ["x", "y"], "answer": 1}).message == "answer must be text, not int"


def test_text_alone_is_a_completion_without_a_prompt() -> None:
    row = one({"text": "Once upon a time"})
    assert (row.is_plain, row.prompt, row.completion) == (True, "", "Once upon a time")


# data.text


@pytest.mark.parametrize(
    ("template", "prompt", "completion"),
    [
        ("### Question: {q}\n ### Answer: {a}", "### Question: 1+1\n ### Answer:", " 2"),
        ("Q: {q}\nA:\n{a}", "Q: 1+1\nA:\n", "2"),
        ("Q: {q}\nA: \t{a}</s>", "Q: 1+1\nA:", " \t2</s>"),
        ("{q}{a}", "1+1", "2"),
        ("{a}", "", "2"),
        ("{{{q}}} is {a}", "{1+1} is", " 2"),
        ("{q} = {a} since {q}", "1+1 = 2 since", " 1+1"),
        ("{n}: {a}", "7:", " 2"),
    ],
)
def test_text_template_asks_all_before_the_last_column(template: str, prompt: str, completion: str) -> None:
    result = converted({"q": "1+1", "a": "2", "n": 7}, text=template)
    assert result.format == "text"
    assert (result.rows[0].prompt, result.rows[0].completion) == (prompt, completion)


def test_text_template_takes_rows_of_any_columns() -> None:
    row = one(turns(USER, ANSWER, chosen="c", rejected="r", documents=["x"]), text="Good: {chosen}")
    assert (row.prompt, row.completion) == ("Good:", " c")


@pytest.mark.parametrize("template", ["{q[0]} {a}", "{q.x} {a}", "{} {a}", "{0[a]}", "{q!r} {a}", "{q:>9} {a}"])
def test_text_template_takes_plain_column_names_only(template: str) -> None:
    with pytest.raises(DataError, match="a placeholder is the plain name of a column"):
        converted({"q": "1+1", "a": "2"}, text=template)


@pytest.mark.parametrize(
    ("template", "reason"), [("{q} {", "data.text can't be read"), ("no column", "data.text names no column")]
)
def test_text_template_that_can_not_be_filled_is_told(template: str, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        converted({"q": "1+1"}, text=template)


def test_text_template_naming_a_column_that_no_row_has_is_told() -> None:
    with pytest.raises(DataError, match="row 0: data.text names 'b', but the columns are a, q; name one of them"):
        converted({"q": "1", "a": "2"}, text="{q} {b}")


def test_text_template_and_another_format_contradict_each_other() -> None:
    with pytest.raises(DataError, match="data.format is alpaca; delete one of the two"):
        converted({"instruction": "i", "output": "o"}, text="{output}", format="alpaca")


def test_row_without_a_column_of_the_template_is_broken() -> None:
    result = converted({"q": "1", "a": "2"}, {"q": "1"}, {"q": "1", "a": None}, {"q": "1", "a": " "}, text="{q} {a}.")
    assert len(result.rows) == 1
    assert [fault.kind for fault in result.faults] == ["broken_row", "broken_row", "empty_answer"]
    assert result.faults[0].message == "the row has no a, which data.text names"


# Faults of the content


@pytest.mark.parametrize("last", [USER, {"role": "tool", "content": "x"}])
def test_conversation_without_a_last_answer_is_left_out(last: dict) -> None:
    found = fault(turns(USER, ANSWER, last))
    assert found.kind == "missing_assistant_turn"
    assert found.message == f"the conversation ends with a {last['role']} turn, not with an answer"
    assert fault(turns(USER)).kind == "missing_assistant_turn"


@pytest.mark.parametrize("content", ["", " \n\t", None, []], ids=repr)
def test_empty_answer_is_left_out_with_its_turn(content: object) -> None:
    found = fault(turns(USER, {"role": "assistant", "content": content}, USER, ANSWER))
    assert (found.kind, found.message) == ("empty_answer", "turn 2 (assistant) is empty")


def test_thought_without_an_answer_is_an_empty_answer() -> None:
    assert fault(turns(USER, {"role": "assistant", "reasoning_content": "Hm."})).kind == "empty_answer"


def test_empty_completion_is_left_out() -> None:
    assert fault({"prompt": "p", "completion": " "}).message == "the completion is empty"


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        ("user user assistant", "turns 1 and 2 are both from the user"),
        ("user assistant assistant", "turns 2 and 3 are both from the assistant"),
        ("assistant user assistant", "the conversation begins with the assistant, not with the user"),
        ("system assistant", "the conversation begins with the assistant, not with the user"),
        ("user system assistant", "turn 2 is a system turn; only the first one can be"),
        ("system system user assistant", "turn 2 is a system turn; only the first one can be"),
        ("user tool assistant", "turn 2 is a tool turn without an assistant turn before it"),
        ("tool assistant", "the conversation begins with the tool, not with the user"),
    ],
)
def test_turns_in_a_wrong_order_are_left_out(roles: str, message: str) -> None:
    found = fault(turns(*({"role": role, "content": "x"} for role in roles.split())))
    assert (found.kind, found.message) == ("role_order", message)


def test_call_followed_by_an_answer_without_a_result_is_in_wrong_order() -> None:
    call = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    assert fault(turns(USER, call, ANSWER)).kind == "role_order"


@pytest.mark.parametrize("roles", ["user assistant", "system user assistant user assistant", "user assistant tool assistant",
                                   "user assistant tool tool assistant tool assistant", "user assistant tool user assistant"])  # fmt: skip
def test_turns_in_a_usual_order_are_kept(roles: str) -> None:
    assert one(turns(*({"role": role, "content": "x"} for role in roles.split())))


@pytest.mark.parametrize(
    ("messages", "kind"),
    [
        ([ANSWER, {"role": "assistant", "content": ""}, {"role": "robot", "content": ""}], "broken_row"),
        ([ANSWER, {"role": "assistant", "content": ""}, USER], "missing_assistant_turn"),
        ([ANSWER, {"role": "assistant", "content": ""}], "empty_answer"),
        ([ANSWER, ANSWER], "role_order"),
    ],
)
def test_row_has_its_gravest_fault_only(messages: list, kind: str) -> None:
    result = converted({"messages": messages})
    assert [fault.kind for fault in result.faults] == [kind]


# What is known of a row


def test_thinking_is_expected_where_the_reference_thinks() -> None:
    thought = ANSWER | {"reasoning_content": "Hm."}
    assert one(turns(USER, thought)).expect.thinking
    assert not one(turns(USER, ANSWER)).expect.thinking
    assert not one(turns(USER, thought, USER, ANSWER)).expect.thinking
    assert not one(turns(USER, thought | {"tool_calls": [CALL]})).expect.thinking


def test_expectation_that_is_stated_holds() -> None:
    row = one(turns(USER, ANSWER | {"reasoning_content": "Hm."}, expect={"json_schema": {"type": "object"}}))
    assert (row.expect.json_schema, row.expect.thinking) == ({"type": "object"}, False)


def test_id_is_the_given_one_or_follows_the_content() -> None:
    assert one(turns(USER, ANSWER, id=7)).id == "7"
    ids = {
        one(content).id
        for content in (turns(USER, ANSWER), turns(USER, ANSWER, id=None), turns(USER, ANSWER | {"name": "x"}))
    }
    assert len(ids) == 3
    assert one(turns(USER, ANSWER)).id == one(turns(USER, ANSWER)).id


def test_kind_phrasing_and_entities_make_slices_and_clusters() -> None:
    row = one(
        {"prompt": "p", "completion": "c", "kind": "capital", "phrasing": "new-3", "entities": ["Oslo", "Bergen"]}
    )
    assert (row.slices, row.cluster) == (("capital", "new phrasing"), "Oslo")


def test_group_is_the_value_of_its_column() -> None:
    result = converted(
        *({"prompt": "p", "completion": "c", "user": user} for user in ("ann", 7, None)), group_by="user"
    )
    assert [row.group for row in result.rows] == ["ann", "7", ""]


def test_group_by_a_column_that_no_row_has_is_told() -> None:
    with pytest.raises(DataError, match="row 0: data.group_by names 'user', but the columns are completion, prompt"):
        converted({"prompt": "p", "completion": "c"}, group_by="user")


@pytest.mark.slow
def test_hundred_thousand_rows_convert_in_seconds() -> None:
    rows = [Row(f"r:{i}", turns(USER, ANSWER, source=i), i) for i in range(100_000)]
    start = time.perf_counter()
    assert len(convert(rows).rows) == 100_000
    assert time.perf_counter() - start < 10
