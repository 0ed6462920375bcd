"""What a scorer looks at, and what it gives."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from harness.records import Example, Generation, Score


class ToolCall(NamedTuple):
    """One call of a tool."""

    name: str
    """Empty: a call that couldn't be read."""
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Measurement:
    """One example with all that a scorer may look at."""

    example: Example
    generation: Generation
    nll: float | None = None
    """Nats per token of the reference after the prompt; None where it was not measured."""
    reference_bytes: int = 0
    reference_tokens: int = 0
    special_tokens: tuple[str, ...] = ()
    """Control tokens of the template, which have no place inside an answer."""
    samples: tuple[Generation, ...] = ()
    """All completions of the prompt, the first one being `generation`; more than one where `num_samples` asks for it."""
    choice_logprobs: tuple[float, ...] = ()
    """Log-probability of each of the example's choices after the prompt, in nats, summed over its tokens; empty where not measured."""
    prompt_differs: bool | None = None
    """Whether the template renders the prompt differently once the answer follows: the model was trained on another one. None: not known."""
    parsed_calls: tuple[ToolCall, ...] | None = None
    """Tool calls that the tokenizer's own parser or a server found in the generation; None where there is no such parser."""


Scorer = Callable[[Measurement], Score | None]
"""Gives None where its metric doesn't apply to the example, a score of None where it couldn't be told."""
