"""The published IFEval prompts, judged by the harness and by lm-evaluation-harness's own `process_results`."""

import json
from pathlib import Path

import pytest

from harness.benchmarks_suite import lm_eval_result
from harness.config import RunConfig
from harness.data.examples import load_examples
from harness.eval_config import EvalConfig, SourceConfig
from harness.models.load import load_base
from harness.records import Example, Generation
from harness.scoring.ifeval import ifeval_loose, ifeval_strict
from harness.scoring.measurement import Measurement
from harness.store import CellFolder, read_lines

pytest.importorskip("lm_eval")

PUNKT = ("collocations.tab", "sent_starters.txt", "abbrev_types.txt", "ortho_context.tab")
# Answers written so that each instruction is followed by some of them and broken by others.
ANSWERS = (
    "",
    "Sure! Here is my answer, as you asked.\n\nIt has two paragraphs.",
    "<<A title>>\n\n* First point\n* Second point\n* Third point\n\nP.S. One more thing.",
    "no commas here and all of it in lowercase letters",
    "EVERYTHING HERE IS WRITTEN IN CAPITAL LETTERS AND NOTHING ELSE",
    '"I would say *this section* and *that section* and **a third** are highlighted in [place] by [name]."',
    '```json\n{"name": "value", "list": [1, 2, 3]}\n```',
    "Section 1\nOne.\n\nSection 2\nTwo.\n\n***\n\nAnother paragraph. " + "word " * 320,
    "My answer is yes.\n******\nMy answer is no.",
    "Estimado señor, le escribo esta carta para decirle que estoy muy contento. Gracias por todo.",
)


@pytest.fixture
def punkt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sentence tokenizer that has learned no abbreviations: the same for both sides, and there without a network."""
    import nltk

    folder = tmp_path / "tokenizers" / "punkt_tab" / "english"
    folder.mkdir(parents=True)
    for name in PUNKT:
        (folder / name).touch()
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path), *nltk.data.path])


def measured(example: Example, text: str) -> Measurement:
    generation = Generation(
        example_id=example.id, prompt="", text=text, stop_reason="end_of_turn", prompt_tokens=1, completion_tokens=1
    )
    return Measurement(example, generation)


# They ask for so many `#` and `!`, for which lm-eval draws a letter at random.
RANDOM = {"1122", "1129"}


def test_verdicts_are_those_of_lm_eval(real_data: Path, punkt: None) -> None:
    from lm_eval.tasks.ifeval.utils import process_results

    path = real_data / "datasets" / "ifeval_input_data.jsonl"
    examples = load_examples(SourceConfig(path=str(path)))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(examples) == 541
    verdicts = []
    for example, row in zip(examples, rows, strict=True):
        # Prompts that ask to be repeated are obeyed by the last one.
        for text in (*ANSWERS, f"{row['prompt']}\n\n{ANSWERS[2]}"):
            scores = ifeval_strict(measured(example, text)), ifeval_loose(measured(example, text))
            ours = [score.value for score in scores if score]
            theirs = process_results(row, [text])
            wanted = [float(theirs["prompt_level_strict_acc"]), float(theirs["prompt_level_loose_acc"])]
            if example.id in RANDOM:
                assert set(ours) <= {0.0, None}
                continue
            assert ours == wanted, (example.id, text)
            verdicts.append(tuple(ours))
    assert set(verdicts) == {(0.0, 0.0), (0.0, 1.0), (1.0, 1.0)}
    assert verdicts.count((1.0, 1.0)) > 300


TASK = """\
task: ifeval_here
dataset_path: json
dataset_kwargs: {{data_files: {{train: {data}}}}}
output_type: generate_until
test_split: train
doc_to_text: prompt
doc_to_target: 0
generation_kwargs: {{until: [], max_gen_toks: 24}}
process_results: !function lm_eval.tasks.ifeval.utils.process_results
metric_list:
  - {{metric: prompt_level_strict_acc, aggregation: mean, higher_is_better: true}}
  - {{metric: inst_level_strict_acc, aggregation: !function lm_eval.tasks.ifeval.utils.agg_inst_level_acc, higher_is_better: true}}
  - {{metric: inst_level_loose_acc, aggregation: !function lm_eval.tasks.ifeval.utils.agg_inst_level_acc, higher_is_better: true}}
  - {{metric: prompt_level_loose_acc, aggregation: mean, higher_is_better: true}}
"""


def test_benchmark_and_scorers_agree_on_what_a_model_wrote(real_data: Path, punkt: None, tmp_path: Path) -> None:
    path = real_data / "datasets" / "ifeval_input_data.jsonl"
    (tmp_path / "ifeval_here.yaml").write_text(TASK.format(data=path))
    config = {"model": {"name": "embedded:base"}, "template": {"name": "chatml"}, "data": {"train": "embedded:train"}}
    loaded = load_base(RunConfig.model_validate(config), plain_rows=False)
    options = EvalConfig.model_validate({"lm_eval": "ifeval_here", "include_path": str(tmp_path), "limit": 40})
    cell = CellFolder(tmp_path / "cell")
    result = lm_eval_result(loaded, options, cell)
    written = list(read_lines(cell.generations("lm_eval", result.digest), Generation))
    examples = load_examples(SourceConfig(path=str(path)))[:40]
    for metric, scorer in (("strict", ifeval_strict), ("loose", ifeval_loose)):
        name = f"ifeval_here.prompt_level_{metric}_acc"
        theirs = [score.value for score in result.scores if score.metric == name]
        ours = [scorer(measured(*pair)) for pair in zip(examples, (line.text for line in written), strict=True)]
        same = [
            score.value == value for score, value in zip(ours, theirs, strict=True) if score and score.value is not None
        ]
        assert all(same) and len(same) >= 38
        assert result.metrics[name].n == 40
    instructions = result.metrics["ifeval_here.inst_level_strict_acc"]
    assert instructions.low < instructions.value < instructions.high
