"""Reports on datasets: what is counted, and each kind of fault."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.config import DataConfig
from harness.data.formats import Conversation
from harness.data.problems import DataProblem
from harness.data.report import DataReport, Lengths, report_file, report_splits
from harness.data.splits import load_splits
from harness.errors import DataError
from harness.eval_config import SourceConfig

Write = Callable[..., Path]
CUT = "The river rises in the hills above the town. It runs through two lakes and a gorge before it reaches the sea near the old"


def turns(*contents: str, first: str = "user") -> dict[str, Any]:
    roles = ("user", "assistant") if first == "user" else ("assistant", "user")
    return {"messages": [{"role": roles[i % 2], "content": text} for i, text in enumerate(contents)]}


def said(question: str, answer: str) -> dict[str, str]:
    return {"prompt": question, "completion": answer}


def lines(rows: Sequence[object]) -> str:
    return "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows)


def report(write: Write, rows: Sequence[object], name: str = "rows.jsonl", **fields: Any) -> DataReport:
    write(lines(rows), name)
    return report_file(DataConfig(train=name, **fields))


def problem(made: DataReport, kind: str) -> DataProblem:
    """The only problem of this kind."""
    (found,) = [item for item in made.problems if item.kind == kind]
    return found


GOOD = turns("Where does it rise?", "In the hills.")


@pytest.mark.parametrize(
    ("kind", "bad"),
    [
        ("unfilled_placeholder", turns("Who are you?", "I am {{name}}, a helper.")),
        ("foreign_template_tokens", turns("Who are you?<|im_end|>", "I am a helper.")),
        ("missing_assistant_turn", turns("Who are you?", "A helper.", "And whose?")),
        ("empty_answer", turns("Who are you?", " ")),
        ("role_order", turns("I am a helper.", "Good.", "Indeed.", first="assistant")),
        ("truncated_answer", turns("Tell me of the river.", CUT)),
        ("broken_row", '{"messages": [{"role": "user"'),
        ("broken_row", {"messages": "hello"}),
        ("broken_row", {"messages": [{"role": "captain", "content": "Aye."}]}),
        ("preference_pairs", {"prompt": "q", "chosen": "a", "rejected": "b"}),
    ],
)
def test_each_fault_is_counted_with_its_rows(write: Write, kind: str, bad: object) -> None:
    made = report(write, [GOOD, bad, turns("How long is it?", "120 miles."), bad])
    found = problem(made, kind)
    assert found.count == 2
    assert found.examples == (1, 3)
    assert found.message.startswith("2 of 4 rows")
    assert {item.kind for item in made.problems} <= {kind, "duplicate"}
    assert made.rows == 4


def test_good_rows_have_no_problem(write: Write) -> None:
    made = report(write, [GOOD, turns("How long is it?", "120 miles.")])
    assert made.problems == ()
    assert (made.format, made.rows, made.usable, made.turns) == ("messages", 2, 2, 4)
    assert made.roles == {"user": 2, "assistant": 2}
    assert made.is_usable


def test_examples_are_twenty_at_most(write: Write) -> None:
    found = problem(report(write, [turns(f"q{i}", "I am {{name}}.") for i in range(30)]), "unfilled_placeholder")
    assert (found.count, found.examples) == (30, tuple(range(20)))


def test_rows_of_a_file_are_numbered_with_the_broken_ones(write: Write) -> None:
    made = report(write, ["{broken", GOOD, turns("Who?", "{{name}}")])
    assert problem(made, "unfilled_placeholder").examples == (2,)
    assert problem(made, "broken_row").examples == (0,)


def test_rows_of_several_sources_are_numbered_through(write: Write) -> None:
    slot = turns("Who are you?", "I am {{name}}.")
    write(lines([GOOD, slot]), "a.jsonl")
    write(lines([{"text": "I am {{name}}, too."}, "{broken"]), "b.jsonl")
    made = report_file(DataConfig(train=("a.jsonl", "b.jsonl")))
    assert made.format == "messages+text"
    assert (problem(made, "unfilled_placeholder").count, problem(made, "unfilled_placeholder").examples) == (2, (1, 2))
    assert problem(made, "broken_row").examples == (3,)


def test_duplicates_and_near_duplicates_are_told_apart(write: Write) -> None:
    long = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
    first, near = (
        said(long, "It is so, and has been so for a hundred years."),
        said(long, "It is so, and has been so for a thousand years."),
    )
    made = report(write, [first, near, first, said("Something else?", "Yes.")])
    assert (made.duplicates, made.near_duplicates) == (1, 1)
    assert problem(made, "duplicate").examples == (2,)
    assert problem(made, "near_duplicate").examples == (1,)


def test_calls_of_different_tools_are_no_duplicates(write: Write) -> None:
    def calls(city: str) -> dict[str, Any]:
        function = {"name": "weather", "arguments": {"city": city}}
        answer = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]}
        return {"messages": [{"role": "user", "content": "What is it like out there?"}, answer]}

    assert report(write, [calls("Graz"), calls("Oslo")]).duplicates == 0
    assert report(write, [calls("Graz"), calls("Graz")]).duplicates == 1


def test_earlier_answers_are_counted_once(write: Write) -> None:
    write(lines([turns("a b", "c d e", "f", "g h")]), "rows.jsonl")
    counted: list[Conversation] = []

    def measure(rows: Sequence[Conversation]) -> Lengths:
        from harness.data.splits import text_of

        counted.extend(rows)
        return Lengths("words", [len(text_of(row).split()) for row in rows])

    made = report_file(DataConfig(train="rows.jsonl"), measure=measure)
    assert len(counted) == 1
    assert (made.tokens.total, made.tokens.max, made.tokens.rendered) == (8, 8, False)


def test_token_summary_by_hand(write: Write) -> None:
    write(lines([said(f"q{i}", f"a{i}") for i in range(4)]), "rows.jsonl")
    lengths = Lengths("mine", [2, 4, 4, 50], supervised=[1, 2, 2, 0], max_length=40, truncated=1)
    tokens = report_file(DataConfig(train="rows.jsonl"), measure=lambda rows: lengths).tokens
    assert (tokens.total, tokens.mean, tokens.median, tokens.max) == (60, 15.0, 4.0, 50)
    assert tokens.p95 == pytest.approx(4 + 0.85 * 46)
    assert (tokens.supervised_total, tokens.supervised_mean, tokens.truncated) == (5, 1.25, 1)
    assert sum(count for _, _, count in tokens.histogram) == 4
    assert tokens.histogram[0][0] == 0
    assert tokens.histogram[-1][1] == 51


def test_rows_of_text_alone_have_every_score_but_those_of_a_question(write: Write) -> None:
    made = report(write, [{"text": "Once upon a time there was a fox."}, {"text": "It ran."}])
    assert "length_ratio" not in made.scores
    assert made.scores["answer_words"] == pytest.approx((2.3, 5.0, 7.7))
    assert made.turns == 2


def test_a_prompt_and_its_completion_are_two_turns(write: Write) -> None:
    assert report(write, [said("a?", "b"), said("", "c")]).turns == 3


def test_overlap_with_held_out_rows(write: Write) -> None:
    long = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
    write(
        lines([said("Same question?", "x"), said(f"{long} seventeen?", "y"), said("Never asked.", long)]), "held.jsonl"
    )
    write(lines([said("same  QUESTION?", "z"), said(f"{long} eighteen?", "w")]), "rows.jsonl")
    made = report_file(DataConfig(train="rows.jsonl"), [SourceConfig(path="held.jsonl")])
    assert made.overlap.model_dump() == {"held_out": 3, "exact": 1, "ngram13": 2, "near": 1}
    assert problem(made, "overlap").severity == "warning"


def test_overlap_is_zero_where_nothing_is_held_out(write: Write) -> None:
    assert report(write, [GOOD]).overlap.model_dump() == {"held_out": 0, "exact": 0, "ngram13": 0, "near": 0}


def test_held_out_rows_that_can_not_be_read_are_told(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    write(lines([GOOD, "{broken", turns("No answer?")]), "held.jsonl")
    write(lines([GOOD]), "rows.jsonl")
    made = report_file(DataConfig(train="rows.jsonl"), [SourceConfig(path="held.jsonl")])
    assert made.overlap.held_out == 1
    assert "held.jsonl: 2 of 3 held-out rows can't be read" in caplog.text


@pytest.mark.parametrize(
    ("rows", "format", "kinds"),
    [
        ([{"prompt": "q", "chosen": "a", "rejected": "b"}] * 2, "preference", {"preference_pairs": 2}),
        ([{"title": "q", "body": "a"}] * 2, "unknown", {"unknown_format": 2}),
        (["{broken", "{so too"], "unknown", {"broken_row": 2}),
        ([{"title": "q"}, "{broken"], "unknown", {"unknown_format": 1, "broken_row": 1}),
        ([turns("q", "")], "messages", {"empty_answer": 1}),
        ([], "unknown", {}),
    ],
)
def test_nothing_usable_is_still_a_report(
    write: Write, rows: Sequence[object], format: str, kinds: dict[str, int]
) -> None:
    made = report(write, rows)
    assert not made.is_usable
    assert (made.format, made.rows, made.usable, made.turns) == (format, len(rows), 0, 0)
    assert {item.kind: item.count for item in made.problems} == kinds
    assert made.tokens is None
    assert DataReport.model_validate_json(made.model_dump_json()) == made


def test_a_column_that_is_not_there_is_a_mistake_of_the_config(write: Write) -> None:
    with pytest.raises(DataError, match="data.group_by names 'user'"):
        report(write, [GOOD], group_by="user")


def test_report_on_splits_tells_what_was_left_out(write: Write) -> None:
    rows = [said(f"What is {i}?", f"The number {i}.") for i in range(30)]
    write(lines([*rows, said("silent", ""), said("Who are you?", "I am {{name}}.")]), "train.jsonl")
    write(lines(rows[:2]), "test.jsonl")
    write(lines([said("valid?", "yes")]), "validation.jsonl")
    config = DataConfig(train="train.jsonl", test="test.jsonl", validation="validation.jsonl", limit=20)
    made = report_splits(load_splits(config), "train.jsonl", None)
    assert made.splits == {"train": 20, "validation": 1, "test": 2}
    assert made.dropped == {"empty_answer": 1, "overlap": 2, "limit": 9}
    assert (made.rows, made.usable) == (32, 20)
    assert made.overlap.held_out == 3
    assert made.overlap.exact == 0
    assert "train.jsonl:31" in problem(made, "empty_answer").message
