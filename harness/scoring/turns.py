"""Whether an answer is one turn: ended where it should be, with nobody else's turn and no control token inside."""

import re
from collections.abc import Sequence

from harness.records import StopReason
from harness.scoring.endings import never_stops

# A role name alone on a line is a header that leaked; one inside a sentence is prose. Blanks are taken once and for
# all: a text of blanks alone would else be gone through once for every one of them.
ROLE_HEADER = re.compile(
    r"^[^\S\n]*+(?:system|user|assistant|tool|human|gpt)[^\S\n]*+:?[^\S\n]*+$", re.IGNORECASE | re.MULTILINE
)
# Templates that write their headers as text; looked for only where the prompt has them too.
TEXT_HEADER = re.compile(
    r"^(?:#{1,3} ?)?(?:User|Human|Assistant|Bot|Question|Instruction|Input|Response):", re.MULTILINE | re.IGNORECASE
)


def end_failure(text: str, stop_reason: StopReason, prompt: str) -> str:
    """Whether the turn was ended, by the token that ends turns.

    Where it isn't known how generation ended, the text must show that it went on after its answer.
    """
    if stop_reason == "end_of_turn":
        return ""
    if stop_reason == "unknown":
        return "runs_on" if never_stops(text, prompt) else ""
    return "runs_on" if stop_reason == "length" else "wrong_end_token"


def special_token_failure(text: str, special_tokens: Sequence[str]) -> str:
    """Whether one of the template's control tokens stands inside the answer."""
    return "special_token_in_answer" if any(token in text for token in special_tokens) else ""


def role_failure(text: str, prompt: str) -> str:
    """Whether the answer holds the header of a turn: a role alone on a line, or as the prompt itself begins turns."""
    if ROLE_HEADER.search(text):
        return "role_header_in_answer"
    headers = set(TEXT_HEADER.findall(text))
    return "role_header_in_answer" if headers & set(TEXT_HEADER.findall(prompt)) else ""
