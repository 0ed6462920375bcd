"""Hostile input for hypothesis: good texts, files and data with something changed."""

import json
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

NUMBERS: Sequence[object] = (0, -1, 1, 2**63, 10**30, 10**400, 0.5, -0.0, 1e308, 5e-324, True, False)
WORDS = (
    "", " ", "\0", "\ud800", "\u2028", "é" * 40, "x" * 5000, "../../etc/passwd", "/dev/zero", "http://a:b@c", "[", "{", "{}", "null", "nan",
    "1e999", "<|im_end|>", "__class__", "{{ x }}", "{x!r:>99}", "%s", "user", "assistant", "tool", "system", "embedded:train", "auto",
)  # fmt: skip
KEYS = (
    "messages", "conversations", "prompt", "completion", "role", "content", "from", "value", "tools", "tool_calls", "function", "arguments",
    "name", "id", "text", "expect", "json_schema", "entities", "chosen", "rejected", "instruction", "input", "output", "data", "training",
    "grid", "seeds", "evals", "references", "model", "template", "log_history", "step", "loss", "eval_loss", "values", "max_steps", "prediction",
)  # fmt: skip
SNIPPETS = (
    *WORDS[:-2], *KEYS, "\n", "\t", "  ", ": ", "- ", ", ", '"', "'", "\\", "\\ud800", "&a ", "*a", "<<: ", "!!int ", "? ", "|\n", ">-\n", "%YAML 9",
    "---\n", "{% ", "%}", "{{ ", "}}", "for m in messages", "endfor", "if ", "endif", "generation", "endgeneration", "~", "|join", "[0]", "(", ")",
    "9" * 30, "NaN", "Infinity", "-", ".", "0x", "1:2:3", "2026-13-45",
)  # fmt: skip
scalars = st.one_of(st.none(), st.sampled_from(NUMBERS), st.sampled_from(WORDS), st.text(max_size=8))
trees = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


@st.composite
def mutated_text(draw: st.DrawFn, originals: Sequence[str]) -> str:
    """A good text with pieces cut out, put in, doubled or moved."""
    text = draw(st.sampled_from(list(originals)))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 40)))
        put = draw(st.sampled_from(SNIPPETS) | st.text(max_size=4))
        where = draw(st.sampled_from(("replace", "double", "cut")))
        text = text[:start] + {"replace": put, "double": text[start:end] * 2 + put, "cut": ""}[where] + text[end:]
    return text


@st.composite
def mutated_bytes(draw: st.DrawFn, originals: Sequence[bytes]) -> bytes:
    """A good file with bytes changed, cut out or put in."""
    content = draw(st.sampled_from(list(originals)))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        content = content[:start] + draw(st.binary(max_size=6)) + content[start + draw(st.integers(0, 12)) :]
    return content


@st.composite
def mutated_tree(draw: st.DrawFn, originals: Sequence[Any]) -> Any:
    """Good data with parts replaced, deleted or added."""
    tree = json.loads(json.dumps(draw(st.sampled_from(list(originals)))))
    for _ in range(draw(st.integers(1, 3))):
        tree = _changed(draw, tree)
    return tree


def _changed(draw: st.DrawFn, tree: Any) -> Any:
    """Goes down at random and changes what it finds there."""
    if isinstance(tree, dict | list) and tree and draw(st.integers(0, 4)):
        key = draw(st.sampled_from(list(tree) if isinstance(tree, dict) else range(len(tree))))
        tree[key] = _changed(draw, tree[key])
        return tree
    if isinstance(tree, dict):
        if tree and draw(st.booleans()):
            del tree[draw(st.sampled_from(list(tree)))]
            return tree
        tree[draw(st.sampled_from(KEYS))] = draw(trees)
        return tree
    return draw(trees)
