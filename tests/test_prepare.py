"""Tokenized splits: made once, shared, and told of."""

import json
import multiprocessing
from collections.abc import Sequence
from pathlib import Path

import pytest

from harness.config import RunConfig
from harness.data import prepare as module
from harness.data.formats import Conversation
from harness.data.prepare import PreparedSplit, Tokenization, prepared_split
from harness.data.tokenize import IGNORED, tokenize
from harness.errors import DataError
from harness.models.load import LoadedTokenizer, load_tokenizer
from harness.models.prepared import prepare
from harness.records import Message

# A template that takes no system turn, as Gemma's.
NO_SYSTEM = """\
{%- for message in messages -%}
{%- if message.role == 'system' -%}{{ raise_exception('no system turn, please') }}{%- endif -%}
{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}
"""


def run_config(template: str = "chatml", **training: object) -> RunConfig:
    return RunConfig.model_validate(
        {
            "model": {"name": "embedded:base"},
            "template": {"name": template},
            "data": {"train": "embedded:train"},
            "training": training,
        }
    )


@pytest.fixture(scope="module")
def loaded() -> LoadedTokenizer:
    return load_tokenizer(run_config(), plain_rows=False)


def row(number: int, answer: str = "Noted.", *, system: str = "") -> Conversation:
    turns = [Message(role="user", content=f"I want {number} roses."), Message(role="assistant", content=answer)]
    given = [Message(role="system", content=system)] if system else []
    return Conversation(id=f"r{number}", index=number, where=f"rows.jsonl:{number}", messages=tuple(given + turns))


def how(loaded: LoadedTokenizer, *, assistant_only: bool = True, max_length: int | None = None) -> Tokenization:
    return Tokenization("train", loaded.tokenizer, loaded.tokens, assistant_only, max_length)


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("tokenized again")


def test_second_call_does_not_tokenize(
    loaded: LoadedTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [row(number) for number in range(5)]
    first = prepared_split(rows, how(loaded), tmp_path / "cache")
    monkeypatch.setattr(module, "tokenize", refuse)
    again = prepared_split(rows, how(loaded), tmp_path / "cache")
    assert again.rows() == first.rows()
    assert again.counts == first.counts


def test_rows_are_what_tokenize_gives(loaded: LoadedTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the bounds of chunks, and with rows left out in the middle."""
    monkeypatch.setattr(module, "CHUNK", 3)
    rows = [row(number, "word " * (number + 1)) for number in range(10)]
    rows[4] = row(4, system="Be kind. " * 20)
    made = prepared_split(rows, how(loaded, max_length=24), tmp_path / "cache")
    expected = [tokenize(r, loaded.tokenizer, loaded.tokens, assistant_only=True, max_length=24) for r in rows]
    used = [item for item in expected if item.num_supervised]
    assert len(used) == 9
    assert [(r.id, r.input_ids, r.labels) for r in made.rows()] == [(r.id, r.input_ids, r.labels) for r in used]
    assert [made.row(i).id for i in range(len(made))] == [item.id for item in used]
    assert made.lengths() == [len(item.input_ids) for item in used]
    assert made.supervised() == [item.num_supervised for item in used]
    assert made.counts.tokens == sum(made.lengths())
    assert made.counts.supervised_tokens == sum(made.supervised())
    assert made.counts.truncated == sum(item.is_truncated for item in expected)
    assert made.counts.rows == 10


def test_first_token_of_a_row_is_never_counted_as_supervised(loaded: LoadedTokenizer, tmp_path: Path) -> None:
    made = prepared_split([row(1)], how(loaded, assistant_only=False), tmp_path / "cache")
    assert made.row(0).labels[0] != IGNORED
    assert made.supervised() == [made.lengths()[0] - 1] == [made.counts.supervised_tokens]


def test_a_half_written_cache_is_made_again(loaded: LoadedTokenizer, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    whole = prepared_split([row(1)], how(loaded), cache).rows()
    (cache / "counts.json").unlink()
    next(cache.glob("*.arrow")).write_bytes(b"half")
    left = tmp_path / ".cache.123.part"
    left.mkdir()
    assert prepared_split([row(1)], how(loaded), cache).rows() == whole
    assert not left.exists()


def test_two_processes_at_once_tokenize_once(
    loaded: LoadedTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = multiprocessing.get_context("fork")
    together = context.Barrier(2)

    def marking(row: Conversation, *arguments: object, **options: object) -> object:
        with (tmp_path / "marks").open("a") as file:
            file.write("x")
        return tokenize(row, *arguments, **options)

    def work() -> None:
        together.wait(30)
        prepared_split([row(number) for number in range(50)], how(loaded), tmp_path / "cache")

    monkeypatch.setattr(module, "tokenize", marking)
    workers = [context.Process(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert (tmp_path / "marks").read_text() == "x" * 50
    assert {path.name for path in tmp_path.iterdir()} == {"cache", ".cache.lock", "marks"}


def test_rows_that_the_template_rejects_are_listed(tmp_path: Path) -> None:
    (tmp_path / "no_system.jinja").write_text(NO_SYSTEM)
    strict = load_tokenizer(run_config(str(tmp_path / "no_system.jinja")), plain_rows=False)
    made = prepared_split([row(1), row(2, system="Be kind."), row(3)], how(strict), tmp_path / "cache")
    assert [item.id for item in made.rows()] == ["r1", "r3"]
    (dropped,) = made.counts.dropped
    assert (dropped.id, dropped.where, dropped.split, dropped.reason) == (
        "r2",
        "rows.jsonl:2",
        "train",
        "template_rejected",
    )
    assert "no system turn, please" in dropped.message


def test_an_answer_behind_max_length_is_listed(loaded: LoadedTokenizer, tmp_path: Path) -> None:
    made = prepared_split([row(1), row(2, system="word " * 40)], how(loaded, max_length=32), tmp_path / "cache")
    (dropped,) = made.counts.dropped
    assert (dropped.id, dropped.reason) == ("r2", "truncated_answer")
    assert dropped.message == "the answer begins after max_length 32"


@pytest.mark.parametrize(
    ("rows", "max_length", "sentence"),
    [
        ([row(1, system="word " * 40)] * 3, 20, r"within max_length 20 \(3 truncated_answer\); raise training.max_length"),
        ([row(1, system="Be kind.")], None, "the chat template rejects every row of the train split: .*no system turn"),
    ],
)  # fmt: skip
def test_nothing_left_is_one_sentence(
    rows: Sequence[Conversation], max_length: int | None, sentence: str, tmp_path: Path
) -> None:
    (tmp_path / "no_system.jinja").write_text(NO_SYSTEM)
    template = "chatml" if max_length else str(tmp_path / "no_system.jinja")
    given = load_tokenizer(run_config(template), plain_rows=False)
    with pytest.raises(DataError, match=sentence) as caught:
        prepared_split(rows, how(given, max_length=max_length), tmp_path / "cache")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "cache").exists()


def test_probe_rows_come_from_all_over_the_split(loaded: LoadedTokenizer, tmp_path: Path) -> None:
    made = prepared_split([row(number) for number in range(10)], how(loaded), tmp_path / "cache")
    assert [item.id for item in made.spread(4)] == ["r0", "r2", "r5", "r7"]
    assert [item.id for item in made.spread(10)] == [f"r{number}" for number in range(10)]


def made_for(config: RunConfig, rows: Sequence[Conversation], folder: Path) -> PreparedSplit:
    return prepare(config, "train", rows, load_tokenizer(config, plain_rows=False), folder)


def test_cells_share_tokens_unless_what_makes_them_differs(tmp_path: Path) -> None:
    rows = [row(number) for number in range(6)]
    made_for(run_config(learning_rate=1e-3), rows, tmp_path)
    made_for(run_config(learning_rate=1e-4, num_train_epochs=9), rows, tmp_path)
    assert len(list(tmp_path.glob("train-*"))) == 1
    made_for(run_config(max_length=20), rows, tmp_path)
    made_for(run_config(assistant_only_loss=False), rows, tmp_path)
    made_for(run_config("llama3"), rows, tmp_path)
    assert len(list(tmp_path.glob("train-*"))) == 4


def test_as_many_other_rows_of_the_same_data_are_tokenized_anew(tmp_path: Path) -> None:
    """As after a filter on ifd with a limit, of which the data section alone says nothing."""
    some = made_for(run_config(), [row(1), row(2)], tmp_path)
    others = made_for(run_config(), [row(1), row(3)], tmp_path)
    assert [item.id for item in some.rows()] == ["r1", "r2"]
    assert [item.id for item in others.rows()] == ["r1", "r3"]


def test_packing_keeps_long_training_rows_whole(tmp_path: Path) -> None:
    config = run_config(max_length=22, packing=True, packing_strategy="wrapped")
    loaded = load_tokenizer(config, plain_rows=False)
    long = [row(1, "word " * 30)]
    assert prepare(config, "train", long, loaded, tmp_path).counts.truncated == 0
    assert prepare(config, "validation", long, loaded, tmp_path).counts.truncated == 1


def test_the_cache_is_named_by_what_it_holds(tmp_path: Path) -> None:
    made_for(run_config(), [row(1)], tmp_path)
    (cache,) = tmp_path.glob("train-*")
    assert json.loads((cache / "counts.json").read_text())["rows"] == 1
