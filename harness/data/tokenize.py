"""Token ids and loss mask of a conversation, the same for training, for probes and for evaluation."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from harness.data.formats import Conversation
from harness.data.masks import Grammar, Render, mask_answers
from harness.errors import TemplateError
from harness.records import Message, TemplateInputs

IGNORED = -100
NO_INPUTS = TemplateInputs()
MaskSource = Literal["markers", "training_template", "derived", "refused", "plain"]


class Tokenizer(Protocol):
    """What is used of a transformers tokenizer."""

    chat_template: Any
    eos_token_id: Any
    is_fast: bool

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any:
        """Renders turns."""

    def __call__(self, text: str, **options: Any) -> Any:
        """Tokenizes text."""

    def decode(self, token_ids: Any, **options: Any) -> Any:
        """Text of tokens."""


@dataclass(frozen=True, slots=True)
class TokenPlan:
    """How rows become tokens with one tokenizer and template."""

    stop_ids: tuple[int, ...]
    """All tokens that end an assistant's turn, the usual one first."""
    control_tokens: tuple[str, ...]
    """Tokens that have no place inside an answer."""
    num_added: int
    """Tokens that the tokenizer lacked, for which the embeddings must grow."""
    mask: MaskSource = "plain"
    """Where the loss mask comes from; plain: no template, the completion is what is learned."""
    grammar: Grammar | None = None
    """None where there is no template."""
    training_template: str | None = None
    """A template that renders the same with generation markers, used in training alone."""
    notes: tuple[str, ...] = ()
    """What was mended, one sentence each."""

    @property
    def end_of_turn_id(self) -> int:
        """The token that usually ends an assistant's turn."""
        return self.stop_ids[0]


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


def renderer(tokenizer: Tokenizer, template: str | None = None) -> Render:
    """Renders turns as text through the tokenizer's template, or through another one."""

    def render(turns: Sequence[dict[str, Any]], *, add_generation_prompt: bool = False, **options: Any) -> str:
        chosen = {"chat_template": template} if template is not None else {}
        try:
            return str(
                tokenizer.apply_chat_template(
                    list(turns), tokenize=False, add_generation_prompt=add_generation_prompt, **chosen, **options
                )
            )
        except Exception as error:
            raise TemplateError(_refusal(turns, error)) from error

    return render


def _refusal(turns: Sequence[Mapping[str, Any]], error: Exception) -> str:
    roles = ", ".join(str(turn["role"]) for turn in turns)
    reason = str(error).strip() or type(error).__name__
    return f"the chat template can't render a conversation with the roles {roles}: {reason}"


def prompt_ids(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    text: str = "",
    inputs: TemplateInputs = NO_INPUTS,
    *,
    prefill: str = "",
) -> list[int]:
    """Ids of a prompt that asks for the next assistant turn, or of plain text where there are no turns.

    Args:
        tokenizer: with its template.
        messages: the turns so far.
        text: asked where there are none.
        inputs: what the template gets beside the turns.
        prefill: beginning of the answer, to be continued.
    """
    if not messages:
        # Text that begins with nothing still needs one token to predict from.
        return list(tokenizer(text + prefill)["input_ids"]) or [int(tokenizer.eos_token_id)]
    rendered = renderer(tokenizer)(
        [turn.as_turn() for turn in messages], add_generation_prompt=True, **inputs.options()
    )
    return list(tokenizer(rendered + prefill, add_special_tokens=False)["input_ids"])


def tokenize(
    row: Conversation, tokenizer: Tokenizer, tokens: TokenPlan, *, assistant_only: bool, max_length: int | None
) -> Tokenized:
    """Ids and labels of one row.

    Args:
        row: the conversation.
        tokenizer: with the chat template already set.
        tokens: how its answers are told apart.
        assistant_only: supervise answers alone; False: every token.
        max_length: keep so many tokens from the start.

    Raises: TemplateError: the template can't render the row, or its answers can't be told apart.
    """
    if tokenizer.chat_template is not None:
        row = row.as_turns()
    if row.is_plain:
        ids, mask = _plain(row, tokenizer, tokens.end_of_turn_id)
    elif assistant_only and tokens.mask == "refused":
        raise TemplateError(f"row {row.id}: no loss mask can be had ({tokens.notes[-1]})")
    elif not assistant_only or tokens.mask in ("markers", "training_template"):
        ids, mask = _marked(row, tokenizer, tokens)
    else:
        assert tokens.grammar is not None, "a template without a grammar was refused before"
        try:
            masked = mask_answers(renderer(tokenizer), tokens.grammar, row.messages, row.inputs)
        except TemplateError as error:
            raise TemplateError(f"row {row.id}: {error}") from error
        ids, mask = masked_ids(tokenizer, masked.text, masked.spans)
    supervised = mask if assistant_only else [1] * len(ids)
    labels = [token if is_supervised else IGNORED for token, is_supervised in zip(ids, supervised, strict=True)]
    is_truncated = max_length is not None and len(ids) > max_length
    return Tokenized(row.id, ids[:max_length], labels[:max_length], is_truncated)


def _plain(row: Conversation, tokenizer: Tokenizer, end_of_turn_id: int) -> tuple[list[int], list[int]]:
    prompt = list(tokenizer(row.prompt)["input_ids"])
    completion = [*tokenizer(row.completion, add_special_tokens=False)["input_ids"], end_of_turn_id]
    return prompt + completion, [0] * len(prompt) + [1] * len(completion)


def _marked(row: Conversation, tokenizer: Tokenizer, tokens: TokenPlan) -> tuple[list[int], list[int]]:
    """Ids and mask as the template's `{% generation %}` markers say."""
    turns = [turn.as_turn() for turn in row.messages]
    chosen = {"chat_template": tokens.training_template} if tokens.training_template is not None else {}
    has_markers = tokens.mask in ("markers", "training_template")
    try:
        rendered = tokenizer.apply_chat_template(
            turns, tokenize=True, return_dict=True, return_assistant_tokens_mask=has_markers, **chosen,
            **row.inputs.options(),
        )  # fmt: skip
    except Exception as error:
        raise TemplateError(f"row {row.id}: {_refusal(turns, error)}") from error
    ids = list(rendered["input_ids"])
    mask = list(rendered["assistant_masks"]) if has_markers else [1] * len(ids)
    answers = [turn for turn in row.messages if turn.role == "assistant"]
    return ids, mask if all(turn.is_supervised for turn in answers) else _without_shown(mask, answers)


def _without_shown(mask: Sequence[int], answers: Sequence[Message]) -> list[int]:
    """The mask without the turns that are shown but not learned: its runs are the answers in order."""
    runs = [(value, len(list(group))) for value, group in itertools.groupby(mask)]
    if sum(value for value, _ in runs) != len(answers):
        raise TemplateError("turns with weight 0 can't be told apart in this template; leave their weights out")
    learned = iter(turn.is_supervised for turn in answers)
    return [
        int(bool(value) and keep)
        for value, length in runs
        for keep in [bool(value) and next(learned)]
        for _ in range(length)
    ]


def masked_ids(tokenizer: Tokenizer, text: str, spans: Sequence[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """Token ids of a text, and for each whether it reaches into one of the spans of characters."""
    if not tokenizer.is_fast:
        return _masked_by_pieces(tokenizer, text, spans)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    mask, current = [], 0
    for start, stop in encoded["offset_mapping"]:
        while current < len(spans) and start >= spans[current][1]:
            current += 1
        mask.append(int(current < len(spans) and spans[current][0] < stop and start < stop))
    return list(encoded["input_ids"]), mask


def _masked_by_pieces(tokenizer: Tokenizer, text: str, spans: Sequence[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """The same for a tokenizer that doesn't tell where in the text its tokens lie."""
    ids: list[int] = []
    mask: list[int] = []
    bounds = [0, *(bound for span in spans for bound in span), len(text)]
    for number, (start, stop) in enumerate(itertools.pairwise(bounds)):
        piece = list(tokenizer(text[start:stop], add_special_tokens=False)["input_ids"])
        ids += piece
        mask += [number % 2] * len(piece)
    return ids, mask


def tokenized_answer(tokenizer: Tokenizer, tokens: TokenPlan, prompt: Sequence[int], row: Conversation) -> Tokenized:
    """A prompt with its answer; only the tokens of the answer itself are supervised, not its end token.

    Raises: TemplateError: the template renders the prompt differently once its answer follows.
    """
    if row.is_plain:
        ids = [*prompt, *tokenizer(row.completion, add_special_tokens=False)["input_ids"]]
    else:
        turns = [turn.as_turn() for turn in row.messages]
        ids = list(tokenizer(renderer(tokenizer)(turns, **row.inputs.options()), add_special_tokens=False)["input_ids"])
    if ids[: len(prompt)] != list(prompt):
        raise TemplateError(
            "the chat template renders a prompt differently once its answer follows; the answer can't be scored"
        )
    answer = ids[len(prompt) :]
    stop = next((position for position, token in enumerate(answer) if token in tokens.stop_ids), len(answer))
    answer = answer[:stop]
    return Tokenized(row.id, [*prompt, *answer], [IGNORED] * len(prompt) + answer, is_truncated=False)


def as_columns(rows: Sequence[Tokenized]) -> Mapping[str, list[list[int]]]:
    """The columns that TRL takes as an already prepared dataset."""
    return {"input_ids": [row.input_ids for row in rows], "labels": [row.labels for row in rows]}
