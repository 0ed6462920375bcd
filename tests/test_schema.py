"""The JSON Schema of the experiment file, against files that are right and files that are wrong."""

import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
import yaml
from click.testing import CliRunner

from harness.cli.main import main
from harness.config import ExperimentConfig, RunConfig
from harness.experiment_file import load_experiment
from harness.library_fields import sft_config_fields
from harness.resources import bundled
from harness.schema import LIBRARIES, experiment_schema
from tests.conftest import MINIMAL
from tests.test_predictions_alone import YAML as PREDICTIONS
from tests.test_reference_kinds import YAML as REFERENCES

Write = Callable[[str, str], Path]
SHIPPED = sorted(bundled("experiments").glob("*.yaml"))
FIRST_LINE = "# yaml-language-server: $schema=experiment.schema.json"
SHORTHANDS = """\
name: short
model: {name: embedded:base}
data: {train: embedded:train, validation: [embedded:validation], test: {path: embedded:test}}
training: {learning_rate: 1.0e-3, lr_scheduler_kwargs: {num_cycles: 2}, lr_scheduler_type: cosine}
adapter: null
stop_on: diverged
evals: [held_out, {suite: retention, limit: 5}, {suite: held_out, name: other, data: embedded:test}, {lm_eval: ifeval}]
references: [base, few_shot, {name: many, few_shot: 8}]
"""
SWEPT = """\
name: swept
model: {dtype: float32}
data: {train: embedded:train, limit: 10}
grid:
  model.name: ["embedded:base", other]
  training.learning_rate: [1.0e-3, 2.0e-3]
  adapter: [null, {r: 8}]
  stop_on: [[], diverged]
  training.lr_scheduler_kwargs.num_cycles: [1, 2]
  data.train: [embedded:train, [{path: embedded:train, weight: 1}]]
variants:
  long: {training.max_steps: 9, adapter.r: 4}
  short: {training: {max_steps: 3}, quantization: null}
"""


@pytest.fixture(scope="module")
def checker() -> jsonschema.Draft202012Validator:
    schema = experiment_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def complaints(checker: jsonschema.Draft202012Validator, content: str) -> list[str]:
    return [error.message for error in checker.iter_errors(yaml.safe_load(content))]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_experiments_are_valid(checker: jsonschema.Draft202012Validator, path: Path) -> None:
    # Floats such as 2e-5 are numbers to editors, which read YAML 1.2, and to the loader.
    content = json.loads(load_experiment(path).model_dump_json(exclude_unset=True))
    assert list(checker.iter_errors(content)) == []


@pytest.mark.parametrize("content", [MINIMAL.replace("1e-3", "0.001"), PREDICTIONS, REFERENCES, SHORTHANDS, SWEPT])
def test_what_the_loader_takes_is_valid(checker: jsonschema.Draft202012Validator, write: Write, content: str) -> None:
    load_experiment(write(content.replace("2e-3", "0.002"), "e.yaml"))
    assert complaints(checker, content.replace("2e-3", "0.002")) == []


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("stop_on", "stopon"),
        ("learning_rate", "learningrate"),
        ("name: embedded", "nam: embedded"),
        ("train: embedded", "trains: embedded"),
        ("suite: retention", "suit: retention"),
        ("few_shot: 8", "fewshot: 8"),
        ("few_shot, {", "fewshot, {"),
        ("diverged", "divergd"),
        ("limit: 5", "limit: 0"),
        ("learning_rate: 1.0e-3", "learning_rate: fast"),
        ("lr_scheduler_type: cosine", "output_dir: here"),
        ("name: short\n", ""),
    ],
)
def test_typos_are_caught(checker: jsonschema.Draft202012Validator, right: str, wrong: str) -> None:
    assert right in SHORTHANDS
    assert complaints(checker, SHORTHANDS.replace(right, wrong)) != []


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("training.learning_rate", "training.learnin_rate"),
        ("[1.0e-3, 2.0e-3]", "1.0e-3"),
        ("[1.0e-3, 2.0e-3]", "[]"),
        ("{r: 8}", "{rank: 8}"),
        ("adapter.r: 4", "adapter.rank: 4"),
        ("training: {max_steps", "training: {max_step"),
    ],
)
def test_typos_in_grid_and_variants_are_caught(
    checker: jsonschema.Draft202012Validator, right: str, wrong: str
) -> None:
    assert right in SWEPT
    assert complaints(checker, SWEPT.replace(right, wrong)) != []


def test_model_is_demanded_where_anything_is_trained(checker: jsonschema.Draft202012Validator) -> None:
    assert complaints(checker, "name: x\nreferences: [base]\nevals: [held_out]\n") != []
    assert complaints(checker, MINIMAL.replace("  name: embedded:base\n", "  dtype: auto\n")) != []


def test_every_field_is_described() -> None:
    schema = experiment_schema()
    described = {name for name, field in schema["properties"].items() if field.get("description")}
    documented = {name for name, field in ExperimentConfig.model_fields.items() if field.description}
    documented |= {name for name, field in RunConfig.model_fields.items() if field.description}
    assert documented <= described
    fields = sft_config_fields()
    assert schema["$defs"]["training"]["properties"].keys() == fields.fields.keys() - fields.owned.keys()
    packing = schema["$defs"]["training"]["properties"]["packing_strategy"]
    assert (packing["type"], packing["default"]) == ("string", "bfd")
    assert packing["description"].startswith("Strategy for packing sequences.")


def test_shipped_schema_is_current(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mend with `harness schema > experiments/experiment.schema.json`."""
    # Suites of the working folder are offered too.
    monkeypatch.chdir(tmp_path)
    shipped = json.loads((bundled("experiments") / "experiment.schema.json").read_text(encoding="utf-8"))
    if any(f"{name} {importlib.metadata.version(name)}" not in shipped["$comment"] for name in LIBRARIES):
        pytest.skip(f"the shipped schema is for other libraries: {shipped['$comment']}")
    assert shipped == json.loads(CliRunner().invoke(main, ["schema"]).stdout)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_experiments_name_the_schema_beside_them(path: Path) -> None:
    assert path.read_text(encoding="utf-8").splitlines()[0] == FIRST_LINE


def test_starter_set_brings_its_schema(tmp_path: Path) -> None:
    assert CliRunner().invoke(main, ["init", str(tmp_path / "mine")]).exit_code == 0
    beside = tmp_path / "mine" / "experiments" / "experiment.schema.json"
    assert json.loads(beside.read_text(encoding="utf-8"))["properties"].keys() == ExperimentConfig.model_fields.keys()
