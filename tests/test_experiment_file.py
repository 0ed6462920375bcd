"""Experiment files: what is read, and how mistakes are told."""

from collections.abc import Callable
from pathlib import Path

import pytest

from harness.errors import ConfigError, HarnessError
from harness.experiment_file import find_experiment, load_experiment
from harness.plan import plan_experiment
from harness.resources import bundled
from tests.conftest import MINIMAL

Write = Callable[..., Path]


def message(write: Write, content: str, *overrides: str) -> str:
    path = write(content)
    with pytest.raises(HarnessError) as caught:
        plan_experiment(str(path), overrides)
    return str(caught.value)


def test_scientific_notation_without_a_dot_is_a_number(write: Write) -> None:
    config = load_experiment(write(MINIMAL))
    assert config.training["learning_rate"] == 1e-3


def test_set_overrides_a_field(write: Write) -> None:
    config = load_experiment(write(MINIMAL), ["training.learning_rate=3e-4", "seeds=[1, 2]"])
    assert config.training["learning_rate"] == 3e-4
    assert config.seeds == (1, 2)


def test_unknown_key_names_line_and_nearest_field(write: Write) -> None:
    text = message(write, MINIMAL + "trainning: {}\n")
    assert "experiment.yaml:12: trainning is not a known field; did you mean training?" in text


def test_unknown_nested_key_names_its_path(write: Write) -> None:
    text = message(write, MINIMAL.replace("  test: embedded:test", "  tset: embedded:test"))
    assert "experiment.yaml:9: data.tset is not a known field; did you mean test?" in text


@pytest.mark.parametrize(
    ("field", "hint"),
    [
        ("warmup_ratio: 0.1", "training.warmup_ratio was retired; use warmup_steps"),
        ("max_seq_length: 512", "training.max_seq_length was retired; use max_length"),
        ("evaluation_strategy: steps", "training.evaluation_strategy was retired; use eval_strategy"),
        ("group_by_length: true", "train_sampling_strategy"),
        ("tokenizer: x", "training.tokenizer was retired"),
        ("use_mps_device: true", "training.use_mps_device was retired"),
        ("setup_chat_format: true", "template.name: chatml"),
        ("learning_ratee: 1e-3", "did you mean learning_rate?"),
        ("seed: 3", "can't be set here: it is set by the top-level list `seeds`"),
        ("output_dir: x", "every cell has a folder of its own"),
    ],
)
def test_wrong_training_field_says_what_to_use(write: Write, field: str, hint: str) -> None:
    text = message(write, MINIMAL + f"  {field}\n")
    assert "experiment.yaml:12: training." in text
    assert hint in text


def test_wrong_type_names_field_and_value(write: Write) -> None:
    text = message(write, MINIMAL + "  num_train_epochs: many\n")
    assert "experiment.yaml:12: training.num_train_epochs must be float, not 'many'" in text


def test_boolean_is_not_a_number(write: Write) -> None:
    assert "must be float, not True" in message(write, MINIMAL + "  weight_decay: true\n")


def test_wrong_lora_field_is_told(write: Write) -> None:
    text = message(write, MINIMAL + "adapter: {rank: 8, lora_dropuot: 0.1}\n")
    assert "adapter.rank was retired; use r" in text
    assert "did you mean lora_dropout?" in text


def test_errors_of_all_cells_are_shown_at_once_with_their_lines(write: Write) -> None:
    grid = "grid:\n  training.learning_rate: [1e-3, fast]\nvariants:\n  odd:\n    training.max_steps: some\n"
    text = message(write, MINIMAL + grid)
    assert "experiment.yaml:13: cell learning_rate=fast: training.learning_rate must be float, not 'fast'" in text
    assert "experiment.yaml:16: cell odd: training.max_steps must be int, not 'some'" in text


def test_a_mistake_of_every_cell_is_said_once(write: Write) -> None:
    text = message(write, MINIMAL + "  warmup_ratio: 0.1\ngrid:\n  training.learning_rate: [1e-3, 2e-3]\n")
    assert text.count("warmup_ratio") == 1


def test_empty_grid_is_an_error(write: Write) -> None:
    assert "grid is empty" in message(write, MINIMAL + "grid: {}\n")
    assert "training.learning_rate has no values" in message(write, MINIMAL + "grid:\n  training.learning_rate: []\n")


def test_duplicate_key_is_an_error(write: Write) -> None:
    assert "experiment.yaml:12: name is given twice" in message(write, MINIMAL + "name: other\n")


def test_broken_yaml_names_the_line(write: Write) -> None:
    assert "experiment.yaml:4: this isn't valid YAML" in message(write, "name: x\nmodel:\n  name: [a\ndata: {}\n")


@pytest.mark.parametrize("name", ["../escape", "a/b", "..", "", "x" * 101])
def test_name_that_leaves_its_folder_is_refused(write: Write, name: str) -> None:
    assert "can't name a folder" in message(write, MINIMAL.replace("name: small", f"name: '{name}'"))


def test_suite_name_that_is_a_path_is_refused(write: Write) -> None:
    assert "can't be a suite" in message(write, MINIMAL + "evals: ['../secret']\n")


def test_quantization_without_adapter_is_refused(write: Write) -> None:
    assert "quantization needs an adapter" in message(write, MINIMAL + "quantization: {load_in_4bit: true}\n")


def test_missing_experiment_names_the_bundled_ones() -> None:
    with pytest.raises(ConfigError, match="did you mean quickstart"):
        find_experiment("quickstrat")


@pytest.mark.parametrize("path", sorted(bundled("experiments").glob("*.yaml")), ids=lambda path: path.stem)
def test_bundled_experiment_is_valid(path: Path) -> None:
    assert len(plan_experiment(path.stem).cells) >= 2
