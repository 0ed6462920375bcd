"""A trained cell as a folder that plain transformers loads, and on the Hub."""

import json
import os
import shutil
from pathlib import Path

from harness.checkpoints import evaluated_checkpoint
from harness.config import RunConfig
from harness.errors import ConfigError, ModelError
from harness.grid import CellSpec
from harness.model_card import card_text, subject_of
from harness.models.load import LoadedModel, load_checkpoint, merged_checkpoint, model_source
from harness.store import read_record
from harness.targets import FoundCell, find_cell, training_of
from harness.weights import fetch_weights


def export(target: str, folder: Path, *, merge: bool) -> Path:
    """Writes a cell's model, tokenizer, chat template, generation config and card.

    Args:
        target: cell id, name or MLflow run id.
        folder: to write; must not exist, or be empty.
        merge: put an adapter's weights into the base's.

    Raises: HarnessError: there is no such trained cell, or the folder can't be written.
    """
    found = find_cell(target)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} exists already and is not empty; choose another folder")
    config = read_record(found.folder.spec, CellSpec).cell.config
    loaded = load_trained(found, config, merge=merge)
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
        _write(loaded, config, part, merge=merge)
        (part / "README.md").write_text(card_text(subject_of(found), merged=merge), encoding="utf-8")
        if folder.exists():
            folder.rmdir()
        os.replace(part, folder)
    except OSError as error:
        raise ConfigError(f"{folder} can't be written ({error.strerror or error}); choose another folder") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def load_trained(found: FoundCell, config: RunConfig, *, merge: bool = False) -> LoadedModel:
    """The checkpoint of a cell that was evaluated, with its template.

    Raises: HarnessError: it is a reference, was not trained to its end, or its checkpoint is gone.
    """
    train = training_of(found.result)
    fetch_weights(found.folder, found.result)
    checkpoint = evaluated_checkpoint(found.folder, train, read_record(found.folder.spec, CellSpec).keep)
    is_plain = train.settings.get("template.in_force") == "none"
    if merge and config.adapter is not None:
        return merged_checkpoint(config, checkpoint, plain_rows=is_plain)
    return load_checkpoint(config, checkpoint, plain_rows=is_plain)


def _write(loaded: LoadedModel, config: RunConfig, folder: Path, *, merge: bool) -> None:
    if config.adapter is not None and not merge:
        if loaded.tokens.num_added:
            raise ModelError(
                f"the template added {loaded.tokens.num_added} tokens to the base, so its adapter can't be loaded onto the plain base; "
                "export with --merge"
            )
        adapter = loaded.model.peft_config["default"]
        adapter.base_model_name_or_path, adapter.revision = model_source(config.model), config.model.revision
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    if loaded.model.generation_config is not None:
        loaded.model.generation_config.save_pretrained(folder)


def push(folder: Path, repository: str) -> str:
    """Uploads an exported folder to a private repository of the Hub; gives its address.

    Raises: ModelError: the Hub refuses, or can't be reached.
    """
    from huggingface_hub import HfApi

    adapter = folder / "adapter_config.json"
    if adapter.is_file() and Path(json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"]).exists():
        raise ModelError(
            f"{folder} is an adapter whose base lies on this machine, so nobody else can load it; export with --merge to push"
        )
    try:
        api = HfApi()
        address = api.create_repo(repository, private=True, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=str(folder), commit_message="Upload from sft-harness")
    except Exception as error:  # the Hub's client lets those of its HTTP library through
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"{repository}: the upload to the Hub failed ({reason}); check the name, your connection and `hf auth login`; "
            f"the model is whole in {folder}"
        ) from error
    return str(address)
