"""Token ids and loss mask of a conversation, the same for training, for probes and for evaluation."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from harness.data.formats import Conversation
from harness.errors import TemplateError
from harness.records import Message

IGNORED = -100


class Tokenizer(Protocol):
    """What is used of a transformers tokenizer."""

    chat_template: Any
    eos_token_id: Any

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any:
        """Renders turns."""

    def __call__(self, text: str, **options: Any) -> Any:
        """Tokenizes text."""


class Tokenized(NamedTuple):
    """One row as the model sees it."""

    id: str
    input_ids: list[int]
    labels: list[int]
    """The same ids where they are supervised, else -100."""
    is_truncated: bool

    @property
    def num_supervised(self) -> int:
        """Tokens that the loss looks at; the first position predicts nothing."""
        return sum(label != IGNORED for label in self.labels[1:])


def prompt_ids(tokenizer: Tokenizer, messages: Sequence[Message], text: str = "") -> list[int]:
    """Ids of a prompt that asks for the next assistant turn, or of plain text where there are no turns."""
    if not messages:
        return list(tokenizer(text)["input_ids"])
    return _render(tokenizer, messages, add_generation_prompt=True)["input_ids"]


def _render(tokenizer: Tokenizer, messages: Sequence[Message], **options: Any) -> dict[str, list[int]]:
    turns = [{"role": turn.role, "content": turn.content} for turn in messages]
    try:
        return dict(tokenizer.apply_chat_template(turns, tokenize=True, return_dict=True, **options))
    except Exception as error:
        raise TemplateError(
            f"the chat template can't render a conversation with the roles {', '.join(t.role for t in messages)}: {error}"
        ) from error


def tokenize(
    row: Conversation, tokenizer: Tokenizer, *, end_of_turn_id: int, assistant_only: bool, max_length: int | None
) -> Tokenized:
    """Ids and labels of one row.

    Args:
        row: the conversation.
        tokenizer: with the chat template already set.
        end_of_turn_id: the token that ends an assistant turn.
        assistant_only: supervise answers alone; False: every token.
        max_length: keep so many tokens from the start.

    Raises: TemplateError: the template changes earlier turns when later ones follow, so no mask can be derived.
    """
    if tokenizer.chat_template is not None:
        row = row.as_turns()
    if row.is_plain:
        prompt = prompt_ids(tokenizer, (), row.prompt)
        completion = [*tokenizer(row.completion, add_special_tokens=False)["input_ids"], end_of_turn_id]
        ids, mask = prompt + completion, [0] * len(prompt) + [1] * len(completion)
    elif "{% generation" in tokenizer.chat_template or "{%- generation" in tokenizer.chat_template:
        rendered = _render(tokenizer, row.messages, return_assistant_tokens_mask=True)
        ids, mask = rendered["input_ids"], rendered["assistant_masks"]
    else:
        ids, mask = _masked_by_prefixes(row, tokenizer, end_of_turn_id)
    labels = [
        token if supervised or not assistant_only else IGNORED for token, supervised in zip(ids, mask, strict=True)
    ]
    is_truncated = max_length is not None and len(ids) > max_length
    return Tokenized(row.id, ids[:max_length], labels[:max_length], is_truncated)


def _masked_by_prefixes(row: Conversation, tokenizer: Tokenizer, end_of_turn_id: int) -> tuple[list[int], list[int]]:
    """Ids and mask for a template without generation markers, by rendering the conversation up to every answer."""
    ids = _render(tokenizer, row.messages)["input_ids"]
    mask = [0] * len(ids)
    for position, turn in enumerate(row.messages):
        if turn.role != "assistant":
            continue
        start = len(prompt_ids(tokenizer, row.messages[:position]))
        upto = _render(tokenizer, row.messages[: position + 1])["input_ids"]
        if ids[:start] != prompt_ids(tokenizer, row.messages[:position]) or ids[: len(upto)] != upto:
            raise TemplateError(
                f"row {row.id}: the chat template renders earlier turns differently once later ones follow, so the answers "
                "can't be told apart; use a template with {% generation %} markers"
            )
        stop = len(upto)
        # What follows the end of the turn (a line break, say) belongs to the next header.
        while stop > start and upto[stop - 1] != end_of_turn_id:
            stop -= 1
        stop = stop if stop > start else len(upto)
        mask[start:stop] = [1] * (stop - start)
    return ids, mask


def tokenized_reference(
    tokenizer: Tokenizer, prompt: Sequence[int], messages: Sequence[Message], reference: str, end_of_turn_id: int
) -> Tokenized:
    """A prompt with its reference answer; only the tokens of the answer itself are supervised, not its end token."""
    if messages:
        ids = _render(tokenizer, (*messages, Message(role="assistant", content=reference)))["input_ids"]
        if ids[: len(prompt)] != list(prompt):
            raise TemplateError(
                "the chat template renders a prompt differently once its answer follows; the answer can't be scored"
            )
    else:
        ids = [*prompt, *tokenizer(reference, add_special_tokens=False)["input_ids"]]
    answer = ids[len(prompt) :]
    if end_of_turn_id in answer:
        answer = answer[: answer.index(end_of_turn_id)]
    return Tokenized("", [*prompt, *answer], [IGNORED] * len(prompt) + answer, is_truncated=False)


def as_columns(rows: Sequence[Tokenized]) -> Mapping[str, list[list[int]]]:
    """The columns that TRL takes as an already prepared dataset."""
    return {"input_ids": [row.input_ids for row in rows], "labels": [row.labels for row in rows]}
