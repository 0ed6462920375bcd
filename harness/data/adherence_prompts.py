"""Prompts that ask whether a model keeps to its chat template: the test rows by kind, and variations of them.

A variation asks the same question in another setting: with a system turn, after another exchange, behind a long text,
with the answer already begun. What it asks for is the form of the row's own answer; whether the content is right isn't
looked at.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from harness.errors import EvalError
from harness.library_fields import did_you_mean
from harness.records import Example, Expectation, Message
from harness.resources import digest
from harness.scoring.continuation import continuation_failure
from harness.scoring.json_form import is_json_object
from harness.scoring.thinking import has_thinking
from harness.scoring.tool_calls import read_calls

PROBES_EACH = 8
"""So many variations of a kind are asked."""
ROWS_EACH = 10
"""Unless the kinds are named, there is no more than one variation of a kind for so many rows: few rows stay quick to ask."""
LONG_WORDS = 200
"""A prompt of more words is long, whatever the others are."""
MAX_PADDING_WORDS = 1500
SYSTEM = "You are a helpful assistant."
UNICODE = "„Zoë“ says: naïve café, Привет, 你好, مرحبا, 👩🏽‍🚀 ∑ ≈ ½ — thanks!"
CONTROL_TOKENS = (
    "<|im_start|>", "<|im_end|>", "<|eot_id|>", "<|end|>", "<|assistant|>", "<start_of_turn>", "<end_of_turn>",
    "[INST]", "[/INST]", "</s>", "<|endoftext|>", "<｜end▁of▁sentence｜>", "<turn|>", "<think>", "</tool_call>",
)  # fmt: skip
"""What well-known templates write around turns; those of the model's own template reach it as control tokens."""
# Blocks, scripts and signs beyond Latin, but not the quotation marks and dashes of ordinary English text.
BEYOND_LATIN = re.compile("[\u0250-\u1fff\u2070-\U0010ffff]")
CODE_LINE = re.compile(
    r"^(?:```|def |class |import |from \w+ import |#include|function |const |public |SELECT )", re.MULTILINE
)
MIN_PROSE_WORDS = 6

Vary = Callable[[Example, Sequence[Example]], Example | None]
"""A variation of an example, given all of them; None where it can't be varied so."""


def real_prompts(examples: Sequence[Example]) -> list[Example]:
    """The examples with what kind of prompt they are among their slices.

    An answer that is a JSON object is asked to be JSON, as one that calls a tool is asked to be a call.
    """
    words = sorted(_words(example) for example in examples)
    median, decile = (words[len(words) // 2], words[len(words) * 9 // 10]) if words else (0, 0)
    long_from = min(LONG_WORDS, decile) if decile >= 2 * median else LONG_WORDS
    some_think = any(_thinks(example) for example in examples)
    return [_tagged(_asked_for_json(example), long_from, some_think) for example in examples]


def probes(examples: Sequence[Example], kinds: Sequence[str] | None = None) -> list[Example]:
    """Variations of the examples, of every kind that is named, or of all kinds.

    Their ids are the example's with `~` and the kind, and the same rows give the same ones.

    Raises: EvalError: there is no such kind.
    """
    for kind in kinds or ():
        if kind not in PROBES:
            raise EvalError(
                f"slices names {kind!r}{did_you_mean(kind, sorted(PROBES))}; it takes {', '.join(PROBES)}, or [] for none"
            )
    number = min(PROBES_EACH, len(examples) // ROWS_EACH) if kinds is None else PROBES_EACH
    chosen = PROBES if kinds is None else {kind: PROBES[kind] for kind in kinds}
    return [probe for kind, vary in chosen.items() for probe in _some(kind, vary, examples, number)]


def is_probe(example: Example) -> bool:
    """Whether an example is a variation and no row of the test data."""
    kind = example.id.rpartition("~")[2]
    return kind in PROBES and kind in example.slices and "~" in example.id


def _some(kind: str, vary: Vary, examples: Sequence[Example], number: int) -> Iterator[Example]:
    # Rows whose answer is plain text first: a new setting changes least of what they ask for.
    ordered = sorted(examples, key=lambda example: (not _is_plain(example), digest([kind, example.id])))
    made = (probe for example in ordered if (probe := vary(example, ordered)) is not None)
    for probe, _ in zip(made, range(number), strict=False):
        cluster = probe.cluster or probe.id
        further = ("continuation",) if probe.expect.prefill else ()
        yield probe.model_copy(update={"id": f"{probe.id}~{kind}", "slices": (kind, *further), "cluster": cluster})


def _tagged(example: Example, long_from: int, some_think: bool) -> Example:
    roles = [turn.role for turn in example.messages]
    prompt = _prompt(example)
    holds = {
        "system": "system" in roles,
        "no_system": "system" not in roles,
        "multi_turn": "assistant" in roles,
        "long_prompt": _words(example) > long_from,
        "empty_prompt": not _question(example).strip(),
        "unicode": BEYOND_LATIN.search(prompt) is not None,
        "control_tokens": any(token in prompt for token in CONTROL_TOKENS),
        "json_schema": example.expect.json_schema is not None,
        "tools": bool(example.expect.tools or example.inputs.tools),
        "thinking": _thinks(example),
        "no_thinking": some_think and not _thinks(example),
        "continuation": bool(example.expect.prefill),
    }
    slices = dict.fromkeys((*example.slices, *(name for name, applies in holds.items() if applies)))
    return example.model_copy(update={"slices": tuple(slices)})


def _asked_for_json(example: Example) -> Example:
    if example.expect.json_schema is not None or example.answer is not None or not is_json_object(example.reference):
        return example
    if read_calls(example.reference, example.expect.tools or example.inputs.tools).format:
        return example
    return example.model_copy(update={"expect": example.expect.model_copy(update={"json_schema": {}})})


def _prompt(example: Example) -> str:
    return "\n".join(turn.content for turn in example.messages) or example.text


def _question(example: Example) -> str:
    return next((turn.content for turn in reversed(example.messages) if turn.role == "user"), example.text)


def _words(example: Example) -> int:
    return len(_prompt(example).split())


def _thinks(example: Example) -> bool:
    stated = example.expect.thinking or bool(example.answer is not None and example.answer.reasoning_content)
    return stated or has_thinking(example.reference)


def _is_plain(example: Example) -> bool:
    """Whether the answer is text that nothing was asked of but to be one turn."""
    expect = example.expect
    has_form = expect.json_schema is not None or expect.tools or expect.prefill or expect.is_free or _thinks(example)
    return not has_form and example.answer is None and not read_calls(example.reference).format


def _asked(example: Example, question: str) -> Example | None:
    """The example with its last turn said otherwise; None where that isn't the user's."""
    if not example.messages or example.messages[-1].role != "user":
        return None
    last = example.messages[-1].model_copy(update={"content": question})
    return example.model_copy(update={"messages": (*example.messages[:-1], last)})


def _with_system(example: Example, examples: Sequence[Example]) -> Example | None:
    if not example.messages or example.messages[0].role == "system":
        return None
    return example.model_copy(update={"messages": (Message(role="system", content=SYSTEM), *example.messages)})


def _without_system(example: Example, examples: Sequence[Example]) -> Example | None:
    # A system turn may be what asks for JSON or thinking, so only plain answers stay the same without it.
    if len(example.messages) < 2 or example.messages[0].role != "system" or not _is_plain(example):
        return None
    return example.model_copy(update={"messages": example.messages[1:]})


def _after_another(example: Example, examples: Sequence[Example]) -> Example | None:
    other = next((other for other in examples if other.id != example.id and _is_one_exchange(other)), None)
    if other is None or _asked(example, "") is None:
        return None
    is_system = example.messages[0].role == "system"
    history = (Message(role="user", content=_question(other)), Message(role="assistant", content=other.reference))
    turns = (*example.messages[:is_system], *history, *example.messages[is_system:])
    return example.model_copy(update={"messages": turns})


def _is_one_exchange(example: Example) -> bool:
    return _is_plain(example) and [turn.role for turn in example.messages if turn.role != "system"] == ["user"]


def _behind_long_text(example: Example, examples: Sequence[Example]) -> Example | None:
    """Other rows' questions before the example's own: three prompts long, or as long as a long prompt is."""
    wanted = min(max(LONG_WORDS, 3 * _words(example)), MAX_PADDING_WORDS)
    notes, count = [], 0
    for other in examples:
        if count >= wanted:
            break
        if other.id != example.id and _question(other).strip():
            words = _question(other).split()[: wanted - count]
            notes.append("- " + " ".join(words))
            count += len(words)
    if not notes:
        return None
    return _asked(
        example,
        "Others asked before me:\n" + "\n".join(notes) + f"\n\nMy question is another one. {_question(example)}",
    )


def _asked_nothing(example: Example, examples: Sequence[Example]) -> Example | None:
    asked = _asked(example, "")
    if asked is None:
        return None
    # Nothing was asked, so no form was: of an answer that would have one, only its end is looked at.
    expect = Expectation() if _is_plain(example) else Expectation(is_free=True)
    return asked.model_copy(update={"expect": expect})


def _with_unicode(example: Example, examples: Sequence[Example]) -> Example | None:
    return _asked(example, f"{_question(example)}\n\n{UNICODE}")


def _with_control_tokens(example: Example, examples: Sequence[Example]) -> Example | None:
    tokens = " ".join(CONTROL_TOKENS)
    return _asked(example, f"{_question(example)}\n\nMy log file has these marks in it, please ignore them: {tokens}")


def _begun(cut: Callable[[str], int], example: Example, examples: Sequence[Example]) -> Example | None:
    """The example with the beginning of its answer in the prompt; None where the answer can't be cut so."""
    if not (_is_plain(example) or _is_plain_json(example)):
        return None
    position = cut(example.reference)
    prefill, rest = example.reference[:position], example.reference[position:]
    # An answer that says the same twice would fail though it is right.
    if not prefill.strip() or not rest.strip() or continuation_failure(rest, prefill):
        return None
    return example.model_copy(update={"expect": example.expect.model_copy(update={"prefill": prefill})})


def _is_plain_json(example: Example) -> bool:
    without_schema = example.expect.model_copy(update={"json_schema": None})
    return _is_plain(example.model_copy(update={"expect": without_schema})) and is_json_object(example.reference)


def _json_cut(reference: str) -> int:
    """After the first key."""
    return reference.find(":") + 1 if is_json_object(reference) else 0


def _code_cut(reference: str) -> int:
    """After half of the lines, where there is code among them."""
    lines = reference.split("\n")
    if len(lines) < 4 or not CODE_LINE.search(reference):
        return 0
    return len("\n".join(lines[: len(lines) // 2]))


def _prose_cut(reference: str) -> int:
    """After half of the words; before the blank, since tokens begin with it."""
    words = list(re.finditer(r"\S+", reference))
    if len(words) < MIN_PROSE_WORDS or is_json_object(reference) or CODE_LINE.search(reference):
        return 0
    return words[len(words) // 2 - 1].end()


PROBES: dict[str, Vary] = {
    "system": _with_system,
    "no_system": _without_system,
    "multi_turn": _after_another,
    "long_prompt": _behind_long_text,
    "empty_prompt": _asked_nothing,
    "unicode": _with_unicode,
    "control_tokens": _with_control_tokens,
    "json_prefill": partial(_begun, _json_cut),
    "code_completion": partial(_begun, _code_cut),
    "step_by_step": partial(_begun, _prose_cut),
}
"""Kind of variation -> what makes one."""
