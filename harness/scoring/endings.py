"""Whether a text went on after its answer: for predictions that don't say how generation ended."""

import re

LOOPED_CHARACTERS = 100
"""A text that repeats itself to its very end does so over at least this many characters, and three times."""
LOOPS = 3
LOOKED_AT = 4000
MAX_CHARACTERS = 100_000
MIN_INSTRUCTION = 25
"""Shorter first lines of a prompt, such as "Yes" or "Dear Sir", may stand in an answer."""

LABEL = re.compile(r"^[ \t]*(?:#{1,6}[ \t]*)?([^\W\d_][\w -]{0,30}?)[ \t]*:", re.MULTILINE)
ENDS_IN_LABEL = re.compile(r"(?:#{1,6}[ \t]*)?([^\W\d_][\w -]{0,30}?)[ \t]*:\s*")
# What training data of other templates put before a turn; no answer has it at the start of a line.
OTHER_TURN = re.compile(
    r"^[ \t]*(?:#{1,6}[ \t]*(?:Instruction|Input|Response|Human|User|Assistant)[ \t]*:|<\|(?:im_start|start_header_id|user|system)\|>"
    r"|<start_of_turn>|\[INST\]|</?s>)",
    re.MULTILINE,
)


def never_stops(text: str, prompt: str) -> str:
    """How it shows that a model didn't end its answer by itself, as a few words; "" where nothing does."""
    if continues_after_answer(text, prompt):
        return "goes on with another prompt"
    return "repeats itself to the very end" if ends_in_a_loop(text) else ""


def continues_after_answer(text: str, prompt: str) -> bool:
    """Whether a text goes on with another prompt after its answer.

    It does where, after its first line, one begins a turn of some template; repeats the prompt's first line; or, for a
    prompt that ends in a label such as `Output:`, begins with that label again, twice or beside another label of the
    prompt (`Input:`). An answer may name the last label once, to say its result.
    """
    first_line, _, rest = text[:MAX_CHARACTERS].strip().partition("\n")
    if not first_line or not rest:
        return False
    if OTHER_TURN.search(rest):
        return True
    instruction = next((line.strip() for line in prompt.split("\n") if len(line.strip()) >= MIN_INSTRUCTION), "")
    if instruction and any(line.lstrip().startswith(instruction) for line in rest.split("\n")):
        return True
    asking = ENDS_IN_LABEL.fullmatch(prompt.rstrip().rpartition("\n")[2].strip())
    if asking is None:
        return False
    last = asking[1].casefold()
    labels = {label.casefold() for label in LABEL.findall(prompt)} - {last}
    found = [label.casefold() for label in LABEL.findall(rest)]
    return found.count(last) > 1 or (last in found and any(label in labels for label in found))


def ends_in_a_loop(text: str) -> bool:
    """Whether the end of a text is one string over and over, the last time perhaps in part."""
    reversed_end = text[-LOOKED_AT:].rstrip()[::-1]
    matched, borders = 0, [0] * len(reversed_end)
    for position in range(1, len(reversed_end)):
        while matched and reversed_end[position] != reversed_end[matched]:
            matched = borders[matched - 1]
        matched += reversed_end[position] == reversed_end[matched]
        borders[position] = matched
        length = position + 1
        # The shortest period of what was read so far (Knuth, Morris and Pratt 1977).
        if length >= LOOPED_CHARACTERS and length >= LOOPS * (length - matched):
            return True
    return False
