"""`harness data`: the contract for scripts, the exit codes, and what is on the screen."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from harness.cli.main import main
from tests.conftest import MINIMAL

Write = Callable[..., Path]
KEYS = {"format", "rows", "turns", "tokens", "duplicates", "near_duplicates", "overlap", "problems"}
KEEP = "The quick brown fox jumps over the lazy dog while {} other animals watch it in silence from the edge of the wood and then go home to tell their young of what they saw there."


def harness(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments), catch_exceptions=False)


def lines(rows: Sequence[object]) -> str:
    return "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows)


def asked(count: int, name: str = "q") -> list[dict[str, str]]:
    return [{"question": f"{name} {i}?", "answer": f"It is {i}."} for i in range(count)]


def report(*arguments: str, exit_code: int = 0) -> dict[str, Any]:
    """What `harness data --json` prints, which is nothing but one JSON object whatever the exit code."""
    done = harness("data", *arguments, "--json")
    assert done.exit_code == exit_code, done.output
    found = json.loads(done.stdout)
    assert set(found) >= KEYS
    assert set(found["overlap"]) >= {"exact", "ngram13", "near"}
    for problem in found["problems"]:
        assert {"kind", "count", "examples"} <= set(problem)
        assert all(isinstance(number, int) for number in problem["examples"])
    return found


def mistake(*arguments: str) -> str:
    """The one line on stderr of a command that exits with 2 and prints no result."""
    done = harness("data", *arguments)
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ")
    return line


def test_json_is_the_contract(write: Write) -> None:
    rows = [*asked(3), asked(1)[0], {"question": "Who?", "answer": "I am {{name}}."}]
    rows += [{"question": KEEP.format(n), "answer": "Yes."} for n in ("many", "several")]
    write(lines(rows), "rows.jsonl")
    found = report("rows.jsonl")
    assert (found["format"], found["rows"], found["turns"]) == ("question_answer", 7, 14)
    assert (found["duplicates"], found["near_duplicates"]) == (1, 1)
    assert found["overlap"] == {"held_out": 0, "exact": 0, "ngram13": 0, "near": 0}
    assert {p["kind"]: (p["count"], p["examples"]) for p in found["problems"]} == {
        "unfilled_placeholder": (1, [4]), "duplicate": (1, [3]), "near_duplicate": (1, [6])
    }  # fmt: skip
    tokens = found["tokens"]
    assert (tokens["tokenizer"], tokens["rendered"]) == ("embedded:base", False)
    assert tokens["total"] == round(tokens["mean"] * 7) > 0


def test_tokens_are_those_of_the_tokenizer(write: Write) -> None:
    from transformers import AutoTokenizer

    from harness.resources import embedded

    write(lines(asked(5)), "rows.jsonl")
    tokenizer = AutoTokenizer.from_pretrained(embedded("base"))
    counts = [
        len(tokenizer(f"{r['question']}\n{r['answer']}", add_special_tokens=False)["input_ids"]) for r in asked(5)
    ]
    found = report("rows.jsonl", "--tokenizer", str(embedded("base")))["tokens"]
    assert (found["total"], found["max"]) == (sum(counts), max(counts))


def test_overlap_with_another_file(write: Write) -> None:
    write(lines(asked(20)), "train.jsonl")
    write(lines([*asked(2), {"question": "Never asked?", "answer": "No."}]), "test.jsonl")
    found = report("train.jsonl", "--against", "test.jsonl")
    assert found["overlap"] == {"held_out": 3, "exact": 2, "ngram13": 0, "near": 0}
    assert "of 3 held-out rows: 2 exact" in harness("data", "train.jsonl", "--against", "test.jsonl").stdout


@pytest.mark.parametrize(
    ("content", "kind", "why"),
    [
        (lines([{"prompt": "q", "chosen": "a", "rejected": "b"}] * 3), "preference_pairs", "preference data (chosen/rejected)"),
        (lines(["{broken", "also broken"]), "broken_row", "the line isn't valid JSON"),
        (lines([{"headline": "q", "body": "a"}] * 2), "unknown_format", "the columns body, headline are no known format"),
        (lines([{"messages": [{"role": "user", "content": "hi"}]}]), "missing_assistant_turn", "ends with a user turn"),
        ("", None, "it has no rows"),
    ],
    ids=["preference", "broken", "columns", "silent", "empty"],
)  # fmt: skip
def test_nothing_usable_exits_with_2_and_still_prints_json(
    write: Write, content: str, kind: str | None, why: str
) -> None:
    write(content, "rows.jsonl")
    found = report("rows.jsonl", exit_code=2)
    assert found["tokens"] is None
    assert [problem["kind"] for problem in found["problems"]] == ([kind] if kind else [])
    done = harness("data", "rows.jsonl")
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: rows.jsonl can't be used for SFT: ")
    assert why in line


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nothing.jsonl"], "nothing.jsonl: there is no such data file; check the path"),
        (["nobody/nothing"], "dataset 'nobody/nothing' (split 'train') can't be loaded"),
        (["rows.jsonl", "--against", "nothing.jsonl"], "nothing.jsonl: there is no such data file"),
        (["rows.jsonl", "--tokenizer", "nobody/nothing"], "'nobody/nothing' can't be loaded"),
        (["nothing.yaml"], "there is no such experiment file"),
        (["rows.jsonl", "--mask", "1"], "--mask needs a template and a model: name an experiment instead of rows.jsonl"),
        (["rows.jsonl", "--set", "data.limit=3"], "--set overrides fields of an experiment, but rows.jsonl is none"),
        (["embedded:nothing"], "embedded splits are train, validation, test"),
        (["rows.txt"], "only .jsonl, .json, .parquet and .csv files can be read"),
        (["folder"], "folder: the folder has no .jsonl, .json, .parquet or .csv file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
@pytest.mark.parametrize("as_json", [False, True])
def test_a_mistake_is_one_sentence(write: Write, arguments: list[str], sentence: str, as_json: bool) -> None:
    write(lines(asked(2)), "rows.jsonl")
    write("hello", "rows.txt")
    write("hello", "folder/readme.md")
    assert sentence in mistake(*arguments, *(["--json"] if as_json else []))


def test_csv_parquet_folder_and_glob_are_read_alike(write: Write) -> None:
    from datasets import Dataset

    write(lines(asked(4)), "rows.jsonl")
    write("question,answer\n" + "".join(f"{row['question']},{row['answer']}\n" for row in asked(4)), "rows.csv")
    write(json.dumps(asked(4)), "rows.json")
    write(lines(asked(4)[:2]), "folder/a.jsonl")
    write(lines(asked(4)[2:]), "folder/b.jsonl")
    Dataset.from_list(asked(4)).to_parquet("rows.parquet")
    wanted = report("rows.jsonl") | {"source": ""}
    for target in ("rows.csv", "rows.json", "rows.parquet", "folder", "folder/*.jsonl"):
        assert report(target) | {"source": ""} == wanted, target


def test_an_experiment_is_reported_as_its_first_cell_sees_it(write: Write) -> None:
    write(MINIMAL + "  max_length: 60\n")
    found = report("experiment.yaml", "--set", "data.limit=50")
    assert found["splits"] == {"train": 50, "validation": 100, "test": 300}
    assert found["dropped"] == {"limit": 550}
    tokens = found["tokens"]
    assert (tokens["rendered"], tokens["max_length"], tokens["max"]) == (True, 60, 60)
    assert 0 < tokens["supervised_total"] < tokens["total"]
    assert found["overlap"]["held_out"] == 400


def test_an_experiment_against_a_file(write: Write) -> None:
    write(MINIMAL)
    assert report("experiment.yaml", "--against", "embedded:train")["overlap"]["exact"] > 0


def test_mask_shows_what_is_supervised(write: Write) -> None:
    row = {
        "messages": [{"role": "user", "content": "I want [3] roses."}, {"role": "assistant", "content": "Noted [3]."}]
    }
    write(lines([row]), "rows.jsonl")
    write(MINIMAL.replace("embedded:train", "rows.jsonl"))
    rows = json.loads(harness("data", "experiment.yaml", "--mask", "2", "--json").stdout)
    (shown,) = rows
    assert shown["where"].endswith("rows.jsonl:1")
    assert [piece["text"] for piece in shown["pieces"] if piece["is_supervised"]] == ["Noted [3].<|im_end|>"]
    whole = "".join(piece["text"] for piece in shown["pieces"])
    assert whole.endswith(
        "<|im_start|>user\nI want [3] roses.<|im_end|>\n<|im_start|>assistant\nNoted [3].<|im_end|>\n"
    )
    assert "I want [3] roses.<|im_end|>" in harness("data", "experiment.yaml", "--mask", "2").stdout


def test_page_shows_what_is_wrong_last(write: Write) -> None:
    write(lines([*asked(8), {"question": "Who [sic]?", "answer": "I am {{name}}."}]), "rows.jsonl")
    page = harness("data", "rows.jsonl").stdout
    assert page.startswith("rows.jsonl: question_answer, 9 rows, 18 turns\n")
    assert page.rstrip().endswith(
        "unfilled_placeholder: 1 of 9 rows hold a placeholder that nobody filled: {{name}} (rows 8)"
    )
    write(lines([*asked(8)]), "rows.jsonl")
    assert harness("data", "rows.jsonl").stdout.rstrip().endswith("nothing wrong found")
