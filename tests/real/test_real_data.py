"""Files that nobody here wrote, through the whole of `harness run`, from the YAML that a user would write."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.cli.main import main
from harness.config import SourceConfig
from harness.data.formats import conversations
from harness.data.sources import load_rows
from harness.errors import DataError

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


@pytest.mark.parametrize(
    ("name", "rows"), [("text2json_train.jsonl", 1817), ("text2json_val.jsonl", 202), ("lf_alpaca_en_demo.json", None)]
)
def test_real_rows_convert(name: str, rows: int | None, real_data: Path) -> None:
    loaded = load_rows(SourceConfig(path=str(real_data / "datasets" / name)))
    assert rows is None or len(loaded) == rows
    assert len(conversations(loaded, "auto")) == len(loaded)


def test_real_preference_file_is_refused(real_data: Path) -> None:
    loaded = load_rows(SourceConfig(path=str(real_data / "datasets" / "lf_dpo_en_demo.json")))
    with pytest.raises(DataError, match="preference data"):
        conversations(loaded, "auto")
