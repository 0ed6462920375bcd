"""Tool calls: read in every known format, checked against their schemas, judged as BFCL judges them."""

from typing import Any

import pytest

from harness.records import Example, Expectation, Message
from harness.scoring.bfcl import bfcl_verdict, possible_answers_of
from harness.scoring.measurement import ToolCall
from harness.scoring.tool_calls import (
    calls_failure,
    read_calls,
    reference_calls,
    tool_calls_in,
    tool_failure,
    without_calls,
)
from harness.scoring.tool_schemas import call_failure, cast


def tool(name: str, required: tuple[str, ...] = (), **types: Any) -> dict[str, Any]:
    """A function schema; a type is a name or a schema."""
    properties = {key: kind if isinstance(kind, dict) else {"type": kind} for key, kind in types.items()}
    parameters = {"type": "object", "properties": properties, "required": list(required)}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


FIND = tool("find", ("q",), q="string", n="integer", deep="boolean")
ARGUMENTS = {"q": 'the "old" <b> mill', "n": 3}
JSON = '{"q": "the \\"old\\" <b> mill", "n": 3}'

# Each as the template of the model named in the reader writes it.
FORMATS = {
    "tool_call:json": f'<tool_call>\n{{"name": "find", "arguments": {JSON}}}\n</tool_call>',
    "tool_call:json_list": f'<tool_call>[{{"name": "find", "arguments": {JSON}}}]</tool_call>',
    "tool_call:function": '<tool_call>\n<function=find>\n<parameter=q>\nthe "old" <b> mill\n</parameter>\n<parameter=n>\n3\n</parameter>\n'
    "</function>\n</tool_call>",
    "tool_call:arg_key": '<tool_call>find\n<arg_key>q</arg_key>\n<arg_value>the "old" <b> mill</arg_value>\n<arg_key>n</arg_key>\n'
    "<arg_value>3</arg_value>\n</tool_call>",
    "tool_calls": f'<tool_calls>[{{"name": "find", "arguments": {JSON}}}]</tool_calls>',
    "mistral": f'[TOOL_CALLS][{{"name": "find", "arguments": {JSON}, "id": "abcdef123"}}]',
    "mistral ": f"[TOOL_CALLS]find[ARGS]{JSON}",
    "mistral  ": f"[TOOL_CALLS]find[CALL_ID]abcdef123[ARGS]{JSON}",
    "python_tag": f'<|python_tag|>{{"name": "find", "parameters": {JSON}}}',
    "granite": f'<|tool_call|>[{{"name": "find", "arguments": {JSON}}}]',
    "firefunction": f' functools[{{"name": "find", "arguments": {JSON}}}]',
    "apertus": f'<|tools_prefix|>[{{"find": {JSON}}}]',
    "cohere": f'<|START_ACTION|>[\n    {{"tool_call_id": "0", "tool_name": "find", "parameters": {JSON}}}\n]<|END_ACTION|>',
    "deepseek": f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>find\n```json\n{JSON}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    "deepseek ": f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>find<｜tool▁sep｜>{JSON}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    "deepseek  ": f"<｜tool calls begin｜><｜tool call begin｜>find<｜tool sep｜>{JSON}<｜tool call end｜><｜tool calls end｜>",
    "kimi": f"<|tool_calls_section_begin|><|tool_call_begin|>functions.find:0<|tool_call_argument_begin|>{JSON}<|tool_call_end|>"
    "<|tool_calls_section_end|>",
    "harmony": f" to=functions.find<|channel|>commentary json<|message|>{JSON}",
    "harmony ": f"<|channel|>commentary to=functions.find <|constrain|>json<|message|>{JSON}<|call|>",
    "mcp": f"<use_mcp_tool>\n<server_name>web</server_name>\n<tool_name>find</tool_name>\n<arguments>\n{JSON}\n</arguments>\n</use_mcp_tool>",
    "gemma": '<|tool_call>call:find{q:<|"|>the "old" <b> mill<|"|>,n:3}<tool_call|>',
    "lfm": "<|tool_call_start|>[find(q='the \"old\" <b> mill', n=3)]<|tool_call_end|>",
    "dsml": '<｜DSML｜function_calls>\n<｜DSML｜invoke name="find">\n<｜DSML｜parameter name="q" string="true">the "old" <b> mill'
    '</｜DSML｜parameter>\n<｜DSML｜parameter name="n" string="false">3</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜function_calls>',
    "minimax": '<minimax:tool_call>\n<invoke name="find">\n<parameter name="q">the "old" <b> mill</parameter>\n'
    '<parameter name="n">3</parameter>\n</invoke>\n</minimax:tool_call>',
    "function": f"<function=find>{JSON}</function>",
    "bare_json": f'{{"name": "find", "parameters": {JSON}}}',
    "functionary": f">>>find\n{JSON}",
    "bare_python": "[find(q='the \"old\" <b> mill', n=3)]",
}
"""How a call is written -> the call; blanks tell variants of one format apart."""


@pytest.mark.parametrize("name", FORMATS)
def test_call_is_read_in_every_format(name: str) -> None:
    found = read_calls(FORMATS[name], [FIND])
    assert (found.failure, found.format, found.calls) == ("", name.strip(), (ToolCall("find", ARGUMENTS),))


@pytest.mark.parametrize("name", FORMATS)
def test_call_that_lost_its_end_is_malformed(name: str) -> None:
    """Nothing is mended: the program that runs the tools wouldn't."""
    end = {"<|call|>": 10, "<|tool_call_end|>": 20}
    cut = FORMATS[name][: -next((length for text, length in end.items() if FORMATS[name].endswith(text)), 3)]
    assert read_calls(cut, [FIND]).failure == "tool_call_malformed" or name == "bare_python"
    assert read_calls(cut, [FIND]).calls == ()


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call></tool_call>",
        "<tool_call>find</tool_call></tool_call>",
        '<tool_call>{"name": "find"}</tool_call>',
        '<tool_call>{"name": "find", "arguments": "q"}</tool_call>',
        '<tool_call>{"name": "find", "arguments": {"q": "a", "q": "b"}}</tool_call>',
        '<tool_call>{"name": "find", "parameters": {"q": "a"}}</tool_call>',
        '<tool_call>{"name": "", "arguments": {}}</tool_call>',
        '<tool_call>{"name": "find", "arguments": {"q": NaN}}</tool_call>',
        "<tool_call><function=find><parameter=q>a</parameter><parameter=q>b</parameter></function></tool_call>",
        "<tool_call><function=find>q is a</function></tool_call>",
        "<tool_call>find<arg_key>q</arg_key></tool_call>",
        "</tool_call>",
        "[TOOL_CALLS]",
        "<|python_tag|>print(1)",
        "<|tool_call_start|>[find('a')]<|tool_call_end|>",
        "<|tool_call_start|>[find(q=open('x'))]<|tool_call_end|>",
        "<function=find>{}</function> and <tool_call>",
    ],
)
def test_malformed_call(text: str) -> None:
    assert read_calls(text, [FIND]).failure == "tool_call_malformed"


def test_text_without_call_has_none() -> None:
    for text in ("", "I would call find.", '{"name": "Ann", "age": 3}', "[find]", ">>> print(1)"):
        assert read_calls(text) == ((), "", text, "")


def test_calls_inside_thinking_are_only_thought_of() -> None:
    call = FORMATS["tool_call:json"]
    assert tool_calls_in(f"<think>{call}</think>\nNo.", [FIND]) == []
    assert without_calls(f"<think>Hm.</think>Here:\n{call}", [FIND]) == "Here:\n"


def test_the_tokenizers_own_parser_counts_where_the_format_is_unknown() -> None:
    parsed = (ToolCall("find", {"q": "a"}),)
    assert read_calls("⟪find a⟫", [FIND], parsed)[:2] == (parsed, "parsed")
    assert read_calls("⟪find⟫", [FIND], (ToolCall("", {}),)).failure == "tool_call_malformed"
    assert read_calls("<tool_call>{</tool_call>", [FIND], parsed).failure == "tool_call_malformed"
    assert tool_failure("", Expectation(), parsed=parsed) == "tool_call_not_asked"


def test_another_format_than_the_templates_is_a_failure() -> None:
    expect = Expectation(tools=(FIND,))
    taught = FORMATS["bare_json"]
    assert tool_failure(taught, expect, taught) == ""
    assert tool_failure(FORMATS["tool_call:json"], expect, taught) == "tool_call_wrong_format"


TYPED = tool("f", ("s",), s="string", i="integer", x="number", b="boolean", items={"type": "array", "items": {"type": "integer"}},
             choice={"type": "string", "enum": ["a", "b"]}, o={"type": "object", "properties": {"k": {"type": "string"}}, "required": ["k"]})  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "failure"),
    [
        ({"s": "a"}, ""),
        ({"s": "a", "i": 1, "x": 1, "b": True, "items": [1], "choice": "a", "o": {"k": "v"}}, ""),
        ({}, "tool_argument_missing"),
        ({"i": 1}, "tool_argument_missing"),
        ({"s": "a", "o": {}}, "tool_argument_missing"),
        ({"s": "a", "z": 1}, "tool_argument_unexpected"),
        ({"s": 1}, "tool_argument_type"),
        ({"s": None}, "tool_argument_type"),
        ({"s": "a", "i": "1"}, "tool_argument_type"),
        ({"s": "a", "i": True}, "tool_argument_type"),
        ({"s": "a", "items": ["1"]}, "tool_argument_type"),
        ({"s": "a", "choice": "c"}, "tool_argument_value"),
    ],
)
def test_arguments_against_their_schema(arguments: dict[str, Any], failure: str) -> None:
    assert call_failure(ToolCall("f", arguments), [TYPED]) == failure


def test_schemas_as_datasets_write_them() -> None:
    bare = {"name": "f", "parameters": {"a": {"type": "str, optional"}, "b": {"type": "List[int]"}}, "required": ["b"]}
    assert call_failure(ToolCall("f", {"b": [1], "a": None}), [bare]) == ""
    assert call_failure(ToolCall("f", {"a": "x"}), [bare]) == "tool_argument_missing"
    assert call_failure(ToolCall("f", {"b": ["x"]}), [bare]) == "tool_argument_type"
    for odd in (
        {"name": "f"},
        {"name": "f", "parameters": None},
        {"name": "f", "parameters": {"type": "weird", "properties": 3}},
    ):
        assert call_failure(ToolCall("f", {"a": 1}), [odd]) == ""
        assert call_failure(ToolCall("g", {}), [odd]) == "tool_unknown"


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("3", "integer", 3), ("3", "string", "3"), ("x", "integer", "x"), ("True", "boolean", True), ("null", "string", "null"),
        ("null", ["string", "null"], None), ("['a', 1]", "array", ["a", 1]), ('{"a": 1}', "object", {"a": 1}),
        ("[" * 9_999, "array", "[" * 9_999), ("9" * 10_000, "integer", "9" * 10_000),
    ],
)  # fmt: skip
def test_bare_text_becomes_the_value_of_its_type(text: str, kind: Any, value: Any) -> None:
    assert cast(text, {"type": kind}) == value


def function(name: str = "f", required: tuple[str, ...] = (), **types: Any) -> dict[str, Any]:
    """A function as BFCL's data have it."""
    return {"name": name, "parameters": {**tool(name, required, **types)["function"]["parameters"], "type": "dict"}}


STRINGS = {"type": "array", "items": {"type": "string"}}
DICTS = {"type": "array", "items": {"type": "dict"}}
SIMPLE = "simple_function_checker"


# Verdicts as bfcl_eval/eval_checker/ast_eval/ast_checker.py of ShishirPatil/gorilla (commit a6da28e) gives them; 300,000 random
# calls were compared with it too.
@pytest.mark.parametrize(
    ("schema", "arguments", "possible", "verdict"),
    [
        (function(i="integer"), {"i": 5}, {"i": [5]}, ""),
        (function(i="integer"), {"i": "5"}, {"i": [5]}, "type_error:simple"),
        (function(i="integer"), {"i": 5.0}, {"i": [5]}, "type_error:simple"),
        (function(i="integer"), {"i": True}, {"i": [1]}, "type_error:simple"),
        (function(i="integer"), {"i": 6}, {"i": [5]}, "value_error:others"),
        (function(i="integer"), {"i": 6}, {"i": [5, 6]}, ""),
        (function(i="integer"), {"i": "n"}, {"i": ["n"]}, ""),  # the answer names a variable
        (function(x="float"), {"x": 5}, {"x": [5.0]}, ""),  # an int is taken for a float
        (function(x="float"), {"x": "5.0"}, {"x": [5.0]}, "type_error:simple"),
        (function(b="boolean"), {"b": True}, {"b": [True]}, ""),
        (function(b="boolean"), {"b": "true"}, {"b": [True]}, "type_error:simple"),
        (function(s="string"), {"s": "new york"}, {"s": ["New York"]}, ""),
        (function(s="string"), {"s": "April 1, 2024"}, {"s": ["April 1 2024"]}, ""),
        (function(s="string"), {"s": "it's"}, {"s": ['it"s']}, ""),
        (function(s="string"), {"s": "York!"}, {"s": ["York"]}, "value_error:string"),
        (function(s="string"), {"s": 3}, {"s": ["3"]}, "type_error:simple"),
        (function(required=("s",), s="string"), {}, {"s": ["a"]}, f"{SIMPLE}:missing_required"),
        (function(s="string"), {}, {"s": ["a"]}, f"{SIMPLE}:missing_optional"),
        (function(s="string"), {}, {"s": ["a", ""]}, ""),
        (function(s="string"), {"s": "a", "z": 1}, {"s": ["a"]}, f"{SIMPLE}:unexpected_param"),
        (function(s="string", i="integer"), {"s": "a", "i": 1}, {"s": ["a"]}, f"{SIMPLE}:unexpected_param"),
        (function(l=STRINGS), {"l": ["a", "B"]}, {"l": [["A", "b"]]}, ""),
        (function(l=STRINGS), {"l": ["b", "a"]}, {"l": [["a", "b"]]}, "value_error:list/tuple"),  # the order counts
        (function(l=STRINGS), {"l": ["a", 1]}, {"l": [["a", "b"]]}, "type_error:nested"),
        (function(l=STRINGS), {"l": []}, {"l": [["a"], ""]}, ""),
        (function(l=STRINGS), {"l": "a"}, {"l": [["a"]]}, "type_error:simple"),
        (function(d="dict"), {"d": {"k": "V"}}, {"d": [{"k": ["v", "w"]}]}, ""),
        (function(d="dict"), {"d": {"k": "x"}}, {"d": [{"k": ["v"]}]}, "value_error:dict_value"),
        (function(d="dict"), {"d": {"z": 1}}, {"d": [{"k": [1]}]}, "value_error:dict_key"),
        (function(d="dict"), {"d": {}}, {"d": [{"k": [1]}]}, "value_error:dict_key"),
        (function(d="dict"), {"d": {}}, {"d": [{"k": [1, ""]}]}, ""),
        (function(l=DICTS), {"l": [{"k": 1}]}, {"l": [[{"k": [1]}]]}, ""),
        (function(l=DICTS), {"l": [{"k": 1}, {"k": 1}]}, {"l": [[{"k": [1]}]]}, "value_error:list_dict_count"),
        (function(l=DICTS), {"l": [{"k": 2}]}, {"l": [[{"k": [1]}]]}, "value_error:dict_value"),
    ],
)  # fmt: skip
def test_bfcl_verdicts_on_one_call(
    schema: dict[str, Any], arguments: dict[str, Any], possible: dict[str, Any], verdict: str
) -> None:
    assert bfcl_verdict([ToolCall("f", arguments)], [schema], [{"f": possible}]) == verdict


F, G = function("f", i="integer"), function("g", i="integer")
ONE, TWO, OTHER = ToolCall("f", {"i": 1}), ToolCall("f", {"i": 2}), ToolCall("g", {"i": 1})


@pytest.mark.parametrize(
    ("calls", "functions", "possible", "verdict"),
    [
        ([], [F], [{"f": {"i": [1]}}], f"{SIMPLE}:wrong_count"),
        ([ONE, ONE], [F], [{"f": {"i": [1]}}], f"{SIMPLE}:wrong_count"),
        ([ONE, ONE], [F, G], [{"f": {"i": [1]}}], "multiple_function_checker:wrong_count"),
        ([OTHER], [F, G], [{"f": {"i": [1]}}], f"{SIMPLE}:wrong_func_name"),
        ([ONE], [F, G], [{"f": {"i": [1]}}], ""),
        ([TWO, ONE], [F], [{"f": {"i": [1]}}, {"f": {"i": [2]}}], ""),  # in any order
        ([ONE, ONE], [F], [{"f": {"i": [1]}}, {"f": {"i": [2]}}], "parallel_function_checker_no_order:cannot_find_match"),
        ([ONE], [F], [{"f": {"i": [1]}}, {"f": {"i": [2]}}], "parallel_function_checker_no_order:wrong_count"),
    ],
)  # fmt: skip
def test_bfcl_verdicts_on_several_calls(
    calls: list[ToolCall], functions: list[dict[str, Any]], possible: list[dict[str, Any]], verdict: str
) -> None:
    assert bfcl_verdict(calls, functions, possible) == verdict


def test_reference_calls_are_their_own_possible_answers() -> None:
    nested = tool(
        "f",
        d="object",
        l={"type": "array", "items": {"type": "object"}},
        free={},
        opt={"type": "integer", "default": 7},
    )
    right = ToolCall("f", {"d": {"a": 1}, "l": [{"b": "x"}], "free": {"c": 1}})
    possible = possible_answers_of([right], [nested])
    assert possible == [{"f": {"opt": [7, ""], "d": [{"a": [1]}], "l": [[{"b": ["x"]}]], "free": [{"c": 1}]}}]
    assert bfcl_verdict([right], [nested], possible) == ""
    assert bfcl_verdict([ToolCall("f", {**right.arguments, "opt": 7})], [nested], possible) == ""
    assert bfcl_verdict([ToolCall("f", {**right.arguments, "opt": 8})], [nested], possible) == "value_error:others"


@pytest.mark.parametrize(
    ("text", "failure"),
    [
        ('<tool_call>{"name": "find", "arguments": {"q": "The Mill"}}</tool_call>', ""),
        ('<tool_call>{"name": "find", "arguments": {"q": "pond"}}</tool_call>', "tool_argument_value"),
        ('<tool_call>{"name": "find", "arguments": {"q": "the mill", "n": 3}}</tool_call>', "tool_argument_unexpected"),
        ('<tool_call>{"name": "find", "arguments": {}}</tool_call>', "tool_argument_missing"),
        ('<tool_call>{"name": "find", "arguments": {"q": 3}}</tool_call>', "tool_argument_type"),
        ('<tool_call>{"name": "open", "arguments": {"q": "the mill"}}</tool_call>', "tool_wrong"),
        ('<tool_call>{"name": "shut", "arguments": {"q": "the mill"}}</tool_call>', "tool_unknown"),
        ('<tool_call>{"name": "find"</tool_call>', "tool_call_malformed"),
        ("The mill?", "tool_call_missing"),
        (FORMATS["tool_call:json"] * 2, "tool_call_wrong_count"),
    ],
)
def test_calls_are_judged_by_the_references(text: str, failure: str) -> None:
    expect = Expectation(tools=(FIND, tool("open", q="string")))
    assert calls_failure(text, expect, [ToolCall("find", {"q": "the mill"})]) == failure


def test_several_calls_are_judged_without_order_and_without_reference_by_their_schemas() -> None:
    wanted = [ToolCall("find", {"q": "a"}), ToolCall("find", {"q": "b"})]
    both = "".join(f'<tool_call>{{"name": "find", "arguments": {{"q": "{q}"}}}}</tool_call>' for q in "ba")
    expect = Expectation(tools=(FIND,), num_calls=2)
    assert calls_failure(both, expect, wanted) == ""
    assert calls_failure(both.replace('"a"', '"c"'), expect, wanted) == "tool_call_unmatched"
    assert calls_failure(both, expect, ()) == ""
    assert calls_failure(both.replace("find", "kill"), expect, ()) == "tool_unknown"


def test_reference_calls_are_the_written_ones_or_the_stated_ones() -> None:
    calls = tuple({"type": "function", "function": {"name": "find", "arguments": {"q": q}}} for q in "ab")
    answer = Message(role="assistant", tool_calls=calls)
    stated = Example(id="e", reference="", answer=answer, expect=Expectation(tools=(FIND,)))
    assert [call.arguments["q"] for call in reference_calls(stated)] == ["a", "b"]
    written = stated.model_copy(update={"reference": '{"name": "find", "parameters": {"q": "a"}}'})
    assert reference_calls(written) == (ToolCall("find", {"q": "a"}),)
