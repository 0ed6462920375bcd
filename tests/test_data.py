"""Splits."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.config import DataConfig, FilterConfig
from harness.data.formats import Conversation
from harness.data.splits import Splits, load_splits, text_of
from harness.errors import DataError
from harness.eval_config import SourceConfig

Write = Callable[..., Path]
NAMES = ("train", "validation", "test")


def lines(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(f"{json.dumps(row)}\n" for row in rows)


def asked(name: str, count: int, **columns: Any) -> list[dict[str, Any]]:
    """Rows of prompt and completion with the name in both."""
    return [{"prompt": f"{name} {i}?", "completion": f"{name}{i}.", **columns} for i in range(count)]


def split(train: Any, **fields: Any) -> Splits:
    return load_splits(DataConfig(train=train, **fields))


def everything(splits: Splits) -> list[Conversation]:
    return [row for name in NAMES for row in getattr(splits, name)]


def held_out(write: Write) -> dict[str, str]:
    """A validation and a test file that share nothing with the training rows."""
    write(lines(asked("test", 1)), "test.jsonl")
    write(lines(asked("validation", 1)), "validation.jsonl")
    return {"validation": "validation.jsonl", "test": "test.jsonl"}


def reasons(splits: Splits) -> dict[str, int]:
    return dict(Counter(item.reason for item in splits.dropped))


def test_no_assistant_turn_is_refused(write: Write) -> None:
    path = write(json.dumps({"messages": [{"role": "user", "content": "hi"}]}) * 1, "silent.jsonl")
    with pytest.raises(DataError, match="no row ends with an assistant turn"):
        load_splits(DataConfig(train=SourceConfig(path=str(path))))


def prompts(path: Path) -> dict[str, str]:
    splits = load_splits(DataConfig(train=SourceConfig(path=str(path))))
    return {row.prompt: name for name in ("train", "validation", "test") for row in getattr(splits, name)}


def test_hash_split_is_stable_when_rows_are_added(write: Write) -> None:
    rows = asked("question", 200)
    before = prompts(write(lines(rows[:120]), "rows.jsonl"))
    after = prompts(write(lines(rows), "rows.jsonl"))
    assert all(after[prompt] == split for prompt, split in before.items())
    assert set(before.values()) == {"train", "validation", "test"}


def test_training_rows_with_a_held_out_prompt_are_left_out(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    rows = asked("question", 20)
    write(lines(rows), "train.jsonl")
    write(lines(rows[:3]), "test.jsonl")
    config = DataConfig(
        train=SourceConfig(path="train.jsonl"), test=SourceConfig(path="test.jsonl"), validation_share=0.2
    )
    splits = load_splits(config)
    held_out = {row.prompt for row in splits.test}
    assert not held_out & {row.prompt for row in (*splits.train, *splits.validation)}
    assert "3 rows have the same prompt as a held-out row" in caplog.text


def test_limit_takes_the_same_rows_again(write: Write) -> None:
    config = DataConfig(train=SourceConfig(path="embedded:train"), limit=10)
    first, second = (load_splits(config).train for _ in range(2))
    assert len(first) == 10
    assert first == second


def test_repeated_held_out_rows_count_once_and_shared_ids_are_refused(
    write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [json.dumps({"prompt": f"question {i}", "completion": "x"}) for i in range(30)]
    write("\n".join(rows), "train.jsonl")
    write("\n".join([json.dumps({"prompt": "held out", "completion": "x"})] * 3), "test.jsonl")
    config = DataConfig(
        train=SourceConfig(path="train.jsonl"), test=SourceConfig(path="test.jsonl"), validation_share=0.3
    )
    assert len(load_splits(config).test) == 1
    assert "2 held-out rows are exact repetitions" in caplog.text
    write(
        "\n".join(json.dumps({"id": 7, "prompt": f"held out {i}", "completion": "x"}) for i in range(2)), "test.jsonl"
    )
    with pytest.raises(DataError, match="two different held-out rows have the id '7'"):
        load_splits(config)


def test_validation_and_test_are_told_apart_in_the_fingerprint(write: Write) -> None:
    from harness.data.splits import data_fingerprint

    write('{"prompt": "a", "completion": "b"}\n', "rows.jsonl")
    train, other = SourceConfig(path="embedded:train"), SourceConfig(path="rows.jsonl")
    assert data_fingerprint(DataConfig(train=train, validation=other)) != data_fingerprint(
        DataConfig(train=train, test=other)
    )


@pytest.mark.parametrize(
    ("sizes", "weights", "taken"),
    [
        # 60 rows at weight 3 are the bottleneck: 20 a unit.
        ((60, 100), (3, 1), (60, 20)),
        ((100, 100, 100), (1, 1, 2), (50, 50, 100)),
        ((7, 50), (0.2, 0.8), (7, 28)),
        # 3 / 0.3 units of 0.7 is 7 rows, though floats say 6.999999999999999.
        ((3, 50), (0.3, 0.7), (3, 7)),
    ],
)
def test_weights_give_the_largest_mix_that_repeats_no_row(
    write: Write, sizes: Sequence[int], weights: Sequence[float], taken: Sequence[int]
) -> None:
    sources = []
    for number, (size, weight) in enumerate(zip(sizes, weights, strict=True)):
        write(lines(asked(f"source{number}", size)), f"{number}.jsonl")
        sources.append({"path": f"{number}.jsonl", "weight": weight})
    splits = split(sources, **held_out(write))
    used = Counter(row.prompt.split()[0] for row in splits.train)
    assert used == {f"source{number}": count for number, count in enumerate(taken)}
    assert len({row.prompt for row in splits.train}) == sum(taken)
    assert reasons(splits) == {"mix": sum(sizes) - sum(taken)}


def test_the_seed_decides_which_rows_are_mixed(write: Write) -> None:
    write(lines(asked("a", 40)), "a.jsonl")
    write(lines(asked("b", 40)), "b.jsonl")
    sources = [{"path": "a.jsonl", "weight": 1}, {"path": "b.jsonl", "weight": 4}]
    first, again, other = ({row.prompt for row in everything(split(sources, shuffle_seed=s))} for s in (0, 0, 1))
    assert first == again
    assert first != other


def test_sources_without_weights_give_all_their_rows(write: Write) -> None:
    write(lines(asked("a", 30)), "a.jsonl")
    write(lines({"question": f"b {i}?", "answer": "yes"} for i in range(5)), "b.jsonl")
    splits = split(["a.jsonl", "b.jsonl"])
    assert len(everything(splits)) == 35
    assert splits.dropped == ()
    assert splits.formats == ("prompt_completion", "question_answer")


def test_same_ids_in_two_files_do_not_clash(write: Write) -> None:
    for name in ("a", "b"):
        write(lines({"id": i, **row} for i, row in enumerate(asked(name, 30))), f"{name}.jsonl")
    rows = everything(split(["a.jsonl", "b.jsonl"]))
    assert len({row.id for row in rows}) == 60
    assert {row.index for row in rows} == set(range(60))


def test_a_copy_that_the_mix_left_out_is_listed(write: Write) -> None:
    """Copies have the same id: one that is taken must not hide one that is left."""
    write(lines([*asked("a", 10), *asked("a", 10)]), "a.jsonl")
    write(lines(asked("b", 5)), "b.jsonl")
    splits = split([{"path": "a.jsonl", "weight": 1}, {"path": "b.jsonl", "weight": 1}], **held_out(write))
    assert len(splits.train) == 10
    assert reasons(splits) == {"mix": 15}


def test_groups_stay_in_one_split(write: Write) -> None:
    rows = [{**row, "user": f"user{i % 20}"} for i, row in enumerate(asked("q", 200))]
    write(lines(rows), "rows.jsonl")
    splits = split("rows.jsonl", group_by="user")
    users = {name: {row.group for row in getattr(splits, name)} for name in NAMES}
    assert set().union(*users.values()) == {f"user{i}" for i in range(20)}
    assert sum(map(len, users.values())) == 20
    assert all(users.values())


def test_training_rows_of_a_tested_group_are_left_out(write: Write) -> None:
    write(lines({**row, "user": f"user{i % 4}"} for i, row in enumerate(asked("q", 40))), "train.jsonl")
    write(lines([{"prompt": "never asked", "completion": "x", "user": "user1"}]), "test.jsonl")
    write(lines([{"prompt": "neither", "completion": "x", "user": "user9"}]), "validation.jsonl")
    splits = split("train.jsonl", test="test.jsonl", validation="validation.jsonl", group_by="user")
    assert {row.group for row in splits.train} == {"user0", "user2", "user3"}
    lost = [item for item in splits.dropped if item.reason == "overlap"]
    assert len(lost) == 10
    assert {item.message for item in lost} == {"its prompt or its group is in a held-out row"}


def test_a_group_is_no_prompt(write: Write) -> None:
    write(lines({**row, "user": "a"} for row in asked("q", 5)) + lines(asked("group", 30)), "train.jsonl")
    write(lines([{"prompt": "group a", "completion": "x", "user": "someone else"}]), "test.jsonl")
    assert reasons(split("train.jsonl", test="test.jsonl", group_by="user", validation_share=0.3)) == {}


def test_every_row_that_is_left_out_is_listed_once_with_its_reason(write: Write) -> None:
    silent = [{"prompt": f"silent {i}", "completion": " "} for i in range(3)]
    long = [{"prompt": f"long {i}?", "completion": "word " * 50} for i in range(4)]
    held_out = [{"prompt": f"new {i}?", "completion": "x"} for i in range(6)]
    write(lines([*silent, *long, *asked("q", 60)]), "a.jsonl")
    write(lines(asked("b", 30)), "b.jsonl")
    write(lines([*held_out, held_out[0], *asked("q", 2)]), "test.jsonl")
    write(lines([{"prompt": "valid", "completion": "x"}, *asked("q", 3)]), "validation.jsonl")
    splits = split(
        [{"path": "a.jsonl", "weight": 2}, {"path": "b.jsonl", "weight": 0.5}],
        test="test.jsonl", validation="validation.jsonl", filter=({"score": "answer_words", "max": 10},), limit=40,
    )  # fmt: skip
    counts = Counter((item.split, item.reason) for item in splits.dropped)
    # 64 usable rows at weight 2 make 16 rows of b; q 0 and q 1 are tested, q 2 is validated.
    assert counts == {
        ("train", "empty_answer"): 3, ("train", "mix"): 14, ("test", "repetition"): 1, ("validation", "overlap"): 2,
        ("train", "overlap"): 3, ("train", "filter"): 4, ("train", "limit"): 64 + 16 - 3 - 4 - 40,
    }  # fmt: skip
    assert len({item.where for item in splits.dropped}) == len(splits.dropped)
    used = {row.where for row in everything(splits)}
    assert used.isdisjoint(item.where for item in splits.dropped)
    assert len(splits.train) == 40


def words(count: int) -> dict[str, str]:
    return {"prompt": f"{count} words?", "completion": " ".join(f"w{i}" for i in range(count))}


def filtered(write: Write, *filters: dict[str, Any], ifd: Any = None) -> tuple[list[int], list[str]]:
    """Answer lengths of the training rows that are kept, and why the others are not."""
    write(lines(words(count) for count in range(1, 21)), "train.jsonl")
    config = DataConfig(train="train.jsonl", filter=tuple(FilterConfig(**item) for item in filters), **held_out(write))
    splits = load_splits(config, ifd=ifd)
    return [len(row.completion.split()) for row in splits.train], [item.message for item in splits.dropped]


def test_filters_apply_in_order_to_what_is_left(write: Write) -> None:
    bounds, top = {"score": "answer_words", "min": 5, "max": 14}, {"score": "answer_words", "top": 0.5}
    kept, _ = filtered(write, bounds, top)
    assert kept == [10, 11, 12, 13, 14]
    kept, messages = filtered(write, top, bounds)
    assert kept == [11, 12, 13, 14]
    assert messages[0] == "answer_words 1 is not in the top 50 %"
    assert messages[-1] == "answer_words 20 > 14"


def test_a_filter_that_leaves_nothing_is_refused(write: Write) -> None:
    with pytest.raises(DataError, match="train.jsonl: data.filter leaves no row to train on; loosen it"):
        filtered(write, {"score": "answer_words", "min": 1000})


def test_ifd_is_filtered_only_where_somebody_scores_it(write: Write) -> None:
    only_ifd = {"score": "ifd", "max": 1.0}
    assert filtered(write, only_ifd)[1] == []

    def scores(rows: Sequence[Conversation]) -> list[float | None]:
        return [None if len(row.completion.split()) == 7 else 2.0 - (i < 3) for i, row in enumerate(rows)]

    kept, messages = filtered(write, only_ifd, ifd=scores)
    assert kept == [1, 2, 3, 7]
    assert messages[0] == "ifd 2 > 1"


def test_held_out_rows_are_not_filtered(write: Write) -> None:
    write(lines(words(count) for count in range(1, 101)), "rows.jsonl")
    plain = split("rows.jsonl")
    short = split("rows.jsonl", filter=({"score": "answer_words", "max": 50},))
    assert (short.validation, short.test) == (plain.validation, plain.test)
    assert len(short.train) < len(plain.train)


def test_text_of_columns_is_prompt_and_answer(write: Write) -> None:
    write(lines({"q": f"What is {i}?", "a": f"A {i}."} for i in range(60)), "rows.jsonl")
    splits = split("rows.jsonl", text="### Question: {q}\n### Answer: {a}")
    first = next(row for row in everything(splits) if row.index == 0)
    assert (first.prompt, first.completion) == ("### Question: What is 0?\n### Answer:", " A 0.")
    assert splits.formats == ("text",)


@pytest.mark.parametrize("text", [None, "Story: {text}", "{text}"])
def test_texts_without_a_question_are_told_apart(write: Write, text: str | None) -> None:
    write(lines({"text": f"The story of fox {i}."} for i in range(200)), "stories.jsonl")
    splits = split("stories.jsonl", text=text)
    assert splits.dropped == ()
    assert [len(getattr(splits, name)) > 5 for name in NAMES] == [True] * 3


def test_a_repeated_text_is_in_one_split_only(write: Write) -> None:
    rows = [{"text": f"The story of fox {i}."} for i in range(40)]
    write(lines([*rows, *rows]), "stories.jsonl")
    splits = split("stories.jsonl", text="Story: {text}", test_share=0.3)
    texts = [{row.completion for row in getattr(splits, name)} for name in NAMES]
    assert sum(map(len, texts)) == 40
    assert reasons(splits) == {"repetition": len(texts[1]) + len(texts[2])}


def test_same_config_gives_the_same_splits_in_another_process(write: Write) -> None:
    import subprocess
    import sys

    write(lines(asked("a", 80)), "a.jsonl")
    write(lines(asked("b", 80)), "b.jsonl")
    config = DataConfig(
        train=[{"path": "a.jsonl", "weight": 2}, {"path": "b.jsonl", "weight": 1}], limit=30, shuffle_seed=3
    )
    code = (
        "import sys; from harness.config import DataConfig; from harness.data.splits import load_splits;"
        "s = load_splits(DataConfig.model_validate_json(sys.argv[1]));"
        "print([[r.id for r in rows] for rows in s[:3]], [d.where for d in s.dropped])"
    )
    command = [sys.executable, "-c", code, config.model_dump_json()]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env={"PYTHONHASHSEED": "5"})
    here = load_splits(config)
    assert done.stdout.strip() == str([[row.id for row in rows] for rows in here[:3]]) + " " + str(
        [item.where for item in here.dropped]
    )


def test_a_file_that_changed_is_read_anew(write: Write) -> None:
    write(lines(asked("old", 60)), "rows.jsonl")
    before = split("rows.jsonl")
    write(lines(asked("new", 60)), "rows.jsonl")
    after = split("rows.jsonl")
    assert {row.prompt.split()[0] for row in everything(before)} == {"old"}
    assert {row.prompt.split()[0] for row in everything(after)} == {"new"}


def test_an_empty_split_says_what_became_of_its_rows(write: Write) -> None:
    write(lines(asked("q", 10)), "train.jsonl")
    write(lines(asked("q", 10)), "test.jsonl")
    write(lines(asked("v", 1)), "validation.jsonl")
    with pytest.raises(DataError, match=r"train.jsonl: the train split is empty \(10 overlap left out\)"):
        split("train.jsonl", test="test.jsonl", validation="validation.jsonl")


def test_all_that_a_row_says_is_said_once() -> None:
    turns = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "look", "arguments": {"at": "Graz"}}}]},
        {"role": "tool", "content": "rain"},
        {"role": "assistant", "content": "It rains.", "reasoning_content": "So be it."},
    ]  # fmt: skip
    row = Conversation.model_validate({"id": "x", "messages": turns})
    assert text_of(row) == 'Weather?\n[{"name": "look", "arguments": {"at": "Graz"}}]\nrain\nSo be it.\nIt rains.'


def test_plain_rows_mixed_with_conversations_are_all_turns(write: Write) -> None:
    write("\n".join(json.dumps({"prompt": f"question {i}", "completion": "x"}) for i in range(60)), "plain.jsonl")
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    write(
        "\n".join(json.dumps({"messages": [{**turns[0], "content": f"hi {i}"}, turns[1]]}) for i in range(60)),
        "chat.jsonl",
    )
    mixed = load_splits(DataConfig(train=["plain.jsonl", "chat.jsonl"]))
    assert mixed.train[0].is_plain
    assert not mixed.is_plain
    assert load_splits(DataConfig(train="plain.jsonl")).is_plain
