"""Answers that another system gave, from a file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.data.sources import Row, load_rows
from harness.errors import DataError
from harness.eval_config import SourceConfig
from harness.models.respondent import Sampling
from harness.records import Example, Generation, StopReason

ANSWERS = ("prediction", "response", "completion", "generation", "output")
IDS = ("id", "example_id", "task_id", "key")
ENDINGS: Mapping[str, StopReason] = {"stop": "end_of_turn", "tool_calls": "end_of_turn", "length": "length"}


def load_predictions(path: Path) -> dict[str, Generation]:
    """Example id -> what the system answered; a line without an id answers the example of its number, from 0.

    Lines hold `prediction` (or `response`, `completion`...) or `messages` that end with the answer, and may say how it
    ended in `finish_reason`, as OpenAI's API does.

    Raises: DataError: a line has no answer, or two have the same id.
    """
    found: dict[str, Generation] = {}
    for row in load_rows(SourceConfig(path=str(path))):
        generation = _generation(row)
        if generation.example_id in found:
            raise DataError(
                f"{row.where}: the id {generation.example_id!r} was there before; every example has one prediction"
            )
        found[generation.example_id] = generation
    return found


def _generation(row: Row) -> Generation:
    named = next((row.content[key] for key in IDS if row.content.get(key) is not None), row.index)
    text = _answer(row.content)
    if text is None:
        raise DataError(
            f"{row.where}: a prediction needs `prediction` as text, or messages that end with the assistant's"
        )
    return Generation(
        example_id=str(named),
        prompt="",
        text=text,
        stop_reason=ENDINGS.get(str(row.content.get("finish_reason")), "unknown"),
        prompt_tokens=0,
        completion_tokens=0,
    )


def _answer(content: Mapping[str, Any]) -> str | None:
    answer = next((content[key] for key in ANSWERS if content.get(key) is not None), None)
    if answer is None and isinstance(content.get("messages"), list) and content["messages"]:
        last = content["messages"][-1]
        answer = last.get("content") if isinstance(last, dict) and last.get("role") == "assistant" else None
    return answer if isinstance(answer, str) else None


class PredictedAnswers:
    """A respondent that has answered already."""

    control_tokens: tuple[str, ...] = ()

    def __init__(self, predictions: Mapping[str, Generation]) -> None:
        self._predictions = predictions

    def generations(
        self, examples: Sequence[Example], *, as_text: bool, sampling: Sampling
    ) -> list[tuple[Generation, ...]]:
        """See `Respondent`; examples without a prediction are not scored.

        Raises: DataError: no example has one.
        """
        given = list(self._predictions)
        if not any(example.id in self._predictions for example in examples):
            are_numbered = given == [str(number) for number in range(len(examples))]
            if not are_numbered:
                raise DataError(
                    f"no prediction has the id of an example: examples are called {examples[0].id!r}, predictions {given[0]!r}; "
                    "give both the same ids"
                )
            # Lines without ids, as many as there are examples: they answer in order.
            return [(self._generation(example, name),) for example, name in zip(examples, given, strict=True)]
        return [(self._generation(example, example.id),) for example in examples]

    def _generation(self, example: Example, name: str) -> Generation:
        known = self._predictions.get(name)
        prompt = example.text or "\n".join(turn.content for turn in example.messages)
        if known is None:
            return Generation(
                example_id=example.id,
                prompt=prompt,
                text="",
                stop_reason="not_asked",
                prompt_tokens=0,
                completion_tokens=0,
            )
        return known.model_copy(update={"prompt": prompt, "example_id": example.id})
