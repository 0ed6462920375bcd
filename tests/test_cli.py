"""The command line: help, the contract for scripts, and mistakes."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from harness.cli.main import COMMANDS, HIDDEN, main
from harness.config import RankingConfig
from harness.errors import ConfigError
from harness.eval_config import EvalConfig
from harness.plan import _check_ranking, _metrics
from tests.conftest import MINIMAL

Write = Callable[..., Path]


def harness(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments), catch_exceptions=False)


def test_help_is_light() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "harness", "--help"], capture_output=True, text=True, check=True
    )
    assert "harness run quickstart" in done.stdout
    loaded = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert not loaded & {"torch", "numpy", "pydantic", "rich", "mlflow", "transformers"}
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime >= before


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name: str) -> None:
    done = harness(name, "--help")
    assert done.exit_code == 0
    assert name in HIDDEN or "Example: harness" in done.output


def test_plan_json_is_the_contract(write: Write) -> None:
    write(MINIMAL + "grid:\n  training.learning_rate: [1e-3, 2e-3]\nseeds: [0, 1]\n")
    plan = json.loads(harness("plan", "experiment.yaml", "--json").output)
    assert plan["experiment"] == "small"
    assert [set(cell) for cell in plan["cells"]] == [{"id", "name", "overrides", "seed", "problems"}] * 4
    assert plan["cells"][2]["overrides"] == {"training.learning_rate": 2e-3}
    assert plan["packs"] == [[cell["id"]] for cell in plan["cells"]]
    assert all(cell["problems"] == [] for cell in plan["cells"])
    assert json.loads(harness("run", "experiment.yaml", "--dry-run").output) == plan


def mistake(*arguments: str) -> str:
    """The one line on stderr of a command that exits with 2 and leaves nothing behind."""
    before = sorted(Path.cwd().rglob("*"))
    done = harness(*arguments)
    assert done.exit_code == 2, done.output
    assert "Traceback" not in done.output
    assert sorted(Path.cwd().rglob("*")) == before
    lines = [line for line in done.stderr.strip().splitlines() if "] small: checking 1 cell" not in line]
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_missing_experiment(write: Write) -> None:
    write("")
    assert "there is no such experiment file" in mistake("run", "nothing.yaml")


def test_missing_data_file(write: Write) -> None:
    write(MINIMAL.replace("embedded:train", "rows.jsonl"))
    assert "rows.jsonl: there is no such data file; check the path" in mistake("run", "experiment.yaml")


def test_json_broken_at_line_17(write: Write) -> None:
    row = '{"messages": [{"role": "user", "content": "q%d"}, {"role": "assistant", "content": "a"}]}'
    write("\n".join([*(row % i for i in range(16)), "{broken", row % 99]), "rows.jsonl")
    write(MINIMAL.replace("embedded:train", "rows.jsonl"))
    assert "rows.jsonl:17: the line isn't valid JSON" in mistake("run", "experiment.yaml")


def test_no_assistant_turn(write: Write) -> None:
    write('{"messages": [{"role": "user", "content": "Hello?"}]}', "rows.jsonl")
    write(MINIMAL.replace("embedded:train", "rows.jsonl"))
    assert "no row ends with an assistant turn" in mistake("run", "experiment.yaml")


def test_model_folder_without_a_model(write: Write) -> None:
    write(MINIMAL.replace("embedded:base", "./models/mine"))
    assert "there is no model (config.json) in that folder" in mistake("run", "experiment.yaml")


def test_model_that_is_not_on_the_hub(write: Write) -> None:
    write(MINIMAL.replace("embedded:base", "nobody/no-such-model"))
    line = mistake("run", "experiment.yaml")
    assert "model 'nobody/no-such-model' can't be loaded" in line
    assert "give the path of a local folder" in line


def test_dataset_that_is_not_on_the_hub(write: Write) -> None:
    write(MINIMAL.replace("embedded:train", "nobody/no-such-dataset"))
    assert "dataset 'nobody/no-such-dataset' (split 'train') can't be loaded" in mistake("run", "experiment.yaml")


def test_conversations_without_a_template(write: Write) -> None:
    write(MINIMAL.replace("template:\n  name: chatml\n", ""))
    assert "there is no chat template; set template.name to chatml" in mistake("run", "experiment.yaml")


def test_missing_template_file(write: Write) -> None:
    write(MINIMAL.replace("name: chatml", "name: mine.jinja"))
    assert "template.name 'mine.jinja' is not auto, model, none" in mistake("run", "experiment.yaml")


def test_unknown_suite(write: Write) -> None:
    write(MINIMAL + "evals: [held_uot]\n")
    assert "there is no suite 'held_uot'" in mistake("run", "experiment.yaml")


def test_broken_gate_is_told_before_training(write: Write) -> None:
    write(MINIMAL + "ranking: {gates: ['be good']}\n")
    assert "'be good' is no gate" in mistake("run", "experiment.yaml")


def test_unwritable_folder(write: Write) -> None:
    write("in the way", "mlruns")
    write(MINIMAL)
    assert "can't be written" in mistake("run", "experiment.yaml")


def test_rank_before_any_run(write: Write) -> None:
    write(MINIMAL)
    assert "has no results yet; start it with `harness run`" in mistake("rank", "experiment.yaml")


def test_diagnose_of_something_else(write: Write) -> None:
    write('{"a": 1}', "x.json")
    assert "this is no trainer_state.json" in mistake("diagnose", "x.json")
    assert "there is no such cell, run or file" in mistake("diagnose", "abcdef")


def test_init_copies_a_set_that_plans(write: Write) -> None:
    write("")
    assert harness("init", "mine").exit_code == 0
    assert harness("plan", "mine/experiments/quickstart.yaml").exit_code == 0
    assert "exists already" in mistake("init", "mine")


def test_list_names_bundled_experiments(write: Write) -> None:
    write("")
    assert json.loads(harness("list", "--json").output)["bundled"] == [
        "deepseek_r1_distill_thinking",
        "llama3_70b_qlora",
        "llama3_lora_qlora",
        "opt_formatting_packing",
        "quickstart",
        "smollm2_smoltalk",
        "thinking_tools",
    ]
    assert os.path.isfile("experiment.yaml")


@pytest.mark.parametrize(
    ("ranking", "hint"),
    [
        ("{by: held_out.exact_mach}", "ranking.by: 'held_out.exact_mach' is measured by no suite of evals; add its suite, or change ranking; did you mean held_out.exact_match?"),
        ("{gates: ['held_out.nil >= 1']}", "'held_out.nil' is measured by no suite of evals; add its suite, or change ranking; did you mean held_out.nll?"),
    ],
)  # fmt: skip
def test_metric_that_no_suite_measures(write: Write, ranking: str, hint: str) -> None:
    write(MINIMAL + f"ranking: {ranking}\n")
    assert hint in mistake("run", "experiment.yaml")


@pytest.mark.parametrize("metric", ["lm_eval.arc_easy.acc", "lm_eval.ai2_arc.acc"])
def test_members_of_a_benchmark_of_several_can_be_ranked(metric: str) -> None:
    evals = [EvalConfig.model_validate({"lm_eval": ["ai2_arc"]})]
    _check_ranking(RankingConfig(by=metric, gates=(f"{metric} >= 0.2",)), _metrics(evals, deep=False))


@pytest.mark.parametrize("metric", ["lm_eval", "other.arc_easy.acc"])
def test_name_of_no_metric_of_a_benchmark_is_refused(metric: str) -> None:
    evals = [EvalConfig.model_validate({"lm_eval": ["ai2_arc"]})]
    with pytest.raises(ConfigError, match="measured by no suite"):
        _check_ranking(RankingConfig(by=metric, gates=()), _metrics(evals, deep=False))


def test_predictions_that_answer_no_suite_are_refused(write: Write) -> None:
    write('{"id": "a", "prediction": "b"}\n', "old.jsonl")
    write(MINIMAL + "evals: [template_adherence]\nreferences: [{name: old, predictions: old.jsonl}]\n")
    said = mistake("plan", "experiment.yaml")
    assert "the reference old answers 'held_out', which is no suite of evals" in said


def test_password_in_the_address_of_a_server_is_refused_and_not_repeated(write: Write) -> None:
    write(MINIMAL + "references: [{name: big, url: 'http://me:secret@host/v1', model: m}]\n")
    said = mistake("plan", "experiment.yaml")
    assert "api_key_env" in said
    assert "secret" not in said


def test_cells_with_different_test_rows_are_refused(write: Write) -> None:
    for name in ("a", "b"):
        write("".join(f'{{"prompt": "{name}{i}", "completion": "x"}}\n' for i in range(60)), f"{name}.jsonl")
    write(
        "name: small\nmodel: {name: embedded:base}\ndata: {train: a.jsonl}\ngrid:\n  data.train: [a.jsonl, b.jsonl]\n"
    )
    done = harness("run", "experiment.yaml")
    assert done.exit_code == 2
    assert "set data.test to one file for all" in done.stderr


def test_template_with_a_syntax_error(write: Write) -> None:
    write("{% for message in messages %}{{ message.content }", "mine.jinja")
    write(MINIMAL.replace("name: chatml", "name: mine.jinja"))
    assert "can't be rendered" in mistake("run", "experiment.yaml")
