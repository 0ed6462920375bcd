"""Are the answers to held-out prompts right?

Asks the conversations of the experiment's test split, none of which was trained on, and compares the generations with
the reference answers. `nll` (nats per token) and `bits_per_byte` are of the reference answer itself, without its end
token, so that runs with different templates can be compared; bits per byte also across tokenizers.
"""

import math
from collections.abc import Callable, Sequence

from harness.config import EvalConfig
from harness.records import Example, Score
from harness.scoring import text
from harness.scoring.measurement import Measurement, Scorer
from harness.suite import Suite


def load(test: Sequence[Example], options: EvalConfig) -> Sequence[Example]:
    """The test split as it is."""
    return test


def compared(metric: str, compare: Callable[[str, str], float]) -> Scorer:
    """A scorer that compares the generation with the reference."""

    def score(measured: Measurement) -> Score:
        value = compare(measured.generation.text, measured.example.reference)
        return Score(example_id=measured.example.id, metric=metric, value=value)

    return score


def nll(measured: Measurement) -> Score:
    """Nats per token of the reference."""
    return Score(example_id=measured.example.id, metric="nll", value=measured.nll)


def bits_per_byte(measured: Measurement) -> Score:
    """Bits per UTF-8 byte of the reference."""
    value = None
    if measured.nll is not None and measured.reference_bytes:
        value = measured.nll * measured.reference_tokens / measured.reference_bytes / math.log(2)
    return Score(example_id=measured.example.id, metric="bits_per_byte", value=value)


SUITE = Suite(
    name="held_out",
    version=2,
    description="held-out answers: exact and normalized match, ROUGE-L, chrF, NLL and bits per byte of the reference",
    scorers={
        "exact_match": compared("exact_match", text.exact_match),
        "normalized_match": compared("normalized_match", text.normalized_match),
        "starts_with_reference": compared("starts_with_reference", text.starts_with_reference),
        "rouge_l": compared("rouge_l", text.rouge_l),
        "chrf": compared("chrf", text.chrf),
        "nll": nll,
        "bits_per_byte": bits_per_byte,
    },
    load=load,
    needs_nll=True,
)
