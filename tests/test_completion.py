"""What a shell completes, asked as the shell's script asks."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from harness.cli import completers
from harness.cli.completers import COMPLETERS, VARIABLE
from harness.cli.main import COMMANDS, HIDDEN, main

Write = Callable[[str, str], Path]


@pytest.fixture
def complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Completes the last word of a command line in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(VARIABLE, "bash_complete")

    def _complete(*words: str) -> list[str]:
        monkeypatch.setenv("COMP_WORDS", " ".join(("harness", *words)))
        monkeypatch.setenv("COMP_CWORD", str(len(words)))
        found = ShellComplete(main, {}, "harness", VARIABLE).get_completions(list(words[:-1]), words[-1])
        return [item.value for item in found if item.type == "plain"]

    return _complete


def cell(folder: Path, experiment: str, name: str, cell_id: str) -> None:
    path = folder / "mlruns" / "harness" / experiment
    (path / "cells" / cell_id).mkdir(parents=True)
    (path / "experiment.json").write_text("{}")
    (path / "cells" / cell_id / "cell.json").write_text(json.dumps({"cell": {"name": name, "id": cell_id}}))


def test_commands_complete(complete: Callable[..., list[str]]) -> None:
    assert complete("sc") == ["score", "schema"]
    assert complete("") == [name for name in COMMANDS if name not in HIDDEN]


def test_experiments_complete_to_files_and_names(complete: Callable[..., list[str]], tmp_path: Path) -> None:
    for name in ("queue.yaml", "sub/queue.yml", ".hidden/queue.yaml", "queue.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    cell(tmp_path, "queer", "a", "0123456789ab")
    assert complete("rank", "qu") == ["queue.yaml", "queer", "quickstart"]
    assert complete("rank", "sub/") == ["sub/queue.yml"]
    assert complete("rank", "./q") == ["./queue.yaml"]
    assert {"queue.yaml", "sub/queue.yml", "quickstart"} <= set(complete("plan", "--deep", ""))
    assert not any("hidden" in found for found in complete("plan", ""))


def test_cells_complete_by_name_or_begun_id(complete: Callable[..., list[str]], tmp_path: Path) -> None:
    cell(tmp_path, "one", "rate=1", "aaaa00000000")
    cell(tmp_path, "one", "base", "bbbb00000000")
    cell(tmp_path, "two", "base", "aaaa11111111")
    assert complete("show", "") == ["rate=1", "one/base", "two/base"]
    assert complete("compare", "rate=1", "two") == ["two/base"]
    assert complete("card", "aa") == ["aaaa00000000", "aaaa11111111"]


def test_options_complete(complete: Callable[..., list[str]]) -> None:
    assert complete("rank", "quickstart", "--b") == ["--by"]


def test_other_words_are_left_to_the_shell(complete: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    for command in ("data", "show", "score"):
        assert complete(command, "my-file") == []
        found = ShellComplete(main, {}, "harness", VARIABLE).get_completions([command], "my-file")
        assert [item.type for item in found] == ["file"]


def test_fish_tells_the_word_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMP_WORDS", "harness rank --by")
    monkeypatch.setenv("COMP_CWORD", "--by")
    assert completers._word() == "--by"


def test_commands_are_themselves_where_no_shell_asks() -> None:
    command = main.get_command(click.Context(main), "rank")
    assert command is not None
    assert [param.name for param in command.params if isinstance(param, click.Argument)] == ["experiment"]


def test_every_command_that_takes_an_experiment_or_a_run_completes_it() -> None:
    for name in COMMANDS:
        command = main.get_command(click.Context(main), name)
        assert command is not None
        arguments = {param.name for param in command.params if isinstance(param, click.Argument)}
        if arguments & {"experiment", "run", "runs", "target"}:
            assert name in COMPLETERS, f"{name} takes {arguments}"


def test_completing_imports_no_library_that_a_command_needs(tmp_path: Path) -> None:
    code = (
        "import sys; from harness.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: print([m for m in ('numpy', 'torch', 'mlflow', 'yaml') if m in sys.modules])"
    )
    environment = {VARIABLE: "bash_complete", "COMP_WORDS": "harness rank quick", "COMP_CWORD": "2"}
    command = [sys.executable, "-c", f"import os; os.environ.update({environment!r}); sys = __import__('sys'); sys.argv[0] = 'harness'\n{code}"]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["plain,quickstart", "[]"]


@pytest.mark.parametrize(
    ("shell", "line"),
    [
        ("bash", "complete -o nosort -F _harness_completion harness"),
        ("zsh", "compdef _harness_completion harness"),
        ("fish", "complete --no-files --command harness"),
    ],
)
def test_script_of_a_shell_says_how_to_keep_it(shell: str, line: str) -> None:
    script = CliRunner().invoke(main, ["completion", shell]).stdout
    assert script.startswith("# To keep it, add this line to ~/.")
    assert line in script
    assert f"{VARIABLE}={shell}_complete" in script
