"""The respondent in this process: a transformers model, asked in batches, that answers the same prompt once."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from harness.data.formats import Conversation
from harness.data.tokenize import Tokenized, prompt_ids, tokenized_answer
from harness.errors import TemplateError
from harness.models.answer_cache import AnswerCache
from harness.models.few_shot import NEXT_QUESTION, Shots, ended_answer
from harness.models.generate import Completion, generate, row_losses
from harness.models.load import LoadedModel, LoadedTokenizer
from harness.models.respondent import RowLoss, Sampling, no_answer
from harness.records import Example, Generation, Message
from harness.resources import digest
from harness.scoring.measurement import ToolCall

logger = logging.getLogger(__name__)

NLL_BATCH_SIZE = 32


class _Asked(NamedTuple):
    """One example as this model is asked."""

    example: Example
    turns: tuple[Message, ...]
    """Empty where it is asked as plain text."""
    text: str
    blank: str
    """What stands between a plain prompt and its answer: running text continues after a blank."""
    ends_at: str
    """What ends an answer where plain examples were shown; empty where a token does."""
    ids: list[int]


class LocalModel:
    """A model of this process.

    It is loaded only when something is asked that it hasn't answered before.
    """

    def __init__(
        self,
        tokenizer: LoadedTokenizer,
        load: Callable[[], LoadedModel],
        cache: AnswerCache,
        shots: Shots | None = None,
    ) -> None:
        self._tokenizer, self._tokens = tokenizer
        self._load = load
        self._loaded: LoadedModel | None = None
        self._cache = cache
        self._shots = shots

    @property
    def loaded(self) -> LoadedModel:
        """The model itself."""
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded

    @property
    def control_tokens(self) -> tuple[str, ...]:
        """Tokens of the template that have no place inside an answer."""
        return self._tokens.control_tokens

    def generations(
        self, examples: Sequence[Example], *, as_text: bool, sampling: Sampling
    ) -> list[tuple[Generation, ...]]:
        """See `Respondent`; suites that ask the same prompts share their generations."""
        asked = [self._asked(example, as_text=as_text) for example in examples]
        refused = sum(item is None for item in asked)
        if refused:
            logger.warning("%d of %d prompts are not asked: the chat template refuses them", refused, len(examples))
        _warn_of_short_limit(self._reference_lengths(examples), sampling.max_new_tokens)
        completions = iter(self.completions([item.ids for item in asked if item is not None], sampling))
        return [
            tuple(self._generation(item, completion, number) for number, completion in enumerate(next(completions)))
            if item is not None
            else (no_answer(example),)
            for example, item in zip(examples, asked, strict=True)
        ]

    def completions(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[list[Completion]]:
        """Completions of every prompt, asked of the model only where they are not known yet."""
        keys = [digest([list(prompt), list(sampling)]) for prompt in prompts]
        fresh = {key: prompt for key, prompt in zip(keys, prompts, strict=True) if self._cache.completions(key) is None}
        if fresh:
            made = generate(self.loaded, list(fresh.values()), sampling)
            size = sampling.num_samples
            self._cache.add_completions(
                {key: made[place * size : (place + 1) * size] for place, key in enumerate(fresh)}
            )
        return [self._cache.completions(key) or [] for key in keys]

    def _asked(self, example: Example, *, as_text: bool) -> _Asked | None:
        """None where the template refuses the turns: one that takes no system prompt, say."""
        plain, turns = example.plain_prompt, example.turns
        shots, ends_at, is_running_text = None if as_text else self._shots, "", as_text
        if as_text:
            turns = ()
        elif self._tokenizer.chat_template is None:
            turns = ()
            if shots is not None:
                plain, ends_at = shots.plain(plain), shots.separator
        elif shots is not None and shots.as_transcript:
            turns, plain, ends_at, is_running_text = (), shots.transcript(turns), NEXT_QUESTION, True
        elif shots is not None:
            turns = shots.turns(turns)
        blank = " " if is_running_text and not plain.endswith((" ", "\n")) else ""
        prefill = example.expect.prefill
        begun = _after(blank, prefill) if prefill and not turns else prefill
        try:
            ids = prompt_ids(self._tokenizer, turns, plain, example.inputs, prefill=begun)
        except TemplateError as error:
            logger.debug("example %s isn't asked: %s", example.id, error)
            return None
        return _Asked(example, turns, plain, "" if prefill else blank, ends_at, ids)

    def _generation(self, asked: _Asked, completion: Completion, sample: int) -> Generation:
        text, stop_reason = self._tokenizer.decode(list(completion.token_ids)), completion.stop_reason
        if asked.ends_at:
            text, ended = ended_answer(text, asked.ends_at)
            stop_reason = "end_of_turn" if ended and stop_reason == "length" else stop_reason
        return Generation(
            example_id=asked.example.id,
            prompt=self._tokenizer.decode(asked.ids),
            text=text,
            stop_reason=stop_reason,
            prompt_tokens=len(asked.ids),
            completion_tokens=len(completion.token_ids),
            seconds=completion.seconds,
            sample=sample,
        )

    def reference_losses(self, examples: Sequence[Example], *, as_text: bool) -> Mapping[str, RowLoss]:
        """See `Respondent`; answers longer than the context are left out."""
        rows = [row for example in examples if (row := self._answered(self._asked(example, as_text=as_text)))]
        return dict(zip([row.id for row in rows], self._losses(rows), strict=True))

    def choice_logprobs(self, examples: Sequence[Example], *, as_text: bool) -> Mapping[str, tuple[float, ...]]:
        """See `Respondent`."""
        rows, places = [], []
        for example in examples:
            asked = self._asked(example, as_text=as_text)
            answered = [self._answered(asked, choice) for choice in example.choices] if asked else []
            whole = [row for row in answered if row is not None]
            if whole and len(whole) == len(answered):
                rows += whole
                places.append((example.id, len(whole)))
        losses = iter(self._losses(rows))
        found = {name: tuple(_logprob(next(losses)) for _ in range(count)) for name, count in places}
        return {name: values for name, values in found.items() if not any(map(math.isnan, values))}

    def written_references(self, examples: Sequence[Example], *, as_text: bool) -> Mapping[str, str | None]:
        """See `Respondent`."""
        written: dict[str, str | None] = {}
        for example in examples:
            asked = self._asked(example, as_text=as_text)
            if asked is not None and asked.turns and not example.expect.prefill:
                row = self._answered(asked)
                written[example.id] = self._tokenizer.decode([i for i in row.labels if i >= 0]) if row else None
        differing = sum(text is None for text in written.values())
        if differing:
            logger.warning("%d of %d references are compared as they are in the data and have no NLL: the chat template renders "
                           "their prompts differently once the answer follows", differing, len(examples))  # fmt: skip
        return written

    def parsed_calls(self, example: Example, generation: Generation) -> tuple[ToolCall, ...] | None:
        """See `Respondent`; transformers reads answers by the tokenizer's `response_template`."""
        if getattr(self._tokenizer, "response_template", None) is None:
            return None
        try:
            message = self._tokenizer.parse_response(
                generation.text, prefix=generation.prompt, tools=list(example.inputs.tools)
            )
            calls = [call["function"] for call in message.get("tool_calls", ())]
            return tuple(ToolCall(call["name"], call["arguments"]) for call in calls)
        except (ValueError, KeyError, TypeError, AttributeError):
            return (ToolCall("", {}),)

    def _answered(self, asked: _Asked | None, answer: str | None = None) -> Tokenized | None:
        """A prompt with an answer, by default its reference; None where the template can't put them together."""
        if asked is None:
            return None
        example = asked.example
        text = example.reference if answer is None else answer
        rest = text.removeprefix(example.expect.prefill)
        row = Conversation(id=example.id, prompt=asked.text, completion=_after(asked.blank, rest))
        if asked.turns:
            turn = example.answer if answer is None and example.answer else Message(role="assistant", content=text)
            row = Conversation(id=example.id, messages=(*asked.turns, turn), inputs=example.inputs)
        try:
            return tokenized_answer(self._tokenizer, self._tokens, asked.ids, row)
        except TemplateError as error:
            logger.debug("the answer of example %s can't be rendered: %s", example.id, error)
            return None

    def _losses(self, rows: Sequence[Tokenized]) -> list[RowLoss]:
        """The loss of every row; NaN where it is longer than the context or has nothing to predict."""
        keys = [digest([row.input_ids, row.labels]) for row in rows]
        fresh = {key: row for key, row in zip(keys, rows, strict=True) if self._cache.loss(key) is None}
        if fresh:
            fitting = {k: r for k, r in fresh.items() if len(r.input_ids) <= self.loaded.context and r.num_supervised}
            made = row_losses(
                self.loaded.model, list(fitting.values()), pad_token_id=self._tokenizer.pad_token_id, batch_size=NLL_BATCH_SIZE
            )  # fmt: skip
            self._cache.add_losses(
                dict.fromkeys(fresh, RowLoss(float("nan"), 0, 0)) | dict(zip(fitting, made, strict=True))
            )
        return [self._cache.loss(key) or RowLoss(float("nan"), 0, 0) for key in keys]

    def _reference_lengths(self, examples: Sequence[Example]) -> list[int]:
        return [len(self._tokenizer(e.reference, add_special_tokens=False)["input_ids"]) for e in examples]


def _after(blank: str, text: str) -> str:
    """A text that follows a prompt; one that brings its own blank gets no second one."""
    return text if text[:1].isspace() else blank + text


def _logprob(loss: RowLoss) -> float:
    return -loss.nll * loss.num_tokens


def _warn_of_short_limit(lengths: Sequence[int], max_new_tokens: int) -> None:
    """A right answer that doesn't fit would count as one that never ends."""
    too_long = sum(length >= max_new_tokens for length in lengths)
    if too_long:
        logger.warning("%d of %d reference answers don't fit into max_new_tokens %d (the longest has %d tokens)",
                       too_long, len(lengths), max_new_tokens, max(lengths))  # fmt: skip
