"""Rows from files, folders, patterns and the Hub."""

import csv
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from datasets import Dataset

from harness.data.sources import fingerprint, load_rows, local_paths, read_rows
from harness.errors import DataError
from harness.eval_config import SourceConfig

Write = Callable[..., Path]
GOOD = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}
PAIRS = [{"prompt": f"p{i}", "completion": f"c{i}"} for i in range(3)]


def source(path: object, **options: str) -> SourceConfig:
    return SourceConfig(path=str(path), **options)


def contents(path: object) -> list:
    return [row.content for row in load_rows(source(path))]


def lines(rows: list) -> str:
    return "\n".join(json.dumps(row) for row in rows)


def test_rows_of_json_lines_know_their_line_and_position(write: Write) -> None:
    path = write(lines(PAIRS[:1]) + "\n\n" + lines(PAIRS[1:]), "rows.jsonl")
    rows = load_rows(source(path))
    assert [row.where for row in rows] == [f"{path}:1", f"{path}:3", f"{path}:4"]
    assert [row.index for row in rows] == [0, 1, 2]
    assert [row.content for row in rows] == PAIRS


def test_broken_json_line_names_file_and_line(write: Write) -> None:
    path = write("\n".join([json.dumps(GOOD)] * 16 + ['{"messages": ['] + [json.dumps(GOOD)] * 3), "broken.jsonl")
    with pytest.raises(DataError, match=r"broken\.jsonl:17: the line isn't valid JSON"):
        load_rows(source(path))


def test_rows_around_broken_lines_are_read(write: Write) -> None:
    path = write("\n".join([json.dumps(PAIRS[0]), "{", "[1]", json.dumps(PAIRS[1])]), "mixed.jsonl")
    read = read_rows(source(path))
    assert [(row.where, row.index) for row in read.rows] == [(f"{path}:1", 0), (f"{path}:4", 3)]
    assert [(row.where, row.index) for row in read.broken] == [(f"{path}:2", 1), (f"{path}:3", 2)]
    assert "isn't valid JSON" in read.broken[0].reason
    assert read.broken[1].reason == "a row must be a JSON object, not list"


def test_line_separator_inside_a_string_is_no_line_break(write: Write) -> None:
    path = write(json.dumps({"prompt": "a\u2028b", "completion": "c"}, ensure_ascii=False), "odd.jsonl")
    assert len(load_rows(source(path))) == 1


def test_windows_line_ends_and_byte_order_mark_are_no_content(tmp_path: Path) -> None:
    path = tmp_path / "windows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + lines(PAIRS).replace("\n", "\r\n").encode())
    assert contents(path) == PAIRS


def test_line_in_another_encoding_is_broken_and_the_others_are_read(tmp_path: Path) -> None:
    path = tmp_path / "latin.jsonl"
    path.write_bytes(json.dumps(PAIRS[0]).encode() + b'\n{"prompt": "\xe9"}\n')
    read = read_rows(source(path))
    assert len(read.rows) == 1
    assert read.broken[0].reason == "byte 12 of the line isn't UTF-8; save the file as UTF-8"


@pytest.mark.parametrize("line", ['{"a": ' + "1" * 5000 + "}", "[" * 200_000], ids=["huge number", "deep nesting"])
def test_line_that_python_refuses_to_parse_is_broken(line: str, write: Write) -> None:
    assert len(read_rows(source(write(line, "hostile.jsonl"))).broken) == 1


@pytest.mark.parametrize("text", ['{"a": ' + "1" * 5000 + "}", "[" * 200_000], ids=["huge number", "deep nesting"])
def test_file_that_python_refuses_to_parse_is_named(text: str, write: Write) -> None:
    with pytest.raises(DataError, match=r"hostile\.json: the file isn't valid JSON"):
        load_rows(source(write(text, "hostile.json")))


@pytest.mark.parametrize("name", ["cut.jsonl", "cut.json"])
def test_row_cut_in_the_middle_of_a_character_is_broken(name: str, write: Write) -> None:
    whole, cut = r'{"text": "\ud83d\ude00"}', r'{"text": "\ud83d"}'
    read = read_rows(source(write(f"{whole}\n{cut}" if name == "cut.jsonl" else f"[{whole}, {cut}]", name)))
    assert [row.content for row in read.rows] == [{"text": "\U0001f600"}]
    assert read.broken[0].reason == r"the row holds half a character ('\ud83d'); mend or delete it"


def test_json_array_is_read_and_its_rows_are_numbered(write: Write) -> None:
    path = write(json.dumps([*PAIRS, "x"], indent=1), "rows.json")
    read = read_rows(source(path))
    assert [row.where for row in read.rows] == [f"{path}[0]", f"{path}[1]", f"{path}[2]"]
    assert read.broken[0].where == f"{path}[3]"
    with pytest.raises(DataError, match=r"rows\.json\[3\]: a row must be a JSON object, not str"):
        load_rows(source(path))


def test_json_lines_in_a_json_file_are_read_as_such(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    path = write(lines(PAIRS) + "\n", "rows.json")
    with caplog.at_level(logging.INFO):
        rows = load_rows(source(path))
    assert [row.content for row in rows] == PAIRS
    assert rows[1].where == f"{path}:2"
    assert "read as JSON lines" in caplog.text


def test_broken_json_file_is_refused_with_its_line(write: Write) -> None:
    with pytest.raises(DataError, match=r"rows\.json:2: the file isn't valid JSON .* name it \.jsonl"):
        load_rows(source(write('[{"a": 1},\n{"a": }]', "rows.json")))


def test_envelope_around_the_rows_is_opened(write: Write) -> None:
    assert contents(write(json.dumps({"version": "1.0", "data": PAIRS}), "rows.json")) == PAIRS


@pytest.mark.parametrize("row", [{"conversations": GOOD["messages"]}, PAIRS[0]], ids=["turns", "texts"])
def test_object_that_is_a_row_is_one_row(row: dict, write: Write) -> None:
    assert contents(write(json.dumps(row, indent=1), "row.json")) == [row]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": 1}, "has 0 lists of rows"),
        ({"a": PAIRS, "b": PAIRS}, "has 2 lists of rows"),
        ("text", "must hold a JSON array of rows, not str"),
    ],
)
def test_json_without_rows_is_refused(content: object, message: str, write: Write) -> None:
    with pytest.raises(DataError, match=message):
        load_rows(source(write(json.dumps(content), "other.json")))


def test_csv_cells_are_text_and_empty_cells_are_empty_text(write: Write) -> None:
    path = write('question,answer,note\n"a, ""b""\nc",007,\n\nx,NA,null\n', "rows.csv")
    rows = load_rows(source(path))
    assert [row.content for row in rows] == [
        {"question": 'a, "b"\nc', "answer": "007", "note": ""},
        {"question": "x", "answer": "NA", "note": "null"},
    ]
    assert rows[1].where == f"{path}[1]"


def test_csv_row_with_missing_cells_is_broken_and_the_others_are_read(write: Write) -> None:
    read = read_rows(source(write("a,b\n1,2\n3\n4,5\n", "rows.csv")))
    assert [row.index for row in read.rows] == [0, 2]
    assert read.broken[0].reason == "the row has 1 cells, but the header 2; mend it"


def test_csv_with_a_long_document_is_read(write: Write) -> None:
    assert len(contents(write("text\n" + "x" * 300_000, "long.csv"))[0]["text"]) == 300_000
    assert csv.field_size_limit() > 300_000


@pytest.mark.parametrize(
    ("text", "message"),
    [('a,b\n"x,1\n', r"rows\.csv:2: the file isn't valid CSV"), ("a,a\n1,2\n", "two columns have the same name")],
    ids=["open quote", "repeated column"],
)
def test_broken_csv_is_refused(text: str, message: str, write: Write) -> None:
    with pytest.raises(DataError, match=message):
        load_rows(source(write(text, "rows.csv")))


def test_csv_in_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.csv").write_bytes(b"text\ncaf\xe9\n")
    with pytest.raises(DataError, match=r"latin\.csv: byte 8 isn't UTF-8"):
        load_rows(source(tmp_path / "latin.csv"))


def test_parquet_rows_are_as_they_were_written(tmp_path: Path) -> None:
    call = {"name": "look_up", "arguments": {"city": "Oslo"}}
    other = {"name": "add", "arguments": {"a": 1}}
    rows = [
        {"messages": [{"role": "user", "content": "hi", "tool_calls": [item]}], "id": None} for item in (call, other)
    ]
    path = tmp_path / "rows.parquet"
    Dataset.from_list(rows).to_parquet(path)
    read = load_rows(source(path))
    # Arrow writes `"a": null` into the first call and `"city": null` into the second one.
    assert [row.content for row in read] == rows
    assert read[1].where == f"{path}[1]"


def test_broken_parquet_file_is_named(write: Write) -> None:
    with pytest.raises(DataError, match=r"rows\.parquet: the file isn't valid Parquet"):
        load_rows(source(write("PAR1 or not", "rows.parquet")))


def test_empty_source_is_refused_where_rows_are_needed(write: Write) -> None:
    path = write("\n", "empty.jsonl")
    assert read_rows(source(path)) == ([], [])
    with pytest.raises(DataError, match="there are no rows"):
        load_rows(source(path))


def test_folder_is_read_file_by_file_in_the_order_of_names(write: Write) -> None:
    second = write(json.dumps(PAIRS[1:]), "data/b/rows.json")
    first = write(lines(PAIRS[:1]), "data/a.jsonl")
    write("{", "data/.hidden/x.jsonl")
    write("{", "data/.hidden.jsonl")
    write("About", "data/README.md")
    assert local_paths(source(first.parent)) == (first, second)
    rows = load_rows(source(first.parent))
    assert [row.content for row in rows] == PAIRS
    assert [row.index for row in rows] == [0, 1, 2]
    assert rows[2].where == f"{second}[1]"


def test_folder_with_the_name_of_a_hub_dataset_wins(write: Write) -> None:
    write(lines(PAIRS), "org/name/rows.jsonl")
    assert contents("org/name") == PAIRS


def test_files_of_several_splits_in_a_folder_are_told(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    write(lines(PAIRS), "data/train-00000.jsonl")
    write(lines(PAIRS), "data/test_sft.jsonl")
    read_rows(source("data"))
    assert "files of several splits (test, train) are read as one dataset" in caplog.text
    caplog.clear()
    read_rows(source("data/*train*"))
    assert not caplog.text


def test_patterns_find_files_in_any_depth(write: Write) -> None:
    write(lines(PAIRS[:1]), "data/a.jsonl")
    write(lines(PAIRS[1:]), "data/deep/er/b.jsonl")
    write("no data", "data/c.txt")
    assert contents("data/*.jsonl") == PAIRS[:1]
    assert contents("data/**/*.jsonl") == PAIRS
    assert contents("data/*") == PAIRS[:1]


def test_file_whose_name_looks_like_a_pattern_is_that_file(write: Write) -> None:
    assert contents(write(lines(PAIRS), "rows[1].jsonl")) == PAIRS


def test_home_folder_is_found(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(write(lines(PAIRS), "rows.jsonl").parent))
    assert contents("~/rows.jsonl") == PAIRS


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nothing.jsonl", r"nothing\.jsonl: there is no such data file; check the path"),
        ("nothing.parquet", "there is no such data file"),
        ("./nothing", "there is no such data file"),
        ("notes.txt", r"notes\.txt: only \.jsonl, \.json, \.parquet and \.csv files can be read"),
        ("folder", r"folder: the folder has no \.jsonl"),
        ("folder/*.jsonl", r"folder/\*\.jsonl: the pattern has no \.jsonl"),
        ("embedded:nothing", "embedded splits are train, validation, test, retention"),
    ],
)
def test_local_path_without_data_is_told(path: str, message: str, write: Write) -> None:
    write("notes", "notes.txt")
    write("notes", "folder/notes.txt")
    with pytest.raises(DataError, match=message):
        local_paths(source(path))


def test_embedded_split_is_a_file_of_the_package() -> None:
    (path,) = local_paths(source("embedded:train")) or ()
    assert path.is_file()
    assert load_rows(source("embedded:train"))


def test_hub_id_names_no_local_file(write: Write) -> None:
    write("", "x.yaml")
    assert local_paths(source("org/name")) is None


@pytest.mark.parametrize("options", [{"split": "train[:2]"}, {"name": "main"}, {"revision": "abc"}])
def test_choosing_within_a_local_file_is_refused(options: dict, write: Write) -> None:
    path = write(lines(PAIRS), "rows.jsonl")
    with pytest.raises(DataError, match="name, split and revision choose within a Hub dataset"):
        read_rows(source(path, **options))


def test_hub_rows_come_from_the_split_slice_and_revision_that_are_named(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("", "x.yaml")
    asked = []

    def load_dataset(*args: object, **options: object) -> Dataset:
        asked.append((args, options))
        return Dataset.from_list(PAIRS)

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    rows = load_rows(source("org/name", name="main", split="train[:3]", revision="abc"))
    assert asked == [(("org/name", "main"), {"split": "train[:3]", "revision": "abc"})]
    assert [(row.where, row.content) for row in rows] == [(f"org/name[{i}]", PAIRS[i]) for i in range(3)]


def test_hub_rows_are_read_offline_from_the_cache_of_the_hub(tmp_path: Path) -> None:
    """A dataset in the Hub's own cache layout, by id, configuration, split slice and pinned revision, without network."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "hub" / "datasets--someone--rows" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    card = "---\nconfigs:\n- config_name: main\n  data_files:\n  - {split: train, path: rows.jsonl}\n---\n"
    (snapshot / "README.md").write_text(card)
    (snapshot / "rows.jsonl").write_text(lines(PAIRS))
    code = (
        "import json, sys; from harness.eval_config import SourceConfig; from harness.data.sources import load_rows;"
        "rows = load_rows(SourceConfig(**json.loads(sys.argv[1])));"
        "print(json.dumps([[row.where, dict(row.content)] for row in rows]))"
    )
    asked = {"path": "someone/rows", "name": "main", "split": "train[:2]", "revision": commit}
    environment = {
        **os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_DATASETS_CACHE": str(tmp_path / "datasets"), "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(asked)], check=False, capture_output=True, text=True, env=environment
    )
    assert json.loads(done.stdout) == [[f"someone/rows[{i}]", PAIRS[i]] for i in range(2)], done.stderr


def test_unreachable_hub_dataset_is_told_with_advice(write: Write) -> None:
    write("", "x.yaml")
    with pytest.raises(DataError, match=r"dataset 'org/name' \(split 'train'\) can't be loaded: .*`hf auth login`"):
        read_rows(source("org/name"))


def test_fingerprint_follows_the_content_and_not_the_place(write: Write) -> None:
    write(lines(PAIRS[:1]), "data/a.jsonl")
    write(lines(PAIRS[1:]), "data/b.jsonl")
    before = fingerprint(source("data"))
    shutil.copytree("data", "elsewhere")
    assert fingerprint(source("elsewhere/*.jsonl")) == before
    write(lines(PAIRS[:2]), "data/b.jsonl")
    assert fingerprint(source("data")) != before


def test_fingerprint_of_several_files_follows_their_order(write: Write) -> None:
    for folder, names in (("one", "ab"), ("two", "ba")):
        for name, row in zip(names, PAIRS, strict=False):
            write(lines([row]), f"{folder}/{name}.jsonl")
    assert fingerprint(source("one")) != fingerprint(source("two"))


@pytest.mark.parametrize("options", [{"split": "train[:10]"}, {"revision": "abc"}, {"name": "main"}])
def test_fingerprint_of_a_hub_dataset_follows_its_coordinates(options: dict) -> None:
    assert fingerprint(source("org/name", **options)) != fingerprint(source("org/name"))
