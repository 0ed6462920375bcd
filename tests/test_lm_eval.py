"""Tasks of lm-evaluation-harness on the embedded base, offline."""

import importlib.util
import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from harness.benchmarks_suite import check_lm_eval, lm_eval_digest, lm_eval_result
from harness.config import RunConfig
from harness.data.tokenize import prompt_ids
from harness.errors import EvalError
from harness.eval_config import EvalConfig
from harness.models.generate import generate
from harness.models.lm_eval_metrics import task_metrics
from harness.models.load import LoadedModel, load_base
from harness.models.respondent import Sampling
from harness.records import Generation, Message, SuiteResult
from harness.resources import bundled, embedded
from harness.store import CellFolder, read_lines

evaluator = pytest.importorskip("lm_eval.evaluator")

TASK = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
doc_to_text: "{{{{prompt}}}}"
metadata: {{version: 1.0}}
"""
FACTS = """\
output_type: generate_until
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 12}
filter_list: [{name: stripped, filter: [{function: remove_whitespace}, {function: take_first}]}]
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
CHOICES = """\
output_type: multiple_choice
doc_to_choice: "{{choices}}"
doc_to_target: "{{choices.index(answer)}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
RATIO = """\
output_type: generate_until
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 4}
process_results: !function lengths.lengths
metric_list: [{metric: words_share, aggregation: !function lengths.share, higher_is_better: true}]
"""
LENGTHS = """\
def lengths(doc, results):
    return {"words_share": [True] * len(doc["answer"].split()) + [False]}


def share(items):
    flat = [value for item in items for value in item]
    return sum(flat) / len(flat)
"""
GROUP = """\
group: elmwick
task: [elmwick_facts, elmwick_more_facts]
aggregate_metric_list: [{metric: exact_match, aggregation: mean, weight_by_size: true, filter_list: stripped}]
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tasks of every kind over the embedded retention questions."""
    folder = tmp_path_factory.mktemp("tasks")
    rows = [json.loads(line) for line in embedded("retention").read_text().splitlines()]
    pets = [
        row | {"choices": ["rabbit", "cat", "parrot", "dog", row["answer"]][-4:]}
        for row in rows
        if row["kind"] == "pet"
    ]
    pets = [row for row in pets if len(set(row["choices"])) == 4]
    for name, data in (("facts.jsonl", rows), ("more.jsonl", rows[100:]), ("pets.jsonl", pets)):
        (folder / name).write_text("\n".join(json.dumps(row) for row in data))
    bodies = {"facts": FACTS, "more_facts": FACTS, "pets": CHOICES, "ratio": RATIO}
    files = {"facts": "facts.jsonl", "more_facts": "more.jsonl", "pets": "pets.jsonl", "ratio": "facts.jsonl"}
    for name, body in bodies.items():
        head = TASK.format(name=f"elmwick_{name}", data=folder / files[name])
        (folder / f"elmwick_{name}.yaml").write_text(head + body)
    (folder / "lengths.py").write_text(LENGTHS)
    (folder / "elmwick.yaml").write_text(GROUP)
    return folder


def loaded_base(template: str) -> LoadedModel:
    torch.set_num_threads(1)
    config = {"model": {"name": "embedded:base"}, "template": {"name": template}, "data": {"train": "embedded:train"}}
    return load_base(RunConfig.model_validate(config), plain_rows=template == "none")


@pytest.fixture(scope="module")
def plain() -> LoadedModel:
    return loaded_base("none")


def entry(tasks: Path, *names: str, **options: object) -> EvalConfig:
    return EvalConfig.model_validate({"lm_eval": list(names), "include_path": str(tasks), "limit": 10} | options)


def asked(loaded: LoadedModel, options: EvalConfig, folder: Path) -> tuple[SuiteResult, list[Generation]]:
    cell = CellFolder(folder)
    result = lm_eval_result(loaded, options, cell)
    return result, list(read_lines(cell.generations(options.label, result.digest), Generation))


def test_generated_answers_are_scored_as_the_task_says(plain: LoadedModel, tasks: Path, tmp_path: Path) -> None:
    result, generations = asked(plain, entry(tasks, "elmwick_facts"), tmp_path)
    answers = [json.loads(line)["answer"] for line in (tasks / "facts.jsonl").read_text().splitlines()[:10]]
    right = [float(g.text.strip() == answer) for g, answer in zip(generations, answers, strict=True)]
    estimate = result.metrics["elmwick_facts.exact_match.stripped"]
    assert [score.value for score in result.scores] == right
    assert sum(right) > 0
    assert (estimate.value, estimate.n) == (sum(right) / 10, 10)
    assert estimate.low < estimate.value < estimate.high or estimate.value == 1.0
    assert [g.example_id for g in generations] == [f"elmwick_facts/{i}" for i in range(10)]
    assert generations[0].prompt_tokens == len(plain.tokenizer(generations[0].prompt)["input_ids"])


def test_choices_are_told_by_their_log_probability(plain: LoadedModel, tasks: Path, tmp_path: Path) -> None:
    result, generations = asked(plain, entry(tasks, "elmwick_pets"), tmp_path)
    rows = [json.loads(line) for line in (tasks / "pets.jsonl").read_text().splitlines()[:10]]
    wanted = [max(row["choices"], key=lambda choice: logprob(plain, row["prompt"], f" {choice}")) for row in rows]  # noqa: B023
    assert [g.text.strip() for g in generations] == wanted
    right = [float(choice == row["answer"]) for choice, row in zip(wanted, rows, strict=True)]
    assert result.metrics["elmwick_pets.acc"].value == pytest.approx(sum(right) / len(rows))


def logprob(loaded: LoadedModel, prompt: str, continuation: str) -> float:
    """In plain torch."""
    before, after = (loaded.tokenizer(text)["input_ids"] for text in (prompt, prompt + continuation))
    with torch.no_grad():
        logits = loaded.model(input_ids=torch.tensor([after])).logits[0].log_softmax(-1)
    return sum(float(logits[place - 1, after[place]]) for place in range(len(before), len(after)))


def test_answers_are_those_of_the_harness_itself(tasks: Path, tmp_path: Path) -> None:
    chat = loaded_base("chatml")
    _, generations = asked(chat, entry(tasks, "elmwick_ratio", limit=4), tmp_path)
    rows = [json.loads(line) for line in (tasks / "facts.jsonl").read_text().splitlines()[:4]]
    prompts = [prompt_ids(chat.tokenizer, [Message(role="user", content=row["prompt"])]) for row in rows]
    texts = [chat.tokenizer.decode(list(c.token_ids)) for c in generate(chat, prompts, Sampling(4))]
    assert [g.text for g in generations] == [text.split("\n")[0] for text in texts]
    assert generations[0].prompt == chat.tokenizer.decode(prompts[0])


def test_adapter_that_trains_tied_embeddings_is_asked_as_it_is(tasks: Path, tmp_path: Path) -> None:
    chat = loaded_base("chatml")
    settings = LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = get_peft_model(chat.model, settings)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
        before = adapted.eval()(input_ids=ids).logits
        asked(LoadedModel(adapted, chat.tokenizer, chat.tokens), entry(tasks, "elmwick_facts", limit=2), tmp_path)
        assert torch.equal(adapted(input_ids=ids).logits, before)
    assert "tie_weights" not in vars(adapted)


def test_what_was_thought_is_not_scored(tasks: Path, tmp_path: Path) -> None:
    thinking = loaded_base("chatml")
    thinking.tokenizer.chat_template += "{# <think></think> #}"
    said = torch.tensor([thinking.tokenizer("<think>tulips?</think> daisies")["input_ids"]])

    def generate(input_ids: torch.Tensor, **_: object) -> torch.Tensor:
        return torch.cat([input_ids, said.expand(len(input_ids), -1)], dim=1)

    thinking.model.generate = generate
    result, generations = asked(thinking, entry(tasks, "elmwick_facts", limit=1), tmp_path)
    assert generations[0].text == "daisies"
    assert result.metrics["elmwick_facts.exact_match.stripped"].value == 1.0


def test_metric_that_is_no_mean_has_an_interval_and_no_scores(plain: LoadedModel, tasks: Path, tmp_path: Path) -> None:
    result, _ = asked(plain, entry(tasks, "elmwick_ratio"), tmp_path)
    words = [len(json.loads(line)["answer"].split()) for line in (tasks / "facts.jsonl").read_text().splitlines()[:10]]
    estimate = result.metrics["elmwick_ratio.words_share"]
    assert estimate.value == pytest.approx(sum(words) / sum(word + 1 for word in words))
    assert estimate.low < estimate.value < estimate.high
    assert result.scores == ()


def test_group_is_measured_over_the_documents_of_its_tasks(plain: LoadedModel, tasks: Path, tmp_path: Path) -> None:
    result, _ = asked(plain, entry(tasks, "elmwick"), tmp_path)
    parts = [result.metrics[f"elmwick_{name}.exact_match.stripped"].value for name in ("facts", "more_facts")]
    group = result.metrics["elmwick.exact_match.stripped"]
    assert group.value == pytest.approx(sum(parts) / 2)
    assert group.n == 20
    assert sum(score.metric == "elmwick.exact_match.stripped" for score in result.scores) == 20


def test_bundled_task_is_asked(plain: LoadedModel, tmp_path: Path) -> None:
    options = entry(bundled("experiments") / "lm_eval_tasks", "elmwick_facts", limit=20)
    check_lm_eval(options, deep=True)
    result, _ = asked(plain, options, tmp_path)
    assert result.metrics["elmwick_facts.exact_match.stripped"].value >= 0.5


def test_nothing_is_printed(
    plain: LoadedModel, tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked(plain, entry(tasks, "elmwick_pets", limit=2), tmp_path)
    assert capsys.readouterr() == ("", "")


def test_cut_prompts_are_counted(
    plain: LoadedModel, tasks: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    long = "Once there was a gardener. " * 200
    (tmp_path / "long.jsonl").write_text(
        json.dumps({"prompt": long, "answer": "x"}) + "\n" + json.dumps({"prompt": "Q:", "answer": "x"})
    )
    (tmp_path / "long.yaml").write_text(TASK.format(name="long", data=tmp_path / "long.jsonl") + FACTS)
    asked(plain, entry(tmp_path, "long"), tmp_path)
    assert "1 documents are too long for the context of 512 tokens" in caplog.text


def test_batch_that_does_not_fit_is_halved(
    plain: LoadedModel, tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real, tried = evaluator.simple_evaluate, []

    def simple_evaluate(**given: Any) -> Any:
        tried.append(given["model"].batch_size)
        if len(tried) == 1:
            raise torch.cuda.OutOfMemoryError("full")
        return real(**given)

    monkeypatch.setattr(evaluator, "simple_evaluate", simple_evaluate)
    _, generations = asked(plain, entry(tasks, "elmwick_facts", limit=3), tmp_path)
    assert tried == [32, 16]
    assert len(generations) == 3
    assert "trying a batch of 16" in caplog.text


def test_number_of_examples_that_a_task_fixes_is_said_to_be_ignored(
    plain: LoadedModel, tasks: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "fixed.yaml").write_text(
        TASK.format(name="fixed", data=tasks / "facts.jsonl") + FACTS + "num_fewshot: 0\n"
    )
    asked(plain, entry(tmp_path, "fixed", limit=1, num_fewshot=2), tmp_path)
    assert "num_fewshot is ignored by fixed" in caplog.text


def test_documents_without_a_number_are_unscored() -> None:
    samples = [
        {"doc_id": i, "filter": "none", "metrics": ["f1"], "f1": value} for i, value in enumerate([1.0, math.nan, 0.5])
    ]
    results = {"samples": {"qa": samples}, "results": {"qa": {"f1,none": np.float64(0.75)}}}
    (metric,) = task_metrics(results, {"qa": {"f1": np.nanmean}})
    assert metric.values == {"qa/0": 1.0, "qa/1": None, "qa/2": 0.5}
    assert (metric.estimate.n, metric.estimate.unscored) == (2, 1)


def test_metric_without_a_number_is_left_out_and_named(caplog: pytest.LogCaptureFixture) -> None:
    samples = [{"doc_id": 0, "filter": "none", "metrics": ["f1"], "f1": math.nan}]
    results = {"samples": {"qa": samples}, "results": {"qa": {"f1,none": math.nan}}}
    assert list(task_metrics(results, {"qa": {}})) == []
    assert "qa.f1 is left out" in caplog.text


def test_digest_follows_what_decides_the_result(tasks: Path, tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("task: one\n")
    options = entry(tmp_path, "one")
    before = lm_eval_digest(options)
    assert lm_eval_digest(options.model_copy(update={"max_new_tokens": 7, "name": "other"})) == before
    assert lm_eval_digest(options.model_copy(update={"limit": 11})) != before
    (tmp_path / "one.yaml").write_text("task: one\nnum_fewshot: 1\n")
    assert lm_eval_digest(options) != before


def test_digest_leaves_out_what_runs_write_and_hidden_folders(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("task: one\n")
    options = entry(tmp_path, "one")
    before = lm_eval_digest(options)
    for folder in ("mlruns/harness/x", ".cache"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "result.json").write_text("{}")
    assert lm_eval_digest(options) == before


def test_shipped_and_own_tasks_are_known(tasks: Path) -> None:
    check_lm_eval(EvalConfig.model_validate({"lm_eval": ["gsm8k", "mmlu", "hellaswag"]}))
    check_lm_eval(entry(tasks, "elmwick_pets"))


def test_misspelled_task_is_named_with_the_nearest(tasks: Path) -> None:
    with pytest.raises(EvalError, match="no task 'elmwick_pet'; did you mean elmwick_pets?"):
        check_lm_eval(entry(tasks, "elmwick_pet"))


def test_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EvalError, match="is no folder"):
        check_lm_eval(entry(tmp_path / "nowhere", "one"))


def test_missing_package_is_named_with_its_install_command(monkeypatch: pytest.MonkeyPatch, tasks: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EvalError, match=r"pip install 'sft-harness\[benchmarks\]'"):
        check_lm_eval(entry(tasks, "elmwick_pets"))


def test_documents_that_can_not_be_had_are_found_before_training(tmp_path: Path) -> None:
    (tmp_path / "gone.yaml").write_text(TASK.format(name="gone", data=tmp_path / "gone.jsonl") + FACTS)
    check_lm_eval(entry(tmp_path, "gone"))
    with pytest.raises(EvalError, match="gone can't be loaded"):
        check_lm_eval(entry(tmp_path, "gone"), deep=True)


def test_task_whose_answers_fill_the_context_is_refused(plain: LoadedModel, tasks: Path, tmp_path: Path) -> None:
    body = FACTS.replace("max_gen_toks: 12", "max_gen_toks: 512")
    (tmp_path / "wide.yaml").write_text(TASK.format(name="wide", data=tasks / "facts.jsonl") + body)
    wide = entry(tmp_path, "wide")
    with pytest.raises(EvalError, match="answers grow to 512 tokens, and the model's context has 512"):
        asked(plain, wide, tmp_path)
    with pytest.raises(EvalError, match="include_path"):
        check_lm_eval(wide, deep=True, context=512)
    check_lm_eval(wide, deep=True, context=1024)


def test_task_that_runs_code_needs_leave(tasks: Path, tmp_path: Path) -> None:
    head = TASK.format(name="code", data=tasks / "facts.jsonl")
    (tmp_path / "code.yaml").write_text(head + FACTS + "unsafe_code: true\n")
    with pytest.raises(EvalError, match="allow_code_execution: true"):
        check_lm_eval(entry(tmp_path, "code"), deep=True)
    check_lm_eval(entry(tmp_path, "code", allow_code_execution=True), deep=True)
