"""Whether generated code passes its tests, run in a limited process.

The program gets a working folder of its own, no environment, no input, the standard library alone, and limits on time,
memory, processes, open files and file size. What it prints is thrown away. Where the machine allows namespaces, it is
also nobody, has no network, sees nothing of the machine but the system's libraries and Python, read-only, and every
file and process it leaves vanishes with it. Where not, as in most containers, it can read and write what the user can
(as root: what nobody can), end the user's processes and reach the network: a warning says so. In both, the memory limit is each process's own,
and a program that wants to cheat can, because it shares a process with its tests. For code that is out to do harm, run
the harness in a virtual machine.
"""

import ast
import json
import logging
import re
import subprocess
import sys
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple, cast, get_args

from harness.errors import EvalError
from harness.scoring.thinking import without_thinking

logger = logging.getLogger(__name__)

Kind = Literal["passed", "failed_assertion", "error", "timeout", "memory", "syntax_error"]
Isolation = Literal["namespaces", "limits"]

TIMEOUT_SECONDS = 10.0
MEMORY_MIB = 512
# To start the interpreter, enter the namespaces and clean up, on a busy machine.
GRACE_SECONDS = 30.0
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"}

FENCE = re.compile(r"^[ \t]*+```[ \t]*+([\w+-]*+)[^\n]*+\n(.*?)(?:^[ \t]*+```|\Z)", re.DOTALL | re.MULTILINE)
PYTHON_NAMES = ("python", "py", "python3")
FUNCTION = re.compile(r"^def[ \t]+(\w+)", re.MULTILINE)
# Where a continuation of a function ends (Chen et al. 2021, arXiv:2107.03374, section 2.1), or its fence does.
AFTER_FUNCTION = re.compile(r"\n(?:class|def|#|if|print|```)")


class CodeVerdict(NamedTuple):
    """How a program and its tests ended."""

    kind: Kind
    message: str
    """The error in one line; empty where they passed."""
    isolation: Isolation
    """namespaces: it saw nothing of this machine; limits: it could read and write what its user can."""


def code_of(answer: str, prompt: str = "", prefill: str = "") -> str:
    """The program in an answer.

    The first block fenced as Python, else the first fenced block, else the whole text. Where the prompt is code that ends
    in an open function (HumanEval), the answer continues the prompt up to the next statement outside of the function;
    where the answer defines that function anew, it follows the prompt's imports and other functions.

    Args:
        answer: the generation; thinking is left out.
        prompt: what was asked without a chat template.
        prefill: beginning of the answer that the prompt already holds.
    """
    answer = without_thinking(prefill + answer)
    blocks = [(match[1].lower(), match[2]) for match in FENCE.finditer(answer)]
    named = [code for name, code in blocks if name in PYTHON_NAMES]
    code = (named or [code for _, code in blocks] or [answer])[0]
    opened = list(FUNCTION.finditer(prompt))
    if not opened:
        return code
    if opened[-1][1] in FUNCTION.findall(code):
        before = prompt[: opened[-1].start()]
        # Nothing may stand before an import from __future__.
        return before + code if _is_python(before) and "from __future__" not in code else code
    return prompt + AFTER_FUNCTION.split("\n" + code, maxsplit=1)[0][1:]


def _is_python(text: str) -> bool:
    """Whether it is code: a prompt may also ask in words before its function begins."""
    try:
        ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


@lru_cache(maxsize=1024)
def run_tests(code: str, tests: str, *, timeout_seconds: float = TIMEOUT_SECONDS) -> CodeVerdict:
    """Runs code and then its tests in a limited process; the same code and tests are run once.

    Raises: EvalError: this machine can't run code with limits.
    """
    if sys.platform != "linux":
        raise EvalError("generated code can be run with limits on Linux only; leave the scorer out on this machine")
    sandbox = Path(__file__).with_name("sandbox.py")
    job = {"code": code, "tests": tests, "timeout_seconds": timeout_seconds, "memory_bytes": MEMORY_MIB << 20}
    with tempfile.TemporaryDirectory(prefix="harness-code-", ignore_cleanup_errors=True) as folder:
        try:
            done = subprocess.run(
                # No site-packages, no bytecode written, no folder of the script or of the user on the path.
                [sys.executable, "-P", "-s", "-S", "-B", str(sandbox)],
                input=json.dumps(job | {"folder": folder}).encode(),
                capture_output=True,
                timeout=timeout_seconds + GRACE_SECONDS,
                check=False,
                cwd="/",
                env=ENVIRONMENT,
                start_new_session=True,
            )
        except subprocess.TimeoutExpired:
            return CodeVerdict("timeout", "", "limits")
    return _verdict(done)


def _verdict(done: subprocess.CompletedProcess[bytes]) -> CodeVerdict:
    """What the sandbox said; it says nothing where the kernel ended it, for want of memory say."""
    if not done.stdout:
        if done.returncode > 0:
            last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
            raise EvalError(f"generated code can't be run with limits on this machine: {last}")
        return CodeVerdict("memory", "ended by the kernel", "limits")
    said = json.loads(done.stdout)
    if said["kind"] == "unavailable":
        raise EvalError(
            "generated code can't be run with limits on this machine; run the harness as another user than root, or "
            "where namespaces are allowed"
        )
    if said["isolation"] == "limits":
        _warn_of_limits()
    kind = cast(Kind, said["kind"]) if said["kind"] in get_args(Kind) else "error"
    return CodeVerdict(kind, said["message"], said["isolation"])


@lru_cache(maxsize=1)
def _warn_of_limits() -> None:
    logger.warning("this machine allows no namespaces: generated code has limits on time, memory and processes, but can read and "
                   "write what its user can, and reach the network")  # fmt: skip


def pass_at_k(num_samples: int, num_passed: int, k: int) -> float:
    """Chance that at least one of k samples passes, without bias (Chen et al. 2021, arXiv:2107.03374, equation 1).

    1 - C(n - c, k) / C(n, k) for n samples of which c passed, as a product that doesn't overflow.
    """
    assert 0 <= num_passed <= num_samples and 1 <= k <= num_samples
    failing = 1.0
    for total in range(num_samples - num_passed + 1, num_samples + 1):
        failing *= 1 - k / total
    return 1.0 - max(failing, 0.0) if num_samples - num_passed >= k else 1.0
