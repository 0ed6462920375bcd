"""Checks of a saved checkpoint: each catches the fault that it is there for, and passes a sound one."""

from collections.abc import Sequence

import pytest
import torch

from harness.config import RunConfig
from harness.data.formats import Conversation
from harness.data.tokenize import Tokenized, tokenize
from harness.models.generate import row_losses
from harness.models.load import LoadedModel, load_base
from harness.models.verify import documents_stay_apart, verify_saved
from harness.records import Message
from harness.verification import Verification, VerifiedItem

LORA = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
DIALOGS = (("I want 3 roses.", "Noted: 3 roses."), ("Where does Ada Jarvis live?", "In Mill Lane."), ("Hi", "Hello."))


def run_config(adapter: dict[str, object] | None = None) -> RunConfig:
    return RunConfig.model_validate(
        {
            "model": {"name": "embedded:base"},
            "template": {"name": "chatml"},
            "data": {"train": "embedded:train"},
            "adapter": adapter,
        }
    )


def conversation(question: str, answer: str) -> Conversation:
    turns = (Message(role="user", content=question), Message(role="assistant", content=answer))
    return Conversation(id=question, messages=turns)


def tokenized(loaded: LoadedModel) -> list[Tokenized]:
    return [
        tokenize(conversation(*d), loaded.tokenizer, loaded.tokens, assistant_only=True, max_length=None)
        for d in DIALOGS
    ]


def nll(loaded: LoadedModel) -> list[float]:
    losses = row_losses(loaded.model, tokenized(loaded), pad_token_id=loaded.tokenizer.pad_token_id, batch_size=8)
    return [loss.nll for loss in losses]


def verified(config: RunConfig, loaded: LoadedModel, trained: Sequence[float]) -> Verification:
    examples = [conversation(*d).example() for d in DIALOGS]
    return verify_saved(config, loaded, tokenized(loaded), trained, examples)


def item(found: Verification, name: str) -> VerifiedItem:
    return next(item for item in found.items if item.name == name)


@pytest.fixture
def base() -> LoadedModel:
    return load_base(run_config(), plain_rows=False)


@pytest.fixture
def adapted() -> LoadedModel:
    """The base under an adapter that does something, as it is loaded from a checkpoint."""
    from peft import LoraConfig, get_peft_model

    base = load_base(run_config(LORA), plain_rows=False)
    model = get_peft_model(base.model, LoraConfig(task_type="CAUSAL_LM", **LORA))
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    return LoadedModel(model, base.tokenizer, base.tokens)


def test_a_sound_checkpoint_passes(base: LoadedModel) -> None:
    found = verified(run_config(), base, nll(base))
    assert found.failures == ()
    assert {item.name for item in found.items} == {"reloaded_nll", "stop_token", "pad_token"}


def test_weights_that_are_not_those_of_the_training_are_caught(base: LoadedModel) -> None:
    before = nll(base)
    with torch.no_grad():
        base.model.model.layers[0].mlp.down_proj.weight.mul_(1.02)
    found = verified(run_config(), base, before)
    assert [item.name for item in found.failures] == ["reloaded_nll"]
    assert item(found, "reloaded_nll").value > item(found, "reloaded_nll").tolerance


@pytest.mark.parametrize("trained", [[], [float("nan")] * 3])
def test_nothing_is_compared_where_the_trainer_measured_nothing(base: LoadedModel, trained: list[float]) -> None:
    assert "reloaded_nll" not in {item.name for item in verified(run_config(), base, trained).items}


@pytest.mark.parametrize("eos", [0, [0, 1], None])
def test_a_generation_config_that_does_not_stop_is_caught(base: LoadedModel, eos: object) -> None:
    base.model.generation_config.eos_token_id = eos
    found = verified(run_config(), base, nll(base))
    assert [item.name for item in found.failures] == ["stop_token"]
    assert "without the token that ends a turn" in found.failures[0].message


def test_padding_that_ends_a_turn_is_caught(base: LoadedModel) -> None:
    base.model.generation_config.pad_token_id = base.tokens.end_of_turn_id
    found = verified(run_config(), base, nll(base))
    assert [item.name for item in found.failures] == ["pad_token"]


def test_a_prompt_that_begins_twice_is_caught(base: LoadedModel) -> None:
    base.tokenizer.bos_token = "<|im_start|>"
    assert item(verified(run_config(), base, nll(base)), "one_bos").passed
    base.tokenizer.chat_template = "<|im_start|>" + base.tokenizer.chat_template
    doubled = item(verified(run_config(), base, []), "one_bos")
    assert not doubled.passed
    assert doubled.message == "3 of 3 prompts begin with <|im_start|> twice."


def test_a_sound_adapter_applies_and_can_be_merged(adapted: LoadedModel) -> None:
    found = verified(run_config(LORA), adapted, nll(adapted))
    assert found.failures == ()
    assert item(found, "adapter_applies").value > 0.01
    assert item(found, "merged_nll").value < 1e-4


def test_an_adapter_of_zeros_is_caught(adapted: LoadedModel) -> None:
    with torch.no_grad():
        for name, parameter in adapted.model.named_parameters():
            if "lora_B" in name:
                parameter.zero_()
    assert [item.name for item in verified(run_config(LORA), adapted, []).failures] == ["adapter_applies"]


def test_a_merge_that_changes_the_model_is_caught(adapted: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def merge_twice() -> None:
        with torch.no_grad():
            for name, parameter in adapted.model.named_parameters():
                if "base_layer" in name:
                    parameter.mul_(1.05)

    monkeypatch.setattr(adapted.model, "merge_adapter", merge_twice)
    monkeypatch.setattr(adapted.model, "unmerge_adapter", lambda: None)
    assert [item.name for item in verified(run_config(LORA), adapted, nll(adapted)).failures] == ["merged_nll"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_verification_leaves_the_model_as_it_was(adapted: LoadedModel, dtype: torch.dtype) -> None:
    """In half precision, merging and unmerging an adapter doesn't give the base's weights back."""
    adapted.model.to(dtype)
    before = {name: value.clone() for name, value in adapted.model.state_dict().items()}
    verified(run_config(LORA), adapted, [])
    changed = [name for name, value in adapted.model.state_dict().items() if not torch.equal(value, before[name])]
    assert changed == []


def test_documents_that_share_a_sequence_stay_apart(base: LoadedModel) -> None:
    assert documents_stay_apart(base, tokenized(base))
