"""What can be told from a chat template's source alone, before anything is rendered."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import jinja2
import jinja2.nodes

from harness.data import template_trial
from harness.records import Record, Severity

TRIAL_SECONDS = 20

ProblemKind = Literal[
    "syntax_error", "unsafe", "render_error", "end_of_turn_not_supervised", "wrong_mask", "not_prefix_preserving",
    "system_message_dropped", "system_message_refused", "double_bos", "generation_prompt_mismatch", "tools_dropped",
    "thinking_dropped", "continue_final_message_broken", "final_turn_left_open", "pad_is_end_of_turn",
]  # fmt: skip


class TemplateProblem(Record):
    """One thing that a template does wrong, or can't do."""

    kind: ProblemKind
    message: str
    severity: Severity = "warning"


def check_source(text: str) -> TemplateProblem | None:
    """A syntax error, or an attempt to reach Python's internals, in a template's source.

    transformers renders in a sandbox; a template that tries to leave it is refused even where it wouldn't succeed.
    """
    # transformers adds the tag `generation`; its blocks don't matter for what is looked for here.
    plain = re.sub(
        r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}",
        lambda tag: f"{{%{tag[1]} {'endif' if tag[2] else 'if true'} {tag[3]}%}}",
        text,
    )
    try:
        tree = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"]).parse(plain)
    except (jinja2.TemplateSyntaxError, RecursionError) as error:
        line = f"line {error.lineno}: " if isinstance(error, jinja2.TemplateSyntaxError) else ""
        message = f"{line}{error.args[0]}"
        return TemplateProblem(kind="syntax_error", severity="error", message=message)
    reached = next(_internals(tree), None)
    if reached is None:
        return None
    return TemplateProblem(
        kind="unsafe",
        severity="error",
        message=f"it reaches for {reached!r}, which has no place in a chat template; don't use it",
    )


def excess(template: str, conversations: Sequence[Sequence[Mapping[str, Any]]], variables: Mapping[str, Any]) -> str:
    """What rendering a few short conversations takes too much of, found in a process of its own; "" where all is well."""
    job = json.dumps({"template": template, "conversations": conversations, "variables": variables}, default=str)
    try:
        done = subprocess.run(
            [sys.executable, "-I", template_trial.__file__], input=job.encode(errors="surrogatepass"), capture_output=True,
            timeout=TRIAL_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"more than {TRIAL_SECONDS} seconds"
    return {
        template_trial.TOO_LONG: f"more than {template_trial.MAX_CHARACTERS >> 20} MiB of text",
        template_trial.TOO_MUCH_MEMORY: f"more than {template_trial.MEMORY_BYTES >> 30} GiB of memory",
        -signal.SIGXCPU: f"more than {template_trial.CPU_SECONDS} seconds of computing",
        -signal.SIGKILL: f"more than {template_trial.CPU_SECONDS} seconds of computing",
    }.get(done.returncode, "")


def _internals(tree: jinja2.nodes.Template) -> Iterator[str]:
    """Names with leading double underscores that a template asks for, as attribute, key, text or put together."""
    for node in tree.find_all((jinja2.nodes.Getattr, jinja2.nodes.Name)):
        name = str(getattr(node, "attr", None) or getattr(node, "name", ""))
        if name.startswith("__"):
            yield name
    for node in tree.find_all((jinja2.nodes.Const, jinja2.nodes.Concat, jinja2.nodes.Add)):
        # Prose may mention `__init__`; what is looked up is nothing but a name, or a path or format with one.
        if found := re.search(r"(?:^|[.\[{!])(__\w+__)(?:$|[.\[\]}:!])", _text_of(node) or ""):
            yield found[1]


def _text_of(node: jinja2.nodes.Node) -> str | None:
    """The text that an expression of constants gives, without evaluating anything; None where it is something else."""
    if isinstance(node, jinja2.nodes.Const):
        return node.value if isinstance(node.value, str) else None
    parts: list[jinja2.nodes.Node] = []
    if isinstance(node, jinja2.nodes.Concat):
        parts = list(node.nodes)
    elif isinstance(node, jinja2.nodes.Add):
        parts = [node.left, node.right]
    texts = [_text_of(part) for part in parts]
    return "".join(text for text in texts if text is not None) if texts and None not in texts else None
