"""Answers that another system gave, from a file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from harness.data.sources import Row, load_rows
from harness.errors import DataError
from harness.eval_config import SourceConfig
from harness.models.respondent import Sampling, no_answer
from harness.records import Example, Generation, StopReason

ANSWERS = ("prediction", "response", "completion", "generation", "output")
IDS = ("id", "example_id", "task_id", "key")
ENDINGS: Mapping[str, StopReason] = {"stop": "end_of_turn", "tool_calls": "end_of_turn", "length": "length"}


class Predictions(NamedTuple):
    """What another system answered."""

    by_id: Mapping[str, Generation]
    """Example id -> answer, in the order of the file."""
    is_in_order: bool
    """No line names its example: they answer the examples one by one, and their ids are their numbers."""
    source: str
    """Where they come from, for complaints."""


def load_predictions(path: Path) -> Predictions:
    """The answers of a file, by the ids of the examples that its lines name, or in order where no line names one.

    Lines hold `prediction` (or `response`, `completion`...) or `messages` that end with the answer, and may say how it
    ended in `finish_reason`, as OpenAI's API does. A prediction that is null was never given.

    Raises: DataError: a line has no answer, two have the same id, or only some have one.
    """
    rows = load_rows(SourceConfig(path=str(path)))
    named = [_named(row.content) for row in rows]
    is_in_order = all(name is None for name in named)
    found: dict[str, Generation] = {}
    for row, name in zip(rows, named, strict=True):
        if name is None and not is_in_order:
            raise DataError(
                f"{row.where}: the prediction has no id, and others have; give every line the id of its example"
            )
        generation = _generation(row, str(row.index) if name is None else name)
        if generation.example_id in found:
            raise DataError(
                f"{row.where}: the id {generation.example_id!r} was there before; every example has one prediction"
            )
        found[generation.example_id] = generation
    return Predictions(found, is_in_order, str(path))


def _named(content: Mapping[str, Any]) -> str | None:
    return next((str(content[key]) for key in IDS if content.get(key) is not None), None)


def _generation(row: Row, example_id: str) -> Generation:
    text = _answer(row.content)
    if text is None and not _is_null(row.content):
        raise DataError(
            f"{row.where}: a prediction needs `prediction` as text, or messages that end with the assistant's"
        )
    ending = ENDINGS.get(str(row.content.get("finish_reason")), "unknown")
    return Generation(
        example_id=example_id,
        prompt="",
        text=text or "",
        stop_reason="not_asked" if text is None else ending,
        prompt_tokens=0,
        completion_tokens=0,
    )


def _answer(content: Mapping[str, Any]) -> str | None:
    answer = next((content[key] for key in ANSWERS if content.get(key) is not None), None)
    if answer is None and isinstance(content.get("messages"), list) and content["messages"]:
        last = content["messages"][-1]
        answer = last.get("content") if isinstance(last, dict) and last.get("role") == "assistant" else None
    return answer if isinstance(answer, str) else None


def _is_null(content: Mapping[str, Any]) -> bool:
    """Whether an answer is given as null, and nowhere else as anything else."""
    named = [content[key] for key in (*ANSWERS, "messages") if key in content]
    return bool(named) and all(value is None for value in named)


class PredictedAnswers:
    """A respondent that has answered already."""

    control_tokens: tuple[str, ...] = ()

    def __init__(self, predictions: Predictions) -> None:
        self._predictions = predictions

    def generations(
        self, examples: Sequence[Example], *, as_text: bool, sampling: Sampling
    ) -> list[tuple[Generation, ...]]:
        """See `Respondent`; examples without a prediction are not scored.

        Raises: DataError: no example has one, or there are more or fewer examples than predictions without ids.
        """
        return [(answer,) for answer in self.answers_to(examples)]

    def answers_to(self, examples: Sequence[Example]) -> list[Generation]:
        """One answer an example.

        Raises: DataError: no example has one, or there are more or fewer examples than predictions without ids.
        """
        by_id, is_in_order, source = self._predictions
        if is_in_order:
            if len(by_id) != len(examples):
                raise DataError(
                    f"{source}: there are {len(by_id)} predictions without ids for {len(examples)} examples; give every line the id of "
                    "its example, or one line an example in their order"
                )
            return [_answered(example, known) for example, known in zip(examples, by_id.values(), strict=True)]
        if not any(example.id in by_id for example in examples):
            raise DataError(
                f"{source}: no prediction has the id of an example: examples are called {examples[0].id!r}, predictions "
                f"{next(iter(by_id))!r}; give both the same ids"
            )
        return [_answered(example, by_id.get(example.id)) for example in examples]


def _answered(example: Example, known: Generation | None) -> Generation:
    if known is None:
        return no_answer(example, example.plain_prompt)
    return known.model_copy(update={"prompt": example.plain_prompt, "example_id": example.id})
