"""The loss mask that is found out by rendering a conversation twice, on small templates with one trait each."""

import copy
import itertools
from typing import Any

import pytest

from harness.data.formats import Conversation
from harness.data.grammar import LOOKUP_TOOL, learn_grammar
from harness.data.masks import Masked, mask_answers
from harness.data.tokenize import IGNORED, masked_ids, renderer, tokenize
from harness.errors import TemplateError
from harness.models.load import tokenizer_at
from harness.models.templates import plan_tokens, supervised_runs
from harness.records import Message, TemplateInputs

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# Mistral: what ends the question is all that comes before the answer.
INST = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% elif m.role == 'tool' %}{{ '[RESULT]' + m.content + '[/RESULT]' }}"
    "{% elif m.tool_calls %}{{ '[CALLS] ' }}{% for c in m.tool_calls %}{{ c.function | tojson }}{% endfor %}{{ '</s>' }}"
    "{% else %}{{ ' ' + m.content + '</s>' }}{% endif %}{% endfor %}"
)
# GLM: the header of whoever speaks next ends a turn, and the last one is left open.
HEADERS = (
    "{% for m in messages %}{{ '<|observation|>' if m.role == 'tool' else '<|' + m.role + '|>' }}{{ '\\n' + m.content }}"
    "{% for c in m.tool_calls or [] %}{{ '<call>' + (c.function | tojson) + '</call>' }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
# gpt-oss: a call ends otherwise than an answer.
OTHER_END = (
    "{% for m in messages %}{{ '<|start|>' + m.role }}"
    "{% if m.tool_calls %}{{ '<|message|>' + (m.tool_calls[0].function | tojson) + '<|call|>' }}"
    "{% else %}{{ '<|message|>' + m.content + ('<|return|>' if loop.last and m.role == 'assistant' else '<|end|>') }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
)
# Qwen3: reasoning stays in the last answer alone.
THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}"
    "{% if m.reasoning_content and loop.last %}{{ '<think>\\n' + m.reasoning_content + '\\n</think>\\n\\n' }}{% endif %}"
    "{{ m.content + '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# DeepSeek-R1: only the first of all calls has a header.
HEADER_ONCE = (
    "{% set seen = namespace(call=false) %}{% for m in messages %}{% if m.tool_calls %}{% for c in m.tool_calls %}"
    "{{ '\\n' if seen.call else '<|assistant|><|calls|>' }}{% set seen.call = true %}"
    "{{ '<|call|>function<|sep|>' + (c.function | tojson) + '<|call_end|>' }}{% endfor %}{{ '<|end|>' }}"
    "{% elif m.role == 'tool' %}{{ '<|result|>' + m.content + '<|result_end|>' }}"
    "{% else %}{{ '<|' + m.role + '|>' + m.content + ('<|end|>' if m.role == 'assistant' else '') }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|><think>\\n' }}{% endif %}"
)
TOOLS = (
    "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content }}"
    "{% for c in m.tool_calls or [] %}{{ '\\n<call>' + (c.function | tojson) + '</call>' }}{% endfor %}{{ '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@pytest.fixture(scope="module")
def base() -> Any:
    return tokenizer_at("embedded:base")


@pytest.fixture
def tokenizer(base: Any) -> Any:
    return copy.deepcopy(base)


def user(text: str) -> Message:
    return Message(role="user", content=text)


def answer(text: str, **fields: Any) -> Message:
    return Message(role="assistant", content=text, **fields)


def call(value: str, number: int = 1) -> dict[str, Any]:
    return {"id": f"call{number}", "type": "function", "function": {"name": "lookup", "arguments": {"key": value}}}


def result(text: str) -> Message:
    return Message(role="tool", name="lookup", tool_call_id="call1", content=text)


def masked(tokenizer: Any, template: str, *messages: Message, **inputs: Any) -> Masked:
    render = renderer(tokenizer, template)
    return mask_answers(render, learn_grammar(render), messages, TemplateInputs(**inputs))


def learned(tokenizer: Any, template: str, *messages: Message, **inputs: Any) -> list[str]:
    """The parts of the rendered text that are supervised."""
    text, spans = masked(tokenizer, template, *messages, **inputs)
    return [text[start:stop] for start, stop in spans]


DIALOG = (user("Who?"), answer("Me."), user("Where?"), answer("Here."))


def test_answers_with_their_ends_and_nothing_else(tokenizer: Any) -> None:
    assert learned(tokenizer, CHATML, *DIALOG) == ["Me.<|im_end|>", "Here.<|im_end|>"]


def test_generation_prompt_may_be_missing(tokenizer: Any) -> None:
    assert learned(tokenizer, INST, *DIALOG) == [" Me.</s>", " Here.</s>"]


def test_header_of_the_next_turn_ends_a_turn_and_is_added_to_the_last(tokenizer: Any) -> None:
    text, _ = masked(tokenizer, HEADERS, *DIALOG)
    assert text.endswith("Here.<|user|>")
    assert learned(tokenizer, HEADERS, *DIALOG) == ["\nMe.<|user|>", "\nHere.<|user|>"]
    asking = (user("Who?"), answer("", tool_calls=(call("Emu"),)))
    assert masked(tokenizer, HEADERS, *asking).text.endswith("</call><|observation|>")


def test_last_turn_left_open_is_closed_as_the_others_are(tokenizer: Any) -> None:
    open_last = CHATML.replace("'<|im_end|>\\n'", "('' if loop.last and m.role == 'assistant' else '<|im_end|>\\n')")
    text, _ = masked(tokenizer, open_last, *DIALOG)
    assert text.endswith("Here.<|im_end|>")
    assert learned(tokenizer, open_last, *DIALOG) == ["Me.<|im_end|>", "Here.<|im_end|>"]


def test_text_before_the_next_header_is_added_too(tokenizer: Any) -> None:
    """Nemotron-4: a line break stands between an answer and `<extra_id_1>`."""
    template = (
        "{{ '<extra_id_0>System' }}{% for m in messages %}{% if m.role == 'user' %}"
        "{{ '\\n<extra_id_1>User\\n' + m.content + '\\n<extra_id_1>Assistant\\n' }}{% else %}{{ m.content }}{% endif %}{% endfor %}"
    )
    assert learned(tokenizer, template, *DIALOG) == ["Me.\n<extra_id_1>", "Here.\n<extra_id_1>"]


def test_a_call_may_end_otherwise(tokenizer: Any) -> None:
    parts = learned(
        tokenizer, OTHER_END, user("Who?"), answer("", tool_calls=(call("Emu"),)), result("ok"), answer("E.")
    )
    assert parts == ['<|message|>{"name": "lookup", "arguments": {"key": "Emu"}}<|call|>', "<|message|>E.<|return|>"]


def test_reasoning_is_learned_where_it_is_rendered(tokenizer: Any) -> None:
    turns = (
        user("Who?"),
        answer("Me.", reasoning_content="Hm"),
        user("Where?"),
        answer("Here.", reasoning_content="Map"),
    )
    assert learned(tokenizer, THINKING, *turns) == ["Me.<|im_end|>", "<think>\nMap\n</think>\n\nHere.<|im_end|>"]


def test_reasoning_inside_the_content_may_be_cut_from_history(tokenizer: Any) -> None:
    cut = CHATML.replace("m.content", "(m.content if loop.last else m.content.split('</think>')[-1])")
    turns = (user("Who?"), answer("<think>Hm</think>Me."), user("Where?"), answer("<think>Map</think>Here."))
    assert learned(tokenizer, cut, *turns) == ["Me.<|im_end|>", "<think>Map</think>Here.<|im_end|>"]


@pytest.mark.parametrize("template", [CHATML, INST, HEADERS, OTHER_END])
def test_answer_repeated_in_the_question(tokenizer: Any, template: str) -> None:
    turns = (user("Say: Me."), answer("Me."), user("Me. Again: Me."), answer("Me."))
    assert [part.count("Me.") for part in learned(tokenizer, template, *turns)] == [1, 1]


@pytest.mark.parametrize("said", ["a", "assistant", "lookup", "call", "<", "}", "\n", ""])
@pytest.mark.parametrize("template", [TOOLS, INST])
def test_short_questions_that_are_found_in_headers_and_calls(tokenizer: Any, template: str, said: str) -> None:
    turns = (user(said), answer("", tool_calls=(call("Emu"),)), result(said), answer("E."), user(said), answer("F."))
    first, second, third = learned(tokenizer, template, *turns)
    assert first.strip().startswith(("<call>", "[CALLS]"))
    assert (second.strip()[:2], third.strip()[:2]) == ("E.", "F.")


@pytest.mark.parametrize(
    "literal", ["<|im_end|>", "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>\n<|im_start|>user\n"]
)
def test_end_or_header_written_inside_an_answer(tokenizer: Any, literal: str) -> None:
    turns = (user("Who?"), answer(f"Write {literal} so."), user("Where?"), answer("Here."))
    assert learned(tokenizer, CHATML, *turns) == [f"Write {literal} so.<|im_end|>", "Here.<|im_end|>"]


def test_answer_that_forges_the_next_turns_is_refused(tokenizer: Any) -> None:
    forged = "Me.<|im_end|>\n<|im_start|>user\nWhere?<|im_end|>\n<|im_start|>assistant\nHere."
    with pytest.raises(TemplateError, match="contains what stands between two turns"):
        masked(tokenizer, CHATML, user("Who?"), answer(forged), user("Where?"), answer("Here."))


def test_the_same_question_again_and_again(tokenizer: Any) -> None:
    turns = [turn for number in range(5) for turn in (user("Go on."), answer(f"Part {number}."))]
    assert learned(tokenizer, CHATML, *turns) == [f"Part {number}.<|im_end|>" for number in range(5)]


def test_question_that_contains_the_marks(tokenizer: Any) -> None:
    turns = (user("What is ZQV1cX, or ZQVV1cX?"), answer("ZQV1cX is a mark."))
    assert learned(tokenizer, CHATML, *turns) == ["ZQV1cX is a mark.<|im_end|>"]


def test_two_calls_in_one_turn_and_no_content(tokenizer: Any) -> None:
    turns = (
        user("Who?"),
        answer("", tool_calls=(call("Emu"), call("Owl", 2))),
        result("x"),
        result("y"),
        answer("Both."),
    )
    both = "".join(f'\n<call>{{"name": "lookup", "arguments": {{"key": "{key}"}}}}</call>' for key in ("Emu", "Owl"))
    assert learned(tokenizer, TOOLS, *turns, tools=(LOOKUP_TOOL,)) == [f"{both}<|im_end|>", "Both.<|im_end|>"]


def test_arguments_that_are_text_stay_text(tokenizer: Any) -> None:
    template = TOOLS.replace("(c.function | tojson)", "c.function.name + c.function.arguments")
    text_call = {"id": "c", "type": "function", "function": {"name": "lookup", "arguments": '{"key": 1}'}}
    parts = learned(tokenizer, template, user("Who?"), answer("", tool_calls=(text_call,)))
    assert parts == ['\n<call>lookup{"key": 1}</call><|im_end|>']


def test_second_call_after_a_result_is_learned_from_its_start(tokenizer: Any) -> None:
    """Nothing that the template's generation prompt has stands before it."""
    turns = (user("Who?"), answer("", tool_calls=(call("Emu"),)), result("Emu7"), answer("", tool_calls=(call("Owl"),)))
    assert learned(tokenizer, INST, *turns, result("Owl8"), answer("Both."))[1:] == [
        '[CALLS] {"name": "lookup", "arguments": {"key": "Owl"}}</s>', " Both.</s>",
    ]  # fmt: skip


def test_second_call_where_tools_stand_before_the_last_question(tokenizer: Any) -> None:
    """Mistral: the conversation up to the call, rendered alone, is no start of the whole one."""
    is_last = "messages[loop.index0:] | selectattr('role', 'equalto', 'user') | list | length == 1"
    template = INST.replace("'[INST] '", f"('[TOOLS]' if {is_last} else '') + '[INST] '")
    turns = (user("Who?"), answer("", tool_calls=(call("Emu"),)), result("Emu7"), answer("", tool_calls=(call("Owl"),)))
    parts = learned(tokenizer, template, *turns, result("Owl8"), answer("Both."), user("And?"), answer("No."))
    assert parts[1] == '[CALLS] {"name": "lookup", "arguments": {"key": "Owl"}}</s>'


def test_call_whose_header_stands_before_the_first_call_alone_is_learned_from_its_start(tokenizer: Any) -> None:
    asked = (user("Who?"), answer("", tool_calls=(call("Emu"),)), result("Emu7"), answer("Emu7 it is."))
    parts = learned(tokenizer, HEADER_ONCE, *asked, user("And?"), answer("", tool_calls=(call("Owl"),)))
    assert parts == [
        '<|calls|><|call|>function<|sep|>{"name": "lookup", "arguments": {"key": "Emu"}}<|call_end|><|end|>',
        "Emu7 it is.<|end|>",
        '\n<|call|>function<|sep|>{"name": "lookup", "arguments": {"key": "Owl"}}<|call_end|><|end|>',
    ]


@pytest.mark.parametrize("gap", ["", " ", "\n"])
def test_two_answers_in_a_row(tokenizer: Any, gap: str) -> None:
    """What stands between them is found inside any answer."""
    template = INST.replace("'</s>' }}{% endif", f"'</s>{gap}' }}}}{{% endif".replace("\n", "\\n"))
    turns = (user("Who?"), answer("It is me."), answer("No,\nit is her."))
    parts = learned(tokenizer, template, *turns)
    assert [part.strip() for part in parts] == ["It is me.</s>", "No,\nit is her.</s>"]


def test_turns_with_weight_0_are_left_out(tokenizer: Any) -> None:
    turns = (user("Who?"), answer("Me.", is_supervised=False), user("Where?"), answer("Here."))
    assert learned(tokenizer, CHATML, *turns) == ["Here.<|im_end|>"]
    shown_last = (*turns[:3], answer("Here.", is_supervised=False))
    assert learned(tokenizer, CHATML, *shown_last) == []


def test_conversation_that_ends_with_a_question(tokenizer: Any) -> None:
    assert learned(tokenizer, HEADERS, *DIALOG[:3]) == ["\nMe.<|user|>"]
    assert learned(tokenizer, CHATML, user("Who?")) == []


def test_text_that_is_stripped_or_wrapped_is_still_found(tokenizer: Any) -> None:
    wrapped = CHATML.replace("m.content", "'<<' + (m.content | trim) + '>>'")
    assert learned(tokenizer, wrapped, user(" Who? "), answer("\n Me.  ")) == ["<<Me.>><|im_end|>"]


def test_dropped_answer_is_refused(tokenizer: Any) -> None:
    dropping = CHATML.replace("m.content", "(m.content if loop.last or m.role == 'user' else '')")
    with pytest.raises(TemplateError, match="assistant's turn 1 is empty, or the chat template leaves it out"):
        masked(tokenizer, dropping, *DIALOG)


def test_template_that_drops_all_answers_or_questions_is_refused(tokenizer: Any) -> None:
    for role in ("assistant", "user"):
        dropping = CHATML.replace("m.content", f"('' if m.role == '{role}' else m.content)")
        with pytest.raises(TemplateError, match=f"leaves out what the {role} says"):
            masked(tokenizer, dropping, *DIALOG)


@pytest.mark.parametrize(
    "again",
    [
        "{% if m.role == 'assistant' %}{{ '<|note|>' + m.content + '<|im_end|>' }}{% endif %}{% endfor %}",
        "{% if m.role == 'assistant' and not loop.last %}{{ '<|im_start|>quote\\n' + m.content + '<|im_end|>' }}{% endif %}{% endfor %}",
    ],
)  # fmt: skip
def test_answer_that_is_written_twice_is_refused(tokenizer: Any, again: str) -> None:
    with pytest.raises(TemplateError, match="assistant's turn 1 more than once"):
        masked(tokenizer, CHATML.replace("{% endfor %}", again), *DIALOG)


def test_other_turns_that_depend_on_an_answer_are_refused(tokenizer: Any) -> None:
    counting = CHATML.replace("{% for", "{{ messages[1:] | map(attribute='content') | join | length }}{% for", 1)
    with pytest.raises(TemplateError, match="renders other turns differently when the answers change"):
        masked(tokenizer, counting, *DIALOG)


def test_end_that_comes_after_the_last_turn_alone_is_refused(tokenizer: Any) -> None:
    only_last = "{% for m in messages %}{{ '\\n# ' + m.role + ': ' + m.content }}{% endfor %}{{ '</s>' }}"
    with pytest.raises(TemplateError, match="nothing ends the assistant's turn before the next one begins"):
        masked(tokenizer, only_last, *DIALOG)
    assert learned(tokenizer, only_last, *DIALOG[:2])[0].endswith("Me.</s>")


def test_template_without_any_end_is_refused(tokenizer: Any) -> None:
    tokenizer.chat_template = "{% for m in messages %}{{ m.role + ': ' + m.content + '\\n\\n' }}{% endfor %}"
    with pytest.raises(TemplateError, match="nothing ends an assistant's turn"):
        plan_tokens(tokenizer)


def test_clock_that_ticks_between_two_renderings() -> None:
    """A template that writes the time to the second changes now and then; one that always changes is refused."""
    ticks = itertools.count()

    def render_at(slowness: int) -> Any:
        def render(turns: Any, *, add_generation_prompt: bool = False, **options: Any) -> str:
            time = f"<|im_start|>system\n12:00:{next(ticks) // slowness}<|im_end|>\n"
            text = "".join(f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>\n" for turn in turns)
            return time + text + ("<|im_start|>assistant\n" if add_generation_prompt else "")

        return render

    slow = render_at(7)
    grammar = learn_grammar(slow)
    for _ in range(20):
        text, spans = mask_answers(slow, grammar, DIALOG, TemplateInputs())
        assert [text[start:stop] for start, stop in spans] == ["Me.<|im_end|>", "Here.<|im_end|>"]
    with pytest.raises(TemplateError, match="differently every time"):
        learn_grammar(render_at(1))
    with pytest.raises(TemplateError, match="differently every time"):
        mask_answers(render_at(1), grammar, DIALOG, TemplateInputs())


def test_tokens_are_those_of_the_spans(tokenizer: Any) -> None:
    tokenizer.chat_template = CHATML
    plan = plan_tokens(tokenizer)
    done = tokenize(Conversation(id="x", messages=DIALOG), tokenizer, plan, assistant_only=True, max_length=None)
    assert plan.mask == "derived"
    assert [tokenizer.decode(run) for run in supervised_runs(done.labels)] == ["Me.<|im_end|>", "Here.<|im_end|>"]
    assert [label for label in done.labels if label != IGNORED] == [
        token for token, label in zip(done.input_ids, done.labels, strict=True) if label != IGNORED
    ]


def test_slow_tokenizer_is_masked_piece_by_piece(tokenizer: Any) -> None:
    """Without offsets the parts are tokenized apart, so the same characters are supervised."""
    tokenizer.chat_template = CHATML
    plan_tokens(tokenizer)
    text, spans = masked(tokenizer, CHATML, *DIALOG)

    class Slow:
        is_fast = False

        def __call__(self, text: str, **options: Any) -> Any:
            assert "return_offsets_mapping" not in options
            return tokenizer(text, **options)

    ids, mask = masked_ids(Slow(), text, spans)  # type: ignore[arg-type]
    fast_ids, fast_mask = masked_ids(tokenizer, text, spans)
    assert tokenizer.decode(ids) == text
    runs = [
        tokenizer.decode([token for token, _ in run])
        for is_on, run in itertools.groupby(zip(ids, mask, strict=True), key=lambda pair: pair[1])
        if is_on
    ]
    assert runs == ["Me.<|im_end|>", "Here.<|im_end|>"]
    assert (ids, mask) == (fast_ids, fast_mask)
