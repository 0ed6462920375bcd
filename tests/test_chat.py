"""`harness chat`: the evaluation's own answers, in a pipe and on a terminal."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from harness.chat import Dialogue, open_partner
from harness.cli.chat_screen import Chat, visible
from harness.cli.main import main
from harness.models.chatting import ChatModel, _Stream
from harness.models.respondent import Sampling
from harness.records import CellResult, Example, Generation, Message
from harness.store import CellFolder, read_lines, read_record

QUESTION = "I want 3 roses."
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\r")


@pytest.fixture(autouse=True)
def _inside(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained)


@pytest.fixture(scope="module")
def lora(trained: Path) -> Dialogue:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(trained)
        return Dialogue(open_partner("lora"), Sampling(12))


def chat(*arguments: str, said: str) -> Result:
    return CliRunner().invoke(main, ["chat", *arguments], input=said, catch_exceptions=False)


def answer_of(target: str, said: str, **options: object) -> str:
    dialogue = Dialogue(open_partner(target), Sampling(12, **options))
    return dialogue.ask(said, lambda text: None).text


def cell(name: str) -> tuple[CellFolder, CellResult]:
    for path in Path("mlruns/harness/tiny/cells").glob("*/result.json"):
        result = read_record(path, CellResult)
        if result.name == name:
            return CellFolder(path.parent), result
    raise AssertionError(name)


@pytest.mark.parametrize("name", ["full", "lora", "base"])
def test_a_test_prompt_gets_the_recorded_generation(name: str) -> None:
    folder, result = cell(name)
    (suite,) = result.suites
    recorded = {g.example_id: g for g in read_lines(folder.generations(suite.suite, suite.digest), Generation)}
    partner = open_partner(name)
    compared = 0
    for example in read_lines(folder.asked(suite.suite, suite.digest), Example):
        if [turn.role for turn in example.messages] in (["user"], ["system", "user"]):
            system = example.messages[0].content if len(example.messages) == 2 else ""
            given = Dialogue(partner, Sampling(12), system).ask(example.messages[-1].content, lambda text: None)
            expected = recorded[example.id]
            assert (given.prompt.text, given.text, given.ended) == (
                expected.prompt,
                expected.text,
                expected.stop_reason,
            )
            assert given.num_tokens == expected.completion_tokens
            compared += 1
    assert compared >= 4


def test_a_pipe_gets_bare_answers_a_line_each(lora: Dialogue) -> None:
    lora.reset()
    first = lora.ask(QUESTION, lambda text: None).text
    second = lora.ask("And 4?", lambda text: None).text
    assert first
    done = chat("lora", "--max-new-tokens", "12", said=f"{QUESTION}\n\nAnd 4?\n")
    assert done.exit_code == 0
    assert done.stdout == f"{first}\n{second}\n"


def test_a_real_pipe_ends_with_the_input() -> None:
    command = [sys.executable, "-m", "harness", "chat", "full", "--max-new-tokens", "4"]
    done = subprocess.run(command, input=f"{QUESTION}\n".encode() + b"\xff\xfe?\n", capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) >= 2
    assert b"Traceback" not in done.stderr


def test_commands_begin_anew_and_show_the_prompt(lora: Dialogue) -> None:
    lora.reset("Be brief.")
    answer = lora.ask(QUESTION, lambda text: None)
    said = f"hello\n/system Be brief.\n{QUESTION}\n/tokens\n/reset\n/tokens\n/exit\nnever asked\n"
    done = chat("lora", "--max-new-tokens", "12", said=said)
    prompt = f"<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    assert answer.prompt.text == prompt
    assert done.stdout.endswith(f"{answer.text}\n{prompt}\n")
    assert f"{len(answer.prompt.ids)} tokens of 512" in done.stderr
    assert "nothing was asked yet" in done.stderr


def test_the_system_option_is_the_first_turn(lora: Dialogue) -> None:
    done = chat("lora", "--system", "Be brief.", "--max-new-tokens", "2", said=f"{QUESTION}\n/tokens\n")
    assert "<|im_start|>system\nBe brief.<|im_end|>" in done.stdout


def test_an_unknown_command_is_not_sent_and_two_slashes_are() -> None:
    done = chat(
        "lora", "--max-new-tokens", "2", said="/temperature 2\n//exit\n/tokens\n/home/me is a folder\n/tokens\n"
    )
    assert "there is no command /temperature" in done.stderr
    assert "<|im_start|>user\n/exit<|im_end|>" in done.stdout
    assert "<|im_start|>user\n/home/me is a folder<|im_end|>" in done.stdout
    assert "temperature" not in done.stdout


def test_an_answer_that_was_cut_is_said_to_be(lora: Dialogue) -> None:
    done = chat("base", "--max-new-tokens", "2", said=f"{QUESTION}\n")
    assert "[cut at 2 tokens; --max-new-tokens allows more]" in done.stderr
    assert "cut" not in done.stdout


def test_a_full_context_is_said_and_leaves_the_conversation_as_it_was() -> None:
    long = "rose " * 600
    done = chat("lora", "--max-new-tokens", "2", said=f"{long}\n{QUESTION}\n/tokens\n")
    assert done.exit_code == 0
    assert re.search(r"\[not asked: the conversation has \d+ tokens and fills the context of 512; /reset", done.stderr)
    assert long not in done.stdout
    assert f"<|im_start|>user\n{QUESTION}<|im_end|>" in done.stdout


def test_the_end_of_the_context_ends_an_answer(lora: Dialogue) -> None:
    partner = open_partner("base")
    dialogue = Dialogue(partner, Sampling(1000))
    answer = dialogue.ask("rose " * 235, lambda text: None)
    assert answer.ended != "prompt_too_long"
    assert len(answer.prompt.ids) + answer.num_tokens <= 512


def test_a_model_without_template_is_asked_plain_text() -> None:
    done = chat("embedded:base", "--max-new-tokens", "3", said="The mayor of\nand then\n/tokens\n")
    assert done.exit_code == 0
    assert "embedded:base has no chat template: every prompt is asked as it stands" in done.stderr
    assert done.stdout.splitlines()[-1] == "and then"


def test_two_partners_hear_the_same_and_keep_their_own_answers() -> None:
    done = chat("lora", "base", "--max-new-tokens", "3", said=f"{QUESTION}\n/tokens\n")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("[lora] ")
    assert any(line.startswith("[base] ") for line in lines)
    assert done.stdout.count(f"<|im_start|>user\n{QUESTION}<|im_end|>") == 2
    assert re.search(r"^lora: \d+ tokens of 512$", done.stderr, flags=re.MULTILINE)


@pytest.mark.parametrize("options", [(), ("--merge",)])
def test_an_exported_folder_answers_as_its_cell(tmp_path: Path, options: tuple[str, ...]) -> None:
    folder = tmp_path / "mine"
    exported = CliRunner().invoke(main, ["export", "lora", str(folder), *options], catch_exceptions=False)
    assert exported.exit_code == 0
    assert answer_of(str(folder), QUESTION) == answer_of("lora", QUESTION)


def test_pieces_are_told_as_they_come_and_make_the_answer(lora: Dialogue) -> None:
    lora.reset()
    pieces: list[str] = []
    answer = lora.ask(QUESTION, pieces.append)
    assert "".join(pieces) == answer.text
    assert len([piece for piece in pieces if piece]) >= min(answer.num_tokens, 2)


def test_a_character_of_several_tokens_is_told_when_it_is_whole(lora: Dialogue) -> None:
    import torch

    loaded = lora.partner.model._loaded
    ids = loaded.tokenizer("é 字 🌹!", add_special_tokens=False)["input_ids"]
    pieces: list[str] = []
    stream = _Stream(loaded, pieces.append)
    stream.put(torch.tensor([[1, 2]]))
    for token in ids:
        stream.put(torch.tensor([token]))
    assert stream.finish(ids) == "".join(pieces)
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)
    assert len(pieces) < len(ids)


def test_ctrl_c_keeps_what_was_said_so_far(lora: Dialogue) -> None:
    lora.reset()
    whole = lora.ask(QUESTION, lambda text: None).text
    lora.reset()
    heard: list[str] = []

    def interrupt(text: str) -> None:
        heard.append(text)
        if sum(map(bool, heard)) == 1 and text:
            raise KeyboardInterrupt

    answer = lora.ask(QUESTION, interrupt)
    assert answer.ended == "interrupted"
    assert answer.text
    assert whole.startswith(answer.text)
    assert answer.text != whole
    # The model is as it was.
    lora.reset()
    assert lora.ask(QUESTION, lambda text: None).text == whole


def test_ctrl_c_twice_or_right_after_an_answer_that_it_stopped_leaves(
    lora: Dialogue, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed: list[str | type[BaseException]] = [
        KeyboardInterrupt,
        QUESTION,
        KeyboardInterrupt,
        KeyboardInterrupt,
        "never",
    ]

    def next_line() -> str:
        line = typed.pop(0)
        if isinstance(line, str):
            return line
        raise line

    screen = Chat([lora], 0.0)
    monkeypatch.setattr(screen, "_is_interactive", True)
    monkeypatch.setattr(screen, "_typed", next_line)
    screen.run()
    assert typed == ["never"]
    typed[:] = [QUESTION, KeyboardInterrupt, "never"]
    monkeypatch.setattr("harness.cli.chat_screen._written", lambda text: _interrupted_once())
    _interruptions[:] = [KeyboardInterrupt()]
    screen.run()
    assert typed == ["never"]
    assert "[stopped]" in capsys.readouterr().err


_interruptions: list[KeyboardInterrupt] = []


def _interrupted_once() -> None:
    if _interruptions:
        raise _interruptions.pop()


def test_sampled_answers_repeat_with_the_seed_and_differ_when_regenerated() -> None:
    dialogue = Dialogue(open_partner("base"), Sampling(12, temperature=1.5, seed=3))
    first = dialogue.ask(QUESTION, lambda text: None).text
    again = dialogue.ask_again(lambda text: None).text
    assert again != first
    assert dialogue.prompt().text.count("<|im_start|>") == 2
    assert answer_of("base", QUESTION, temperature=1.5, seed=3) == first


def test_a_turn_that_the_template_refuses_is_dropped(lora: Dialogue, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = lora.partner.model._loaded.tokenizer
    refusing = (
        "{%- if messages[0]['role'] == 'system' -%}{{ raise_exception('no system') }}{%- endif -%}"
        + tokenizer.chat_template
    )
    monkeypatch.setattr(tokenizer, "chat_template", refusing)
    monkeypatch.setattr("harness.cli.chat.open_partner", lambda target: lora.partner)
    done = chat("lora", "--system", "x", "--max-new-tokens", "2", said=f"{QUESTION}\n/system\n{QUESTION}\n/tokens\n")
    assert done.exit_code == 0
    assert "the chat template can't render a conversation with the roles system, user: no system" in done.stderr
    assert done.stdout.count(QUESTION) == 1


def test_thinking_that_the_prompt_opens_belongs_to_the_answer(lora: Dialogue, monkeypatch: pytest.MonkeyPatch) -> None:
    model: ChatModel = lora.partner.model
    monkeypatch.setattr(model._loaded.tokenizer, "chat_template", "{{ messages[-1]['content'] }}<think>\n")
    pieces: list[str] = []
    answer = model.answer([Message(role="user", content=QUESTION)], Sampling(3), pieces.append)
    assert answer.text.startswith("<think>")
    assert "".join(pieces) == answer.text


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("nobody", "nobody: there is no such cell, run or file"),
        ("tiny/nobody", "tiny/nobody: there is no such cell, run or file"),
        ("embedded:other", "the only embedded model is embedded:base"),
    ],
)
def test_who_is_not_there_is_one_sentence(target: str, message: str) -> None:
    done = chat(target, said="hi\n")
    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stdout == ""


def test_a_missing_checkpoint_is_one_sentence() -> None:
    found, result = cell("full")
    checkpoint = found.path / result.train.evaluated_checkpoint
    aside = checkpoint.rename(checkpoint.with_name("aside"))
    try:
        done = chat("full", said="hi\n")
    finally:
        aside.rename(checkpoint)
    assert done.exit_code == 2
    assert "the checkpoint is not there any more" in done.stderr


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert visible("a\x1b]52;c;x\x07\tb\nc\x9b2J") == "a\\x1b]52;c;x\\x07\tb\nc\\x9b2J"


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from harness.cli.main import main; "
        "CliRunner().invoke(main, ['chat', '--help']); print([n for n in ('torch', 'transformers', 'peft') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


class Terminal:
    """A `harness chat` on a terminal of its own."""

    def __init__(self, *arguments: str, width: int) -> None:
        self._master, slave = pty.openpty()
        self.resize(width)
        command = [sys.executable, "-m", "harness", "chat", *arguments]
        environment = {**os.environ, "TERM": "xterm", "NO_COLOR": "1"}
        environment.pop("COLUMNS", None)
        self.process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True)  # fmt: skip
        os.close(slave)

    def resize(self, width: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))

    def send(self, text: str) -> None:
        os.write(self._master, text.encode())

    def until(self, wanted: str) -> str:
        """What is shown up to this text."""
        seen, deadline = b"", time.monotonic() + 120
        while wanted not in (shown := ESCAPES.sub("", seen.decode(errors="replace"))):
            assert time.monotonic() < deadline, shown
            if select.select([self._master], [], [], 1)[0]:
                seen += os.read(self._master, 4096)
        return shown


def test_on_a_terminal_two_answers_stand_side_by_side_where_there_is_room() -> None:
    terminal = Terminal("lora", "base", "--max-new-tokens", "6", width=80)
    try:
        opening = terminal.until(">>> ")
        assert "lora: template chatml, greedy, at most 6 new tokens, context 512" in opening
        terminal.send(f"{QUESTION}\n")
        shown = terminal.until("\n>>> ")
        assert re.search(r"^lora {10,}base\s*$", shown, flags=re.MULTILINE), shown
        terminal.resize(50)
        terminal.send(f"{QUESTION}\n")
        shown = terminal.until("\n>>> ")
        assert re.search(r"^lora\s*$", shown, flags=re.MULTILINE), shown
        terminal.send("\x04")
        assert terminal.process.wait(60) == 0
    finally:
        terminal.process.kill()
