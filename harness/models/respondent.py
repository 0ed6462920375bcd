"""Whoever answers prompts: a model in this process, a server, or predictions that were made elsewhere."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from harness.records import Example, Generation
from harness.scoring.measurement import ToolCall


class Sampling(NamedTuple):
    """How completions are drawn."""

    max_new_tokens: int
    num_samples: int = 1
    temperature: float = 0.0
    """0: greedy."""
    top_p: float = 1.0
    seed: int = 0


class RowLoss(NamedTuple):
    """How well a model predicts the supervised tokens of one row."""

    nll: float
    """Nats per supervised token; NaN where there is none."""
    num_tokens: int
    num_right: int
    """Tokens whose argmax is right."""


def no_answer(example: Example, prompt: str = "") -> Generation:
    """Stands where an example was not asked."""
    return Generation(
        example_id=example.id, prompt=prompt, text="", stop_reason="not_asked", prompt_tokens=0, completion_tokens=0
    )


class Respondent(Protocol):
    """Answers examples: a server, predictions of another system, or a model of this process."""

    @property
    def control_tokens(self) -> tuple[str, ...]:
        """Tokens that have no place inside an answer; empty where they aren't known."""

    def generations(
        self, examples: Sequence[Example], *, as_text: bool, sampling: Sampling
    ) -> list[tuple[Generation, ...]]:
        """The completions of every example, `sampling.num_samples` each, in the order of the examples.

        Args:
            examples: what is asked.
            as_text: ask `text` as it stands, without any chat template.
            sampling: how.

        Raises: ModelError: it can't answer at all.
        """


@runtime_checkable
class OpenModel(Respondent, Protocol):
    """A respondent whose probabilities and tokenizer can be seen; what it can't tell is left out, never made up."""

    def reference_losses(self, examples: Sequence[Example], *, as_text: bool) -> Mapping[str, RowLoss]:
        """Example id -> NLL of its reference after its prompt; without those that can't be told."""

    def choice_logprobs(self, examples: Sequence[Example], *, as_text: bool) -> Mapping[str, tuple[float, ...]]:
        """Example id -> log-probability of each of its choices, in nats; without those that can't be told."""

    def written_references(self, examples: Sequence[Example], *, as_text: bool) -> Mapping[str, str | None]:
        """Example id -> its reference as the chat template writes it after the prompt; without those where it is as in the data.

        None: the template renders the prompt differently once the answer follows.
        """

    def parsed_calls(self, example: Example, generation: Generation) -> tuple[ToolCall, ...] | None:
        """Tool calls as the tokenizer's own parser reads them; None where it has none.

        A text that the parser refuses is one call without a name.
        """
