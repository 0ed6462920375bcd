"""Which of the examples that are asked occur in the training rows."""

from collections.abc import Sequence

from harness.data.formats import Conversation
from harness.data.leakage import overlap
from harness.data.splits import answer_of, instruction_of, text_of
from harness.records import Contamination, Example, TrainedAnswers

SAMPLE, LONGEST = 2000, 2000


def contamination(examples: Sequence[Example], train: Sequence[Conversation]) -> Contamination:
    """Examples whose question, with or without its answer, or whose answer's words are in the training rows.

    Near duplicates are told from whole rows, question and answer together: many questions of one kind differ in a name
    alone, and are no leak as long as their answers differ, too.
    """
    questions = [
        example.text or "\n".join(t.content for t in example.messages if t.role == "user") for example in examples
    ]
    ids = [example.id for example in examples]
    asked = overlap(questions, [instruction_of(row) for row in train])
    rows = [f"{question}\n{example.reference}" for question, example in zip(questions, examples, strict=True)]
    whole = overlap(rows, [text_of(row) for row in train])
    answers = overlap([example.reference for example in examples], [answer_of(row) for row in train])
    exact = sorted({*asked.exact, *whole.exact})
    return Contamination(
        num_examples=len(examples),
        exact=tuple(ids[place] for place in exact),
        near=tuple(ids[place] for place in whole.near if place not in exact),
        shared=tuple(ids[place] for place in answers.ngram13),
    )


def sample_answers(train: Sequence[Conversation]) -> TrainedAnswers:
    """Answers spread over all training rows, each cut to a few pages."""
    step = max(1, len(train) // SAMPLE)
    return TrainedAnswers(answers=tuple(answer_of(row)[:LONGEST] for row in train[::step][:SAMPLE]))
