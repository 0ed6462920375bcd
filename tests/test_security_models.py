"""Of a model, a reference, a tokenizer or a dataset, code runs only where the experiment file says so, and no pickle is read."""

import ast
import json
import pickle
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result

from harness.cli.main import main
from harness.config import ModelConfig
from harness.data.sources import read_rows
from harness.errors import DataError, ModelError
from harness.eval_config import SourceConfig
from harness.models.load import load_config, tokenizer_at
from harness.models.trusted import check_no_pickle, check_weights
from harness.resources import embedded
from tests.conftest import MINIMAL

Write = Callable[..., Path]


class Evil:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the Hub."""
    import datasets.config
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    return tmp_path / "hub"


def in_hub(hub: Path, repository: str, kind: str = "models") -> Path:
    """The folder of a repository's files, as `hf download` lays them."""
    folder = hub / f"{kind}--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc").mkdir(parents=True)
    return folder / "snapshots" / "abc"


def small_model(folder: Path, weights: str) -> None:
    """A model whose weights are in a file of that name."""
    for path in embedded("base").iterdir():
        if path.suffix != ".safetensors" and path.is_file():
            shutil.copy(path, folder)
    (folder / weights).write_bytes(pickle.dumps(Evil(folder / "ran")))


def harness(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


@pytest.mark.parametrize("row", ["cell", "reference"])
def test_pickle_in_the_cache_of_the_hub_is_refused_by_name_before_training(write: Write, hub: Path, row: str) -> None:
    folder = in_hub(hub, f"ada/{row}")
    small_model(folder, "pytorch_model.bin")
    text = MINIMAL.replace("embedded:base", "ada/cell")
    write(text if row == "cell" else f"{MINIMAL}references: [{{name: other, model: ada/reference}}]\n")
    done = harness("plan", "experiment.yaml", "--deep")
    assert done.exit_code in (1, 2), done.output
    told = " ".join(done.output.split())
    assert f"model.name 'ada/{row}': pytorch_model.bin is a pickle, which runs code when it is read" in told
    assert not (folder / "ran").exists()


@pytest.mark.parametrize(
    ("names", "named"),
    [
        (["model.safetensors", "adapter_model.bin"], "adapter_model.bin"),
        (["adapter_model.safetensors", "pytorch_model.bin"], "pytorch_model.bin"),
        (["consolidated.00.pth", "pytorch_model.bin"], "pytorch_model.bin"),
        (["model.ckpt"], "model.ckpt"),
        (["model.safetensors", "adapter_model.safetensors", "adapter_model.bin", "pytorch_model.bin"], None),
        (["model.safetensors.index.json", "model-00001-of-00002.safetensors", "pytorch_model.bin"], None),
        (["adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"], None),
        (["optimizer.pt", "rng_state_0.pth"], None),
    ],
)
def test_safetensors_excuse_no_pickle_that_is_loaded_beside_them(
    names: list[str], named: str | None, tmp_path: Path
) -> None:
    for name in names:
        (tmp_path / name).write_bytes(b"")
    if named is None:
        check_no_pickle(tmp_path, "it")
        return
    with pytest.raises(ModelError, match=f"^it: {named} is a pickle"):
        check_no_pickle(tmp_path, "it")


def test_unknown_or_impossible_hub_names_are_left_to_loading(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # One of the names is the folder above.
    hub.mkdir(exist_ok=True)
    monkeypatch.chdir(hub)
    for name in ("ada/unknown", "a/b/c", "x" * 300, "..", "é"):
        check_weights(name, ModelConfig(name=name))


CODE = """
from pathlib import Path
Path({ran!r}).touch()
from transformers import PretrainedConfig, PreTrainedTokenizerFast
class Own(PretrainedConfig):
    model_type = "own_and_unknown"
class Words(PreTrainedTokenizerFast):
    pass
"""


def with_code(folder: Path, ran: Path) -> None:
    """A model whose config and tokenizer are Python of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "own.py").write_text(CODE.format(ran=str(ran)))
    (folder / "config.json").write_text(
        json.dumps({"model_type": "own_and_unknown", "auto_map": {"AutoConfig": "own.Own"}})
    )
    settings = {"tokenizer_class": "Words", "auto_map": {"AutoTokenizer": [None, "own.Words"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def test_code_of_a_model_runs_only_where_the_file_trusts_it(hub: Path, tmp_path: Path) -> None:
    ran, folder = tmp_path / "ran", tmp_path / "model"
    with_code(folder, ran)
    with pytest.raises(ModelError, match="brings Python of its own, which runs only with trust_remote_code: true"):
        load_config(ModelConfig(name=str(folder)))
    with pytest.raises(ModelError):
        tokenizer_at(str(folder))
    assert not ran.exists()
    load_config(ModelConfig(name=str(folder), trust_remote_code=True))
    assert ran.exists()


def test_plan_shows_whose_code_a_reference_brings(write: Write) -> None:
    write(f"{MINIMAL}references: [{{name: other, model: ada/own, revision: v2, trust_remote_code: true}}]\n")
    done = harness("plan", "experiment.yaml", "--json")
    assert json.loads(done.stdout)["trust_remote_code"] == ["ada/own@v2"]


@pytest.mark.parametrize("where", ["training", "data", "experiment"])
def test_trust_is_given_to_a_model_and_nowhere_else(write: Write, where: str) -> None:
    given = {
        "training": MINIMAL.replace("training:", "training:\n  trust_remote_code: true"),
        "data": MINIMAL.replace("data:\n  train: embedded:train", "data:\n  train: {path: ada/rows, trust_remote_code: true}"),
        "experiment": MINIMAL + "trust_remote_code: true\n",
    }  # fmt: skip
    write(given[where])
    done = harness("plan", "experiment.yaml")
    assert done.exit_code == 2
    assert "trust_remote_code" in done.stderr


def test_attention_from_the_hub_is_code_that_needs_trust() -> None:
    kernel = "kernels-community/attention"
    with pytest.raises(ModelError, match="is code from the Hub, which runs only with"):
        load_config(ModelConfig(name="embedded:base", attn_implementation=kernel))
    load_config(ModelConfig(name="embedded:base", attn_implementation=kernel, trust_remote_code=True))
    load_config(ModelConfig(name="embedded:base", attn_implementation="sdpa"))


def test_script_of_a_dataset_is_not_run(hub: Path, tmp_path: Path) -> None:
    folder = in_hub(hub, "ada/rows", "datasets")
    (folder / "rows.py").write_text(f"from pathlib import Path; Path({str(tmp_path / 'ran')!r}).touch()")
    with pytest.raises(DataError, match="can't be loaded"):
        read_rows(SourceConfig(path="ada/rows"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["rng_state.pth", "optimizer.pt", "scheduler.pt"])
def test_state_of_a_training_is_read_back_without_running_what_it_holds(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import torch

    from harness.train.trainer import BrokenCheckpointError, ProbingTrainer

    for state in ("optimizer.pt", "scheduler.pt"):
        torch.save({}, tmp_path / state)
    torch.save(Evil(tmp_path / "ran"), tmp_path / name)
    trainer = ProbingTrainer.__new__(ProbingTrainer)
    trainer.args = SimpleNamespace(world_size=1, process_index=0, device=torch.device("cpu"))
    trainer.is_deepspeed_enabled = trainer.is_fsdp_enabled = trainer.is_fsdp_xla_v1_enabled = False
    trainer.optimizer = trainer.lr_scheduler = SimpleNamespace(load_state_dict=lambda _: None)
    if name == "rng_state.pth":
        trainer._load_rng_state(str(tmp_path))
        assert "Weights only load failed" in caplog.text
    else:
        with pytest.raises(BrokenCheckpointError, match="Weights only load failed"):
            trainer._load_optimizer_and_scheduler(str(tmp_path))
    assert not (tmp_path / "ran").exists()


def test_the_trainer_reads_every_file_of_torch_as_weights_only() -> None:
    """docs/security.md says so of the installed transformers."""
    spec = find_spec("transformers.trainer")
    assert spec is not None
    assert spec.origin is not None
    calls = [
        node
        for node in ast.walk(ast.parse(Path(spec.origin).read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"
    ]
    assert len(calls) > 3
    for call in calls:
        assert "weights_only=True" in map(ast.unparse, call.keywords), ast.unparse(call)
