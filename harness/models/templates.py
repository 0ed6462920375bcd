"""Chat templates: which one a cell uses, and the tokens that it needs."""

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.config import TemplateConfig
from harness.errors import TemplateError
from harness.records import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

BUILT_IN = ("chatml", "llama3")
CONTROL_TOKEN = re.compile(r"<\|[a-z_]+\|>")
PAD_CANDIDATES = ("<|pad|>", "<pad>", "[PAD]", "<|padding|>", "<|finetune_right_pad_id|>", "<|endoftext|>")


@dataclass(frozen=True, slots=True)
class TokenPlan:
    """Special tokens of a tokenizer with its template."""

    end_of_turn_id: int
    control_tokens: tuple[str, ...]
    """Tokens that have no place inside an answer."""
    num_added: int
    """Tokens that the tokenizer lacked, for which the embeddings must grow."""


def template_text(config: TemplateConfig) -> str | None:
    """The Jinja source that a config names; None where it is the model's own or none.

    Raises: TemplateError: there is no such template.
    """
    if config.name in ("auto", "model", "none"):
        return None
    path = (
        Path(__file__).parent.parent / "templates" / f"{config.name}.jinja"
        if config.name in BUILT_IN
        else Path(config.name)
    )
    if not path.is_file() or path.suffix not in (".jinja", ".j2"):
        raise TemplateError(
            f"template.name {config.name!r} is not auto, model, none, {', '.join(BUILT_IN)} or a .jinja file that exists"
        )
    return path.read_text(encoding="utf-8").rstrip("\n")


def apply_template(tokenizer: "PreTrainedTokenizerBase", config: TemplateConfig, *, plain_rows: bool) -> TokenPlan:
    """Sets the template and every special token on the tokenizer.

    Args:
        tokenizer: changed in place.
        config: which template.
        plain_rows: the data are prompt/completion text, so that no template is a good answer.

    Raises: TemplateError: conversations are to be trained, but there is no template.
    """
    text = template_text(config)
    if text is not None:
        tokenizer.chat_template = text
    if config.name == "model" and not tokenizer.chat_template:
        raise TemplateError("template.name is model, but the model has no chat template; set template.name to chatml")
    if config.name == "none" or (config.name == "auto" and plain_rows):
        tokenizer.chat_template = None
    if tokenizer.chat_template is None and not plain_rows:
        raise TemplateError(
            "the data are conversations, but there is no chat template; set template.name to chatml or to a .jinja file"
        )
    needed = dict.fromkeys(CONTROL_TOKEN.findall(str(text or "")))
    missing = [token for token in needed if token not in tokenizer.get_vocab()]
    num_added = tokenizer.add_special_tokens({"additional_special_tokens": missing}) if missing else 0
    if num_added:
        logger.info("%d tokens added for the template: %s", num_added, " ".join(missing))
    try:
        end = end_of_turn_id(tokenizer)
    except TemplateError:
        raise
    except Exception as error:  # jinja2 raises its own errors for a broken template
        raise TemplateError(f"the chat template {config.name!r} can't be rendered: {error}; mend it") from error
    num_added += _choose_pad(tokenizer, end)
    # What a user loads must stop where the harness stopped it.
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
    special = {token for token in tokenizer.all_special_tokens if token} | set(needed)
    return TokenPlan(end, tuple(sorted(special - {tokenizer.unk_token})), num_added)


def end_of_turn_id(tokenizer: "PreTrainedTokenizerBase") -> int:
    """The token that ends an assistant turn: the first control token after the answer in a rendered conversation.

    Raises: TemplateError: nothing ends the turn.
    """
    if tokenizer.chat_template is None:
        if tokenizer.eos_token_id is None:
            raise TemplateError("the tokenizer has no eos token, so a completion can't be ended; choose a template")
        return int(tokenizer.eos_token_id)
    mark = "answer"
    turns = [
        Message(role="user", content="question").model_dump(),
        Message(role="assistant", content=mark).model_dump(),
    ]
    rendered = str(tokenizer.apply_chat_template(turns, tokenize=False))
    tail = rendered[rendered.rindex(mark) + len(mark) :]
    known = set(tokenizer.all_special_ids) | set(tokenizer.get_added_vocab().values())
    for token in tokenizer(tail, add_special_tokens=False)["input_ids"]:
        if token in known:
            return int(token)
    raise TemplateError(
        "no special token ends an assistant turn in the chat template, so the model can't learn to stop; add one"
    )


def _choose_pad(tokenizer: "PreTrainedTokenizerBase", end_of_turn: int) -> int:
    """Pads with a token that never ends a turn: padding that equals it hides the end of turn from the loss.

    Returns: how many tokens were added.
    """
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id != end_of_turn:
        return 0
    vocabulary = tokenizer.get_vocab()
    candidates = [*PAD_CANDIDATES, tokenizer.unk_token, tokenizer.eos_token]
    usable = [token for token in candidates if token in vocabulary and vocabulary[token] != end_of_turn]
    if usable:
        tokenizer.pad_token = usable[0]
        return 0
    return int(tokenizer.add_special_tokens({"pad_token": PAD_CANDIDATES[0]}))
