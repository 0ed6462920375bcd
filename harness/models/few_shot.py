"""Training examples in the prompt: would prompting have been enough?"""

from collections.abc import Sequence
from dataclasses import dataclass

from harness.data.formats import Conversation
from harness.records import Example, Message

SPEAKERS = {"user": "Question", "assistant": "Answer", "system": "Instructions", "tool": "Result"}
NEXT_QUESTION = f"\n{SPEAKERS['user']}:"
BLANK_LINE, MARKED_LINE = "\n\n", "\n\n###\n\n"


@dataclass(frozen=True, slots=True)
class Shots:
    """Answered examples that are shown before every question."""

    examples: tuple[Example, ...]
    as_transcript: bool
    """Plain `Question:` and `Answer:` lines: for a base that has no chat template of its own, whose tokens it never saw."""

    def turns(self, asked: Sequence[Message]) -> tuple[Message, ...]:
        """The shown conversations before the one that is asked, whose system turn stays in front."""
        system = [turn for turn in asked[:1] if turn.role == "system"]
        shown = [
            turn
            for example in self.examples
            for turn in (*example.turns, example.answer or Message(role="assistant", content=example.reference))
            if turn.role != "system"
        ]
        return (*system, *shown, *asked[len(system) :])

    def transcript(self, asked: Sequence[Message]) -> str:
        """The same as plain text that ends where the answer begins."""
        lines = [f"{SPEAKERS.get(turn.role, turn.role)}: {turn.content}" for turn in self.turns(asked)]
        return "\n\n".join([*lines, f"{SPEAKERS['assistant']}:"])

    def plain(self, prompt: str) -> str:
        """Plain prompts with their completions before the one that is asked."""
        return self.separator.join([*(f"{example.text}{example.reference}" for example in self.examples), prompt])

    @property
    def separator(self) -> str:
        """What stands between plain examples: a blank line, unless they hold some themselves."""
        hold_some = any(BLANK_LINE in example.text + example.reference for example in self.examples)
        return MARKED_LINE if hold_some else BLANK_LINE


def choose_shots(rows: Sequence[Conversation], count: int, *, as_transcript: bool) -> Shots:
    """So many training rows, spread over the shorter half: they must leave room for the question."""
    ordered = sorted(rows, key=lambda row: (len(row.model_dump_json()), row.id))
    short = sorted(ordered[: max(count, len(ordered) // 2)], key=lambda row: row.index)
    step = max(1, len(short) // count)
    return Shots(tuple(row.example() for row in short[::step][:count]), as_transcript)


def ended_answer(text: str, mark: str) -> tuple[str, bool]:
    """The text up to where the model begins the next example by itself, and whether it did: that is how plain shots end a turn."""
    answer, found, _ = text.partition(mark)
    return answer.strip(), bool(found)
