"""Chat templates that models come with, each with two tokenizers; and the derived mask against TRL's own markers."""

from pathlib import Path

import pytest

from benchmarks.template_table import compare, training_templates, with_template
from harness.data.formats import convert
from harness.data.grammar import learn_grammar
from harness.data.masks import mask_answers
from harness.data.sources import load_rows
from harness.data.tokenize import renderer
from harness.eval_config import SourceConfig
from harness.models.load import tokenizer_at
from harness.models.template_check import TemplateReport, check_template

pytestmark = pytest.mark.slow
TOKENIZERS = ("qwen2.5", "gpt2")
Reports = dict[tuple[str, str], TemplateReport]


@pytest.fixture(scope="module")
def reports() -> Reports:
    from tests.conftest import REAL_DATA

    if not REAL_DATA.is_dir():
        pytest.skip(f"real data are not at {REAL_DATA}; set HARNESS_REAL_DATA")
    found = {}
    for name in TOKENIZERS:
        tokenizer = tokenizer_at(str(REAL_DATA / "tokenizers" / name))
        for path in sorted((REAL_DATA / "templates").glob("*.jinja")):
            found[path.stem, name] = check_template(with_template(tokenizer, path), path.stem, name)
    return found


@pytest.mark.parametrize("name", TOKENIZERS)
def test_most_templates_that_render_have_a_verified_mask(reports: Reports, name: str) -> None:
    rendering = [report for (_, tokenizer), report in reports.items() if tokenizer == name and report.renders]
    assert len(rendering) >= 24
    assert sum(report.mask_verified for report in rendering) / len(rendering) >= 0.9


def test_no_mask_is_wrong(reports: Reports) -> None:
    """What can't be masked is refused; nothing is trained on a mask that decoding proves wrong."""
    assert [key for key, report in reports.items() if report.mask != "refused" and not report.mask_verified] == []


@pytest.mark.parametrize(
    ("template", "mask", "end_of_turn", "asks_with"),
    [
        ("meta-llama-Llama-3.2-3B-Instruct", "derived", ("<|eot_id|>",), "<|start_header_id|>assistant<|end_header_id|>\n\n"),
        ("Qwen-Qwen2.5-7B-Instruct", "derived", ("<|im_end|>",), "<|im_start|>assistant\n"),
        ("microsoft-Phi-3.5-mini-instruct", "training_template", ("<|end|>",), "<|assistant|>\n"),
        ("openai-gpt-oss-120b", "training_template", ("<|return|>", "<|call|>"), "<|start|>assistant"),
        ("GLM-4.7-Flash", "derived", ("<|user|>", "<|observation|>"), "<|assistant|><think>"),
        ("google-gemma-4-31B-it-interleaved", "derived", ("<turn|>",), "<|turn>model\n<|channel>thought\n<channel|>"),
        ("NousResearch-Hermes-3-Llama-3.1-8B-tool_use", "derived", ("<|im_end|>",), "<|im_start|>assistant\n"),
        ("Apertus-8B-Instruct", "derived", ("<|assistant_end|>", "<|tools_suffix|>"), "<|assistant_start|>"),
    ],
)  # fmt: skip
def test_well_known_templates(
    reports: Reports, template: str, mask: str, end_of_turn: tuple[str, ...], asks_with: str
) -> None:
    for name in TOKENIZERS:
        report = reports[template, name]
        assert (report.renders, report.mask, report.mask_verified) == (True, mask, True)
        assert (report.end_of_turn, report.generation_prompt) == (end_of_turn, asks_with)


@pytest.mark.parametrize(
    ("template", "has", "has_not"),
    [
        ("mistralai-Mistral-Nemo-Instruct-2407", {"system_message_dropped"}, {"tools_dropped"}),
        ("Qwen-Qwen2.5-7B-Instruct", {"thinking_dropped"}, {"tools_dropped", "generation_prompt_mismatch", "system_message_dropped"}),
        ("microsoft-Phi-3.5-mini-instruct", {"tools_dropped"}, {"system_message_dropped", "not_prefix_preserving"}),
        ("openai-gpt-oss-120b", {"tools_dropped", "not_prefix_preserving"}, {"thinking_dropped"}),
        ("GLM-4.7-Flash", {"final_turn_left_open", "generation_prompt_mismatch"}, {"tools_dropped", "thinking_dropped"}),
        ("Bielik-11B-v3.0-Instruct", set(), {"tools_dropped", "thinking_dropped", "generation_prompt_mismatch"}),
        ("fireworks-ai-llama-3-firefunction-v2", {"render_error"}, set()),
        ("llama-cpp-rwkv-world", {"end_of_turn_not_supervised"}, set()),
    ],
)  # fmt: skip
def test_problems_of_well_known_templates(reports: Reports, template: str, has: set[str], has_not: set[str]) -> None:
    for name in TOKENIZERS:
        kinds = {problem.kind for problem in reports[template, name].problems}
        assert has <= kinds
        assert not has_not & kinds


LLAMA_2 = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ '<s>[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + ' </s>' }}{% endif %}{% endfor %}"
)


def test_end_that_the_vocabulary_only_spells_is_made_a_token(real_data: Path) -> None:
    """Qwen's vocabulary has a piece `</s>`, but its text is never tokenized to it."""
    tokenizer = tokenizer_at(str(real_data / "tokenizers" / "qwen2.5"))
    assert "</s>" in tokenizer.get_vocab()
    assert len(tokenizer("</s>")["input_ids"]) > 1
    tokenizer.chat_template = LLAMA_2
    report = check_template(tokenizer, "llama-2", "qwen2.5")
    assert (report.mask_verified, report.end_of_turn) == (True, ("</s>",))
    assert len(tokenizer("</s>")["input_ids"]) == 1


def test_signs_that_sentencepiece_decodes_otherwise(real_data: Path) -> None:
    tokenizer = tokenizer_at(str(real_data / "models" / "stories260K_hf"))
    for name in ("deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", "meta-llama-Llama-3.2-3B-Instruct"):
        copied = with_template(tokenizer, real_data / "templates" / f"{name}.jinja")
        assert check_template(copied, name, "stories260K").mask_verified


def test_a_missing_token_is_named(reports: Reports) -> None:
    report = reports["meetkai-functionary-medium-v3.2", "qwen2.5"]
    assert "the tokenizer has no bos_token" in report.problems[0].message
    assert reports["meetkai-functionary-medium-v3.2", "gpt2"].mask_verified


@pytest.mark.parametrize(
    ("template", "but_for"),
    [
        ("llama3", set()),
        ("glm4moe", set()),
        ("cohere2", set()),
        ("gemma3", {"the line break after the turn"}),
        ("qwen3", {"the line break after the turn"}),
        ("qwen3_6", {"the header", "the line break after the turn"}),
        ("gptoss", {"the header"}),
        ("deepseekv3", {"the header"}),
        ("phi3_5", {"the line break after the turn", "the end of text"}),
    ],
)
def test_derived_mask_equals_markers_but_for_what_is_named(real_data: Path, template: str, but_for: set[str]) -> None:
    path = next(path for path in training_templates() if path.stem == f"{template}_training")
    tokenizer = tokenizer_at(str(real_data / "tokenizers" / "gpt2"))
    found = compare(with_template(tokenizer, path), template)
    assert {kind for kind, _ in found.added} == but_for
    assert found.conversations >= 4


def test_every_call_is_learned_from_its_start(real_data: Path) -> None:
    """DeepSeek-R1's template leaves the header out of all calls but the first of a conversation."""
    tokenizer = with_template(
        tokenizer_at(str(real_data / "tokenizers" / "gpt2")),
        real_data / "templates" / "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B.jinja",
    )
    render = renderer(tokenizer)
    grammar = learn_grammar(render)
    source = SourceConfig(path=str(real_data / "datasets" / "lf_glaive_toolcall_en_demo.json"))
    num_calls = 0
    for row in convert(load_rows(source)).rows:
        text, spans = mask_answers(render, grammar, row.messages, row.inputs)
        calls = [answer for answer in row.messages if answer.role == "assistant"]
        for message, (start, stop) in zip(calls, spans, strict=True):
            if message.tool_calls:
                num_calls += 1
                assert "<｜tool▁call▁begin｜>function<｜tool▁sep｜>" in text[start:stop]
    assert num_calls > 150
