"""What can be told from a chat template's source alone, before anything is rendered."""

import re
from collections.abc import Iterator
from typing import Literal

import jinja2
import jinja2.nodes

from harness.records import Record, Severity

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
    plain = re.sub(r"\{%([-+]?)\s*(?:end)?generation\s*([-+]?)%\}", r"{%\1 if true \2%}{%\1 endif \2%}", text)
    try:
        tree = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"]).parse(plain)
    except jinja2.TemplateSyntaxError as error:
        return TemplateProblem(kind="syntax_error", severity="error", message=f"line {error.lineno}: {error.message}")
    reached = next(_internals(tree), None)
    if reached is None:
        return None
    return TemplateProblem(
        kind="unsafe",
        severity="error",
        message=f"it reaches for {reached!r}, which has no place in a chat template; don't use it",
    )


def _internals(tree: jinja2.nodes.Template) -> Iterator[str]:
    """Names with leading double underscores that a template asks for, as attribute, key or filter argument."""
    for node in tree.find_all((jinja2.nodes.Getattr, jinja2.nodes.Const, jinja2.nodes.Name)):
        name = getattr(node, "attr", None) or getattr(node, "name", None) or getattr(node, "value", None)
        if isinstance(name, str) and re.match(r"__\w+__", name):
            yield name
