"""Faults that are planted in data, templates and settings are all found before training."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from harness.cli.main import main
from harness.config import RunConfig
from harness.data.formats import Conversation
from harness.data.tokenize import IGNORED, tokenize
from harness.models.load import load_base
from harness.models.templates import SAMPLE
from harness.resources import embedded
from tests.conftest import MINIMAL

Write = Callable[..., Path]
CHATML_WITHOUT_MARKERS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def harness(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def planned(*options: str) -> dict:
    """`harness plan --deep --json` of the one cell of experiment.yaml."""
    done = harness("plan", "experiment.yaml", "--deep", "--json", *options)
    return {**json.loads(done.stdout)["cells"][0], "exit_code": done.exit_code}


def rows(*conversations: list[tuple[str, str]]) -> str:
    return "\n".join(
        json.dumps({"messages": [{"role": role, "content": content} for role, content in turns]})
        for turns in conversations
    )


def many(count: int = 40, start: int = 0) -> list[list[tuple[str, str]]]:
    return [
        [("user", f"How many roses has bed {i}?"), ("assistant", f"It has {i} roses.")]
        for i in range(start, start + count)
    ]


def test_a_good_cell_has_no_problems_and_is_measured(write: Write) -> None:
    write(MINIMAL)
    cell = planned()
    assert cell["exit_code"] == 0
    assert cell["problems"] == []
    assert "warnings" not in cell
    assert cell["rows"] == 600
    assert cell["num_trainable_parameters"] == 1_918_656
    assert 0 < cell["memory_gib"] < 2


def test_padding_that_ends_a_turn_is_replaced_and_told(write: Write, tmp_path: Path) -> None:
    base = tmp_path / "padded"
    shutil.copytree(embedded("base"), base)
    settings = json.loads((base / "tokenizer_config.json").read_text())
    settings["pad_token"] = "<|im_end|>"
    (base / "tokenizer_config.json").write_text(json.dumps(settings))
    write(MINIMAL.replace("embedded:base", str(base)))
    assert any("padding would hide from the loss" in text for text in planned()["warnings"])
    config = RunConfig.model_validate(
        {"model": {"name": str(base)}, "template": {"name": "chatml"}, "data": {"train": "embedded:train"}}
    )
    loaded = load_base(config, plain_rows=False)
    done = tokenize(
        Conversation(id="x", messages=SAMPLE), loaded.tokenizer, loaded.tokens, assistant_only=True, max_length=None
    )
    assert loaded.tokens.end_of_turn_id in [label for label in done.labels if label != IGNORED]
    assert loaded.model.generation_config.pad_token_id not in loaded.stop_ids


def test_a_template_that_changes_earlier_turns_is_told(write: Write) -> None:
    write(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and not loop.last %}(earlier) {% endif %}"
        "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        "mine.jinja",
    )
    write(MINIMAL.replace("name: chatml", "name: mine.jinja"))
    assert any("not_prefix_preserving" in text for text in planned()["warnings"])


def test_an_end_of_turn_outside_the_markers_is_told(write: Write) -> None:
    write(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
        "{% endgeneration %}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        "mine.jinja",
    )
    write(MINIMAL.replace("name: chatml", "name: mine.jinja"))
    assert any("end_of_turn_not_supervised" in text for text in planned()["warnings"])


def test_rows_that_are_all_cut_before_their_answer_are_refused(write: Write) -> None:
    write(MINIMAL + "  max_length: 4\n")
    cell = planned()
    assert cell["exit_code"] == 2
    assert "no row of the train split has a supervised token within max_length 4" in cell["problems"][0]


def test_rows_that_are_partly_cut_are_counted(write: Write) -> None:
    write(MINIMAL + "  max_length: 32\n")
    assert any("cut at max_length 32" in text for text in planned()["warnings"])


def test_test_rows_in_the_training_file_are_left_out_and_told(write: Write) -> None:
    write(rows(*many(60)), "train.jsonl")
    write(rows(*many(10)), "test.jsonl")
    write(
        MINIMAL.replace("embedded:train", "train.jsonl")
        .replace("embedded:test", "test.jsonl")
        .replace("  validation: embedded:validation\n", "")
    )
    cell = planned()
    assert any("10 rows are left out (overlap)" in text for text in cell["warnings"])
    assert cell["rows"] <= 50


def test_nearly_the_same_test_rows_are_told(write: Write) -> None:
    words = [[f"word{i * 20 + j}" for j in range(20)] for i in range(40)]
    train = [[("user", " ".join(said)), ("assistant", "Yes.")] for said in words]
    test = [[("user", " ".join([*said, "today"])), ("assistant", "Yes.")] for said in words[:10]]
    write(rows(*train), "train.jsonl")
    write(rows(*test), "test.jsonl")
    write(
        MINIMAL.replace("embedded:train", "train.jsonl")
        .replace("embedded:test", "test.jsonl")
        .replace("  validation: embedded:validation\n", "")
    )
    assert any("nearly so" in warning for warning in planned()["warnings"])


def test_lora_targets_that_match_nothing_are_refused(write: Write) -> None:
    write(MINIMAL + "adapter: {r: 8, target_modules: [query_proj]}\n")
    cell = planned()
    assert cell["exit_code"] == 2
    assert "query_proj" in cell["problems"][0]
    assert "not found in the base model" in cell["problems"][0]


def test_an_empty_answer_is_left_out_and_told(write: Write) -> None:
    write(rows(*many(60), [("user", "And bed 99?"), ("assistant", "  ")]), "train.jsonl")
    write(MINIMAL.replace("embedded:train", "train.jsonl"))
    cell = planned()
    assert any("(empty_answer)" in text for text in cell["warnings"])
    assert cell["rows"] == 60


ALTERNATING = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_roles_that_the_template_rejects_are_told_row_by_row(write: Write) -> None:
    with_system = [[("system", "Be brief."), *turns] for turns in many(30, start=100)]
    write(rows(*many(60), *with_system), "train.jsonl")
    write(ALTERNATING, "mine.jinja")
    write(MINIMAL.replace("embedded:train", "train.jsonl").replace("name: chatml", "name: mine.jinja"))
    cell = planned("--set", "data.validation=null", "--set", "data.test=null")
    assert any("training rows are left out" in text and "must alternate" in text for text in cell["warnings"]), cell


def test_roles_that_the_template_rejects_everywhere_are_refused(write: Write) -> None:
    write(rows(*([("system", "Be brief."), *turns] for turns in many(60))), "train.jsonl")
    write(ALTERNATING, "mine.jinja")
    write(MINIMAL.replace("embedded:train", "train.jsonl").replace("name: chatml", "name: mine.jinja"))
    cell = planned("--set", "data.validation=null", "--set", "data.test=null")
    assert cell["exit_code"] == 2
    assert "the chat template rejects every row of the train split" in cell["problems"][0]


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("{% for m in messages %}{{ m.content }", "syntax_error"),
        ("{{ messages.__class__.__mro__ }}" + CHATML_WITHOUT_MARKERS, "unsafe"),
        ("{{ ''|attr('__class__') }}" + CHATML_WITHOUT_MARKERS, "unsafe"),
    ],
)
def test_a_template_that_is_broken_or_breaks_out_is_refused(write: Write, source: str, problem: str) -> None:
    write(source, "mine.jinja")
    write(MINIMAL.replace("name: chatml", "name: mine.jinja"))
    cell = planned()
    assert cell["exit_code"] == 2
    assert problem in cell["problems"][0]


def test_quantization_without_a_gpu_is_refused_at_plan_time(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    write(MINIMAL + "adapter: {target_modules: all-linear}\nquantization: {load_in_4bit: true}\n")
    done = harness("plan", "experiment.yaml")
    assert done.exit_code == 2
    assert "quantization needs an NVIDIA GPU" in done.stderr


def test_a_template_that_drops_tools_is_told_where_the_rows_have_some(write: Write) -> None:
    call = {"type": "function", "function": {"name": "stock", "arguments": {"item": "roses"}}}
    tool = {"name": "stock", "description": "Counts.", "parameters": {"type": "object", "properties": {}}}
    row = {
        "tools": [tool],
        "messages": [
            {"role": "user", "content": "How many roses?"},
            {"role": "assistant", "content": "Let me look.", "tool_calls": [call]},
            {"role": "tool", "name": "stock", "content": "7"},
            {"role": "assistant", "content": "Seven."},
        ],
    }
    write("\n".join([rows(*many(60)), json.dumps(row)]), "train.jsonl")
    write(MINIMAL.replace("embedded:train", "train.jsonl"))
    assert any("tools_dropped" in text for text in planned()["warnings"])
    write(MINIMAL.replace("embedded:train", "train.jsonl").replace("name: chatml", "name: chatml_tools"))
    assert "tools_dropped" not in str(planned())


def test_added_tokens_that_an_adapter_does_not_train_are_told(write: Write) -> None:
    write(CHATML_WITHOUT_MARKERS.replace("<|im_start|>", "<|begin|>").replace("<|im_end|>", "<|finish|>"), "mine.jinja")
    write(MINIMAL.replace("name: chatml", "name: mine.jinja") + "adapter: {target_modules: all-linear}\n")
    assert any("whose embeddings the adapter doesn't train" in text for text in planned()["warnings"])


def test_one_bad_cell_stops_only_itself_unless_the_run_is_strict(write: Write) -> None:
    write(
        MINIMAL + "  max_steps: 1\nvariants:\n  good: {}\n  bad: {adapter: {target_modules: [query_proj]}}\n"
        "evals: [{suite: held_out, limit: 4, max_new_tokens: 4}]\nreferences: []\n"
    )
    strict = harness("run", "experiment.yaml", "--strict")
    assert strict.exit_code == 2
    assert "query_proj" in strict.stderr
    assert not Path("mlruns/harness/small/cells").exists() or not list(
        Path("mlruns/harness/small/cells").glob("*/train.json")
    )
    for _ in range(2):
        # The second time it is all that is left to do.
        done = harness("run", "experiment.yaml")
        assert done.exit_code == 1
        assert "cell bad: " in done.stderr
        assert "query_proj" in done.stderr
    assert len(list(Path("mlruns/harness/small/cells").glob("*/train.json"))) == 1
    assert (
        harness(
            "evaluate", "experiment.yaml", "--set", "evals=[{suite: held_out, limit: 2, max_new_tokens: 4}]"
        ).exit_code
        == 1
    )
    assert "bad" in harness("rank", "small").stdout


def test_timed_steps_give_an_estimate(write: Write) -> None:
    write(MINIMAL + "  max_steps: 100\n")
    done = harness("plan", "experiment.yaml", "--probe", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["cells"][0]["seconds"] > 0
