"""Every kind of reference, in one small run and the tables that come of it."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from harness.cli.main import main
from harness.plan import plan_experiment
from harness.resources import embedded
from tests.servers import chat, serving

YAML = """\
name: kinds
model: {name: embedded:base}
template: {name: chatml}
data: {train: embedded:train, validation: embedded:validation, test: embedded:test, limit: 40}
training: {learning_rate: 2e-3, max_steps: 2, per_device_train_batch_size: 8, max_length: 256, gradient_checkpointing: false}
evals:
  - {suite: held_out, limit: 8, max_new_tokens: 8, scorers: [exact_match, normalized_match, nll]}
  - {suite: held_out, name: mine, data: mine.jsonl, max_new_tokens: 4, scorers: [exact_match, choice_accuracy]}
references:
  - base
  - {name: three_shots, few_shot: 3}
  - {name: parent, model: parent}
  - {name: server, url: "URL", model: someone}
  - {name: oracle, predictions: oracle.jsonl}
ranking: {by: held_out.exact_match, gates: []}
launch: {workers: 2}
tracking: {system_metrics: false}
"""
MINE = [
    {"id": "a", "prompt": "Which is a colour?", "choices": ["red", "seven"], "answer": "A"},
    {"id": "b", "prompt": "Which is a number?", "choices": ["red", "seven"], "answer": 1},
]


def harness(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments), catch_exceptions=False)


def lines(rows: list[dict]) -> str:
    return "".join(f"{json.dumps(row)}\n" for row in rows)


def test_rows() -> list[dict]:
    """The experiment's own test rows, as any user would read them."""
    return [json.loads(line) for line in embedded("test").read_text().splitlines()]


test_rows.__test__ = False


def script(path: str, body: dict) -> dict:
    return {"data": [{"id": "someone"}]} if path.endswith("/models") else chat("red")


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict]:
    folder = tmp_path_factory.mktemp("kinds")
    (folder / "mine.jsonl").write_text(lines(MINE))
    answers = [{"id": row["id"], "prediction": row["messages"][-1]["content"]} for row in test_rows()]
    (folder / "oracle.jsonl").write_text(lines(answers))
    parent = folder / "parent"
    shutil.copytree(embedded("base"), parent)
    chatml = Path(__file__).parent.parent / "harness" / "templates" / "chatml.jinja"
    (parent / "chat_template.jinja").write_text(chatml.read_text())
    with pytest.MonkeyPatch.context() as patch, serving(script) as server:
        patch.chdir(folder)
        (folder / "kinds.yaml").write_text(YAML.replace("URL", server.url))
        done = harness("run", "kinds.yaml")
        assert done.exit_code == 0, done.output
        ranking = json.loads(harness("rank", "kinds.yaml", "--json").output)
        yield {row["name"]: row["metrics"] for row in ranking["references"]}


def test_every_reference_has_a_row(ran: dict) -> None:
    assert list(ran) == ["base", "three_shots", "parent", "server", "oracle"]


def test_right_predictions_are_right(ran: dict) -> None:
    assert ran["oracle"]["held_out.exact_match"]["value"] == 1
    assert "mine.exact_match" not in ran["oracle"]
    assert "held_out.nll" not in ran["oracle"]


def test_a_server_is_asked_like_a_cell_but_knows_no_losses(ran: dict) -> None:
    assert ran["server"]["mine.exact_match"]["value"] == 0.5
    assert "held_out.nll" not in ran["server"]
    assert "mine.choice_accuracy" not in ran["server"]


def test_shots_change_what_the_base_expects(ran: dict) -> None:
    assert ran["three_shots"]["held_out.nll"]["value"] < ran["base"]["held_out.nll"]["value"]
    assert ran["base"]["mine.choice_accuracy"]["n"] == 2


def test_the_second_run_asks_nobody(ran: dict) -> None:
    again = harness("run", "kinds.yaml")
    assert again.exit_code == 0, again.output


def test_scored_predictions_join_the_tables(ran: dict) -> None:
    Path("wrong.jsonl").write_text(lines([{"id": row["id"], "prediction": "no idea"} for row in test_rows()]))
    done = harness("score", "wrong.jsonl", "--experiment", "kinds.yaml", "--name", "wrong", "--json")
    assert done.exit_code == 0, done.output
    content = json.loads(done.output)
    assert set(content) == {"name", "metrics", "examples", "findings"}
    assert content["metrics"]["exact_match"]["value"] == 0
    assert content["examples"][0].keys() == {"id", "scores", "failure"}
    ranking = json.loads(harness("rank", "kinds.yaml", "--json").output)
    assert "wrong" in [row["name"] for row in ranking["references"]]


def references(tmp_path: Path, *overrides: str) -> dict:
    """Name -> reference cell of the plan."""
    (tmp_path / "kinds.yaml").write_text(YAML.replace("URL", "http://127.0.0.1:9/v1"))
    return {cell.name: cell for cell in plan_experiment(str(tmp_path / "kinds.yaml"), overrides).references}


LORA = 'adapter={"r": 4, "target_modules": "all-linear"}'


def test_a_base_in_another_precision_is_another_reference(tmp_path: Path, ran: dict) -> None:
    full, lora = references(tmp_path), references(tmp_path, LORA)
    quantized = references(tmp_path, LORA, 'quantization={"load_in_4bit": true}')
    assert len({plan["base"].id for plan in (full, lora, quantized)}) == 3


def test_an_address_that_is_none_is_told_before_anything_starts(tmp_path: Path, ran: dict) -> None:
    (tmp_path / "kinds.yaml").write_text(YAML.replace("URL", "127.0.0.1:9/v1"))
    done = harness("plan", str(tmp_path / "kinds.yaml"))
    assert done.exit_code == 2
    assert "url is no address of a server" in done.stderr


def test_another_model_is_loaded_in_the_precision_of_the_base(tmp_path: Path, ran: dict) -> None:
    plan = references(tmp_path, LORA, 'quantization={"load_in_4bit": true}')
    assert plan["parent"].config.quantization == {"load_in_4bit": True}
    assert plan["parent"].config.template.name == "model"


BROKEN = """
from harness.suite import Suite

def broken(measured):
    return measured.example.messages[-1]["content"]

SUITE = Suite(name="broken", version=1, description="", scorers={"broken": broken})
"""


def test_a_broken_suite_leaves_the_others_and_is_named(ran: dict) -> None:
    Path("evals").mkdir()
    Path("evals/broken.py").write_text(BROKEN)
    held_out = "{suite: held_out, limit: 8, max_new_tokens: 8, scorers: [exact_match, normalized_match, nll]}"
    done = harness(
        "evaluate",
        "kinds.yaml",
        "--set",
        f"evals=[{held_out}, {{suite: broken, limit: 2}}]",
        "--set",
        "references=[base]",
    )
    assert done.exit_code == 1, done.output
    assert "default, base could not be asked everything: broken: the scorer broken failed on example" in " ".join(
        done.output.split()
    )
    assert "held_out" in done.output
