"""Whether a model answers as it did when it was evaluated."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from harness.models.generate import generate
from harness.models.load import LoadedModel, choose_device
from harness.models.respondent import Sampling
from harness.models.templates import plan_tokens
from harness.records import Generation

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Sameness(NamedTuple):
    """How many answers were compared, and how many are the same, word for word."""

    asked: int
    same: int


def same_answers(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", recorded: Sequence[Generation], max_new_tokens: int
) -> Sameness:
    """Asks a model again, greedily.

    A prompt that its text doesn't give back token for token is left out.
    """
    model.to(choose_device())
    loaded = LoadedModel(model, tokenizer, plan_tokens(tokenizer))
    prompts = [list(tokenizer(given.prompt, add_special_tokens=False)["input_ids"]) for given in recorded]
    pairs = [(ids, given) for ids, given in zip(prompts, recorded, strict=True) if len(ids) == given.prompt_tokens]
    answers = generate(loaded, [ids for ids, _ in pairs], Sampling(max_new_tokens))
    texts = [str(tokenizer.decode(list(answer.token_ids))) for answer in answers]
    return Sameness(len(pairs), sum(text == given.text for text, (_, given) in zip(texts, pairs, strict=True)))
