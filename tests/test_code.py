"""Generated code runs behind limits, and nothing of it stays."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.errors import EvalError
from harness.scoring.code import CodeVerdict, code_of, run_tests
from tests.measurements import measurement, verdict

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="code is run on Linux only")

TESTS = "assert f(1) == 2, 'f(1) is not 2'"
RIGHT = "def f(x):\n    return x + 1\n"
IMPORTS = "from typing import List\n\n\n"
HUMAN_EVAL = f'{IMPORTS}def f(x: int) -> int:\n    """ Adds one. """\n'


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    """After every test there are no more processes and no more folders than before."""
    folders = set(leftovers())
    yield
    assert set(leftovers()) == folders
    assert not sandboxes()


def leftovers() -> list[Path]:
    return list(Path(tempfile.gettempdir()).glob("harness-code-*"))


def sandboxes() -> list[str]:
    """Command lines of the processes below this one that run code."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return [line for line in found if "scoring/sandbox.py" in line]


def run(code: str, tests: str = TESTS, seconds: float = 2.0) -> CodeVerdict:
    return run_tests(code, tests, timeout_seconds=seconds)


def isolated() -> bool:
    """Whether this machine allows namespaces; without them code can reach what its user can."""
    return run(RIGHT).isolation == "namespaces"


@pytest.mark.parametrize(
    ("code", "kind", "message"),
    [
        (RIGHT, "passed", ""),
        ("def f(x): return x", "failed_assertion", "f(1) is not 2"),
        ("def g(x): return x", "error", "NameError: name 'f' is not defined"),
        ("def f(x) return x", "syntax_error", "SyntaxError: expected ':' (answer.py, line 1)"),
        ("", "error", "NameError: name 'f' is not defined"),
        ("while True: pass", "timeout", ""),
        ("import sys; sys.exit(0)", "error", "SystemExit: 0"),
        ("import os; os._exit(0)", "error", "left before its tests had ended"),
        ("import ctypes; ctypes.string_at(0)", "error", "ended by SIGSEGV"),
        ("def f(x): return f(x)", "error", "RecursionError: maximum recursion depth exceeded"),
        ("x = input()", "error", "EOFError: EOF when reading a line"),
        ("raise AssertionError('own')", "failed_assertion", "own"),
    ],
)
def test_kinds_of_ends(code: str, kind: str, message: str) -> None:
    assert run(code)[:2] == (kind, message)


@pytest.mark.parametrize("code", ["x = bytearray(10**10)", "x = []\nwhile True: x.append('a' * 10**6)"])
def test_memory_is_limited(code: str) -> None:
    assert run(code, seconds=10).kind == "memory"


def test_standard_library_works() -> None:
    code = "import collections, dataclasses, decimal, itertools, json, math, random, re, tempfile, threading\n" + RIGHT
    tests = "\n".join(
        (
            "t = threading.Thread(target=print); t.start(); t.join()",
            "open('here', 'w').write('x'); tempfile.mkdtemp()",
            "@dataclasses.dataclass\nclass A:\n    x: 'int'\nassert A(2).x == f(1)",
        )
    )
    assert run(code, tests).kind == "passed"


def test_entry_point_of_a_script_is_not_run() -> None:
    assert run(RIGHT + "if __name__ == '__main__':\n    f(int(input()))\n").kind == "passed"


@pytest.mark.parametrize(
    "code",
    [
        "import os\nwhile True:\n    os.fork()",
        "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass",
        "import signal, time\nfor s in (signal.SIGTERM, signal.SIGINT, signal.SIGXCPU, signal.SIGHUP):\n"
        "    signal.signal(s, signal.SIG_IGN)\nwhile True: pass",
        "import time; time.sleep(1000)",
        "while True: print('a' * 10**6)",
        "f = open('x', 'w')\nwhile True: f.write('a' * 10**6)",
        "import os\nn = 0\nwhile True:\n    n += 1\n    open(str(n), 'w').write('a' * 10**6)",
        "import os\nwhile True:\n    os.mkdir('d'); os.chdir('d')",
        "import os\nos.mkdir('d'); open('d/x', 'w').close(); os.chmod('d', 0)",
    ],
    ids=["forks", "forks_on", "ignores_signals", "sleeps", "prints", "writes", "fills", "nests", "locks"],
)
def test_misbehaving_code_ends(code: str) -> None:
    started = time.monotonic()
    assert run(code).kind in ("timeout", "error")
    assert time.monotonic() - started < 30


def test_gigabyte_of_output_is_thrown_away() -> None:
    assert run("for _ in range(1000): print('a' * 10**6)\n" + RIGHT, seconds=30).kind == "passed"


DAEMON = """\
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.chdir("/")
        time.sleep(1000)
    os._exit(0)
def f(x): return 2
"""


def test_daemon_doesnt_outlive_its_program() -> None:
    before = len(os.listdir("/proc"))
    for attempt in range(5):
        assert run(DAEMON + f"# {attempt}").kind == "passed"
    assert not sandboxes()
    assert len(os.listdir("/proc")) < before + 5


def test_environment_is_not_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    assert run(RIGHT, TESTS + "\nimport os\nassert 'hunter2' not in str(os.environ)").kind == "passed"


def test_secrets_of_other_processes_are_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    if not isolated():
        pytest.skip("this machine allows no namespaces")
    search = (
        "import glob\nassert not glob.glob('/proc/*/environ') and not glob.glob('/home/*') and not glob.glob('/etc/*')"
    )
    assert run(RIGHT, TESTS + "\n" + search)[:2] == ("passed", "")


def test_files_of_the_machine_are_neither_changed_nor_added(tmp_path: Path) -> None:
    if not isolated():
        pytest.skip("this machine allows no namespaces")
    tmp_path.chmod(0o777)
    kept = tmp_path / "kept"
    kept.write_text("mine")
    kept.chmod(0o666)
    code = f"""\
import os, shutil
for act in (lambda: os.remove({str(kept)!r}), lambda: open({str(kept)!r}, "w"), lambda: shutil.rmtree({str(tmp_path)!r}),
            lambda: open({str(tmp_path / "new")!r}, "w"), lambda: open("/usr/lib/new", "w"), lambda: os.rename("/usr", "/x")):
    try:
        act()
    except OSError:
        continue
    raise ValueError("it worked")
"""
    assert run(code + RIGHT)[:2] == ("passed", "")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("kept", "mine")]


def test_network_is_out_of_reach() -> None:
    if not isolated():
        pytest.skip("this machine allows no namespaces")
    code = "import socket\nsocket.create_connection(('127.0.0.1', 22), timeout=1)"
    assert run(code).message.startswith(("OSError", "ConnectionRefusedError"))
    listening = "import socket\ns = socket.socket(); s.settimeout(1)\nassert s.connect_ex(('127.0.0.1', PORT))\n"
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        assert run(listening.replace("PORT", str(server.getsockname()[1])) + RIGHT)[:2] == ("passed", "")


def test_privileges_are_given_up() -> None:
    code = """\
import ctypes, os
libc = ctypes.CDLL(None)
assert os.getuid() != 0
assert libc.mount(b"tmpfs", b"/usr", b"tmpfs", 0, None) == -1 and libc.umount2(b"/usr", 2) == -1
assert libc.setuid(0) == -1 and libc.chroot(b"/usr") == -1
"""
    assert run(code + RIGHT)[:2] == ("passed", "")


@pytest.mark.skipif(
    os.getuid() != 0 or shutil.which("setpriv") is None, reason="needs root to take the right to make namespaces from"
)
def test_without_namespaces_code_of_root_runs_as_nobody_or_not_at_all() -> None:
    program = (
        "from harness.errors import EvalError\nfrom harness.scoring.code import run_tests\n"
        "try: print(run_tests('import os\\nassert os.getuid() == 65534', ''))\nexcept EvalError as e: print(e)"
    )
    limited = ["setpriv", "--bounding-set=-sys_admin", sys.executable, "-c", program]
    done = subprocess.run(limited, capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent)
    assert (
        "kind='passed', message='', isolation='limits'" in done.stdout
        or "can't be run with limits on this machine" in done.stdout
    )


def test_other_systems_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(EvalError, match="on Linux only"):
        run_tests("a", "b")


@pytest.mark.parametrize(
    ("answer", "prompt", "prefill", "code"),
    [
        ("x = 1", "", "", "x = 1"),
        ("Sure:\n```python\nx = 1\n```\nDone.\n```python\nprint(x)\n```", "", "", "x = 1\n"),
        ("```\nx = 1\n```", "", "", "x = 1\n"),
        ("```bash\npip install x\n```\n```py\nx = 1\n```", "", "", "x = 1\n"),
        ("```python\nx = 1", "", "", "x = 1"),
        ("<think>```python\nx = 0\n```</think>\n```python\nx = 1\n```", "", "", "x = 1\n"),
        ("return 1\n```", "", "```python\ndef f():\n    ", "def f():\n    return 1\n"),
        ("    return x + 1\n\nprint(f(1))", HUMAN_EVAL, "", HUMAN_EVAL + "    return x + 1\n"),
        ("    return x + 1\n# next\ndef g(): pass", HUMAN_EVAL, "", HUMAN_EVAL + "    return x + 1"),
        ("```python\ndef f(x):\n    return x + 1\n```", HUMAN_EVAL, "", f"{IMPORTS}def f(x):\n    return x + 1\n"),
        ("def f(x):\n    return x + 1", HUMAN_EVAL, "", f"{IMPORTS}def f(x):\n    return x + 1"),
        ("def f(x): pass", f"Complete this:\n{HUMAN_EVAL}", "", "def f(x): pass"),
        (
            "from __future__ import annotations\ndef f(x): pass",
            HUMAN_EVAL,
            "",
            "from __future__ import annotations\ndef f(x): pass",
        ),
        ("def f(x):\n    return x + 1", "Write a function f.", "", "def f(x):\n    return x + 1"),
    ],
)
def test_code_in_an_answer(answer: str, prompt: str, prefill: str, code: str) -> None:
    assert code_of(answer, prompt, prefill) == code


def test_answer_with_the_whole_function_keeps_the_imports_and_functions_of_its_prompt() -> None:
    prompt = "from typing import List\n\ndef one() -> int:\n    return 1\n\ndef f(x: int) -> List[int]:\n"
    answer = "```python\ndef f(x: int) -> List[int]:\n    return [x + one()]\n```"
    assert run_tests(code_of(answer, prompt), "assert f(1) == [2]").kind == "passed"


def test_code_passes() -> None:
    assert verdict("code_passes", measurement(f"```python\n{RIGHT}```", tests=TESTS)) == (1, "")
    assert verdict("code_passes", measurement("I can't.", tests=TESTS)) == (0, "syntax_error")
