"""What the checks on outputs share: answers side by side with their references, and how things are quoted."""

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from harness.diagnose.evidence import Evidence
from harness.records import Example, Generation
from harness.stats import Interval, estimate

MIN_ANSWERS = 20
SHOWN = 120
ID = 50
"""Characters of an id, and of a text, that evidence shows."""


class Answer(NamedTuple):
    """One completion with what was asked and what would have been right."""

    suite: str
    generation: Generation
    prompt: str
    reference: str | None
    """None where the examples aren't known."""

    @property
    def id(self) -> str:
        """Suite and example, as `held_out/test-0001`."""
        return f"{self.suite}/{self.generation.example_id}"

    @property
    def text(self) -> str:
        """The completion."""
        return self.generation.text


def is_retention(evidence: Evidence, label: str) -> bool:
    """Whether a suite measures what the base knew; its answers say nothing of what was trained."""
    suite = evidence.suites.get(label)
    return suite.is_kind("retention") if suite is not None else label == "retention"


def answers_of(evidence: Evidence, *, sample: int | None = 0) -> list[Answer]:
    """One answer for every distinct prompt: suites that ask the same rows share their generations.

    Args:
        evidence: of the run.
        sample: which of several completions of a prompt; None: all of them.
    """
    return _answers(evidence, evidence.generations, sample)


def base_answers(evidence: Evidence) -> list[Answer]:
    """The same of the untouched base."""
    return _answers(evidence, evidence.base_generations, 0)


def _answers(evidence: Evidence, generations: Mapping[str, Sequence[Generation]], sample: int | None) -> list[Answer]:
    found: dict[tuple[str, int], Answer] = {}
    for suite, completions in generations.items():
        if is_retention(evidence, suite):
            continue
        asked = {example.id: example for example in evidence.examples.get(suite, ())}
        for generation in completions:
            if not generation.is_answered or (sample is not None and generation.sample != sample):
                continue
            example = asked.get(generation.example_id)
            prompt = generation.prompt or (example.plain_prompt if example else "")
            reference = reference_of(example) if example else None
            key = (prompt or f"{suite}/{generation.example_id}", generation.sample)
            found.setdefault(key, Answer(suite, generation, prompt, reference))
    return list(found.values())


def reference_of(example: Example) -> str:
    """All that the right answer says: thoughts and tool calls, too."""
    if example.answer is None:
        return example.reference
    calls = [json.dumps(call.get("function", call), ensure_ascii=False) for call in example.answer.tool_calls]
    parts = (example.answer.reasoning_content, example.answer.content or example.reference, *calls)
    return "\n".join(part for part in parts if part)


def short(text: str, length: int = SHOWN) -> str:
    """One line of a text, cut in the middle where it is long: what goes wrong often shows at its end."""
    line = " ".join(text.split())
    half = length // 2
    return line if len(line) <= length else f"{line[: half - 3]} ... {line[-(half - 2) :]}"


def apart(a: Sequence[float], b: Sequence[float]) -> Interval:
    """95 % interval of the difference of two independent means (Newcombe 1998, method 10)."""
    first, second = estimate(a), estimate(b)
    difference = first.value - second.value
    below = ((first.value - first.low) ** 2 + (second.high - second.value) ** 2) ** 0.5
    above = ((first.high - first.value) ** 2 + (second.value - second.low) ** 2) ** 0.5
    return Interval(difference - below, difference + above)


def this_run(evidence: Evidence) -> str:
    """The user's own numbers, as "This run: 30 epochs over 30 rows, learning_rate 0.005, adapter.r 8."; may be empty."""
    settings = evidence.settings
    train = evidence.splits.get("train")
    parts = []
    steps, epochs = settings.get("training.max_steps", "-1"), settings.get("training.num_train_epochs", "")
    length = f"{epochs} epochs" if steps in ("-1", "0", "None", "") else f"{steps} steps"
    if epochs:
        parts.append(f"{length} over {train.rows_used} rows" if train else length)
    elif train:
        parts.append(f"{train.rows_used} rows")
    if rate := settings.get("training.learning_rate", ""):
        parts.append(f"learning_rate {rate}")
    if rank := settings.get("adapter.r", ""):
        parts.append(f"adapter.r {rank}")
    return f" This run: {', '.join(parts)}." if parts else ""
