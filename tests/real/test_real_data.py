"""Files that nobody here wrote, through the whole of `harness run`, from the YAML that a user would write."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.cli.main import main
from harness.data.formats import Converted, convert
from harness.data.sources import load_rows
from harness.errors import DataError
from harness.eval_config import SourceConfig

SHARED = """\
training:
  max_steps: 4
  per_device_train_batch_size: 4
  per_device_eval_batch_size: 8
  max_length: 448
  eval_steps: 4
  learning_rate: 1e-3
  gradient_checkpointing: false
variants:
  embedded: {{}}
  stories: {{model.name: {data}/models/stories260K_hf}}
  stories-lora: {{model.name: {data}/models/stories260K_hf, adapter: {{r: 4, target_modules: all-linear}}}}
evals: [{{suite: held_out, limit: 6, max_new_tokens: 8}}, {{suite: template_adherence, limit: 6, max_new_tokens: 8}}]
ranking: {{by: held_out.bits_per_byte, gates: []}}
tracking: {{system_metrics: false}}
"""
TEXT2JSON = """\
name: text2json
model: {{name: embedded:base}}
data: {{train: {data}/datasets/text2json_val.jsonl, test: {data}/datasets/text2json_train.jsonl, limit: 60}}
"""
ALPACA = """\
name: alpaca
model: {{name: embedded:base}}
template: {{name: chatml}}
data: {{train: {data}/datasets/lf_alpaca_en_demo.json, limit: 60, validation_share: 0.03}}
"""


@pytest.mark.parametrize("header", [TEXT2JSON, ALPACA], ids=["prompt_completion", "alpaca"])
def test_real_file_trains_with_both_models(
    header: str, real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text((header + SHARED).format(data=real_data))
    done = CliRunner().invoke(main, ["run", "mine.yaml"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    ranking = json.loads(CliRunner().invoke(main, ["rank", "mine.yaml", "--json"]).output)
    assert {row["name"] for row in ranking["rows"]} == {"embedded", "stories", "stories-lora"}
    assert all(row["metrics"]["held_out.bits_per_byte"]["value"] > 0 for row in ranking["rows"])
    assert {row["name"] for row in ranking["references"]} == {"base: embedded:base", "base: stories260K_hf"}


# Counted with a few lines of Python that share no code with the harness.
@pytest.mark.parametrize(
    ("name", "format", "num_rows"),
    [
        ("fastchat_dummy_conversation.json", "sharegpt", 500),
        ("gsm8k_test.jsonl", "question_answer", 1319),
        ("gsm8k_train.jsonl", "question_answer", 7473),
        ("lf_alpaca_en_demo.json", "alpaca", 999),
        ("lf_glaive_toolcall_en_demo.json", "sharegpt", 300),
        ("lf_identity.json", "alpaca", 91),
        ("lf_reason_tool_use_demo_50.jsonl", "messages", 50),
        ("lf_v1_sft_demo.jsonl", "messages", 500),
        ("self_instruct_davinci_predictions.jsonl", "alpaca", 252),
        ("self_instruct_seed_tasks.jsonl", "alpaca", 175),
        ("self_instruct_user_oriented_instructions.jsonl", "alpaca", 252),
        ("text2json_train.jsonl", "prompt_completion", 1817),
        ("text2json_val.jsonl", "prompt_completion", 202),
    ],
)
def test_real_rows_convert_without_a_fault(name: str, format: str, num_rows: int, real_data: Path) -> None:
    converted = convert_file(real_data, name)
    assert (converted.format, len(converted.rows), converted.faults) == (format, num_rows, [])


def convert_file(real_data: Path, name: str) -> Converted:
    return convert(load_rows(SourceConfig(path=str(real_data / "datasets" / name))))


def test_real_conversation_with_an_empty_answer_is_left_out(real_data: Path) -> None:
    converted = convert_file(real_data, "axolotl_conversation.missingturns.json")
    assert (converted.format, converted.rows) == ("sharegpt", [])
    assert [(fault.kind, fault.message) for fault in converted.faults] == [
        ("empty_answer", "turn 2 (assistant) is empty")
    ]


def test_real_function_calls_become_tool_calls(real_data: Path) -> None:
    rows = convert_file(real_data, "lf_glaive_toolcall_en_demo.json").rows
    turns = [turn for row in rows for turn in row.messages]
    assert sum(bool(turn.tool_calls) for turn in turns) == 211
    assert sum(turn.role == "tool" for turn in turns) == 211
    assert sum(bool(row.inputs.tools) for row in rows) == 191
    assert rows[0].messages[3].tool_calls == (
        {
            "type": "function",
            "function": {"name": "search_recipes", "arguments": {"ingredients": ["chicken", "bell peppers", "rice"]}},
        },
    )
    assert rows[0].inputs.tools[0]["function"]["name"] == "search_recipes"


def test_real_reasoning_and_parallel_calls_are_read(real_data: Path) -> None:
    rows = convert_file(real_data, "lf_reason_tool_use_demo_50.jsonl").rows
    answers = [turn for row in rows for turn in row.messages if turn.role == "assistant"]
    assert all(turn.reasoning_content for turn in answers)
    assert len(answers) == 112
    assert [sum(len(turn.tool_calls) == number for turn in answers) for number in range(4)] == [59, 41, 9, 3]
    assert sum(row.expect.thinking for row in rows) == 39  # the other 11 end with a call


def test_real_parts_of_text_are_text(real_data: Path) -> None:
    first = convert_file(real_data, "lf_v1_sft_demo.jsonl").rows[0]
    assert [(turn.role, turn.content[:6]) for turn in first.messages] == [("user", "hi"), ("assistant", "Hello!")]
    assert all(turn.is_supervised for turn in first.messages if turn.role == "assistant")


def test_real_questions_become_the_text_that_is_asked_for(real_data: Path) -> None:
    rows = load_rows(SourceConfig(path=str(real_data / "datasets" / "gsm8k_test.jsonl")))
    plain = convert(rows, text="### Question: {question}\n ### Answer: {answer}")
    assert plain.format == "text"
    assert not plain.faults
    assert plain.rows[0].prompt.startswith("### Question: Janet’s ducks")
    assert plain.rows[0].prompt.endswith("\n ### Answer:")
    assert plain.rows[0].completion.startswith(" Janet sells 16")


def test_real_prompts_without_answers_are_no_training_data(real_data: Path) -> None:
    with pytest.raises(DataError, match="instruction_id_list, key, kwargs, prompt are no known format"):
        convert_file(real_data, "ifeval_input_data.jsonl")


def test_real_preference_file_is_refused(real_data: Path) -> None:
    with pytest.raises(DataError, match="preference data"):
        convert_file(real_data, "lf_dpo_en_demo.json")
