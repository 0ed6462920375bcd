"""Measurements made by hand."""

from collections.abc import Sequence

from harness.records import Example, Generation
from harness.scoring.measurement import Measurement
from harness.scoring.table import SAMPLE_SCORERS, SCORERS
from harness.scoring.verdict import Verdict


def generation(text: str, sample: int = 0) -> Generation:
    """A completion that ended its turn."""
    return Generation(
        example_id="e", prompt="", text=text, stop_reason="end_of_turn", prompt_tokens=1, completion_tokens=1, sample=sample
    )  # fmt: skip


def measurement(
    *answers: str, reference: str = "", tests: str = "", choices: Sequence[str] = (), logprobs: Sequence[float] = ()
) -> Measurement:
    """One example with one or several answers."""
    samples = tuple(generation(answer, number) for number, answer in enumerate(answers))
    return Measurement(
        example=Example(id="e", reference=reference, tests=tests, choices=tuple(choices)),
        generation=samples[0],
        samples=samples,
        choice_logprobs=tuple(logprobs),
    )


def verdict(metric: str, measured: Measurement) -> Verdict | None:
    """What a scorer of the table says."""
    score = {**SCORERS, **SAMPLE_SCORERS}[metric](measured)
    if score is None:
        return None
    assert (score.example_id, score.metric) == ("e", metric)
    return Verdict(score.value, score.failure)
