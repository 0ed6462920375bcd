"""Does the model still know what its base knew?

Asks plain questions, without any chat template, the same before and after fine-tuning. Needs `data:` with rows of
`prompt` and `answer`, for example `{suite: retention, data: embedded:retention, max_new_tokens: 12}`.
"""

from collections.abc import Sequence

from harness.config import EvalConfig
from harness.data.sources import load_rows
from harness.errors import DataError
from harness.records import Example, Score
from harness.scoring.measurement import Measurement
from harness.scoring.text import normalized
from harness.suite import Suite


def load(test: Sequence[Example], options: EvalConfig) -> Sequence[Example]:
    """Rows of prompt and answer."""
    if options.data is None:
        raise DataError("the suite retention needs data: a file of rows with prompt and answer")
    examples = []
    for number, row in enumerate(load_rows(options.data)):
        prompt, answer = row.content.get("prompt"), row.content.get("answer")
        if not isinstance(prompt, str) or not isinstance(answer, str):
            raise DataError(f"{row.where}: a retention row needs prompt and answer as text")
        entities = row.content.get("entities")
        examples.append(
            Example(
                id=str(row.content.get("id", number)),
                text=prompt,
                reference=answer,
                slices=(row.content["kind"],) if isinstance(row.content.get("kind"), str) else (),
                cluster=str(entities[0]) if isinstance(entities, list) and entities else "",
            )
        )
    return examples


def answers_right(measured: Measurement) -> Score:
    """1 where the first line of the answer holds the known answer as whole words."""
    first_line = measured.generation.text.strip().split("\n")[0]
    found = f" {normalized(measured.example.reference)} " in f" {normalized(first_line)} "
    return Score(example_id=measured.example.id, metric="accuracy", value=float(found))


def nll(measured: Measurement) -> Score:
    """Nats per token of the known answer after the question."""
    return Score(example_id=measured.example.id, metric="nll", value=measured.nll)


SUITE = Suite(
    name="retention",
    version=1,
    description="facts that the base knows, asked as plain text before and after",
    scorers={"accuracy": answers_right, "nll": nll},
    load=load,
    ask="text",
    needs_nll=True,
)
