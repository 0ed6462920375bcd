"""Whether the model finds the right one of several given answers the likeliest."""

import math
from collections.abc import Sequence

from harness.scoring.verdict import Verdict


def choice_accuracy(logprobs: Sequence[float], choices: Sequence[str], reference: str) -> Verdict:
    """1 where the choice with the highest summed log-probability is the reference, else 0 (lm-eval's `acc`).

    Args:
        logprobs: of every choice after the prompt, in nats, summed over its tokens; empty where not measured.
        choices: what there is to choose from.
        reference: one of them, but for blanks around it.
    """
    return _chosen(logprobs, choices, reference)


def choice_accuracy_norm(logprobs: Sequence[float], choices: Sequence[str], reference: str) -> Verdict:
    """The same by log-probability per UTF-8 byte, so that a long choice isn't the unlikelier for its length.

    This is lm-eval's `acc_bytes`, and its `acc_norm`, which divides by characters, where all choices are ASCII.
    """
    lengths = [len(choice.encode(errors="surrogatepass")) for choice in choices]
    if len(logprobs) == len(choices):
        logprobs = [value / max(length, 1) for value, length in zip(logprobs, lengths, strict=True)]
    return _chosen(logprobs, choices, reference)


def _chosen(logprobs: Sequence[float], choices: Sequence[str], reference: str) -> Verdict:
    if len(logprobs) != len(choices) or any(math.isnan(value) for value in logprobs):
        return Verdict(None, "not_measured")
    if reference.strip() not in (choice.strip() for choice in choices):
        return Verdict(None, "reference_not_a_choice")
    # The first of equals, as argmax has it.
    likeliest = max(range(len(choices)), key=lambda number: logprobs[number])
    return Verdict(float(choices[likeliest].strip() == reference.strip()))
