"""`harness export`: what is written is the trained model, and plain transformers loads and stops it."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from harness.cli.main import main
from harness.config import RunConfig
from harness.data.formats import Conversation
from harness.data.tokenize import tokenize
from harness.grid import CellSpec
from harness.models.load import load_checkpoint
from harness.records import CellResult, Message
from harness.store import CellFolder, read_record

QUESTION, ANSWER = "I want 3 roses.", "Noted."


def harness(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments), catch_exceptions=False)


@pytest.fixture(scope="module")
def ran(trained: Path) -> Iterator[Path]:
    """The folder with both cells, exported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(trained)
        for name, options in (("full", ()), ("lora", ()), ("merged", ("--merge",))):
            exported = harness("export", "full" if name == "full" else "lora", name, *options)
            assert exported.exit_code == 0, exported.output
            assert exported.stdout.strip() == name
        yield trained


def cell(folder: Path, name: str) -> tuple[CellFolder, CellResult]:
    for path in folder.glob("mlruns/harness/tiny/cells/*/result.json"):
        result = read_record(path, CellResult)
        if result.name == name:
            return CellFolder(path.parent), result
    raise AssertionError(name)


def row() -> Conversation:
    turns = (Message(role="user", content=QUESTION), Message(role="assistant", content=ANSWER))
    return Conversation(id="x", messages=turns)


def nll(model: torch.nn.Module, ids: list[int], labels: list[int]) -> float:
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss.item()


def evaluated(folder: Path, name: str) -> tuple[float, list[int], list[int]]:
    """NLL of one row under the checkpoint that the harness evaluated, with its tokens and labels."""
    found, result = cell(folder, name)
    config: RunConfig = read_record(found.spec, CellSpec).cell.config
    loaded = load_checkpoint(config, found.path / result.train.evaluated_checkpoint, plain_rows=False)
    done = tokenize(row(), loaded.tokenizer, loaded.tokens, assistant_only=True, max_length=None)
    return nll(loaded.model.eval(), done.input_ids, done.labels), done.input_ids, done.labels


@pytest.mark.parametrize(("name", "source"), [("full", "full"), ("lora", "lora"), ("merged", "lora")])
def test_plain_transformers_loads_what_was_evaluated(ran: Path, name: str, source: str) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    expected, ids, labels = evaluated(ran, source)
    model = AutoModelForCausalLM.from_pretrained(ran / name, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(ran / name)
    turns = [turn.as_turn() for turn in row().messages]
    assert tokenizer.apply_chat_template(turns, return_dict=True)["input_ids"] == ids
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token_id not in (tokenizer.eos_token_id, None)
    assert nll(model, ids, labels) == pytest.approx(expected, rel=1e-4)


def test_training_changed_the_models(ran: Path) -> None:
    """Else the comparison above says nothing."""
    from harness.models.load import load_base

    found, _ = cell(ran, "full")
    base = load_base(read_record(found.spec, CellSpec).cell.config, plain_rows=False)
    full, ids, labels = evaluated(ran, "full")
    lora, _, _ = evaluated(ran, "lora")
    untouched = nll(base.model.eval(), ids, labels)
    assert len({round(value, 2) for value in (full, lora, untouched)}) == 3


@pytest.mark.parametrize("name", ["full", "lora", "merged"])
def test_the_example_on_the_card_runs_and_stops(ran: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ran / name / "README.md").read_text(), flags=re.DOTALL)
    code = code.replace("FOLDER", str(ran / name)).replace('"..."', repr(QUESTION))
    here: dict[str, object] = {}
    exec(code, here)
    assert capsys.readouterr().out
    # As if the model said nothing but the end of a turn: generation ends there only if it is told to.
    model, tokenizer = here["model"], here["tokenizer"]
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")

    def only_ends(module: torch.nn.Module, given: object, output: object) -> object:
        output.logits[..., end] += 1000
        return output

    model.register_forward_hook(only_ends)
    exec(code[code.index("output =") :], here)
    assert here["output"].shape[1] == here["inputs"]["input_ids"].shape[1] + 1


@pytest.mark.parametrize(("name", "options"), [("full", ()), ("lora", ()), ("merged", ("--merged",))])
def test_the_card_is_the_one_that_harness_card_writes(ran: Path, name: str, options: tuple[str, ...]) -> None:
    card = harness("card", "full" if name == "full" else "lora", *options)
    assert (ran / name / "README.md").read_text() == card.stdout


@pytest.mark.parametrize("name", ["full", "lora", "merged"])
def test_card_tells_nothing_of_this_machine(ran: Path, name: str) -> None:
    card = (ran / name / "README.md").read_text()
    assert "secret_place" not in card
    assert str(ran.parent) not in card
    assert str(Path.home()) not in card
    assert not re.search(r"(?<![\w.:/])/(?:tmp|home|root|work|usr|var)/", card)


def test_merging_a_full_fine_tune_changes_nothing(ran: Path, tmp_path: Path) -> None:
    assert harness("export", "full", str(tmp_path / "same"), "--merge").exit_code == 0
    assert (tmp_path / "same" / "model.safetensors").read_bytes() == (ran / "full" / "model.safetensors").read_bytes()


def mistake(*arguments: str) -> str:
    done = harness("export", *arguments)
    assert done.exit_code == 2, done.output
    # In this process, transformers may have been imported with its progress bars by another test.
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in done.stderr
    return line


def test_a_folder_with_something_in_it_is_left_alone(ran: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    assert "exists already and is not empty; choose another folder" in mistake("full", str(tmp_path / "mine"))
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "thesis.txt"]


def test_an_empty_folder_and_a_missing_parent_are_fine(ran: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "not" / "yet"):
        assert harness("export", "lora", str(folder)).exit_code == 0
        assert (folder / "adapter_model.safetensors").is_file()
        assert [path.name for path in folder.parent.iterdir() if path.name.startswith(".")] == []


def test_a_place_that_can_not_be_written_is_one_sentence(ran: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert "can't be written" in mistake("lora", str(tmp_path / "file" / "below"))


def test_an_unknown_run_is_one_sentence(ran: Path, tmp_path: Path) -> None:
    assert "nobody: there is no such cell, run or file" in mistake("nobody", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_that_was_deleted_is_one_sentence(ran: Path, tmp_path: Path) -> None:
    for name in ("full", "lora"):
        found, result = cell(ran, name)
        checkpoint = found.path / result.train.evaluated_checkpoint
        aside = checkpoint.rename(checkpoint.with_name("aside"))
        try:
            assert "the checkpoint is not there any more" in mistake(name, str(tmp_path / "out"))
        finally:
            aside.rename(checkpoint)
    assert not (tmp_path / "out").exists()


def test_a_push_without_a_connection_leaves_the_folder(ran: Path, tmp_path: Path) -> None:
    """With a Hub that nobody answers for, whose client raises an error of its HTTP library."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9", "HF_TOKEN": "hf_none"}
    command = [sys.executable, "-m", "harness", "export", "full", str(tmp_path / "out"), "--push-to", "me/mine"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, cwd=ran)
    assert done.returncode == 2, done.stderr
    assert done.stdout.strip() == str(tmp_path / "out")
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: me/mine: the upload to the Hub failed (")
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_a_push_in_offline_mode_is_one_sentence(ran: Path, tmp_path: Path) -> None:
    line = mistake("full", str(tmp_path / "out"), "--push-to", "me/mine")
    assert "the upload to the Hub failed (" in line
    assert "check the name, your connection and `hf auth login`; the model is whole in " in line


def test_an_adapter_of_a_local_base_is_not_pushed(ran: Path, tmp_path: Path) -> None:
    line = mistake("lora", str(tmp_path / "out"), "--push-to", "me/mine")
    assert "is an adapter whose base lies on this machine" in line
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()
