"""Does the model still know what its base knew?

Asks plain questions, without any chat template, the same before and after fine-tuning. Needs `data:` with rows of
`prompt` and `answer`, for example `{suite: retention, data: embedded:retention, max_new_tokens: 12}`. Rows with
`choices` are told by which choice is the likeliest. A column `kind`, such as domain and general, makes slices;
questions that share their `cluster`, `group` or first of `entities` count as one in comparisons.
"""

import re
from collections.abc import Sequence

from harness.data.examples import load_examples
from harness.data.sources import Row, load_rows
from harness.errors import DataError
from harness.eval_config import EvalConfig
from harness.records import Example, Score
from harness.scoring.choice import choice_accuracy
from harness.scoring.measurement import Measurement
from harness.scoring.table import SCORERS
from harness.scoring.text import normalized
from harness.suite import Suite

PUNCTUATION = re.compile(r"[^\w\s]")


def load(test: Sequence[Example], options: EvalConfig) -> Sequence[Example]:
    """Rows of prompt and answer."""
    if options.data is None:
        raise DataError("the suite retention needs data: a file of rows with prompt and answer")
    return [
        example.model_copy(update={"cluster": example.cluster or _entity(row)})
        for example, row in zip(load_examples(options.data), load_rows(options.data), strict=True)
    ]


def _entity(row: Row) -> str:
    """Whom or what a question is about: what is known of one thing is mostly kept or lost together."""
    entities = row.content.get("entities")
    return str(entities[0]) if isinstance(entities, list) and entities else ""


def accuracy(measured: Measurement) -> Score:
    """1 where the likeliest choice is the right one, or the first line of the answer holds it as whole words."""
    example = measured.example
    if example.choices:
        value, failure = choice_accuracy(measured.choice_logprobs, example.choices, example.reference)
        return Score(example_id=example.id, metric="accuracy", value=value, failure=failure)
    wanted = _words(example.reference)
    if not wanted:
        return Score(example_id=example.id, metric="accuracy", value=None, failure="reference_without_words")
    first_line = measured.generation.text.strip().split("\n")[0]
    found = f" {wanted} " in f" {_words(first_line)} "
    return Score(example_id=example.id, metric="accuracy", value=float(found))


def _words(text: str) -> str:
    """The text normalized; punctuation parts words, for a model of plain text may go on right after its full stop."""
    return normalized(PUNCTUATION.sub(" ", text))


SUITE = Suite(
    name="retention",
    version=3,
    description="what the base knows, asked as plain text before and after",
    scorers={"accuracy": accuracy, "nll": SCORERS["nll"]},
    load=load,
    ask="text",
    needs_nll=True,
    needs_choices=True,
)
