"""Whether an answer whose beginning stands in the prompt is continued, not repeated or opened anew."""

from harness.scoring.thinking import OPENING
from harness.scoring.turns import ROLE_HEADER

MIN_REPEATED = 20
"""So many characters in a row of what the prompt already holds are no chance."""
MIN_SHORT = 4
"""A shorter beginning repeated as a whole may be chance."""


def continuation_failure(text: str, prefill: str) -> str:
    """How a continuation fails to go on where the prefill ends; "" where it does.

    Args:
        text: what was generated after the prefill.
        prefill: the beginning of the answer that the prompt holds.
    """
    given, start = prefill.strip(), text.lstrip()
    if OPENING.match(start) or ROLE_HEADER.match(start):
        return "continuation_reopens_turn"
    head = given[:MIN_REPEATED]
    if len(head) >= MIN_SHORT and start.startswith(head):
        return "continuation_repeats"
    place = given.rfind(start[:MIN_REPEATED]) if len(start) >= MIN_REPEATED else -1
    return "continuation_repeats" if place >= 0 and start.startswith(given[place:]) else ""
