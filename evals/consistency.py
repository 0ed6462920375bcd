"""Does the model say the same to the same question, however it is put?

Rows of `data:` with a `group` (the question) and a `variant` or `format` (its wording) are asked as they are. Other rows,
or those of the experiment's test split, are asked in several neutral wordings each; `limit` counts the questions.
`correct` compares with the reference, and in slices for each wording (`correct.please`); `same_answer` compares the
wordings with each other, right or wrong. `style:` in the YAML adds a metric of that name:
`{suite: consistency, limit: 50, style: {max_words: 40, language: en}}`.

The cluster of an example is its question, whatever `cluster` its row states: wordings are compared within a question, so
intervals take questions on one document for independent.
"""

from collections.abc import Callable, Mapping, Sequence

from harness.data.examples import load_examples
from harness.data.sources import load_rows
from harness.errors import DataError
from harness.eval_config import EvalConfig
from harness.records import Example, Score
from harness.scoring import text
from harness.scoring.measurement import Measurement
from harness.scoring.thinking import answer_in
from harness.suite import Suite


def _in_passing(question: str) -> str:
    """Without the capital and the stop that a careful writer sets."""
    return question[:1].lower() + question[1:].rstrip().rstrip(".?!")


WORDINGS: Mapping[str, Callable[[str], str]] = {
    "as_is": str,
    "please": "Please answer: {}".format,
    "quoted": 'Answer this: "{}"'.format,
    "in_passing": _in_passing,
    "line_break": "{}\n".format,
    "question_answer": "Question: {}\nAnswer:".format,
    "bullet": "- {}".format,
}


def load(test: Sequence[Example], options: EvalConfig) -> Sequence[Example]:
    """Every question in all its wordings."""
    asked = _worded_already(options) or [
        wording
        for example in (test if options.data is None else load_examples(options.data))[: options.limit]
        for wording in _worded(example)
    ]
    questions = set(list(dict.fromkeys(example.cluster for example in asked))[: options.limit])
    return [example for example in asked if example.cluster in questions]


def _worded_already(options: EvalConfig) -> list[Example]:
    """The rows of data whose wordings are a user's own; none where they have no `group`.

    Raises: DataError: only some rows have a group.
    """
    rows = list(load_rows(options.data)) if options.data is not None else []
    if options.data is None or all(row.content.get("group") is None for row in rows):
        return []
    examples = []
    for row, example in zip(rows, load_examples(options.data), strict=True):
        group, wording = row.content.get("group"), row.content.get("variant", row.content.get("format"))
        if group is None:
            raise DataError(
                f"{row.where}: the row has no group, and others have; say which question it is a wording of"
            )
        slices = example.slices if wording is None else (str(wording),)
        examples.append(example.model_copy(update={"cluster": str(group), "slices": slices}))
    return examples


def _worded(example: Example) -> list[Example]:
    """One question in every wording that changes it; of a conversation, its last turn is put otherwise."""
    if example.messages and example.messages[-1].role != "user":
        return [_put(example, example.messages[-1].content, "as_is")]
    asked = example.messages[-1].content if example.messages else example.text
    texts: dict[str, str] = {}
    for wording, put in WORDINGS.items():
        texts.setdefault(put(asked if wording == "as_is" else asked.strip()), wording)
    return [_put(example, worded, wording) for worded, wording in texts.items()]


def _put(example: Example, worded: str, wording: str) -> Example:
    changed: dict[str, object] = {"id": f"{example.id}~{wording}", "cluster": example.id, "slices": (wording,)}
    if example.messages:
        last = example.messages[-1].model_copy(update={"content": worded})
        return example.model_copy(update={"messages": (*example.messages[:-1], last), **changed})
    return example.model_copy(update={"text": worded, **changed})


def correct(measured: Measurement) -> Score:
    """1 where the answer is the reference without case, punctuation and articles, else 0."""
    value = text.normalized_match(measured.generation.text, measured.example.reference)
    return Score(example_id=measured.example.id, metric="correct", value=value)


def same_answer(measured: Sequence[Measurement]) -> list[Score]:
    """Share of the other wordings of a question that got the same answer, but for case, punctuation and articles."""
    questions: dict[str, list[Measurement]] = {}
    for item in measured:
        questions.setdefault(item.example.cluster or item.example.id, []).append(item)
    return [score for question in questions.values() for item in question if (score := _agreement(item, question))]


def _agreement(item: Measurement, question: Sequence[Measurement]) -> Score | None:
    """None where there is no other wording; templates that trim turns make one prompt of two of them."""
    others = [other for other in question if other.generation.prompt != item.generation.prompt]
    if not others:
        return None
    answer = text.normalized(answer_in(item.generation.text))
    if not answer:
        return Score(example_id=item.example.id, metric="same_answer", value=0.0, failure="no_answer")
    same = [text.normalized(answer_in(other.generation.text)) == answer for other in others]
    failure = "" if all(same) else "differs"
    return Score(example_id=item.example.id, metric="same_answer", value=sum(same) / len(same), failure=failure)


SUITE = Suite(
    name="consistency",
    version=1,
    description="the same question in several wordings and formats: right answers, the same answers, declared style",
    scorers={"correct": correct},
    load=load,
    group_scorers={"same_answer": same_answer},
    limits_itself=True,
)
