"""Runs suites and probes on a model: the same ruler for every cell, the base and every reference."""

import logging
import time
from collections.abc import Mapping, Sequence

from harness.config import EvalConfig
from harness.data.formats import Conversation
from harness.data.tokenize import Tokenized, prompt_ids, tokenized_answer
from harness.errors import TemplateError
from harness.models.generate import Completion, RowLoss, generate, row_losses
from harness.models.load import LoadedModel
from harness.records import Estimate, Example, ExtractionItem, Generation, Message, ProbeSplit, Score, SuiteResult
from harness.scoring.measurement import Measurement
from harness.scoring.structure import adherence_failure, has_thinking, tool_calls_in, without_calls
from harness.scoring.text import without_thinking
from harness.stats import estimate
from harness.store import CellFolder, write_lines
from harness.suite import Suite, suite_digest

logger = logging.getLogger(__name__)

MIN_EXTRACTION_TOKENS = 4
NLL_BATCH_SIZE = 32


class AskedModel:
    """A model that answers the same prompt once: suites that ask the same rows share their generations."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        self._known: dict[tuple[tuple[int, ...], int], Completion] = {}

    def completions(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[Completion]:
        """Greedy completions, asked of the model only where they are not known yet."""
        keys = [(tuple(prompt), max_new_tokens) for prompt in prompts]
        fresh = [key for key in dict.fromkeys(keys) if key not in self._known]
        completions = generate(self.loaded, [prompt for prompt, _ in fresh], max_new_tokens=max_new_tokens)
        self._known.update(zip(fresh, completions, strict=True))
        return [self._known[key] for key in keys]


def evaluate(
    suite: Suite, options: EvalConfig, examples: Sequence[Example], asked: AskedModel, folder: CellFolder
) -> SuiteResult:
    """Asks every example, scores every generation, keeps both."""
    started = time.monotonic()
    loaded = asked.loaded
    as_text = suite.ask == "text" or loaded.tokenizer.chat_template is None
    asked_turns = [() if as_text else _turns(example) for example in examples]
    prompts = [
        prompt_ids(loaded.tokenizer, turns, _plain(example), example.inputs)
        for turns, example in zip(asked_turns, examples, strict=True)
    ]
    _warn_of_short_limit(suite, loaded, examples, options.max_new_tokens)
    completions = asked.completions(prompts, options.max_new_tokens)
    generations = [
        Generation(
            example_id=example.id,
            prompt=loaded.tokenizer.decode(prompt),
            text=loaded.tokenizer.decode(list(completion.token_ids)),
            stop_reason=completion.stop_reason,
            prompt_tokens=len(prompt),
            completion_tokens=len(completion.token_ids),
        )
        for example, prompt, completion in zip(examples, prompts, completions, strict=True)
    ]
    write_lines(folder.generations(suite.name), generations)
    losses, written = _reference_losses(loaded, suite, examples, asked_turns, prompts)
    # Both the answer and its reference are compared as they follow the prompt in the template.
    answers = [_opened(generation) for generation in generations]
    compared = [
        _as_written(example, _opening(generation.prompt) + written[example.id]) if example.id in written else example
        for example, generation in zip(examples, generations, strict=True)
    ]
    scores = tuple(_scores(suite, compared, answers, losses, loaded.tokens.control_tokens))
    seconds = time.monotonic() - started
    logger.info("%s: %d examples in %.1f s", suite.name, len(examples), seconds)
    return SuiteResult(
        suite=suite.name,
        version=suite.version,
        digest=suite_digest(suite, options, examples),
        metrics=_metrics(suite, scores),
        scores=scores,
        clusters={example.id: example.cluster or example.id for example in examples},
        slices={example.id: example.slices for example in examples},
        seconds=seconds,
    )


def _warn_of_short_limit(suite: Suite, loaded: LoadedModel, examples: Sequence[Example], max_new_tokens: int) -> None:
    """A right answer that doesn't fit would count as one that never ends."""
    lengths = [len(loaded.tokenizer(example.reference, add_special_tokens=False)["input_ids"]) for example in examples]
    too_long = sum(length >= max_new_tokens for length in lengths)
    if too_long:
        logger.warning("%s: %d of %d reference answers don't fit into max_new_tokens %d (the longest has %d tokens)",
                       suite.name, too_long, len(examples), max_new_tokens, max(lengths))  # fmt: skip


def _metrics(suite: Suite, scores: Sequence[Score]) -> dict[str, Estimate]:
    """An estimate of every metric that was scored at all."""
    metrics = {}
    for name in suite.scorers:
        values = [score.value for score in scores if score.metric == name]
        scored = [value for value in values if value is not None]
        if scored:
            metrics[name] = estimate(scored, len(values) - len(scored))
    return metrics


def _turns(example: Example) -> tuple[Message, ...]:
    """The turns of a prompt; plain text is the user's turn where there is a template."""
    return example.messages or (Message(role="user", content=example.text),)


def _plain(example: Example) -> str:
    """A prompt without template; turns are joined by line breaks where the model has none."""
    return example.text or "\n".join(turn.content for turn in example.messages)


def _opening(prompt: str) -> str:
    """The thinking block that a prompt itself opens, and so belongs to the answer."""
    return "<think>\n" if prompt.rstrip().endswith("<think>") else ""


def _opened(generation: Generation) -> Generation:
    opening = _opening(generation.prompt)
    return generation.model_copy(update={"text": opening + generation.text}) if opening else generation


def _reference_losses(
    loaded: LoadedModel,
    suite: Suite,
    examples: Sequence[Example],
    turns: Sequence[tuple[Message, ...]],
    prompts: Sequence[Sequence[int]],
) -> tuple[dict[str, RowLoss] | None, dict[str, str]]:
    """NLL of every reference where the suite asks for it, and the text of the references that a template writes."""
    rows: list[Tokenized] = []
    unscored = 0
    for example, asked, prompt in zip(examples, turns, prompts, strict=True):
        try:
            rows.append(tokenized_answer(loaded.tokenizer, loaded.tokens, prompt, _answered(suite, example, asked)))
        except TemplateError as error:
            unscored += 1
            logger.debug("%s: the reference of example %s can't be rendered: %s", suite.name, example.id, error)
    if unscored:
        logger.warning("%s: %d of %d references are compared as they are in the data and have no NLL: the chat template renders "
                       "their prompts differently once the answer follows", suite.name, unscored, len(examples))  # fmt: skip
    is_chat = {example.id for example, asked in zip(examples, turns, strict=True) if asked}
    written = {
        row.id: loaded.tokenizer.decode([label for label in row.labels if label >= 0])
        for row in rows
        if row.id in is_chat
    }
    if not suite.needs_nll:
        return None, written
    fitting = [row for row in rows if len(row.input_ids) <= loaded.context and row.num_supervised]
    pad = loaded.tokenizer.pad_token_id
    losses = row_losses(loaded.model, fitting, pad_token_id=pad, batch_size=NLL_BATCH_SIZE)
    return {row.id: loss for row, loss in zip(fitting, losses, strict=True)}, written


def _as_written(example: Example, written: str) -> Example:
    """An example with its reference as the template writes it, and the form that this reference has."""
    calls = tool_calls_in(written)
    expect = example.expect
    if calls and not expect.tools:
        prose = without_calls(without_thinking(written)).strip()
        update = {"tools": example.inputs.tools, "num_calls": len(calls), "allows_prose": bool(prose)}
        expect = expect.model_copy(update=update)
    if has_thinking(written) and not expect.thinking:
        expect = expect.model_copy(update={"thinking": True})
    if adherence_failure(written, "end_of_turn", expect):
        # A perfect answer must pass: what the checks don't know, they can't ask for.
        expect = expect.model_copy(update={"is_free": True})
    return example.model_copy(update={"reference": written, "expect": expect})


def _answered(suite: Suite, example: Example, asked: tuple[Message, ...]) -> Conversation:
    """An example with its reference as the last turn."""
    if not asked:
        # Plain questions end in a colon: the answer follows after a blank, as it does in running text.
        blank = " " if suite.ask == "text" and not example.text.endswith((" ", "\n")) else ""
        return Conversation(id=example.id, prompt=example.text, completion=blank + example.reference)
    answer = example.answer or Message(role="assistant", content=example.reference)
    return Conversation(id=example.id, messages=(*asked, answer), inputs=example.inputs)


def _scores(
    suite: Suite, examples: Sequence[Example], generations: Sequence[Generation], losses: Mapping[str, RowLoss] | None,
    special_tokens: tuple[str, ...],
) -> list[Score]:  # fmt: skip
    scores = []
    for example, generation in zip(examples, generations, strict=True):
        loss = losses.get(example.id) if losses is not None else None
        finite = loss is not None and loss.nll == loss.nll and abs(loss.nll) != float("inf")
        measured = Measurement(
            example=example,
            generation=generation,
            nll=loss.nll if loss is not None and finite else None,
            reference_bytes=len(example.reference.encode()),
            reference_tokens=loss.num_tokens if loss is not None else 0,
            special_tokens=tuple(token for token in special_tokens if token not in example.reference),
        )
        for name, scorer in suite.scorers.items():
            if generation.stop_reason == "prompt_too_long" and name not in ("nll", "bits_per_byte"):
                scores.append(Score(example_id=example.id, metric=name, value=None, failure="prompt_too_long"))
            elif (score := scorer(measured)) is not None:
                scores.append(score)
    return scores


def extract(loaded: LoadedModel, train: Sequence[Tokenized], validation: Sequence[Tokenized]) -> list[ExtractionItem]:
    """Gives the model the prompt and the first half of an answer: does it complete the rest word for word?

    Carlini et al. 2023, definition 3.1, with at most the 50 next tokens; on validation rows as the baseline, because a
    model that has learned the task completes those too.
    """
    items: list[ExtractionItem] = []
    probed: tuple[tuple[ProbeSplit, Sequence[Tokenized]], ...] = (("train_probe", train), ("validation", validation))
    for split, rows in probed:
        cut = [(row, _last_answer(row)) for row in rows]
        usable = [(row, start, stop) for row, (start, stop) in cut if stop - start >= MIN_EXTRACTION_TOKENS]
        halves = [(row, (start + stop) // 2, stop) for row, start, stop in usable]
        prompts = [row.input_ids[:middle] for row, middle, _ in halves]
        completions = generate(loaded, prompts, max_new_tokens=50)
        decode = loaded.tokenizer.decode
        for (row, middle, stop), (_, start, _), completion in zip(halves, usable, completions, strict=True):
            expected = row.input_ids[middle:stop][:50]
            items.append(
                ExtractionItem(
                    split=split,
                    example_id=row.id,
                    prefix=decode(row.input_ids[start:middle]),
                    expected=decode(expected),
                    generated=decode(list(completion.token_ids)),
                    is_verbatim=list(completion.token_ids[: len(expected)]) == expected,
                )
            )
    return items


def _last_answer(row: Tokenized) -> tuple[int, int]:
    """Start and stop of the last run of supervised tokens, its end-of-turn token left out."""
    stop = len(row.labels)
    while stop and row.labels[stop - 1] < 0:
        stop -= 1
    start = stop
    while start and row.labels[start - 1] >= 0:
        start -= 1
    return start, max(start, stop - 1)
