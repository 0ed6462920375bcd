"""`harness template`: each problem is found on a small template that has it, and a good one has none."""

import copy
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from click.testing import CliRunner, Result

from harness.cli.main import main
from harness.data.template_source import ProblemKind, check_source
from harness.data.tokenize import renderer, tokenize
from harness.models import template_check
from harness.models.load import tokenizer_at
from harness.models.template_check import TemplateReport, check_template
from harness.models.template_samples import REASONING, SAMPLE, SYSTEM, THINKING, TWO_CALLS, WITH_TOOL
from harness.models.templates import BUILT_IN, plan_tokens, supervised_runs, template_file

GOOD = """\
{%- for t in tools or [] %}{{ '<|im_start|>tools\\n' + (t | tojson) + '<|im_end|>\\n' }}{% endfor -%}
{%- for m in messages -%}
{{- '<|im_start|>' + m.role + '\\n' -}}
{%- if m.reasoning_content %}{{ '<think>\\n' + m.reasoning_content + '\\n</think>\\n' }}{% endif -%}
{{- m.content -}}
{%- for c in m.tool_calls or [] %}{{ '\\n<tool_call>' + (c.function | tojson) + '</tool_call>' }}{% endfor -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif -%}
"""
MARKED = GOOD.replace(
    "{{- m.content -}}",
    "{%- if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif -%}",
)
FAULTY: dict[ProblemKind, str] = {
    "syntax_error": GOOD.replace("{%- endfor -%}", "{%- endfro -%}"),
    "unsafe": GOOD + "{{ ''.__class__ }}",
    "render_error": GOOD + "{{ raise_exception('no') }}",
    "end_of_turn_not_supervised": MARKED,
    "wrong_mask": MARKED.replace("m.role == 'assistant'", "loop.last"),
    "not_prefix_preserving": GOOD.replace("{{- m.content -}}", "{%- if loop.last %}{{ '<final>' }}{% endif %}{{ m.content -}}"),
    "system_message_dropped": GOOD.replace("in messages", "in messages if m.role != 'system'"),
    "system_message_refused": GOOD + "{% if messages[0].role == 'system' %}{{ raise_exception('No system') }}{% endif %}",
    "double_bos": "{{ bos_token }}" + GOOD.replace("{%- for m", "{{- bos_token -}}{%- for m"),
    "generation_prompt_mismatch": GOOD.replace("assistant\\n' }}{% endif", "assistant\\n<think>' }}{% endif"),
    "tools_dropped": GOOD.replace("m.tool_calls or []", "[]"),
    "thinking_dropped": GOOD.replace("m.reasoning_content", "false"),
    "continue_final_message_broken": GOOD.replace("m.content", "(m.content | replace('CONTINUE_FINAL', ''))"),
    "final_turn_left_open": GOOD.replace(
        "'<|im_end|>\\n' -}}\n{%- endfor", "('' if loop.last and m.role == 'assistant' else '<|im_end|>\\n') -}}\n{%- endfor"
    ),
    "pad_is_end_of_turn": GOOD,
}  # fmt: skip


@pytest.fixture(scope="module")
def base() -> Any:
    return tokenizer_at("embedded:base")


@pytest.fixture
def check(base: Any) -> Callable[[str], TemplateReport]:
    def _check(template: str) -> TemplateReport:
        tokenizer = copy.deepcopy(base)
        tokenizer.chat_template = template
        return check_template(tokenizer, "mine", "embedded:base")

    return _check


Check = Callable[[str], TemplateReport]


def kinds(report: TemplateReport) -> list[str]:
    return [problem.kind for problem in report.problems]


def test_good_template_has_no_problem(check: Check) -> None:
    report = check(GOOD)
    assert (report.renders, report.mask, report.mask_verified, report.problems) == (True, "derived", True, ())
    assert report.supervised == tuple(f"{turn.content}<|im_end|>" for turn in SAMPLE if turn.role == "assistant")


def test_every_kind_of_problem_has_a_template_here() -> None:
    assert set(FAULTY) == set(get_args(ProblemKind))


def test_the_guide_names_every_problem_and_template() -> None:
    guide = (Path(__file__).parent.parent / "docs" / "templates.md").read_text()
    for name in (*get_args(ProblemKind), *BUILT_IN):
        assert f"| `{name}` |" in guide, f"docs/templates.md says nothing of {name}"


@pytest.mark.parametrize("kind", FAULTY)
def test_problem_is_found(base: Any, kind: ProblemKind) -> None:
    tokenizer = copy.deepcopy(base)
    tokenizer.chat_template = FAULTY[kind]
    if kind == "pad_is_end_of_turn":
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
        tokenizer.pad_token = "<|im_end|>"
    if kind == "double_bos":
        tokenizer.bos_token = "<|endoftext|>"
    report = check_template(tokenizer, "mine", "embedded:base")
    found = [problem for problem in report.problems if problem.kind == kind]
    assert len(found) == 1, report.problems
    assert report.mask_verified == (
        kind not in ("syntax_error", "unsafe", "render_error", "end_of_turn_not_supervised", "wrong_mask")
    )


@pytest.mark.parametrize(
    "hidden",
    [
        "{{ ''.__class__ }}",
        "{{ x|attr('__class__') }}",
        "{{ self.__init__.__globals__ }}",
        "{{ namespace.__init__ }}",
        "{% if false %}{{ messages.__class__.__mro__ }}{% endif %}",
        "{% macro never() %}{{ cycler['__init__'] }}{% endmacro %}",
        "{{ x|attr('__cla' 'ss__') }}",
        "{{ x|attr('__cla' ~ 'ss__') }}",
        "{{ x|attr('__cla' + 'ss__') }}",
        "{{ x|attr('\\x5f\\x5fclass\\x5f\\x5f') }}",
        "{{ messages|map(attribute='content.__class__')|list }}",
        "{{ '{0.__class__}'.format(messages) }}",
        "{{ __builtins__ }}",
        "{% generation %}{{ ''.__class__ }}{% endgeneration %}",
    ],
)
def test_unsafe_templates_are_found_without_being_rendered(
    check: Check, hidden: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("it was rendered")

    monkeypatch.setattr(template_check, "renderer", never)
    monkeypatch.setattr(template_check, "give_tools", never)
    report = check(GOOD + hidden)
    assert kinds(report) == ["unsafe"]
    assert (report.renders, report.mask, report.mask_verified) == (False, "refused", False)


def test_unsafe_template_among_several_is_found(base: Any) -> None:
    tokenizer = copy.deepcopy(base)
    tokenizer.chat_template = {"default": GOOD, "tool_use": "{{ ''.__class__ }}"}
    assert kinds(check_template(tokenizer, "mine", "embedded:base")) == ["unsafe"]


def test_what_is_reached_for_only_while_rendering_is_unsafe_too(check: Check) -> None:
    report = check(GOOD + "{{ ''|attr(['__cl', 'ass__']|join) }}{{ (''|attr('_' ~ '_class_' ~ '_'|lower)).mro() }}")
    assert not report.renders
    assert report.problems[0].kind in ("unsafe", "render_error")


@pytest.mark.parametrize("text", ["The method __init__ makes it.", "{# ''.__class__ #}", "{{ 'call __init__ first' }}"])
def test_prose_about_internals_is_safe(text: str) -> None:
    assert check_source(GOOD + text) is None


@pytest.mark.parametrize(
    ("source", "where"),
    [("{% for x in messages %}", "line 1"), ("\n\n{{ 'open }}", "line 3"), ("{% generation %}x", "line 1"), ("{{ x | nofilter }}", "")],
)  # fmt: skip
def test_syntax_errors_name_the_line(check: Check, source: str, where: str) -> None:
    report = check(source)
    assert report.problems[0].kind == ("syntax_error" if where else "render_error")
    assert report.problems[0].message.startswith(where)


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(10**9) %}x{% endfor %}",
        "{% for m in messages %}{% for i in range(10**9) %}x{% endfor %}{% endfor %}",
        "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
        "{% macro f(x) %}{% for y in x %}{{ f(x) }}{% endfor %}{% endmacro %}{{ f(messages) }}",
    ],
)
def test_endless_templates_are_render_errors(check: Check, source: str) -> None:
    started = time.monotonic()
    assert kinds(check(source)) == ["render_error"]
    assert time.monotonic() - started < 20


def test_message_says_which_token_or_variable_is_missing(base: Any) -> None:
    tokenizer = copy.deepcopy(base)
    tokenizer.bos_token = None
    tokenizer.chat_template = "{{ bos_token + 'x' }}" + GOOD
    assert "the tokenizer has no bos_token" in check_template(tokenizer, "mine", "x").problems[0].message
    tokenizer.chat_template = "{{ persona + 'x' }}" + GOOD
    assert "chat_template_kwargs.persona" in check_template(tokenizer, "mine", "x").problems[0].message


def test_template_for_images_is_told_apart(check: Check) -> None:
    parts = GOOD.replace("{{- m.content -}}", "{%- for part in m.content %}{{ part.text }}{% endfor -%}")
    problem = check(parts).problems[0]
    assert problem.kind == "render_error"
    assert "only as a list of parts" in problem.message


def test_template_that_always_renders_differently_is_refused(check: Check) -> None:
    report = check("{{ strftime_now('%f') }}" + GOOD)
    assert (report.renders, kinds(report)) == (False, ["render_error"])
    assert "differently every time" in report.problems[0].message
    assert check("{{ strftime_now('%Y-%m-%d') }}" + GOOD).mask_verified


def test_template_that_needs_a_list_of_tools_gets_one(check: Check, base: Any) -> None:
    needs = GOOD.replace("in tools or []", "in tools")
    assert check(needs).problems == ()
    tokenizer = copy.deepcopy(base)
    tokenizer.chat_template = needs
    plan = plan_tokens(tokenizer)
    assert plan.notes == (
        "the template renders only with a list of tools; it is given an empty one where there are none",
    )
    turns = [turn.as_turn() for turn in WITH_TOOL.messages]
    assert "Looks a key up." in renderer(tokenizer)(turns, **WITH_TOOL.inputs.options())
    assert plan_tokens(tokenizer).notes == (), "it is changed once"


def test_markers_in_a_comment_are_no_markers(check: Check) -> None:
    report = check("{# put {% generation %} around the answer #}" + GOOD)
    assert (report.mask, report.mask_verified) == ("derived", True)


@pytest.mark.parametrize("end", ["[|endofturn|]", "<eoa>", "[e~[", "<seed:eos>", "<_end>", "<reserved_106>"])
def test_ends_of_other_families_become_tokens(check: Check, end: str) -> None:
    report = check(GOOD.replace("<|im_end|>", end))
    assert (report.mask_verified, report.end_of_turn) == (True, (end,))


def test_end_that_is_plain_text_is_refused(check: Check) -> None:
    report = check(GOOD.replace("<|im_end|>", " THE END"))
    assert (report.mask, kinds(report)) == ("refused", ["end_of_turn_not_supervised"])
    assert "is no single token" in report.problems[0].message


def test_second_of_two_calls_that_is_dropped_is_reported(check: Check) -> None:
    report = check(GOOD.replace("m.tool_calls or []", "(m.tool_calls or [])[:1]"))
    assert [(p.kind, p.message) for p in report.problems] == [
        ("tools_dropped", "of two calls in one turn it writes only the first")
    ]


def test_call_outside_the_markers_is_a_wrong_mask(check: Check) -> None:
    inside = "{% generation %}{{ m.content + ('' if m.tool_calls else '<|im_end|>') }}{% endgeneration %}"
    template = MARKED.replace("{% generation %}{{ m.content }}{% endgeneration %}", inside)
    template = template.replace(
        "{{- '<|im_end|>\\n' -}}", "{{- '\\n' if m.role == 'assistant' and not m.tool_calls else '<|im_end|>\\n' -}}"
    )
    problem = next(p for p in check(template).problems if p.kind == "wrong_mask")
    assert "supervised" in problem.message


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_templates_are_verified(base: Any, name: str) -> None:
    tokenizer = copy.deepcopy(base)
    tokenizer.chat_template = template_file(name).read_text()
    report = check_template(tokenizer, name, "embedded:base")
    assert (report.mask, report.mask_verified) == ("markers", True)
    lost = {
        "chatml": {"tools_dropped", "thinking_dropped"},
        "chatml_thinking": {"tools_dropped"},
        "chatml_tools": set(),
    }
    assert set(kinds(report)) == lost.get(name, lost["chatml"])
    assert SYSTEM in renderer(tokenizer)([{"role": "system", "content": SYSTEM}, {"role": "user", "content": "Hi"}])


@pytest.mark.parametrize(
    ("name", "row", "said"),
    [
        ("chatml_thinking", THINKING, [f"<think>\n{REASONING}\n</think>\n\n{SAMPLE[1].content}<|im_end|>"]),
        ("chatml_tools", THINKING, [f"<think>\n{REASONING}\n</think>\n\n{SAMPLE[1].content}<|im_end|>"]),
        ("chatml_tools", TWO_CALLS, [
            '<tool_call>{"name": "lookup", "arguments": {"key": "Wombat length"}}</tool_call>\n'
            '<tool_call>{"name": "lookup", "arguments": {"key": "Emu height"}}</tool_call><|im_end|>',
            f"{SAMPLE[3].content}<|im_end|>",
        ]),
    ],
)  # fmt: skip
def test_built_in_templates_keep_what_they_are_for(base: Any, name: str, row: Any, said: list[str]) -> None:
    tokenizer = copy.deepcopy(base)
    tokenizer.chat_template = template_file(name).read_text()
    done = tokenize(row, tokenizer, plan_tokens(tokenizer), assistant_only=True, max_length=None)
    assert [tokenizer.decode(run) for run in supervised_runs(done.labels)] == said


def harness(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments), catch_exceptions=False)


@pytest.mark.parametrize(
    ("source", "code", "renders", "mask", "kind"),
    [
        (GOOD, 0, True, "derived", None),
        (MARKED, 0, True, "markers", "end_of_turn_not_supervised"),
        (FAULTY["syntax_error"], 2, False, "refused", "syntax_error"),
        (FAULTY["unsafe"], 2, False, "refused", "unsafe"),
        (
            "{% for m in messages %}{{ m.role + ': ' + m.content + ' ' }}{% endfor %}",
            2,
            True,
            "refused",
            "end_of_turn_not_supervised",
        ),
    ],
)
def test_command_is_a_contract_for_scripts(
    tmp_path: Path, source: str, code: int, renders: bool, mask: str, kind: str | None
) -> None:
    path = tmp_path / "mine.jinja"
    path.write_text(source)
    done = harness("template", str(path), "--json")
    assert done.exit_code == code
    report = json.loads(done.stdout)
    assert (report["renders"], report["mask"], report["mask_verified"]) == (renders, mask, kind is None)
    assert {"kind", "message"} <= set(report["problems"][0]) if kind else report["problems"] == []
    assert kind is None or report["problems"][0]["kind"] == kind


def test_command_prints_a_page(tmp_path: Path) -> None:
    done = harness("template", "chatml_tools")
    assert done.exit_code == 0
    assert "renders; mask markers, verified" in done.stdout
    assert "nothing wrong found" in done.stdout
    missing = harness("template", str(tmp_path / "nothing.jinja"))
    assert missing.exit_code == 2
    assert "there is no such template file" in missing.stderr


def test_a_template_that_forgot_its_end_of_turn_is_refused() -> None:
    tokenizer = tokenizer_at("embedded:base")
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    report = check_template(tokenizer, "forgetful", "embedded:base")
    assert report.renders
    assert report.mask == "refused"
    assert "end_of_turn_not_supervised" in [problem.kind for problem in report.problems]


def test_supervised_parts_of_the_sample_stand_in_brackets_without_a_terminal() -> None:
    done = CliRunner().invoke(main, ["template", "quickstart"])
    assert "sample, supervised parts in ⟦brackets⟧:" in done.stdout
    assert "⟦The Wombat, which rises near Numbat Hill.<|im_end|>⟧" in done.stdout
