"""`harness promote`: what is registered is what was evaluated, and nothing is registered that the gates exclude."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
import torch
from click.testing import CliRunner, Result
from mlflow import MlflowClient

from harness.cli.main import main
from harness.promote import _choose
from harness.records import CellResult, Generation
from harness.store import CellFolder, experiment_folder, read_lines, read_record, write_record
from tests.helpers import cell_result, trained_for


def harness(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments), catch_exceptions=False)


@pytest.fixture(scope="module")
def work(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the trained experiment as the working folder."""
    copy = tmp_path_factory.mktemp("promote") / "copy"
    shutil.copytree(trained, copy)
    before = mlflow.get_tracking_uri()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(copy)
        yield copy
    mlflow.set_tracking_uri(before)
    # MLflow exports what it is told; processes of other tests must not inherit it.
    os.environ.pop("MLFLOW_TRACKING_URI", None)


def cell(work: Path, name: str) -> tuple[CellFolder, CellResult]:
    for path in work.glob("mlruns/harness/tiny/cells/*/result.json"):
        result = read_record(path, CellResult)
        if result.name == name:
            return CellFolder(path.parent), result
    raise AssertionError(name)


@pytest.mark.parametrize("name", ["full", "lora"])
def test_a_promoted_model_loads_and_says_what_was_evaluated(work: Path, name: str) -> None:
    done = harness("promote", name, "--as", f"roses-{name}", "--json")
    assert done.exit_code == 0, done.output
    promoted = json.loads(done.stdout)
    assert promoted["asked"] == promoted["same"] == 8
    folder, result = cell(work, name)
    pipeline = mlflow.transformers.load_model(f"models:/roses-{name}@champion")
    tokenizer, model = pipeline.tokenizer, pipeline.model
    assert tokenizer.chat_template
    (suite,) = result.suites
    for given in read_lines(folder.generations(suite.suite, suite.digest), Generation):
        ids = torch.tensor([tokenizer(given.prompt, add_special_tokens=False)["input_ids"]])
        output = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
        stops = model.generation_config.eos_token_id
        new = [token for token in output[0, ids.shape[1] :].tolist() if token not in stops]
        assert tokenizer.decode(new) == given.text


def test_a_version_carries_its_evidence_and_its_run_stays_as_it_ended(work: Path) -> None:
    _, result = cell(work, "lora")
    client = MlflowClient(f"sqlite:///{work}/mlflow.db")
    before = client.get_run(result.mlflow_run_id).info
    assert harness("promote", result.cell, "--as", "evidence", "--alias", "candidate").exit_code == 0
    version = client.get_model_version_by_alias("evidence", "candidate")
    value = result.metrics()["held_out.nll"]
    assert f"{value.value:.3f}" in version.description
    assert f"n = {value.n}" in version.description
    assert "8 answered word for word the same" in version.description
    assert version.tags["harness.cell"] == result.cell
    assert version.tags["harness.criterion"] == "held_out.nll"
    assert version.run_id == result.mlflow_run_id
    after = client.get_run(result.mlflow_run_id).info
    assert (after.status, after.end_time) == (before.status, before.end_time)
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    promoted = client.search_logged_models([experiment.experiment_id], "name = 'lora-promoted'")
    assert {model.source_run_id for model in promoted} == {result.mlflow_run_id}
    registered = [json.loads(model.tags["mlflow.modelVersions"]) for model in promoted]
    assert [{"name": "evidence", "version": "1"}] in registered


def test_what_the_gates_exclude_is_refused_unless_forced(work: Path) -> None:
    path = experiment_folder("tiny").config
    kept = path.read_text()
    content = json.loads(kept)
    content["config"]["ranking"]["gates"] = ["held_out.exact_match >= 0.99"]
    path.write_text(json.dumps(content))
    try:
        refused = harness("promote", "full", "--as", "excluded")
        assert refused.exit_code == 2
        assert "full: it is not ranked (" in refused.output
        assert "--force" in refused.output
        client = MlflowClient(f"sqlite:///{work}/mlflow.db")
        assert client.search_registered_models("name = 'excluded'") == []
        assert harness("promote", "full", "--as", "excluded", "--force").exit_code == 0
        version = client.get_model_version_by_alias("excluded", "champion")
        assert "Registered with --force although it is not ranked" in version.description
        assert version.tags["harness.forced"] == "true"
    finally:
        path.write_text(kept)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("full", "--as", "a/b"), "--as 'a/b'"),
        (("full", "--as", "fine", "--alias", "v1"), "--alias 'v1'"),
        (("base", "--as", "fine"), "a reference is not trained here"),
        (("nothing", "--as", "fine"), "there is no such cell"),
    ],
)
def test_mistakes_are_one_sentence(work: Path, arguments: tuple[str, ...], said: str) -> None:
    done = harness("promote", *arguments)
    assert done.exit_code == 2
    assert said in done.output
    assert len(done.output.strip().splitlines()) == 1


def test_of_several_seeds_the_lowest_validation_loss_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = experiment_folder("grid")
    folder.config.parent.mkdir(parents=True)
    folder.config.write_text("{}")
    for seed, loss in ((0, 0.3), (1, 0.1), (2, 0.2)):
        train = trained_for(4).model_copy(update={"eval_loss": loss})
        result = cell_result(f"lora,seed={seed}", group="g", seed=seed).model_copy(update={"train": train})
        write_record(folder.cell(result.cell).result, result)
    chosen = _choose("lora")
    assert chosen.found.result.seed == 1
    assert chosen.reason == "seed 1 of 3, which has the lowest validation loss"
