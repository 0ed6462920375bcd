"""Hostile files are refused with one sentence, and passwords and tokens stay out of whatever is kept or shown."""

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from harness.cell_checks import CheckProblem
from harness.cli.main import main
from harness.config import ModelConfig
from harness.data.template_source import excess
from harness.errors import EvalError, ModelError, StoreError
from harness.experiment_file import load_experiment
from harness.models.load import model_source
from harness.models.trusted import check_no_pickle
from harness.plan import plan_experiment
from harness.recorded import write_plan
from harness.records import CellResult
from harness.secrets import RedactingFormatter, redacted, redacted_settings, redacted_tree
from harness.store import experiment_folder
from harness.suite import load_suite
from harness.tracking import ui
from tests.conftest import MINIMAL
from tests.helpers import cell_result

Write = Callable[..., Path]
TOKEN = "hf_" + "aB3dE6gH9jK2mN5pQ8"
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefghi", "bcdefghij", strict=True)
)


def harness(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def refusal(write: Write, content: str) -> str:
    """What `harness plan` says of a file that it refuses."""
    write(content)
    done = harness("plan", "experiment.yaml")
    assert done.exit_code == 2, done.output
    assert isinstance(done.exception, SystemExit), done.exception
    return done.stderr


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (LAUGHS, "100,000 values; write out what is meant"),
        ("<<: &a {<<: *a}\n", "an alias stands inside what it stands for"),
        ("a: &a [*a]\n", "experiment.yaml:1: an alias stands inside what it stands for"),
        ("a: " + "[" * 5000 + "]" * 5000, "experiment.yaml:1: it is nested more than 40 levels deep"),
        ("".join(f"{' ' * i}a:\n" for i in range(300)), "it is nested more than 40 levels deep"),
        (MINIMAL + "name: again\n", "experiment.yaml:12: name is given twice"),
        (MINIMAL.replace("learning_rate: 1e-3", "learning_rate: 1e-3\n  learning_rate: 2e-3"), "learning_rate is given twice"),
        ("name: x\0y\n", "experiment.yaml:1: the character U+0000 can't be in a YAML file"),
        ("? [a, b]\n: c\n", "a key must be plain text"),
        ("a: !!python/object/apply:os.system ['true']\n", "the tag !!python/object/apply:os.system is not read"),
        ("a: !mine x\n", "experiment.yaml:1: the tag !mine is not read"),
        ("a: !!binary x\n", "the tag !!binary is not read"),
        (f"seeds: [{'9' * 5000}]\n", "can't be read as int; quote it"),
        ("a: !!int x\n", "x can't be read as int"),
        ("- a\n", "an experiment is a mapping of sections"),
        ("a: [\n", "this isn't valid YAML"),
        (MINIMAL + "grid: {training.learning_rate: [" + ", ".join(f"{i}e-5" for i in range(1, 150)) + "], "
         "training.max_steps: [" + ", ".join(map(str, range(1, 101))) + "]}\n", "the experiment has 14,900 cells, 10,000 at most"),
        (MINIMAL + f"description: my key is {TOKEN}\n", "description holds a password or a token"),
        (MINIMAL + "evals: [{suite: ../../etc/passwd}]\n", "can't be a suite"),
        (MINIMAL + "references: [{name: ../x, predictions: p.jsonl}]\n", "'../x' can't be used"),
        (MINIMAL.replace("name: small", "name: ../../x"), "can't name a folder"),
        (MINIMAL + "  hub_token: abc\n", "hub_token holds a password or a token"),
        (MINIMAL.replace("embedded:base", "https://me:secret@host/x"), "name holds a password or a token"),
    ],
)  # fmt: skip
def test_hostile_experiment_file_is_refused_in_one_sentence(write: Write, content: str, said: str) -> None:
    told = refusal(write, content)
    assert said in told
    assert TOKEN not in told
    assert "secret" not in told
    assert "Traceback" not in told


def test_file_that_is_no_text_is_refused_with_its_line(write: Write) -> None:
    write("").write_bytes(b"name: small\ndescription: caf\xe9\n")
    told = harness("plan", "experiment.yaml").stderr
    assert "experiment.yaml:2: the file isn't UTF-8 text" in told


def test_gigabyte_is_refused_without_being_read(write: Write) -> None:
    path = write("")
    with path.open("r+b") as file:
        file.truncate(1 << 30)
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (700 << 20,) * 2)\n"
        "from harness.yaml_text import read_yaml; from pathlib import Path; read_yaml(Path(sys.argv[1]))"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1].endswith(
        "the file is larger than 1 MiB, which no experiment is; name the experiment's file"
    )


def test_honest_aliases_and_dates_are_read(write: Write) -> None:
    path = write(
        MINIMAL.replace("training:", "training: &all") + "description: 2026-01-01\n"
        "variants: {a: {training: {<<: *all, max_steps: 5}}}\n"
    )  # fmt: skip
    config = load_experiment(path)
    assert config.description == "2026-01-01"
    assert config.variants["a"]["training"] == {"learning_rate": 1e-3, "max_steps": 5}


@pytest.mark.parametrize(
    "override",
    [f"description={TOKEN}", "training.hub_token=abc", "a=[[[", "a=!!python/name:os.system", "=1", "name.b=1"],
)
def test_hostile_override_is_refused(write: Write, override: str) -> None:
    write(MINIMAL)
    done = harness("plan", "experiment.yaml", "--set", override)
    assert done.exit_code == 2
    assert TOKEN not in done.output


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "adapter_model.bin", "model.pt"]
)
def test_pickled_weights_are_refused_by_name_before_training(write: Write, name: str, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "training_args.bin").write_bytes(b"")
    (folder / name).write_bytes(b"\x80\x04")
    told = refusal(write, MINIMAL.replace("embedded:base", "./pickled"))
    assert f"{name} is a pickle" in told
    assert "only safetensors are loaded" in told
    (folder / name.replace("pytorch_", "").replace("bin", "safetensors")).write_bytes(b"")
    (folder / "model.safetensors").write_bytes(b"")
    assert model_source(ModelConfig(name=str(folder))) == str(folder)


def test_pickled_adapter_of_a_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "adapter_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(ModelError, match=r"adapter_model\.bin is a pickle"):
        check_no_pickle(tmp_path, "checkpoint")


def test_plan_shows_whose_code_is_run(write: Write) -> None:
    write(MINIMAL.replace("embedded:base", "embedded:base\n  trust_remote_code: true"))
    assert "trust_remote_code: Python that comes with embedded:base@main is run" in " ".join(
        harness("plan", "experiment.yaml").stdout.split()
    )
    assert json.loads(harness("plan", "experiment.yaml", "--json").stdout)["trust_remote_code"] == [
        "embedded:base@main"
    ]
    write(MINIMAL)
    assert "trust_remote_code" not in harness("plan", "experiment.yaml", "--json").stdout


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'a' * 3000000000 }}",
        "{{ 10 ** (10 ** 10) }}",
        "{% for m in messages %}{{ m.content.ljust(2000000000) }}{% endfor %}",
        "{% for a in range(99999) %}{{ messages[0].content }}{% endfor %}",
    ],
)  # fmt: skip
def test_template_without_end_is_stopped(template: str) -> None:
    assert excess(template, [[{"role": "user", "content": "Hello there, how are you?"}]], {}).startswith("more than ")


def test_command_names_a_template_without_end(tmp_path: Path) -> None:
    path = tmp_path / "endless.jinja"
    path.write_text("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}{{ messages }}")
    done = harness("template", str(path))
    assert done.exit_code == 2
    assert "takes more than 5 seconds of computing to render a short conversation" in " ".join(done.output.split())


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:p/a:s@s@db/x failed", "postgresql://***@db/x failed"),
        ("https://token@host/x", "https://***@host/x"),
        ("http://localhost:5000/#/users/@me", "http://localhost:5000/#/users/@me"),
        ("mail me@example.com or see http://example.com/@me", "mail me@example.com or see http://example.com/@me"),
        (f"401 for {TOKEN}", "401 for ***"),
        ("Authorization: Bearer abc", "Authorization: ***"),
        ("{'authorization': 'Basic dXNlcjpwYXNz', 'x': 1}", "{'authorization': '***', 'x': 1}"),
        ("api_key='abc', base_url='u'", "api_key=***, base_url='u'"),
        ('{"api_key": "abc"}', '{"api_key": ***}'),
        ("PGPASSWORD=abc psql", "PGPASSWORD=*** psql"),
        ("eos_token=<|im_end|> max_new_tokens: 5", "eos_token=<|im_end|> max_new_tokens: 5"),
        ("api_key_env: OPENAI_API_KEY", "api_key_env: OPENAI_API_KEY"),
    ],
)
def test_secrets_in_text_are_hidden_and_nothing_else(text: str, shown: str) -> None:
    assert redacted(text) == shown


def test_secrets_of_the_environment_are_hidden_wherever_they_appear(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "correct horse battery")
    monkeypatch.setenv("EOS_TOKEN", "<|im_end|>")
    assert redacted("the key correct horse battery is wrong <|im_end|>") == "the key *** is wrong <|im_end|>"


def test_settings_are_hidden_by_name() -> None:
    given = {"training.hub_token": "abc", "training.eos_token": "</s>", "training.hub_model_id": "None"}
    assert redacted_settings(given) == {**given, "training.hub_token": "***"}
    assert redacted_tree({"a": [{"password": "x", "n": 1}], "uri": "http://a:b@h"}) == {
        "a": [{"password": "***", "n": 1}],
        "uri": "http://***@h",
    }


def test_failed_cell_keeps_no_secret() -> None:
    leaky = f"could not connect to postgresql://me:hunter2@db/x with {TOKEN}"
    known = {
        **cell_result("a").model_dump(),
        "status": "failed",
        "error": leaky,
        "traceback": leaky,
        "suite_errors": {"s": leaky},
    }
    kept = CellResult.model_validate(known).model_dump_json() + CheckProblem(severity="error", message=leaky).message
    assert "hunter2" not in kept
    assert TOKEN not in kept


def test_logged_tracebacks_hold_no_secret() -> None:
    try:
        raise ValueError(f"refused {TOKEN}")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "x", 1, "login %s", (f"http://a:b@h {TOKEN}",), sys.exc_info())
    text = RedactingFormatter().format(record)
    assert "ValueError: refused ***" in text
    assert TOKEN not in text
    assert "a:b" not in text


def test_worker_output_holds_no_secret() -> None:
    code = (
        "import sys; from harness.secrets import redact_output; redact_output()\n"
        f"print('{TOKEN}', flush=True); print('{TOKEN}', file=sys.stderr); raise ValueError('http://me:hunter2@host')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "***\n"
    assert "http://***@host" in done.stderr
    assert TOKEN not in done.stderr


def test_kept_plan_and_params_hold_no_password(write: Write) -> None:
    path = write(MINIMAL + "tracking: {uri: 'postgresql://me:hunter2@db.example/mlflow'}\n")
    made = plan_experiment(str(path))
    assert "hunter2" not in json.dumps(write_plan(made))
    assert "hunter2" not in made.folder.config.read_text()
    assert made.config.tracking.uri == "postgresql://me:hunter2@db.example/mlflow"


def test_ui_listens_on_this_machine_alone_and_checks_who_asks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """MLflow itself answers 403 to another Host header and to another Origin, as long as its checks are on."""
    given: list[Any] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ui.os, "execve", lambda *arguments: given.extend(arguments))
    monkeypatch.setenv("MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE", "true")
    ui.become_ui("postgresql://me:hunter2@db/x", 5000)
    _, command, environment = given
    assert command[command.index("--host") + 1] == "127.0.0.1"
    hosts = command[command.index("--allowed-hosts") + 1].split(",")
    assert {host.partition(":")[0] for host in hosts} == {"localhost", "127.0.0.1"}
    assert "hunter2" not in " ".join(command)
    assert "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE" not in environment


@pytest.mark.parametrize("name", ["../x", "a/b", "..", "", "a\0b", "~x", "a" * 101])
def test_name_that_leaves_its_folder_is_refused(name: str) -> None:
    with pytest.raises(StoreError, match="can't be a folder"):
        experiment_folder(name)
    assert harness("score", __file__, "--name", name or ".", "--suite", "held_out").exit_code == 2


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a\0b", "x" * 5000])
def test_commands_refuse_names_that_are_no_experiments(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for command in ("plan", "rank", "report", "show", "diagnose", "card", "export", "template", "data", "compare"):
        done = harness(command, name, *(["b"] if command == "compare" else []))
        assert done.exit_code == 2, (command, done.output, done.exception)
        assert isinstance(done.exception, SystemExit), (command, done.exception)
    assert not list(tmp_path.iterdir())


def test_suite_outside_its_folder_is_refused() -> None:
    with pytest.raises(EvalError, match="can't be a suite"):
        load_suite("../harness/errors")


def test_the_working_folder_is_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PWD", "/home/ada/work")
    monkeypatch.setenv("DB_PASSWORD", "correct-horse")
    assert redacted("/home/ada/work/mine.yaml: correct-horse") == "/home/ada/work/mine.yaml: ***"
