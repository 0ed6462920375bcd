"""Batched generation and per-example NLL."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
from transformers import GenerationConfig

from harness.data.tokenize import IGNORED, Tokenized
from harness.errors import ModelError
from harness.models.load import LoadedModel
from harness.models.out_of_memory import clear_memory, is_out_of_memory
from harness.models.respondent import RowLoss, Sampling
from harness.records import StopReason
from harness.resources import digest

if TYPE_CHECKING:
    from transformers.generation.streamers import BaseStreamer

logger = logging.getLogger(__name__)

# On a CPU larger batches bring little; on a GPU the memory decides.
CPU_BATCH_SIZE, MAX_BATCH_SIZE = 64, 256
MEMORY_SHARE = 0.8
T = TypeVar("T")


class Completion(NamedTuple):
    """What a model wrote after a prompt."""

    token_ids: tuple[int, ...]
    """Without the token that ended it."""
    stop_reason: StopReason
    seconds: float = 0.0
    """Of its batch, divided by the batch's size."""


def _batches(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Indices in batches of similar length, longest first, so that running out of memory shows at once."""
    order = sorted(range(len(lengths)), key=lambda index: lengths[index], reverse=True)
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def _halving(work: Callable[[Sequence[int]], list[T]], indices: Sequence[int]) -> list[T]:
    """The work on all indices, in halves where memory doesn't hold them at once.

    Raises: ModelError: it doesn't hold a single one.
    """
    try:
        return work(indices)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        if len(indices) == 1:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ModelError(
                f"out of memory with a single row ({reason}); lower max_new_tokens of the suite or training.max_length, or quantize "
                "the base"
            ) from None
    # Outside the handler: the exception holds on to the tensors that filled the memory.
    clear_memory()
    middle = len(indices) // 2
    logger.warning("out of memory with a batch of %d; trying %d", len(indices), middle)
    return _halving(work, indices[:middle]) + _halving(work, indices[middle:])


@torch.inference_mode()
def generate(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    batch_size: int | None = None,
    streamer: "BaseStreamer | None" = None,
) -> list[Completion]:
    """Completions, `sampling.num_samples` a prompt one after the other, in the order of the prompts.

    A prompt that leaves no room for `max_new_tokens` in the model's context is not asked: its stop reason says so. The
    same list of prompts with the same seed gives the same samples. With a batch size of 1, a streamer is told of every
    token as it comes.
    """
    room = loaded.context - sampling.max_new_tokens
    completions = [Completion((), "prompt_too_long")] * (len(prompts) * sampling.num_samples)
    fitting = [index for index, prompt in enumerate(prompts) if len(prompt) <= room]
    if len(fitting) < len(prompts):
        logger.warning("%d of %d prompts leave no room for %d new tokens in a context of %d and are unscored",
                       len(prompts) - len(fitting), len(prompts), sampling.max_new_tokens, loaded.context)  # fmt: skip
    if not fitting:
        return completions
    loaded.model.eval()
    places = [index * sampling.num_samples + sample for index in fitting for sample in range(sampling.num_samples)]
    asked = [prompts[place // sampling.num_samples] for place in places]
    size = batch_size or _batch_size(loaded, max(asked, key=len), sampling)
    devices = [loaded.model.device] if loaded.model.device.type == "cuda" else []
    with torch.random.fork_rng(devices), plain_decoding(loaded):
        for batch in _batches([len(prompt) for prompt in asked], size):
            # Other batches, which may be known already, must not change the samples of this one.
            torch.manual_seed(int(digest([sampling.seed, [list(asked[index]) for index in batch]]), 16) % (1 << 31))
            started = time.monotonic()
            rows = _halving(
                lambda part: _generate_batch(loaded, [asked[index] for index in part], sampling, streamer), batch
            )
            seconds = (time.monotonic() - started) / len(batch)
            for index, row in zip(batch, rows, strict=True):
                completions[places[index]] = _cut(row, loaded, seconds)
    return completions


@contextmanager
def plain_decoding(loaded: LoadedModel) -> Iterator[None]:
    """Leaves a model's own settings out, such as a repetition penalty: transformers applies them wherever none is given.

    They differ between a base, its instruct version and a checkpoint, and would be part of the ruler. What ends and pads
    a generation stays.
    """
    holders: list[Any] = [loaded.model]
    if hasattr(loaded.model, "get_base_model"):
        # PEFT hands its own on to the base with every call.
        holders.append(loaded.model.get_base_model())
    kept = [holder.generation_config for holder in holders]
    plain = GenerationConfig(eos_token_id=loaded.stop_ids, pad_token_id=loaded.tokenizer.pad_token_id)
    try:
        for holder in holders:
            holder.generation_config = plain
        yield
    finally:
        for holder, own in zip(holders, kept, strict=True):
            holder.generation_config = own


def _batch_size(loaded: LoadedModel, longest: Sequence[int], sampling: Sampling) -> int:
    """How many prompts a GPU can answer at once, from what one forward pass over the longest one takes."""
    if loaded.model.device.type != "cuda":
        return CPU_BATCH_SIZE
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    _generate_batch(loaded, [longest], sampling._replace(max_new_tokens=1))
    used = max(torch.cuda.max_memory_allocated() - before, 1)
    # The cache of keys and values grows with every new token; the prompt's pass is the peak otherwise.
    per_row = used * (len(longest) + sampling.max_new_tokens) / max(len(longest), 1)
    free, _ = torch.cuda.mem_get_info()
    return max(1, min(MAX_BATCH_SIZE, int(MEMORY_SHARE * free / per_row)))


def _generate_batch(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    streamer: "BaseStreamer | None" = None,
) -> list[list[int]]:
    width = max(len(prompt) for prompt in prompts)
    pad = loaded.tokenizer.pad_token_id
    device = loaded.model.device
    # Left padding: the answer must follow the prompt's last token directly.
    ids = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    is_greedy = sampling.temperature == 0
    output = loaded.model.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=sampling.max_new_tokens,
        do_sample=not is_greedy,
        temperature=None if is_greedy else sampling.temperature,
        top_p=None if is_greedy else sampling.top_p,
        # transformers' own default cuts at 50.
        top_k=None if is_greedy else 0,
        eos_token_id=loaded.stop_ids,
        pad_token_id=pad,
        streamer=streamer,
    )  # (batch, width + new)
    return [row[width:] for row in output.tolist()]


def _cut(row: Sequence[int], loaded: LoadedModel, seconds: float) -> Completion:
    """The tokens before the first stop token."""
    stops = set(loaded.stop_ids)
    for position, token in enumerate(row):
        if token in stops:
            ended = token in loaded.tokens.stop_ids
            return Completion(tuple(row[:position]), "end_of_turn" if ended else "end_of_text", seconds)
    return Completion(tuple(row), "length", seconds)


@torch.no_grad()
def row_losses(
    model: torch.nn.Module, rows: Sequence[Tokenized], *, pad_token_id: int, batch_size: int
) -> list[RowLoss]:
    """NLL of every row, in eval mode, in the order of the rows.

    Batching by length pads little; right padding is masked, so the batch a row falls into doesn't matter.
    """
    was_training = model.training
    model.eval()
    losses: list[RowLoss | None] = [None] * len(rows)
    for batch in _batches([len(row.input_ids) for row in rows], batch_size):
        done = _halving(lambda part: _batch_losses(model, [rows[index] for index in part], pad_token_id), batch)
        for index, loss in zip(batch, done, strict=True):
            losses[index] = loss
    model.train(was_training)
    return [loss for loss in losses if loss is not None]


def _batch_losses(model: torch.nn.Module, rows: Sequence[Tokenized], pad_token_id: int) -> list[RowLoss]:
    device = next(model.parameters()).device
    width = max(len(row.input_ids) for row in rows)
    ids = torch.full((len(rows), width), pad_token_id)
    labels = torch.full((len(rows), width), IGNORED)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for position, row in enumerate(rows):
        length = len(row.input_ids)
        ids[position, :length] = torch.tensor(row.input_ids)
        labels[position, :length] = torch.tensor(row.labels)
        mask[position, :length] = 1
    logits = model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits[:, :-1]  # (batch, time, vocab)
    targets = labels[:, 1:].to(device)
    losses = []
    for position in range(len(rows)):
        supervised = targets[position] != IGNORED
        count = int(supervised.sum())
        # Row by row and only where it counts: float32 logits of a whole batch can be larger than the model.
        chosen, wanted = logits[position][supervised].float(), targets[position][supervised]
        total = float(torch.nn.functional.cross_entropy(chosen, wanted, reduction="sum")) if count else float("nan")
        right = int((chosen.argmax(-1) == wanted).sum())
        losses.append(RowLoss(total / count if count else float("nan"), count, right))
    return losses
