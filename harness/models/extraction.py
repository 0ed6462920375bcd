"""Whether a model completes its training answers word for word."""

from collections.abc import Sequence

from harness.data.tokenize import Tokenized
from harness.models.generate import generate
from harness.models.load import LoadedModel
from harness.models.respondent import Sampling
from harness.records import ExtractionItem, ProbeSplit

MIN_EXTRACTION_TOKENS = 4


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
        completions = generate(loaded, prompts, Sampling(50))
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
