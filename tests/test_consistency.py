"""The same question in several wordings; what a model retained of its base."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from harness.diagnose.wordings import wording_spread
from harness.errors import DataError
from harness.eval_config import EvalConfig
from harness.evaluate import evaluate
from harness.predictions import PredictedAnswers, Predictions
from harness.records import Example, Generation, Message, Score, SuiteResult
from harness.store import CellFolder
from harness.suite import load_suite, suite_examples
from tests.measurements import measurement

Write = Callable[[str, str], Path]
QUESTION = Example(id="q1", messages=(Message(role="user", content="Where does Ann live?"),), reference="Bridge Street")
GROUPED = [
    {
        "id": f"{group}-{variant}",
        "group": group,
        "variant": variant,
        "prompt": f"{variant}: {group}?",
        "reference": "yes",
    }
    for group in ("a", "b", "c")
    for variant in ("formal", "casual", "terse")
]


def options(**given: object) -> EvalConfig:
    return EvalConfig.model_validate({"suite": "consistency", **given})


def asked(test: list[Example], **given: object) -> list[Example]:
    return suite_examples(load_suite("consistency"), options(**given), test)


def answered(examples: list[Example], answers: Mapping[str, str], folder: Path, **given: object) -> SuiteResult:
    """The suite's result where `answers` were given, and `yes` to all else."""
    generations = {
        example.id: Generation(
            example_id=example.id, prompt="", text=answers.get(example.id, "yes"), stop_reason="end_of_turn",
            prompt_tokens=1, completion_tokens=1,
        )
        for example in examples
    }  # fmt: skip
    suite = load_suite("consistency")
    return evaluate(
        suite,
        options(**given),
        examples,
        PredictedAnswers(Predictions(generations, is_in_order=False, source="answers")),
        CellFolder(folder),
    )


def write_rows(write: Write, rows: list[dict[str, object]]) -> str:
    return str(write("\n".join(json.dumps(row) for row in rows), "rows.jsonl"))


def scores(result: SuiteResult, metric: str) -> dict[str, float | None]:
    return {score.example_id: score.value for score in result.scores if score.metric == metric}


def test_question_is_asked_in_every_wording() -> None:
    assert {example.id: example.messages[-1].content for example in asked([QUESTION])} == {
        "q1~as_is": "Where does Ann live?",
        "q1~please": "Please answer: Where does Ann live?",
        "q1~quoted": 'Answer this: "Where does Ann live?"',
        "q1~in_passing": "where does Ann live",
        "q1~line_break": "Where does Ann live?\n",
        "q1~question_answer": "Question: Where does Ann live?\nAnswer:",
        "q1~bullet": "- Where does Ann live?",
    }


def test_wordings_keep_their_question_and_reference() -> None:
    examples = asked([QUESTION])
    assert {(example.cluster, example.reference) for example in examples} == {("q1", "Bridge Street")}
    assert [example.slices for example in examples][:2] == [("as_is",), ("please",)]


def test_cluster_is_the_question_even_where_questions_share_a_document() -> None:
    on_one_document = [QUESTION.model_copy(update={"id": name, "cluster": "document"}) for name in ("q1", "q2")]
    assert {example.cluster for example in asked(on_one_document)} == {"q1", "q2"}


def test_wording_that_changes_nothing_is_asked_once() -> None:
    plain = QUESTION.model_copy(update={"messages": (Message(role="user", content="roses"),)})
    assert "q1~in_passing" not in {example.id for example in asked([plain])}


def test_result_of_a_tool_is_not_put_otherwise() -> None:
    turns = (*QUESTION.messages, Message(role="tool", content='{"street": "Bridge Street"}'))
    assert [example.id for example in asked([QUESTION.model_copy(update={"messages": turns})])] == ["q1~as_is"]


def test_limit_counts_questions() -> None:
    test = [QUESTION.model_copy(update={"id": f"q{i}"}) for i in range(5)]
    assert len(asked(test, limit=2)) == 14


def test_wordings_of_the_users_own_are_asked_as_they_are(write: Write) -> None:
    examples = asked([], data=write_rows(write, GROUPED), limit=2)
    assert [(example.id, example.cluster, example.slices) for example in examples[2:4]] == [
        ("a-terse", "a", ("terse",)),
        ("b-formal", "b", ("formal",)),
    ]
    assert len(examples) == 6


def test_questions_without_groups_are_put_in_wordings(write: Write) -> None:
    assert len(asked([], data=write_rows(write, [{"prompt": "Are you there?", "reference": "yes"}]))) == 7


def test_row_that_lacks_a_group_is_refused(write: Write) -> None:
    rows = [*GROUPED, {"id": "z", "prompt": "z?", "reference": "yes"}]
    with pytest.raises(DataError, match=r"rows.jsonl.*:10.* has no group"):
        asked([], data=write_rows(write, rows))


def test_agreement_is_told_apart_from_being_right(write: Write, tmp_path: Path) -> None:
    examples = asked([], data=write_rows(write, GROUPED))
    answers = {
        "a-formal": "No.", "a-casual": "no", "a-terse": "The no!",
        "b-formal": "Yes", "b-casual": "yes", "b-terse": "perhaps",
        "c-terse": "",
    }  # fmt: skip
    result = answered(examples, answers, tmp_path)
    assert scores(result, "correct") == {
        "a-formal": 0.0, "a-casual": 0.0, "a-terse": 0.0,
        "b-formal": 1.0, "b-casual": 1.0, "b-terse": 0.0,
        "c-formal": 1.0, "c-casual": 1.0, "c-terse": 0.0,
    }  # fmt: skip
    assert scores(result, "same_answer") == {
        "a-formal": 1.0, "a-casual": 1.0, "a-terse": 1.0,
        "b-formal": 0.5, "b-casual": 0.5, "b-terse": 0.0,
        "c-formal": 0.5, "c-casual": 0.5, "c-terse": 0.0,
    }  # fmt: skip
    assert result.slice_metrics["correct.terse"].value == 0.0
    assert result.slice_metrics["correct.casual"].value == pytest.approx(2 / 3)


def test_question_with_one_wording_has_no_agreement(write: Write, tmp_path: Path) -> None:
    examples = asked([], data=write_rows(write, GROUPED[:1]))
    assert scores(answered(examples, {}, tmp_path), "same_answer") == {}


def test_wordings_that_the_template_makes_equal_are_one() -> None:
    group = load_suite("consistency").group_scorers["same_answer"]
    items = [measurement("yes"), measurement("no"), measurement("yes")]
    prompts = ("Are you?", "Are you there?", "Are you?")
    for item, prompt in zip(items, prompts, strict=True):
        object.__setattr__(item, "generation", item.generation.model_copy(update={"prompt": prompt}))
    assert [score.value for score in group(items)] == [0.0, 0.0, 0.0]


def test_declared_style_is_a_metric_of_its_own(write: Write, tmp_path: Path) -> None:
    examples = asked([], data=write_rows(write, GROUPED))
    style = {"style": {"max_words": 2}}
    result = answered(examples, {"a-formal": "yes I am"}, tmp_path, **style)
    assert result.metrics["style"].value == pytest.approx(8 / 9)
    assert [score.failure for score in result.scores if score.failure == "too_long"] == ["too_long"]
    assert "style" in answered(examples, {}, tmp_path, scorers=["correct"], **style).metrics
    assert "style" not in answered(examples, {}, tmp_path).metrics


def spread_result(num_questions: int, num_lost: int) -> SuiteResult:
    """Three wordings; the last one loses some questions."""
    names = ("as_is", "please", "bullet")
    ids = [(f"{q}~{name}", str(q), name, q) for q in range(num_questions) for name in names]
    return SuiteResult(
        suite="consistency", version=1, digest="d", metrics={}, seconds=0.0,
        scores=tuple(
            Score(example_id=i, metric="correct", value=0.0 if name == "bullet" and q < num_lost else 1.0) for i, _, name, q in ids
        ),
        clusters={i: cluster for i, cluster, _, _ in ids}, slices={i: (name,) for i, _, name, _ in ids},
    )  # fmt: skip


def test_spread_names_the_best_and_the_worst_wording() -> None:
    spread = wording_spread(spread_result(50, 15))
    assert spread is not None
    assert (spread.best, spread.worst, spread.n) == ("as_is", "bullet", 50)
    assert spread.difference == pytest.approx(0.3)
    assert spread.low < 0.3 < spread.high
    assert spread.p_value < 0.01


def test_spread_by_chance_is_no_surprise() -> None:
    spread = wording_spread(spread_result(50, 2))
    assert spread is not None
    assert spread.p_value > 0.05


def test_spread_of_few_questions_is_not_told() -> None:
    assert wording_spread(spread_result(5, 2)) is None


RETENTION = [
    {"prompt": "Q: capital of France?\nA:", "choices": ["Paris", "Rome"], "answer": "Paris", "kind": "general"},
    {"prompt": "Q: capital of Italy?\nA:", "choices": ["Paris", "Rome"], "answer": 1, "kind": "general"},
    {"prompt": "Q: who is Ann?\nA:", "answer": "a nurse", "kind": "domain", "entities": ["Ann"]},
]


def test_retention_takes_choices_kinds_and_entities(write: Write) -> None:
    suite = load_suite("retention")
    given = EvalConfig.model_validate({"suite": "retention", "data": write_rows(write, RETENTION)})
    examples = suite_examples(suite, given, [])
    assert [example.reference for example in examples] == ["Paris", "Rome", "a nurse"]
    assert [example.slices for example in examples] == [("general",), ("general",), ("domain",)]
    assert [example.cluster for example in examples] == ["", "", "Ann"]
    assert suite.needs_choices


@pytest.mark.parametrize(
    ("choices", "logprobs", "answer", "value", "failure"),
    [
        (["Paris", "Rome"], [-1.0, -2.0], "", 1.0, ""),
        (["Paris", "Rome"], [-3.0, -2.0], "Paris", 0.0, ""),
        (["Paris", "Rome"], [], "Paris", None, "not_measured"),
        ([], [], "It is Paris.\nQ: next", 1.0, ""),
        ([], [], "Parisian\nParis", 0.0, ""),
        ([], [], " Paris.Question: What next?", 1.0, ""),
    ],
)
def test_retained_is_what_is_chosen_or_said_first(
    choices: list[str], logprobs: list[float], answer: str, value: float | None, failure: str
) -> None:
    measured = measurement(answer, reference="Paris", choices=choices, logprobs=logprobs)
    score = load_suite("retention").scorers["accuracy"](measured)
    assert score is not None
    assert (score.value, score.failure) == (value, failure)
