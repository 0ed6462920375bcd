"""Faults that real datasets have, and how often sound ones are accused; every number was checked by eye or all pairs."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from harness.cli.main import main
from harness.data.leakage import exact_duplicates, near_duplicates, overlap
from harness.data.quality import (
    foreign_template_tokens,
    language_mix,
    looks_truncated,
    row_scores,
    unfilled_placeholders,
)


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    """All rows of a dataset."""
    text = (folder / "datasets" / name).read_text()
    return json.loads(text) if name.endswith(".json") else [json.loads(line) for line in text.split("\n") if line]


def column(folder: Path, name: str, key: str) -> list[str]:
    """One column of a dataset."""
    return [row[key] for row in rows(folder, name)]


def test_identity_data_have_names_that_nobody_filled_in(real_data: Path) -> None:
    slots = [unfilled_placeholders(answer) for answer in column(real_data, "lf_identity.json", "output")]
    assert len(slots) == 91
    assert sum(map(bool, slots)) == 85
    assert set().union(*slots) == {"{{name}}", "{{author}}"}


def test_text2json_prompts_hold_tokens_of_a_chat_template(real_data: Path) -> None:
    found = [foreign_template_tokens(prompt) for prompt in column(real_data, "text2json_train.jsonl", "prompt")]
    assert len(found) == 1817
    assert set(found) == {("<|system|>", "<|assistant|>")}


@pytest.mark.parametrize(
    ("name", "key", "counts"),
    [
        ("gsm8k_{}.jsonl", "question", (0, 3, 0)),
        ("gsm8k_{}.jsonl", "answer", (0, 6, 0)),
        # 100 words of instruction are in every prompt, and yet only the rows with a twin in training are found.
        ("text2json_{}.jsonl", "prompt", (0, 19, 14)),
        ("text2json_{}.jsonl", "completion", (0, 46, 16)),
    ],
)
def test_overlap_of_held_out_with_training_rows(name: str, key: str, counts: tuple[int, ...], real_data: Path) -> None:
    held_out = "test" if name.startswith("gsm8k") else "val"
    found = overlap(column(real_data, name.format(held_out), key), column(real_data, name.format("train"), key))
    assert tuple(map(len, found)) == counts


def test_gsm8k_questions_have_one_near_duplicate(real_data: Path) -> None:
    questions = column(real_data, "gsm8k_train.jsonl", "question")
    assert exact_duplicates(questions) == []
    assert len(near_duplicates(questions)) == 1


def test_dummy_conversations_vary_a_few_sentences(real_data: Path) -> None:
    conversations = [
        "\n".join(turn["value"] for turn in row["conversations"])
        for row in rows(real_data, "fastchat_dummy_conversation.json")
    ]
    assert exact_duplicates(conversations) == []
    sizes = sorted(map(len, near_duplicates(conversations)), reverse=True)
    assert (len(sizes), sizes[:4], sum(sizes)) == (30, [106, 20, 12, 12], 225)


def test_alpaca_rows_are_hardly_accused(real_data: Path) -> None:
    answers = column(real_data, "lf_alpaca_en_demo.json", "output")
    assert len(answers) == 999
    assert not any(map(unfilled_placeholders, answers))
    assert not any(map(foreign_template_tokens, answers))
    # All six are cut: in a table, in code, and four times within a sentence.
    assert [index for index, answer in enumerate(answers) if looks_truncated(answer)] == [179, 269, 463, 730, 782, 898]


def test_alpaca_scores_and_languages_are_plausible(real_data: Path) -> None:
    answers = column(real_data, "lf_alpaca_en_demo.json", "output")
    scores = [row_scores("q", answer) for answer in answers]
    assert sum(score.sycophancy for score in scores) == 26
    assert max(score.repetition for score in scores) < 0.31
    assert not any(score.citations for score in scores)
    mix = language_mix(answers)
    assert mix["en"] > 0.93
    assert mix["en"] + mix["und"] > 0.99


def test_languages_of_bilingual_data_are_told_apart(real_data: Path) -> None:
    assert language_mix(column(real_data, "lf_identity.json", "output")) == {
        "zh": pytest.approx(75 / 91),
        "en": pytest.approx(16 / 91),
    }


def test_json_answers_have_no_language_and_are_whole(real_data: Path) -> None:
    completions = column(real_data, "text2json_train.jsonl", "completion")
    assert language_mix(completions) == {"und": 1.0}
    assert not any(map(looks_truncated, completions))


def reported(folder: Path, name: str, *options: str, exit_code: int = 0) -> dict[str, Any]:
    """What `harness data` prints for scripts about a dataset."""
    done = CliRunner().invoke(main, ["data", str(folder / "datasets" / name), *options, "--json"])
    assert done.exit_code == exit_code, done.output
    found = json.loads(done.stdout)
    assert len(found["problems"]) == len({(problem["kind"], problem["message"]) for problem in found["problems"]})
    return found


def problems(found: dict[str, Any]) -> dict[str, int]:
    """Kind of problem -> number of rows."""
    return {problem["kind"]: problem["count"] for problem in found["problems"]}


@pytest.mark.parametrize(
    ("name", "format", "size", "counts"),
    [
        ("text2json_train.jsonl", "prompt_completion", (1817, 3634), {"foreign_template_tokens": 1817, "near_duplicate": 141}),
        ("lf_identity.json", "alpaca", (91, 182), {"unfilled_placeholder": 85, "near_duplicate": 1}),
        # One answer ends with "For", one in a code block of zeros.
        ("lf_glaive_toolcall_en_demo.json", "sharegpt", (300, 1914), {"duplicate": 38, "near_duplicate": 2, "truncated_answer": 2}),
        ("fastchat_dummy_conversation.json", "sharegpt", (500, 2000), {"near_duplicate": 195}),
        ("gsm8k_train.jsonl", "question_answer", (7473, 14946), {}),
    ],
)  # fmt: skip
def test_report_on_a_real_file(
    name: str, format: str, size: tuple[int, int], counts: dict[str, int], real_data: Path
) -> None:
    found = reported(real_data, name)
    assert (found["format"], (found["rows"], found["turns"])) == (format, size)
    assert problems(found) == counts
    assert found["tokens"]["total"] > 0


def test_preference_data_are_reported_and_refused(real_data: Path) -> None:
    found = reported(real_data, "lf_dpo_en_demo.json", exit_code=2)
    assert (found["format"], found["rows"], found["usable"]) == ("preference", 300, 0)
    assert problems(found) == {"preference_pairs": 300}


def test_only_conversation_without_an_answer_is_refused(real_data: Path) -> None:
    found = reported(real_data, "axolotl_conversation.missingturns.json", exit_code=2)
    assert (found["format"], found["rows"], found["usable"]) == ("sharegpt", 1, 0)
    assert problems(found) == {"empty_answer": 1}
    assert found["problems"][0]["examples"] == [0]


def test_gsm8k_test_questions_are_hardly_in_training(real_data: Path) -> None:
    found = reported(
        real_data, "gsm8k_train.jsonl", "--against", str(real_data / "datasets" / "gsm8k_test.jsonl")
    )["overlap"]  # fmt: skip
    assert found == {"held_out": 1319, "exact": 0, "ngram13": 10, "near": 0}
