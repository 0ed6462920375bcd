"""Checks of a trained checkpoint as a user would load it: is it what was trained?"""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from harness.config import RunConfig
from harness.data.tokenize import Tokenized, prompt_ids
from harness.errors import TemplateError
from harness.models.generate import row_losses
from harness.models.load import LoadedModel
from harness.records import Example
from harness.verification import Verification, VerifiedItem

if TYPE_CHECKING:
    from peft import PeftModel

NUM_ROWS = 8
# Relative to the NLL; a half-precision forward pass depends on how rows are batched.
TOLERANCE, HALF_TOLERANCE = 1e-4, 3e-2
SAME_LOGITS = 1e-6
PACKED_TOKENS = 64


def verify_saved(
    config: RunConfig,
    loaded: LoadedModel,
    rows: Sequence[Tokenized],
    trained_nll: Sequence[float],
    prompts: Sequence[Example],
) -> Verification:
    """Compares a checkpoint that was loaded again with what the trainer measured last.

    Args:
        config: of the cell.
        loaded: the checkpoint.
        rows: training rows.
        trained_nll: nats per supervised token of these rows as the trainer had them; empty where it isn't known.
        prompts: examples, to look at the beginning of their prompts.
    """
    items = [*_same_loss(loaded, rows, trained_nll), *_tokens(loaded), *_one_bos(loaded, prompts)]
    if config.adapter is not None:
        items += _adapter(config, loaded, rows)
    return Verification(items=tuple(items))


def _nll(loaded: LoadedModel, rows: Sequence[Tokenized]) -> list[float]:
    losses = row_losses(loaded.model, rows, pad_token_id=loaded.tokenizer.pad_token_id, batch_size=NUM_ROWS)
    return [loss.nll for loss in losses]


def _tolerance(loaded: LoadedModel) -> float:
    is_full = next(loaded.model.parameters()).dtype == torch.float32 and loaded.model.device.type == "cpu"
    return TOLERANCE if is_full else HALF_TOLERANCE


def _apart(first: Sequence[float], second: Sequence[float]) -> float:
    """Largest relative difference of two lists of NLLs."""
    return max((abs(a - b) / max(abs(a), 1.0) for a, b in zip(first, second, strict=True)), default=0.0)


def _same_loss(loaded: LoadedModel, rows: Sequence[Tokenized], trained: Sequence[float]) -> Iterator[VerifiedItem]:
    if not trained or not all(math.isfinite(value) for value in trained):
        return
    apart, allowed = _apart(trained, _nll(loaded, rows[: len(trained)])), _tolerance(loaded)
    yield VerifiedItem(
        name="reloaded_nll",
        passed=apart <= allowed,
        value=apart,
        tolerance=allowed,
        message=f"The saved model's NLL on {len(trained)} training rows differs from the trainer's by {apart:.1e}.",
    )


def _tokens(loaded: LoadedModel) -> Iterator[VerifiedItem]:
    """The generation config that is saved with the model, or that a user gets with the base."""
    saved = loaded.model.generation_config
    ends = saved.eos_token_id if isinstance(saved.eos_token_id, list) else [saved.eos_token_id]
    stops = loaded.tokens.end_of_turn_id in ends
    yield VerifiedItem(
        name="stop_token", passed=stops, message=f"Generation stops at {loaded.tokenizer.convert_ids_to_tokens(loaded.tokens.end_of_turn_id)}."
        if stops else f"generation_config.eos_token_id is {ends}, without the token that ends a turn.",
    )  # fmt: skip
    pads = saved.pad_token_id is not None and saved.pad_token_id not in loaded.tokens.stop_ids
    yield VerifiedItem(
        name="pad_token",
        passed=pads,
        message="Padding is a token of its own." if pads else f"The pad token {saved.pad_token_id} ends a turn.",
    )


def _one_bos(loaded: LoadedModel, prompts: Sequence[Example]) -> Iterator[VerifiedItem]:
    bos = loaded.tokenizer.bos_token_id
    if bos is None or not prompts:
        return
    try:
        asked = [prompt_ids(loaded.tokenizer, e.messages, e.text, e.inputs) for e in prompts[:NUM_ROWS]]
    except TemplateError:
        return
    doubled = sum(ids[:2] == [bos, bos] for ids in asked)
    yield VerifiedItem(
        name="one_bos",
        passed=not doubled,
        message=f"{doubled} of {len(asked)} prompts begin with {loaded.tokenizer.bos_token} twice.",
    )


def _adapter(config: RunConfig, loaded: LoadedModel, rows: Sequence[Tokenized]) -> Iterator[VerifiedItem]:
    model: PeftModel = loaded.model
    row = rows[0]
    ids = torch.tensor([row.input_ids], device=loaded.model.device)  # (1, time)
    with torch.no_grad():
        adapted = model(input_ids=ids).logits.float()
        with model.disable_adapter():
            bare = model(input_ids=ids).logits.float()
    apart = float((adapted - bare).abs().max())
    yield VerifiedItem(
        name="adapter_applies",
        passed=apart > SAME_LOGITS,
        value=apart,
        tolerance=SAME_LOGITS,
        message=f"With the adapter, logits change by up to {apart:.2g}.",
    )
    if config.quantization is not None:
        return
    before = _nll(loaded, rows)
    merged = _merged_nll(loaded, rows)
    difference, allowed = _apart(before, merged), max(1e-3, _tolerance(loaded))
    yield VerifiedItem(
        name="merged_nll",
        passed=difference <= allowed,
        value=difference,
        tolerance=allowed,
        message=f"Merged into the base, the adapter gives an NLL that differs by {difference:.1e}.",
    )


def _merged_nll(loaded: LoadedModel, rows: Sequence[Tokenized]) -> list[float]:
    """NLL with the adapter merged; afterwards the model is as it was, to the bit.

    Unmerging alone subtracts what was added and leaves rounding errors behind, and this model is evaluated next.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module.get_base_layer() for module in loaded.model.modules() if isinstance(module, BaseTunerLayer)]
    # On the CPU: a second copy of a large base may not fit on its GPU.
    kept = [(weight, weight.detach().to("cpu", copy=True)) for layer in layers for weight in layer.parameters()]
    model: PeftModel = loaded.model
    model.merge_adapter()
    merged = _nll(loaded, rows)
    model.unmerge_adapter()
    with torch.no_grad():
        for weight, before in kept:
            weight.copy_(before)
    return merged


def documents_stay_apart(loaded: LoadedModel, rows: Sequence[Tokenized]) -> bool:
    """Whether a document that shares a sequence with another one, told apart by position ids alone, is read as if alone.

    Measured on the model itself, because it depends on its architecture and its attention implementation: logits may
    differ by a tenth of what they differ by without position ids.
    """
    first, second = (torch.tensor(row.input_ids[:PACKED_TOKENS], device=loaded.model.device) for row in rows[:2])
    joined = torch.cat([first, second])[None]  # (1, time)
    positions = torch.cat([torch.arange(len(first)), torch.arange(len(second))])[None].to(loaded.model.device)
    was_training = loaded.model.training
    loaded.model.eval()
    with torch.no_grad():
        alone = loaded.model(input_ids=second[None], use_cache=False).logits.float()
        packed = loaded.model(input_ids=joined, position_ids=positions, use_cache=False).logits[:, len(first) :].float()
        mixed = loaded.model(input_ids=joined, use_cache=False).logits[:, len(first) :].float()
    loaded.model.train(was_training)
    return float((packed - alone).abs().max()) <= float((mixed - alone).abs().max()) / 10
