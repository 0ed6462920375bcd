"""What is fuzzed: for every reader of foreign files, hostile input and the call that may raise HarnessErrors only.

Mutations of good files reach further than random bytes, so nearly all input begins as one.
"""

import dataclasses
import io
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from hypothesis import strategies as st

from harness.errors import HarnessError
from harness.records import CellResult, Generation, Score, TracePoint
from harness.resources import bundled, embedded, file_digest
from tests.guards import guarded
from tests.mutations import mutated_bytes, mutated_text, mutated_tree


class Target(NamedTuple):
    """One thing that reads what others write."""

    hostile: st.SearchStrategy[Any]
    read: Callable[[Any, Path], object]
    """Gets the input and an empty folder."""


def attempt(target: Target, hostile: Any, folder: Path) -> bool:
    """Whether the input is refused; whatever else goes wrong is raised."""
    with guarded("the reader"):
        try:
            target.read(hostile, folder)
        except HarnessError as error:
            assert str(error).strip(), "a refusal says what is wrong"
            return True
    return False


def surrogates_kept(value: Any) -> bytes:
    """JSON as a writer of escapes makes it."""
    return json.dumps(value).encode()


def written(folder: Path, name: str, content: bytes) -> Path:
    """A file in the folder."""
    path = folder / name
    path.write_bytes(content)
    return path


SHIPPED = [path.read_text(encoding="utf-8") for path in sorted(bundled("experiments").glob("*.yaml"))]
QUESTION: dict[str, Any] = {"role": "user", "content": "Two roses?"}
ANSWER: dict[str, Any] = {"role": "assistant", "content": "Noted."}
CALL: dict[str, Any] = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}],
}
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}},
}
ROWS: Sequence[dict[str, Any]] = (
    {"messages": [{"role": "system", "content": "Be brief."}, QUESTION, {**ANSWER, "reasoning_content": "hm"}], "id": 1},
    {"messages": [QUESTION, CALL, {"role": "tool", "content": "2"}, ANSWER], "tools": [TOOL], "expect": {"tools": [TOOL]}},
    {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]},
    {"prompt": "1+1=", "completion": "2", "entities": ["a"], "kind": "x", "phrasing": "new-1"},
    {"prompt": [QUESTION], "completion": [ANSWER], "chat_template_kwargs": {"a": 1}},
    {"instruction": "Add", "input": "1 1", "output": "2", "expect": {"json_schema": {"type": "object"}}},
    {"question": "1+1?", "answer": "#### 2"},
    {"text": "Once upon a time."},
    {"chosen": [ANSWER], "rejected": [ANSWER], "prompt": "x"},
    {"id": "a", "prediction": "42", "finish_reason": "stop"},
)  # fmt: skip
STATES: Sequence[Any] = (
    {"log_history": [{"step": i, "loss": 2.0 / (i + 1), "grad_norm": 1.0, "learning_rate": 1e-4, "epoch": i / 5} for i in range(12)]
     + [{"step": 6, "eval_loss": 1.5}, {"step": 12, "eval_loss": 1.4, "train_runtime": 3.0}], "max_steps": 12, "global_step": 12,
     "num_train_epochs": 3, "logging_steps": 1, "eval_steps": 6, "save_steps": 6, "train_batch_size": 8},
    {"log_history": [{"step": 1, "values": {"loss": "nan"}}]},
)  # fmt: skip
TABLES = (
    "step,loss,eval_loss\n1,2.5,\n2,2.0,1.9\n3,1.5,1.8\n",
    "Wall time;Step;Value\n1,0;1;2,5\n2,0;2;2,1\n",
    "Step\ttrain/loss\n1\t3\n2\t2\n",
)
TRACE = "".join(
    TracePoint(step=i, epoch=i / 5, seconds=1.0, values={"loss": 1.0 / i}).model_dump_json() + "\n" for i in range(1, 6)
)
TEMPLATES = [path.read_text(encoding="utf-8") for path in sorted(bundled("templates").glob("*.jinja"))]
PLANNED: dict[str, Any] = {
    "name": "small", "description": "", "model": {"name": "embedded:base", "revision": None}, "template": {"name": "chatml"},
    "data": {"train": "embedded:train", "validation": "embedded:validation", "test": [{"path": "embedded:test", "split": "train"}], "limit": 9,
             "filter": [{"score": "answer_words", "max": 90}]},
    "training": {"learning_rate": 1e-3, "max_steps": 3, "max_length": 64}, "adapter": {"r": 4}, "grid": {"training.learning_rate": [1e-3, 2e-3]},
    "variants": {"long": {"training": {"max_steps": 5}}}, "seeds": [0, 1],
    "evals": ["held_out", {"suite": "template_adherence", "limit": 3, "data": "embedded:test", "style": {"max_words": 9}}],
    "references": ["base", {"name": "few", "few_shot": 2}, {"name": "served", "url": "http://localhost:1/v1", "model": "m"}],
    "ranking": {"by": "held_out.nll", "gates": ["no error findings", "held_out.nll < 9"]}, "launch": {"workers": 1},
    "tracking": {"uri": "sqlite:///x.db"},
}  # fmt: skip
RESULT: dict[str, Any] = {
    "cell": "a" * 12, "name": "lr=1", "group": "g", "seed": 0, "overrides": {"training.learning_rate": 1e-3}, "status": "failed", "stage": "training",
    "error": "it broke", "traceback": "", "suite_errors": {"s": "x"},
}  # fmt: skip


def read_experiment(text: str, folder: Path) -> None:
    """What `harness plan` does with a file before it looks at data and models."""
    from harness.experiment_file import load_experiment
    from harness.grid import expand

    path = written(folder, "experiment.yaml", text.encode("utf-8", "surrogatepass"))
    config = load_experiment(path)
    expand(config, folder, lambda _: "f" * 12, lambda _: str(path))


def read_experiment_tree(tree: Any, folder: Path) -> None:
    """The same of what is well-formed YAML."""
    read_experiment(yaml.safe_dump(tree, allow_unicode=True), folder)


def plan_tree(tree: Any, folder: Path) -> None:
    """What `harness plan` does with a file, its data, its suites and its references."""
    from harness.plan import check_plan, plan_experiment

    content = yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass")
    made = plan_experiment(str(written(folder, "experiment.yaml", content)))
    for check in check_plan(made, deep=False).values():
        check.model_dump_json()


def read_data(hostile: tuple[str, bytes], folder: Path) -> None:
    """What a training does with a file of rows before it renders them."""
    from harness.data.formats import convert
    from harness.data.sources import read_rows
    from harness.eval_config import SourceConfig

    suffix, content = hostile
    path = written(folder, f"rows{suffix}", content)
    rows = read_rows(SourceConfig(path=str(path))).rows
    if rows:
        for row in convert(rows).rows:
            row.as_turns().example().model_dump_json()


def read_rows_of_all_formats(rows: list[Any], folder: Path) -> None:
    """The same of rows that are well-formed JSON."""
    read_data((".jsonl", b"\n".join(map(surrogates_kept, rows))), folder)


def read_predictions(rows: list[Any], folder: Path) -> None:
    """What `harness score` does with a file."""
    from harness.predictions import load_predictions

    for answer in load_predictions(written(folder, "p.jsonl", b"\n".join(map(surrogates_kept, rows)))).by_id.values():
        answer.model_dump_json()


@lru_cache(maxsize=1)
def _tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(embedded("base"))


def read_template(text: str, folder: Path) -> None:
    """What `harness template` does with a file."""
    import copy

    from harness.models.template_check import check_template

    tokenizer = copy.deepcopy(_tokenizer())
    tokenizer.chat_template = text
    check_template(tokenizer, "fuzzed", "embedded:base").model_dump_json()


@lru_cache(maxsize=1)
def _scorers() -> Mapping[str, Any]:
    from importlib.util import find_spec

    from harness.scoring.table import CODE_SCORERS, SAMPLE_SCORERS, SCORERS

    left_out = {
        *CODE_SCORERS,
        "embedding_similarity",
        *(() if find_spec("lm_eval") else ("ifeval_strict", "ifeval_loose")),
    }
    return {name: scorer for name, scorer in {**SCORERS, **SAMPLE_SCORERS}.items() if name not in left_out}


def score_answer(hostile: tuple[str, str, str], folder: Path) -> None:
    """Every scorer that runs no code, on one answer and one reference."""
    from tests.measurements import measurement

    answer, other, reference = hostile
    measured = measurement(answer, other, reference=reference, choices=("a", reference), logprobs=(-1.0, -2.0))
    instructions = ({"id": "punctuation:no_comma"}, {"id": "detectable_format:json_format"})
    measured = dataclasses.replace(
        measured, example=measured.example.model_copy(update={"instructions": instructions}), nll=1.0
    )
    for scorer in _scorers().values():
        score = scorer(measured)
        assert score is None or Score.model_validate(score.model_dump()) == score


def read_log(hostile: tuple[str, bytes], folder: Path) -> None:
    """What `harness diagnose` does with a file of another training."""
    from harness.diagnose.cell import diagnose
    from harness.diagnose.readers import file_evidence

    name, content = hostile
    for found in diagnose(file_evidence(written(folder, name, content))):
        found.model_dump_json()


def read_records(hostile: Any, folder: Path) -> None:
    """What `harness rank` and `show` do with the records of a cell."""
    from harness.recorded import recorded_plan
    from harness.store import ExperimentFolder, read_lines, read_record

    content = hostile if isinstance(hostile, bytes) else surrogates_kept(hostile)
    for attempt_one in (
        lambda: read_record(written(folder, "result.json", content), CellResult).model_dump_json(),
        lambda: [
            line.model_dump_json() for line in read_lines(written(folder, "lines.jsonl", content * 2), Generation)
        ],
        lambda: recorded_plan(ExperimentFolder(written(folder, "experiment.json", content).parent)),
    ):
        try:
            attempt_one()
        except HarnessError as error:
            assert str(error)


def read_archive(hostile: tuple[list[tuple[str, bytes]], bytes, int], folder: Path) -> None:
    """What is done with records that come from a tracking server."""
    from harness.tracking.record_files import unpack

    members, noise, where = hostile
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content)
    whole = file.getvalue()
    path = written(folder, "records.zip", whole[:where] + noise + whole[where + len(noise) :])
    target = folder / "target"
    try:
        unpack(path, target, file_digest(path), None)
    finally:
        outside = [found for found in folder.iterdir() if found not in (path, target)]
        assert not outside, f"written outside its folder: {outside}"


def _parquet() -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([{"prompt": "1+1=", "completion": "2"}] * 3), sink)
    return sink.getvalue()


def _files() -> st.SearchStrategy[tuple[str, bytes]]:
    lines = "\n".join(json.dumps(row) for row in ROWS[:4])
    texts = {".jsonl": lines, ".json": json.dumps(list(ROWS[:4])), ".csv": 'prompt,completion\n"a\nb",c\n1,2\n'}
    texts_of = [
        st.tuples(
            st.just(suffix),
            mutated_text([text]).map(lambda t: t.encode("utf-8", "surrogatepass")) | mutated_bytes([text.encode()]),
        )
        for suffix, text in texts.items()
    ]
    return st.one_of(*texts_of, st.tuples(st.just(".parquet"), mutated_bytes([_parquet()])))


def _logs() -> st.SearchStrategy[tuple[str, bytes]]:
    state = st.tuples(st.just("trainer_state.json"), mutated_tree(STATES).map(surrogates_kept))
    cut = st.tuples(st.just("trainer_state.json"), mutated_bytes([surrogates_kept(STATES[0])]))
    lines = ["\n".join(json.dumps(entry) for entry in STATES[0]["log_history"]), TRACE]
    encoded = mutated_text([*lines, *TABLES]).map(lambda t: t.encode("utf-8", "surrogatepass"))
    return st.one_of(state, cut, st.tuples(st.sampled_from(("log.jsonl", "log.csv", "log.txt", "log.json")), encoded))


ANSWERS = (
    '{"a": 1, "b": [2, {"c": "x"}]}', "The answer is 1,234.5 or 3/4.", "<think>hm</think>\n#### 42", "\\boxed{42}", "A. yes\nB. no",
    '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>', "```python\nx = 1\n```", "f(a=1)", "two roses, please",
)  # fmt: skip
_names = st.sampled_from(
    (
        "experiment.json",
        "cells/a/result.json",
        "../out",
        "/tmp/out",
        "cells/../../out",
        "data/x.json",
        "cells/a/generations/../../../x",
    )
)
answers = mutated_text(ANSWERS) | st.text(max_size=60)
TARGETS: Mapping[str, Target] = {
    "experiment files, mutated text": Target(mutated_text(SHIPPED), read_experiment),
    "experiment files, mutated settings": Target(mutated_tree([yaml.safe_load(text) for text in SHIPPED]), read_experiment_tree),
    "experiment files, random text": Target(st.text(max_size=60) | mutated_text([""]), read_experiment),
    "experiments, planned": Target(mutated_tree([PLANNED]), plan_tree),
    "data files": Target(_files(), read_data),
    "rows of all formats": Target(st.lists(mutated_tree(ROWS), min_size=1, max_size=4), read_rows_of_all_formats),
    "predictions": Target(st.lists(mutated_tree(ROWS), min_size=1, max_size=4), read_predictions),
    "chat templates": Target(mutated_text(TEMPLATES), read_template),
    "scorers": Target(st.tuples(answers, answers, answers), score_answer),
    "training logs": Target(_logs(), read_log),
    "records": Target(mutated_tree([RESULT]) | mutated_bytes([surrogates_kept(RESULT)]), read_records),
    "records from a server": Target(
        st.tuples(st.lists(st.tuples(_names, st.binary(max_size=20)), max_size=3), st.binary(max_size=4), st.integers(0, 200)), read_archive
    ),
}  # fmt: skip
