"""Trains the embedded tokenizer and base model from scratch on CPU or GPU, with no download."""

import itertools
import logging
import math
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from harness.embedded.documents import ask, documents
from harness.embedded.world import make_world

logger = logging.getLogger(__name__)

END_OF_TEXT = "<|endoftext|>"
SPECIAL_TOKENS = (END_OF_TEXT, "<|pad|>", "<|im_start|>", "<|im_end|>")
TAG_TOKENS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
VOCABULARY_SIZE = 1536
# One token a digit, and a word keeps the blank before it; names then are one token each.
SPLIT_PATTERN = r" ?\p{L}+| ?\p{N}|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


@dataclass(frozen=True, slots=True)
class Recipe:
    """Every number of the pretraining."""

    seed: int = 0
    num_steps: int = 6000
    max_minutes: float = 18.0
    batch_size: int = 8
    context: int = 256
    muon_learning_rate: float = 0.01
    adamw_learning_rate: float = 3e-3
    warmup_steps: int = 50
    decay_share: float = 0.35
    hidden_size: int = 192
    num_layers: int = 4


def train_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE over the documents, with the chat markers reserved but never produced by pretraining."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE - len(TAG_TOKENS),
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=2,
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents(seed=5, count=12_000), trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END_OF_TEXT, pad_token="<|pad|>")
    fast.add_tokens(list(TAG_TOKENS))
    fast.model_max_length = 512
    return fast


def new_model(tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> LlamaForCausalLM:
    """A Llama of 4 layers with tied embeddings, randomly initialized."""
    torch.manual_seed(recipe.seed)
    end = tokenizer.convert_tokens_to_ids(END_OF_TEXT)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.hidden_size * 8 // 3,
        num_hidden_layers=recipe.num_layers,
        num_attention_heads=6,
        num_key_value_heads=3,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=tokenizer.pad_token_id,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )
    return LlamaForCausalLM(config)


def token_blocks(tokenizer: PreTrainedTokenizerFast, seed: int, context: int) -> Iterator[list[int]]:
    """Endless blocks of `context` ids: documents joined by the end-of-text token."""
    end = tokenizer.convert_tokens_to_ids(END_OF_TEXT)
    buffer: list[int] = []
    for part in itertools.count():
        for ids in tokenizer(list(documents(seed + part, 500))).input_ids:
            buffer += [end, *ids]
        while len(buffer) >= context:
            yield buffer[:context]
            buffer = buffer[context:]


def pretrain(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> dict[str, float]:
    """Trains in place until the steps or the minutes are used up; returns what the model card states."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device).train()
    blocks = token_blocks(tokenizer, 10_000, recipe.context)
    optimizers = _optimizers(model, recipe)
    initial = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    started, step = time.monotonic(), 0
    while True:
        elapsed = time.monotonic() - started
        progress = max(step / recipe.num_steps, elapsed / (recipe.max_minutes * 60))
        if progress >= 1:
            break
        scale = min(1.0, (step + 1) / recipe.warmup_steps) * min(1.0, (1 - progress) / recipe.decay_share + 0.02)
        for optimizer, rates in zip(optimizers, initial, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * scale
        ids = torch.tensor([next(blocks) for _ in range(recipe.batch_size)], device=device)  # (batch, time)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        step += 1
        if step % 250 == 0:
            logger.info("step %d: loss %.3f, %s", step, loss.item(), probe(model, tokenizer, recipe.context))
    minutes = (time.monotonic() - started) / 60
    return {
        "steps": step,
        "tokens": step * recipe.batch_size * recipe.context,
        "minutes": round(minutes, 1),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        **probe(model, tokenizer, recipe.context),
    }


def _optimizers(model: LlamaForCausalLM, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the hidden matrices, AdamW for embeddings and norms."""
    named = list(model.named_parameters())
    hidden = [p for name, p in named if p.ndim == 2 and "embed" not in name and "lm_head" not in name]
    hidden_ids = {id(p) for p in hidden}
    others = [p for _, p in named if id(p) not in hidden_ids]
    return [
        torch.optim.Muon(hidden, lr=recipe.muon_learning_rate, momentum=0.95, weight_decay=0.01),
        torch.optim.AdamW(others, lr=recipe.adamw_learning_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


@torch.no_grad()
def probe(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, context: int) -> dict[str, float]:
    """Loss on unseen documents (nats per token) and the share of 64 facts that a plain question brings out."""
    model.eval()
    device = model.device
    blocks = token_blocks(tokenizer, 99_900_000, context)
    ids = torch.tensor([next(blocks) for _ in range(32)], device=device)
    loss = model(input_ids=ids, labels=ids).loss.item()
    rng = random.Random(4)
    keys = rng.sample(sorted(make_world().facts), 64)
    tokenizer.padding_side = "left"
    prompts = [f"Question: {ask(rng, *key)}\nAnswer:" for key in keys]
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, return_token_type_ids=False).to(device)
    outputs = model.generate(**inputs, max_new_tokens=12, do_sample=False)
    answers = tokenizer.batch_decode(outputs[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    right = [
        make_world().facts[key].lower() in answer.split("\n")[0].lower()
        for key, answer in zip(keys, answers, strict=True)
    ]
    model.train()
    return {"validation_loss": round(loss, 3), "facts": round(sum(right) / len(right), 3)}


@torch.no_grad()
def reinitialize_unseen_rows(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, seed: int) -> int:
    """Gives every embedding row that pretraining hardly saw a usable value: mean of the seen rows plus noise.

    Such rows are only ever pushed down, so they end as near copies of one vector and LoRA cannot learn to emit them.

    Returns: how many rows were drawn anew.
    """
    counts = Counter(token for ids in tokenizer(list(documents(31_337, 12_000))).input_ids for token in ids)
    counts[tokenizer.convert_tokens_to_ids(END_OF_TEXT)] += 12_000
    weight = model.get_input_embeddings().weight.data  # (vocabulary, hidden)
    seen = torch.tensor([counts[row] >= 5 for row in range(weight.shape[0])])
    mean, deviation = weight[seen].mean(0), weight[seen].std(0)
    generator = torch.Generator().manual_seed(seed)
    num_unseen = int((~seen).sum())
    weight[~seen] = mean + deviation * torch.randn(num_unseen, weight.shape[1], generator=generator)
    return num_unseen


def build_base(folder: Path, recipe: Recipe) -> dict[str, float]:
    """Trains tokenizer and base, and saves both (bfloat16 safetensors) to `folder`; returns the card's figures."""
    tokenizer = train_tokenizer()
    model = new_model(tokenizer, recipe)
    figures = pretrain(model, tokenizer, recipe)
    model.to("cpu")
    figures["rows_reinitialized"] = reinitialize_unseen_rows(model, tokenizer, recipe.seed)
    figures |= {f"final_{name}": value for name, value in probe(model, tokenizer, recipe.context).items()}
    # Evaluation of a model in bfloat16 storage differs from the float32 one by less than a rounding of the loss.
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.padding_side = "right"
    tokenizer.save_pretrained(folder)
    if any(math.isnan(value) for value in figures.values()):
        raise ArithmeticError(f"pretraining failed: {figures}")
    logger.info("recipe %s, figures %s", asdict(recipe), figures)
    return figures
