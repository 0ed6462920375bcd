"""A loaded model to talk to: the prompts and the decoding of the evaluation, one answer at a time, told as it comes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from harness.config import ModelConfig
from harness.data.tokenize import prompt_ids
from harness.errors import ModelError
from harness.models.generate import generate
from harness.models.load import LoadedModel, choose_device, model_source, tokenizer_at
from harness.models.respondent import Sampling
from harness.models.templates import plan_tokens
from harness.models.trusted import check_weights
from harness.records import Message, StopReason
from harness.scoring.thinking import opened_by

if TYPE_CHECKING:
    import torch

UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""What the bytes of a character decode to until the last of them is there."""
Show = Callable[[str], None]
"""Is told every piece of an answer as it comes."""


class Prompt(NamedTuple):
    """What a model is given."""

    ids: list[int]
    text: str
    """Special tokens visible."""


class Answer(NamedTuple):
    """What a model said."""

    text: str
    """Without the token that ended it; with a thinking block that the prompt opened."""
    ended: StopReason | Literal["interrupted"]
    num_tokens: int
    prompt: Prompt


class ChatModel:
    """A model of this process that is talked to."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded

    @property
    def has_template(self) -> bool:
        """Whether it knows turns; else every prompt is text on its own."""
        return self._loaded.tokenizer.chat_template is not None

    @property
    def context(self) -> int:
        """Longest sequence that it takes, in tokens."""
        return self._loaded.context

    def prompt(self, turns: Sequence[Message]) -> Prompt:
        """What these turns become; of plain text the last one alone.

        Raises: TemplateError: the template refuses them.
        """
        tokenizer = self._loaded.tokenizer
        ids = prompt_ids(tokenizer, turns if self.has_template else (), turns[-1].content)
        return Prompt(ids, str(tokenizer.decode(ids)))

    def answer(self, turns: Sequence[Message], sampling: Sampling, show: Show) -> Answer:
        """The answer, or as much of it as was there at Ctrl-C; the context's end is an end as `max_new_tokens` is.

        Raises: TemplateError: the template refuses the turns.
        """
        prompt = self.prompt(turns)
        room = self.context - len(prompt.ids)
        if room < 1:
            return Answer("", "prompt_too_long", 0, prompt)
        opening = opened_by(prompt.text)
        stream = _Stream(self._loaded, show)
        limited = sampling._replace(max_new_tokens=min(sampling.max_new_tokens, room))
        try:
            show(opening)
            (completion,) = generate(self._loaded, [prompt.ids], limited, batch_size=1, streamer=stream)
        except KeyboardInterrupt:
            return Answer(opening + stream.finish(stream.ids), "interrupted", len(stream.ids), prompt)
        text = stream.finish(completion.token_ids)
        return Answer(opening + text, completion.stop_reason, len(completion.token_ids), prompt)


class _Stream:
    """A streamer of transformers that decodes tokens as they come; the token that ends the answer isn't shown."""

    def __init__(self, loaded: LoadedModel, show: Show) -> None:
        self._tokenizer = loaded.tokenizer
        self._stops = frozenset(loaded.stop_ids)
        self._show = show
        self._shown = ""
        self._is_prompt = True
        self.ids: list[int] = []

    def put(self, value: "torch.Tensor") -> None:
        """Takes the prompt first, then one token at a time."""
        if self._is_prompt:
            self._is_prompt = False
            return
        self.ids += [token for token in value.flatten().tolist() if token not in self._stops]
        text = str(self._tokenizer.decode(self.ids))
        if not text.endswith(UNFINISHED):
            self._show_until(text)

    def end(self) -> None:
        """Nothing is held back that `finish` doesn't tell."""

    def finish(self, token_ids: Sequence[int]) -> str:
        """The whole answer, after what was not told of it yet."""
        text = str(self._tokenizer.decode(list(token_ids)))
        self._show_until(text)
        return text

    def _show_until(self, text: str) -> None:
        if len(text) > len(self._shown):
            self._show(text[len(self._shown) :])
            self._shown = text


def load_model(name: str) -> LoadedModel:
    """A model (or an adapter with its base) as its folder or its repository has it, with its own template.

    Raises: HarnessError: it can't be loaded.
    """
    from transformers import AutoModelForCausalLM

    tokenizer = tokenizer_at(name)
    tokens = plan_tokens(tokenizer)
    folder = Path(name).expanduser()
    source = str(folder) if folder.is_dir() else model_source(ModelConfig(name=name))
    check_weights(source, ModelConfig(name=name))
    try:
        model = AutoModelForCausalLM.from_pretrained(source, dtype="auto", use_safetensors=True)
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"model {name!r} can't be loaded: {reason.rstrip('.')}; check its files and that of its base"
        ) from error
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        raise ModelError(f"model {name!r}: its chat template needs tokens that the model lacks; train it first")
    model.to(choose_device())
    return LoadedModel(model, tokenizer, tokens)
