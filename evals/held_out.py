"""Are the answers to held-out prompts right?

Asks the conversations of the experiment's test split, none of which was trained on, and compares the generations with
the reference answers. `nll` (nats per token) and `bits_per_byte` are of the reference answer itself, without its end
token, so that runs with different templates can be compared; bits per byte also across tokenizers.
"""

from harness.scoring.table import SCORERS
from harness.suite import Suite

METRICS = ("exact_match", "normalized_match", "starts_with_reference", "rouge_l", "chrf", "nll", "bits_per_byte")

SUITE = Suite(
    name="held_out",
    version=4,
    description="held-out answers: exact and normalized match, ROUGE-L, chrF, NLL and bits per byte of the reference",
    scorers={name: SCORERS[name] for name in METRICS},
    needs_nll=True,
)
